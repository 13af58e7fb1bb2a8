"""`python -m pretraining [overrides]`: one pretraining run, or a sweep with -m."""

from pretraining.cli.early import answer
from pretraining.engine.memory import keep_freed_memory


def cli() -> None:
    """Run the command line."""
    keep_freed_memory()
    answer("pretrain")
    from pretraining.cli.configuration import command_line
    from pretraining.launch import main

    command_line("pretrain", main)


if __name__ == "__main__":
    cli()
