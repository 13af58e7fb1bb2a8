"""What the commands on a hand-off of pairs take."""

from pretraining.cli.early import Command

EXPORT = Command(("handoff", "output"))
