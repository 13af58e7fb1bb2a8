"""What the commands on a hand-off take."""

from pretraining.cli.early import Command

PUSH = ("push", "private", "license", "datasets")  # to the Hub, with what its card says
OPTIONS = ("normalize", "int8")  # of single forms (`to=`)
EXPORT = Command(("handoff",), ("to", "output", "tower", "trust", *OPTIONS, *PUSH))
