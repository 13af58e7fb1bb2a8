"""Finetuning: from a hand-off to a downstream task's standard metrics."""
