"""The wing of text."""
