"""``python -m experiments study=NAME [overrides]``."""

from pretraining.cli.early import ending_on_mistakes
from pretraining.cli.help import answer_help
from pretraining.engine.memory import keep_freed_memory

keep_freed_memory()  # here, since the processes of a study's runs import this file first


def cli() -> None:
    """Run the command line."""
    with ending_on_mistakes():
        answer_help("", root="study")
    from experiments import launch

    launch.cli()


if __name__ == "__main__":
    cli()
