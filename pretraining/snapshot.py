"""The former place of `python -m pretraining.runs.snapshot`, for one release."""

import sys

from pretraining.runs.snapshot import main

if __name__ == "__main__":
    print("python -m pretraining.snapshot is called python -m pretraining.runs.snapshot now", file=sys.stderr)
    main()
