"""Pretraining objectives, one file each: collate, heads and loss."""
