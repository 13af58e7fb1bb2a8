"""The wing of images."""
