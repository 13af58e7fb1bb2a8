"""Another way of making a network's one vector than the one it was handed over with."""

from __future__ import annotations

from pretraining.backbones.base import Backbone
from pretraining.cli.configuration import as_run_errors
from pretraining.errors import RunError


def repooled(backbone: Backbone, pooling: str) -> Backbone:
    """Copy a backbone, with another way of making its pooled vector."""
    if "pooling" not in backbone.kwargs:
        what = f"got pooling={pooling}, but {type(backbone).__name__} has no choice of it"
        raise RunError(f"{what}: leave pooling=null")
    with as_run_errors():
        fresh = type(backbone)(**backbone.kwargs | {"pooling": pooling})
    fresh.load_state_dict(backbone.state_dict())
    return fresh
