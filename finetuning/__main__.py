"""`python -m finetuning handoff=DIR task=NAME [overrides]`: one finetuning run, or a sweep with -m."""

from pretraining.cli.early import answer
from pretraining.engine.memory import keep_freed_memory


def cli() -> None:
    """Run the command line."""
    keep_freed_memory()
    answer("finetune")
    from finetuning.launch import main
    from pretraining.cli.configuration import command_line

    command_line("finetune", main)


if __name__ == "__main__":
    cli()
