"""What the commands on a finished run take."""

from pretraining.cli.early import Command

EVALUATE = Command(("run_dir",), ("output",), rest="data.")
EXPORT = Command(("run_dir",), ("output",))
PREDICT = Command(("run_dir", "input"), ("output",))
