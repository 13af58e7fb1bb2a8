"""Finetuning: from a hand-off to a downstream task's standard metrics."""

import pretraining  # noqa: F401 - before anything imports Lightning: see pretraining.startup
