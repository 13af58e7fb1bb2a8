"""`python -m finetuning.predict run_dir=DIR input=FILE [output=FILE]`: what a model says of new inputs, one by one.

The input is tables with the run's columns (.parquet, .csv, .tsv, .jsonl; of images .parquet), text or `-` (stdin), a
text per line (for tagging: words between spaces; for pairs: a tab between the texts), or a directory of images. The
output (.jsonl, .csv or .parquet; else json lines on stdout) has a row for each: its `id` (line or row) and text, or its
`file`, the `prediction`, and the scores by the names of the classes.

In a script: `from finetuning import predict`, a function.
"""

from __future__ import annotations

from finetuning.commands import PREDICT

if __name__ == "__main__":  # before anything slow is imported
    PREDICT.answer(__doc__)

    from finetuning.predictions import cli

    cli()
