"""The hand-off, the only bridge from pretraining to finetuning: safetensors, json and tokenizer files in a directory.

It is complete or absent.
`handoff.json` names each tower's backbone and preprocessing as {_target_, kwargs}, the origin of the weights and the
sha256 of each other file. One tower lies in the directory itself, several in directories of their names. Nothing in it
is ever unpickled, and nothing but a backbone or preprocessing of this package, or of the package of the modality that
is asked for, is ever built from it.
"""

from pretraining.errors import HandoffError
from pretraining.handoff.pooling import repooled
from pretraining.handoff.read import Handoff, class_in, explained, read, refused, trusted_packages
from pretraining.handoff.write import VERSION, write

__all__ = [
    "VERSION",
    "Handoff",
    "HandoffError",
    "class_in",
    "explained",
    "read",
    "refused",
    "repooled",
    "trusted_packages",
    "write",
]
