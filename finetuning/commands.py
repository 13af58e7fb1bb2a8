"""What the commands on a finished run take."""

from pretraining.cli.early import Command
from pretraining.commands import PUSH

EVALUATE = Command(("run_dir",), ("output",), rest="data.")
EXPORT = Command(("run_dir",), ("output", "to", "int8", *PUSH))
PREDICT = Command(("run_dir", "input"), ("output",))
