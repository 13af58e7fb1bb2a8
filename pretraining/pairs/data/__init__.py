"""Data of pairs."""
