"""`python -m finetuning handoff=DIR task=NAME [overrides]`: one finetuning run, or a sweep with -m."""

from pretraining.configuration import command_line


def cli() -> None:
    """Run the command line."""
    from finetuning.launch import main

    command_line("finetune", main)


if __name__ == "__main__":
    cli()
