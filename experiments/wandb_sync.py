"""``python -m experiments.wandb_sync [DIRECTORY ...]``: send offline runs to W&B and join them by lineage.

It saves the dashboards of studies, too. What was sent is marked and not sent again, so the command can be repeated
while runs go on.
"""

from pretraining.cli.help import answer_help

if __name__ == "__main__":  # before anything slow is imported
    answer_help(__doc__)


import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pretraining.runs.provenance import artifact_name

USUAL = ("runs", "studies")
JOINED = "wandb_joined.txt"
NO_KEY = "no W&B key is configured: `wandb login`, or set WANDB_API_KEY"


class Edge(NamedTuple):
    """A finetuning run, as project/id, and the artifact of the hand-off that it started from."""

    directory: Path
    run: str
    artifact: str


def edges(directory: Path) -> Iterator[Edge]:
    """List the hand-offs between W&B runs that are known below a directory and not yet joined."""
    for path in sorted(directory.rglob("lineage.json")):
        run_dir, lineage = path.parent, json.loads(path.read_text())
        parent, identity = lineage["origin"].get("wandb"), run_dir / "wandb_id.txt"
        if parent is None or not identity.exists() or (run_dir / JOINED).exists():
            continue
        project = yaml.safe_load((run_dir / "config.yaml").read_text())["logger"]["wandb"]["project"]
        parent_project, _, parent_run = parent.rpartition("/")
        artifact = f"{parent_project}/{artifact_name(parent_run)}:{Path(lineage['path']).name}"
        yield Edge(run_dir, f"{project}/{identity.read_text().strip()}", artifact)


def join(found: Sequence[Edge], api: Any, entity: str) -> list[str]:
    """Say in W&B which finetuning used which hand-off; returns what could not be joined, and why."""
    import wandb

    left = []
    for edge in found:
        try:
            api.run(f"{entity}/{edge.run}").use_artifact(api.artifact(f"{entity}/{edge.artifact}"))
        except (wandb.Error, ValueError) as error:
            left.append(f"{edge.run} from {edge.artifact}: {str(error).splitlines()[0]}")
            continue
        (edge.directory / JOINED).write_text(f"{entity}/{edge.artifact}\n")
    return left


def main(places: Sequence[str]) -> int:
    """Send everything below the places; 0 if all of it arrived."""
    from pretraining.runs.wandb_logger import key_configured

    if not key_configured():
        print(f"wandb_sync: {NO_KEY}", file=sys.stderr)
        return 2
    for missing in (place for place in places if not Path(place).is_dir()):
        print(f"wandb_sync: {missing} is no directory", file=sys.stderr)
        return 2
    roots = [Path(place) for place in places or USUAL if Path(place).is_dir()]
    # A resumed run has several fragments, in order of time; what was sent is marked.
    offline = [path for root in roots for path in sorted(root.rglob("wandb/offline-run-*")) if path.is_dir()]
    fragments = [path for path in offline if not list(path.glob("*.synced"))]
    if fragments:  # wandb's own command merges those of a run
        environment = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
        command = [sys.executable, "-m", "wandb", "sync", *map(str, fragments)]
        if code := subprocess.run(command, env=environment, check=False).returncode:
            again = "what it had sent is marked, repeat the command"
            print(f"wandb_sync: wandb sync ended with {code}: {again}", file=sys.stderr)
            return 1
    import wandb

    api = wandb.Api(timeout=30)
    found = [edge for root in roots for edge in edges(root)]
    left = join(found, api, os.environ.get("WANDB_ENTITY") or api.default_entity or "")
    print(f"{len(fragments)} offline runs sent, {len(found) - len(left)} of {len(found)} hand-offs joined")
    for line in left:
        print(f"not joined: {line}", file=sys.stderr)
    return _dashboards(roots) or (1 if left else 0)


def _dashboards(roots: Sequence[Path]) -> int:
    studies = sorted({path.parent for root in roots for path in root.rglob("study.json")})
    try:
        for directory in studies:
            from experiments.dashboard import make

            print(make(directory))
    except ImportError as error:
        print(f"wandb_sync: dashboards need {error.name}: pip install 'pretraining[dashboard]'", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
