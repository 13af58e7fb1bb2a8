"""Objectives on images, one file each."""
