"""`python -m pretraining [overrides]`: one pretraining run, or a sweep with -m."""

from pretraining.cli import startup
from pretraining.cli.help import help_asked


def cli() -> None:
    """Run the command line."""
    if help_asked("pretrain"):
        return
    startup.install()
    from pretraining.cli.configuration import command_line
    from pretraining.launch import main

    command_line("pretrain", main)


if __name__ == "__main__":
    cli()
