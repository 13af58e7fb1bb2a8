"""`python -m pretraining.data.prepare data=NAME preprocess=NAME`: make what training would make on first use."""

from pretraining.cli.prepare import cli

if __name__ == "__main__":
    cli()
