"""``python -m experiments study=NAME [overrides]``."""

from experiments.launch import cli

if __name__ == "__main__":
    cli()
