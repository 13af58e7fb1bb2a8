"""`python -m pretraining.audio.units data=NAME preprocess=NAME`: make units ahead of training, and judge them."""

from pretraining.cli.early import answer

if __name__ == "__main__":
    answer("units")
    from pretraining.audio.unit_quality import cli

    cli()
