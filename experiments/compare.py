"""``python -m experiments.compare RUN ... | DIRECTORY ...``: any runs side by side, in a table and a page with curves.

python -m experiments.compare runs/sweep-20260101-120000-1      every run below a directory, finished or not
python -m experiments.compare runs/a runs/b --sort=-test/accuracy
python -m experiments.compare runs/a                            one run: its numbers and curves

Columns are the settings in which the runs differ, and what they reached. The page, compare.html, needs no other file;
compare.svg beside it is its first picture. Both lie in the directory that was named; of several, in the current one.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from experiments import ls
from experiments.monitor.run_files import read_config
from experiments.monitor.run_status import RunStatus, find_runs
from experiments.report import plots
from experiments.report.charts import STYLE, Line, line_chart, standalone
from experiments.report.sheets import Sheet
from experiments.report.words import NOTHING
from experiments.report.write import templates
from experiments.study.collect import Curve, config_difference, flatten, read_columns
from experiments.study.graph import FINETUNING, PRETRAINING
from experiments.study.runner import DONE
from experiments.study.spec import StudyError, exit_code
from pretraining.cache import replace_text
from pretraining.runs.renamed import current

MOST_SETTINGS, MOST_NUMBERS = 6, 5  # columns of the table
MOST_DRAWN = 32
NAMING = ("run_dir", "name", "group", "resume", "from_run", "fingerprint", "logger")  # say nothing of what a run does
MEASURED = ("test/", "probe/", "validation/")
SPENT = ("examples", "flops", "seconds")
ENDS = ("_low", "_high")


class Family(NamedTuple):
    """Runs of one command; the settings in which they differ, those first that were asked for, and each run's own."""

    package: str
    runs: list[RunStatus]
    differing: list[str]
    configs: list[dict[str, Any]]

    @property
    def columns(self) -> list[str]:
        """Name what the table of these runs shows."""
        return ["run", "status", "step", *self.differing[:MOST_SETTINGS], *reached(self.runs)]


def find(places: Sequence[str]) -> list[RunStatus]:
    """Find the runs at and below places, those of studies, too."""
    for place in places:
        if not Path(place).is_dir():
            raise StudyError(f"{place} is no directory: give directories of runs, or one that holds some")
    roots = [root / "runs" if (root / "study.json").exists() else root for root in ls.alike(places)]
    jobs = ls.find_jobs(needed=False)
    found = list({run.path.resolve(): run for root in roots for run in find_runs(root, jobs)}.values())
    if not found:
        raise StudyError(f"no runs in {' and '.join(places)}: a run is a directory with a config.yaml")
    return found


def families(found: Sequence[RunStatus]) -> Iterator[Family]:
    """Compare the configurations of each command: what command lines name comes first, then classes, then the rest."""
    for package in (PRETRAINING, FINETUNING):
        if runs := [run for run in found if run.package == package]:
            configs = [dict(flatten(current(read_config(run.path)))) for run in runs]
            keys = {key for config in configs for key in config_difference(config, configs[0])}
            keys = {key for key in keys if key.partition(".")[0] not in NAMING}
            asked = {line.partition("=")[0].lstrip("+") for run in runs for line in overrides(run)}
            rank = {key: 0 if key in asked else 1 if key.endswith("_target_") else 2 for key in keys}
            yield Family(package, runs, sorted(keys, key=lambda key: (rank[key], key.count("."), key)), configs)


def overrides(run: RunStatus) -> list[str]:
    """Read what the run's command line asked for."""
    path = run.path / "overrides.txt"
    return path.read_text("utf-8").splitlines() if path.exists() else []


def reached(runs: Sequence[RunStatus]) -> Iterator[str]:
    """Name what the runs measured: first what each is about, then the rest, then what they cost."""
    measured = list(dict.fromkeys(name for run in runs for name in ls.read_numbers(run.path)))
    about = [run.value.split()[0] for run in runs if run.value and run.status == DONE]
    rest = [
        name for name in measured if name.startswith(MEASURED) and not name.endswith(ENDS) and "majority" not in name
    ]
    yield from list(dict.fromkeys([*about, *sorted(rest, key=lambda name: "accuracy" not in name)]))[:MOST_NUMBERS]
    yield from (name for name in SPENT if name in measured)


def draw(family: Family, shared: str) -> plots.Panel | None:
    """Draw the histories; None where nothing is recorded yet."""
    histories = {name_of(run, shared): read_columns(run.path / "metrics.csv") for run in family.runs[:MOST_DRAWN]}
    curves = [Curve(name, 0, _unit(columns), columns) for name, columns in histories.items() if columns]
    return plots.draw_panel(curves, plots.choose_styles(histories)) if curves else None


def name_of(run: RunStatus, shared: str) -> str:
    """Name a run by its place below what all of them share."""
    return str(run.path.relative_to(shared))


def _unit(columns: dict[str, list[float]]) -> str:
    """Find what a history counts, by the rate that it records."""
    counted = (name for name in columns if f"throughput/{name}_per_second" in columns and name != "flops")
    return next(counted, "examples")


def draw_picture(found: Sequence[RunStatus], panels: Sequence[plots.Panel]) -> str:
    """Draw the picture: of one run its losses, of several their first chart."""
    if len(found) > 1:
        return panels[0].charts[0].svg
    columns = read_columns(found[0].path / "metrics.csv")
    lines = [Line(y, f"s{n}", columns["step"], columns[y]) for n, y in enumerate(plots.FIRST_Y) if y in columns]
    return line_chart(lines, title=found[0].path.name, x_label="optimizer steps", y_label="loss")


def write(found: Sequence[RunStatus], path: Path, sort: str) -> None:
    """Write the page, and the picture beside it."""
    shared, kinds = ls.common_place(found), list(families(found))
    drawn = [(family, draw(family, shared)) for family in kinds]
    parts = [
        {
            "kind": family.package,
            "sheet": ls.run_sheet(family.runs, family.columns, sort),
            "panel": panel,
            "left_out": max(0, len(family.runs) - MOST_DRAWN),
            "runs": [_entry(family, number, shared) for number in range(len(family.runs))],
        }
        for family, panel in drawn
    ]
    states = [run.status for run in found]
    content = {
        "title": found[0].path.name if len(found) == 1 else f"{len(found)} runs",
        "counts": ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)),
        "place": shared,
        "written": time.strftime("%Y-%m-%d %H:%M %Z"),
        "parts": parts,
        "chart_style": STYLE,
    }
    replace_text(path, templates(html=True).get_template("compare.html.jinja").render(content))
    if panels := [panel for _, panel in drawn if panel is not None]:
        replace_text(path.with_suffix(".svg"), standalone(draw_picture(found, panels)))


def _entry(family: Family, number: int, shared: str) -> dict[str, Any]:
    run, config = family.runs[number], family.configs[number]
    given = [line for line in overrides(run) if not line.startswith(("run_dir=", "resume="))]
    rows = [[key, str(config.get(key, NOTHING))] for key in family.differing]
    return {
        "status": run.status,
        "name": name_of(run, shared),
        "value": run.value,
        "command": shlex.join(["python", "-m", run.package, *given]),
        "settings": Sheet(["setting that differs", "here"], rows),
    }


def main(arguments: Sequence[str]) -> int:
    """Print the tables and write the page."""
    written: Any = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(prog="python -m experiments.compare", **written)
    parser.add_argument("places", nargs="+", metavar="RUN|DIRECTORY", help="runs, or directories that hold some")
    parser.add_argument("--sort", default="run", metavar="A", help="the column to sort by; --sort=-A: downwards")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the page, where it is not to be compare.html")
    given = parser.parse_args(arguments)
    found = find(given.places)
    if given.output is not None and given.output.suffix != ".html":
        raise StudyError(f"--output {given.output}: the page is html, give a name that ends in .html")
    path = given.output or Path(given.places[0] if len(given.places) == 1 else ".") / "compare.html"
    for family in families(found):
        # What is piped into a file has no width.
        console = Console() if sys.stdout.isatty() else Console(width=40 + 18 * len(family.columns))
        console.print(ls.run_table(family.runs, family.columns, given.sort))
        if (more := len(family.differing) - MOST_SETTINGS) > 0:
            print(f"{more} more settings differ: the page lists them")
    write(found, path, given.sort)
    print(f"curves: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("compare", lambda: main(sys.argv[1:])))
