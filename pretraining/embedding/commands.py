"""What the command that embeds takes."""

from pretraining.cli.early import Command

COMPUTED = ("tower", "side", "layer", "pooling", "normalize", "batch_size", "precision", "device", "seed", "trust")
EMBED = Command(("handoff", "input", "output"), (*COMPUTED, "neighbours", "picture", "method"), rest="inputs.")
