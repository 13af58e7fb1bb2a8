"""What the commands on a hand-off take."""

from pretraining.cli.early import Command

OPTIONS = ()  # of single forms (`to=`)
EXPORT = Command(("handoff", "to", "output"), ("tower", "trust", *OPTIONS))
