"""Python imports this first where its directory is on PYTHONPATH: checkpoints take SLOW_WRITES seconds longer."""

import os

from tests.slow_writes import slow_checkpoints

slow_checkpoints(float(os.environ["SLOW_WRITES"]))
