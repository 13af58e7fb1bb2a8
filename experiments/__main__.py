"""``python -m experiments study=NAME [overrides]``."""

from pretraining.cli.help import help_asked
from pretraining.engine.memory import keep_freed_memory

keep_freed_memory()  # here, since the processes of a study's runs import this file first


def cli() -> None:
    """Run the command line."""
    if help_asked("study"):
        return
    from experiments import launch

    launch.cli()


if __name__ == "__main__":
    cli()
