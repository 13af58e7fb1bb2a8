"""`python -m experiments.report STUDY_DIR [--figures [NAME]]`: a study's report again; its figures as PNG and PDF.

NAME may hold a *; the figures of one study are those in its plots/. They are drawn by chromium, which has to be there.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from experiments.report import write as report
from experiments.study.collect import collect, load_study
from experiments.study.spec import StudyError, exit_code

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars", "--no-pdf-header-footer")
SCALE = 2  # pixels of a PNG per unit of its chart


def print_figures(paths: Sequence[Path]) -> int:
    """Write each SVG as PNG and PDF of its size, beside it; returns how many files that makes."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise StudyError(f"--figures needs a browser on the PATH, one of {', '.join(BROWSERS)}: the SVGs stay")
    with tempfile.TemporaryDirectory() as place:
        page = Path(place) / "page.html"
        for path in paths:
            svg = path.read_text()
            width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()  # type: ignore[union-attr]
            style = f"@page {{ size: {width}px {height}px; margin: 0 }} body {{ margin: 0 }} svg {{ display: block }}"
            page.write_text(f'<meta charset="utf-8"><style>{style}</style>{svg}')
            shape = [f"--window-size={width},{height}", f"--force-device-scale-factor={SCALE}"]
            made = [f"--screenshot={path.with_suffix('.png')}", f"--print-to-pdf={path.with_suffix('.pdf')}"]
            for asked in made:
                command = [browser, *QUIET, *shape, f"--user-data-dir={place}/profile", asked, page.as_uri()]
                subprocess.run(command, capture_output=True, timeout=120, check=True)
    return 2 * len(paths)


def main(arguments: Sequence[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.report", description=__doc__)
    parser.add_argument("study_dir", type=Path, help="of a study, finished or not")
    parser.add_argument("--figures", nargs="?", const="*", metavar="NAME", help="also those of plots/ as PNG and PDF")
    given = parser.parse_args(arguments)
    if not (given.study_dir / "study.json").exists():
        raise StudyError(f"{given.study_dir} holds no study: give the directory of one that was begun")
    print(report.write(collect(load_study(given.study_dir))))
    if given.figures is not None:
        plots = given.study_dir / "plots"
        print(f"{print_figures(sorted(plots.glob(f'{given.figures}.svg')))} files in {plots}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("report", lambda: main(sys.argv[1:])))
