"""The downstream tasks, one file each."""
