"""Rows by number, whatever they are: how they are split, mixed, and served in order."""
