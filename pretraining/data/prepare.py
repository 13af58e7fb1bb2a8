"""`python -m pretraining.data.prepare data=NAME preprocess=NAME`: make what training would make on first use."""

from pretraining.cli.early import answer

if __name__ == "__main__":
    answer("prepare")
    from pretraining.cli.prepare import cli

    cli()
