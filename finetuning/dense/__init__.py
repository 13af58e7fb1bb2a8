"""Boxes, masks and maps over images: what dense tasks, their data and their metrics share."""
