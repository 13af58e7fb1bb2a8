"""`python -m pretraining [overrides]`: one pretraining run, or a sweep with -m."""

from pretraining.configuration import command_line


def cli() -> None:
    """Run the command line; torch is imported once the configuration has composed."""
    from pretraining.launch import main

    command_line("pretrain", main)


if __name__ == "__main__":
    cli()
