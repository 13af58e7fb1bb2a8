"""Objectives on text, one file each, and their collates."""
