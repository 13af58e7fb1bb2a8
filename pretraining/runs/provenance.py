"""Where weights come from, in words that hand-offs, W&B and tables share: objective, backbone, data, budget, code."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "pytorch-lightning", "transformers", "torchvision", "numpy", "hydra-core", "wandb")
COLUMNS = ("name", "objective", "backbone", "data", "budget", "seed", "steps", "examples", "flops", "handoff", "wandb")
LONGEST_TAG = 64  # characters that W&B takes


def origin_of(config: Any, written: str, unit: str) -> dict[str, Any]:
    """Tell where a pretraining run's weights come from, as far as it is known before training.

    `written` is its configuration as text, `unit` what its modality counts: tokens, images.
    """
    return {
        "name": config["name"],
        **{part: part_name(config[part]) for part in ("objective", "backbone", "data")},
        "budget": budget_of(config),
        "seed": config["seed"],
        "config": hashlib.sha256(written.encode()).hexdigest()[:16],
        "git_commit": git_commit(),
        "device": device_of(config["trainer"]["accelerator"]),
        "unit": unit,
        "batch_size": config["data"]["batch_size"],
    }


def fingerprint_of(data: Any, preprocess: Any) -> dict[str, str | None]:
    """Identify what a run reads, as far as its data can tell: another one cannot continue it."""
    known = getattr(data, "fingerprint", None)
    return {"data": None if known is None else known(), "preprocess": preprocess.digest}


def part_name(node: Any) -> str:
    """Name a part after its class, or after what it is one of many of: a transformers or torchvision model."""
    inner = node.get("config") or {}
    start = node.get("init_from")
    return str(start or inner.get("model_type") or node.get("name") or node["_target_"].rpartition(".")[2])


def budget_of(config: Any) -> str:
    """Describe what a run was given to spend."""
    given = {kind: value for kind, value in config["budget"].items() if value is not None}
    kind, value = next(iter(given.items())) if given else ("steps", config["trainer"]["max_steps"])
    return f"{value:g} {kind}"


def columns(origin: Mapping[str, Any]) -> dict[str, Any]:
    """List the columns by which runs are grouped: the origin of the weights that a run makes or starts from."""
    if origin.get("objective") == "random":
        named = dict.fromkeys(("name", "objective"), "never pretrained")
        return named | {name: origin.get(name) for name in ("seed", "like")}
    counted = origin.get("unit", "tokens")  # releases that did not say what they count counted tokens
    found = {name: origin[name] for name in (*COLUMNS, counted) if origin.get(name) is not None}
    if "wandb" in found:
        project, _, run = found["wandb"].rpartition("/")
        found["artifact"] = f"{project}/{artifact_name(run)}:latest"
    return found


def artifact_name(run: str) -> str:
    """Name the artifact of a W&B run's hand-offs."""
    return f"handoff-{run}"


def tags(*words: Any) -> list[str]:
    """Make W&B's tags of the words that are known, each once and no longer than it takes."""
    return list(dict.fromkeys(str(word)[:LONGEST_TAG] for word in words if word not in (None, "")))


def software() -> dict[str, Any]:
    """Name the commit of this code and the versions of what it stands on; takes no torch."""
    known = {"git_commit": git_commit(), "python": platform.python_version()}
    return known | {package: version(package) for package in PACKAGES}


def hardware() -> dict[str, Any]:
    """Name this machine's system, processor and GPUs, as far as files tell; takes no torch."""
    gpus = [path.read_text().splitlines()[0] for path in Path("/proc/driver/nvidia/gpus").glob("*/information")]
    named = [line.partition(":")[2].strip() for line in gpus]
    known = {"platform": platform.platform(terse=True), "cores": os.cpu_count(), "cpu": _cpu()}
    return known | ({"gpus": ", ".join(named)} if named else {})


def device_of(accelerator: str) -> str:
    """Name what a run computes on."""
    import torch

    return torch.cuda.get_device_name() if accelerator == "cuda" else _cpu()


def environment() -> dict[str, Any]:
    """Name what numbers are made with: code, versions, hardware."""
    import torch

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return software() | {"host": platform.node(), "cores": os.cpu_count(), "cpu": _cpu(), "gpus": gpus}


def git_commit() -> str | None:
    """Read the commit of this code, marked where files differ from it; None outside of a checkout."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    commit = git("rev-parse", "HEAD")
    return f"{commit}{'-changed' if git('status', '--porcelain', '--untracked-files=no') else ''}" if commit else None


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
