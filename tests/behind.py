"""Imports that a run comes to later, and that take most of a short one's time: forked tests have them behind them."""

import atexit

import sklearn.datasets
import wandb.sdk.launch
from wandb.sdk.data_types._private import MEDIA_TMP

BEHIND = (sklearn.datasets, wandb.sdk.launch)

# The first fork that ended would take this directory away from all others.
atexit.unregister(MEDIA_TMP.cleanup)
MEDIA_TMP._finalizer.detach()
