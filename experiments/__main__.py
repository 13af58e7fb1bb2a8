"""``python -m experiments study=NAME [overrides]``."""

from pretraining.cli import startup
from pretraining.cli.help import help_asked

startup.install()  # here, since the processes of a study's runs import this file first


def cli() -> None:
    """Run the command line."""
    if help_asked("study"):
        return
    from experiments import launch

    launch.cli()


if __name__ == "__main__":
    cli()
