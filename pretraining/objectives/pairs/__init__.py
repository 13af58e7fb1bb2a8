"""Objectives that learn from pairs."""
