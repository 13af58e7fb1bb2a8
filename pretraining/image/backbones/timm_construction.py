"""timm's models without a classifier: how they are built, read from files, divided, and said in python lines."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from pretraining.errors import reason_of

LACKING = "timm is not installed: pip install 'pretraining[timm]'"
LAST = (99999,)  # timm's mark in a `group_matcher` for what joins the group before it
COMMON = ("resnet50", "convnext_tiny", "vit_small_patch16_224")  # told where no name is close
ANY_SIZE = ("vision_transformer", "deit")  # timm's modules whose models can take images of any size


def built(
    *, name: str, arguments: Mapping[str, Any], size: int | None, in_channels: int, weights: str | None
) -> tuple[Any, bool]:
    """Build what `TimmBackbone` describes; returns also whether its classifier had hidden layers: they are left out."""
    try:
        import timm
    except ImportError as error:
        raise ValueError(f"backbone.name={name} is a model of timm, and {LACKING}") from error
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=4, cutoff=0.4)
        cure = f"choose one such as {', '.join(close or COMMON)}"
        raise ValueError(f"backbone.name={name!r} is not a model of timm: {cure}")
    fixed = {"in_chans": in_channels, "num_classes": 0}
    if odd := [f"{part}={arguments[part]}" for part in fixed if arguments.get(part, fixed[part]) != fixed[part]]:
        cure = f"leave it out: networks have no classifier, and read images of {in_channels} channel(s), which"
        raise ValueError(f"backbone.arguments has {', '.join(odd)}: {cure} preprocess.channels says")
    options = options_of(name, arguments, size, in_channels)
    state = None if weights in (None, "pretrained") else _read(name, str(weights))
    try:
        model: Any = timm.create_model(name, **options, pretrained=weights == "pretrained")
        _refuse_closed(name, model)
        drawn, hidden = model.state_dict(), _without_hidden(model)
        if state is not None:
            # What lacks those layers, such as our own, is as good as what has them.
            whole = {key: drawn[key] for key in drawn.keys() - model.state_dict().keys()} | state
            source = {"state_dict": whole, "num_classes": 0}
            model = timm.create_model(name, **options, pretrained=True, pretrained_cfg_overlay=source)
            model.pretrained_cfg.pop("state_dict", None)
            _without_hidden(model)
    except (TypeError, ValueError, AssertionError, RuntimeError, LookupError, OSError) as error:
        what = "" if weights is None else f" and backbone.weights={weights}"
        told = f"backbone.name={name} with backbone.arguments={dict(arguments)}{what} cannot be built by timm"
        raise ValueError(f"{told}: {reason_of(error)}") from error
    return model, hidden


def _refuse_closed(name: str, model: Any) -> None:
    for needed in ("forward_intermediates", "group_matcher", "head_hidden_size"):
        if not hasattr(model, needed):
            raise ValueError(f"{name} does not show its maps or their order ({needed}): choose another model")


def _without_hidden(model: Any) -> bool:
    """Take away the hidden layers of the classifier; returns whether there were any."""
    hidden = model.head_hidden_size != model.num_features
    if hidden:
        model.prune_intermediate_layers(1, prune_head=True)
    return hidden


def options_of(name: str, arguments: Mapping[str, Any], size: int | None, in_channels: int) -> dict[str, Any]:
    """List the arguments of `timm.create_model`: a model without classifier, made for `size` where it is for one."""
    from timm.models import get_pretrained_cfg, is_model_in_modules

    known: Any = get_pretrained_cfg(name)
    fitted: dict[str, Any] = {}
    if size is not None and getattr(known, "fixed_input_size", False):
        fitted["img_size"] = size
    if is_model_in_modules(name, ANY_SIZE):
        fitted["dynamic_img_size"] = True
    return {**fitted, "num_classes": 0, "in_chans": in_channels, **arguments}


def _read(name: str, weights: str) -> dict[str, Any]:
    """Read a checkpoint's tensors but for the classifier's; nothing in it is run."""
    from timm.models import get_pretrained_cfg, load_state_dict

    path = Path(weights)
    if path.is_dir():
        files = [path / file for file in ("model.safetensors", "pytorch_model.bin") if (path / file).is_file()]
        path = files[0] if files else path / "model.safetensors"
    if not path.is_file():
        cure = "give a file, a directory with model.safetensors, or pretrained for timm's own from the hub"
        raise ValueError(f"backbone.weights={weights} is not there: {cure}")
    try:
        state = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # of the readers, in files that may hold anything
        raise ValueError(f"backbone.weights={weights} cannot be read: {reason_of(error)}") from error
    named = getattr(get_pretrained_cfg(name), "classifier", None) or ()
    heads = [f"{part}." for part in ([named] if isinstance(named, str) else named)]
    return {key: value for key, value in state.items() if not key.startswith(tuple(heads))}


def read_directory(path: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Read which model lies in a directory in timm's form: name, arguments of `TimmBackbone`, timm's description."""
    from timm.models._hub import load_model_config_from_path

    described, name, arguments = load_model_config_from_path(path)
    rest = {key: value for key, value in (arguments or {}).items() if key not in ("num_classes", "in_chans")}
    channels = (arguments or {}).get("in_chans", (described.get("input_size") or [3])[0])
    return name, {"arguments": rest, "in_channels": channels, "weights": str(path)}, described


def lines_of(kwargs: Mapping[str, Any], *, hidden: bool) -> list[str]:
    """Write the python lines that build what `TimmBackbone` describes by these arguments."""
    options = options_of(*(kwargs[part] for part in ("name", "arguments", "size", "in_channels")))
    listed = ", ".join(f"{name}={value!r}" for name, value in options.items())
    lines = [f"model = timm.create_model({kwargs['name']!r}, {listed})"]
    if hidden:
        lines.append("model.prune_intermediate_layers(1, prune_head=True)")
    if kwargs["pooling"] == "mean":
        lines.append('model.reset_classifier(0, "avg")')
    return lines


def blocks_of(model: Any) -> list[nn.Module]:
    """Divide a model into parts from input to output, as its `group_matcher` says; what comes last is one by itself."""
    from timm.models import group_parameters

    matcher = model.group_matcher(coarse=False)
    if isinstance(matcher, Mapping):
        listed = {name: spec for name, spec in matcher.items() if isinstance(spec, list | tuple)}
        own = {name: [part for part in spec if part[1] != LAST] for name, spec in listed.items()}
        matcher = {**matcher, **own}
    groups = group_parameters(model, matcher)
    return [_one(_parts_of(model, "", set(groups[number]))) for number in sorted(groups)]


def _parts_of(module: nn.Module, prefix: str, names: set[str]) -> list[nn.Module]:
    """List the largest parts of a module that hold the parameters of these names and no others."""
    parts: list[nn.Module] = []
    direct = [value for name, value in module.named_parameters(recurse=False) if prefix + name in names]
    if direct:
        parts.append(nn.ParameterList(direct))
    for name, child in module.named_children():
        held = {f"{prefix}{name}.{own}" for own, _ in child.named_parameters()}
        if held and held <= names:
            parts.append(child)
        elif held & names:
            parts += _parts_of(child, f"{prefix}{name}.", names)
    return parts


def _one(parts: list[nn.Module]) -> nn.Module:
    return parts[0] if len(parts) == 1 else nn.ModuleList(parts)
