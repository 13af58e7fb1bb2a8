"""Labelled data: where it is read from and how it is split."""
