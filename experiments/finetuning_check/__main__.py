"""`python -m experiments.finetuning_check STUDY_DIR`: the study's cells as a table, beside a classical model."""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from experiments.report.compare import Row, compare
from experiments.report.statistics import Interval, mean_interval
from experiments.report.words import NOTHING, short, signed
from experiments.study.collect import collect, load_study
from experiments.study.graph import FINETUNING, Cell, Study


def baselines(study: Study) -> dict[Cell, Interval]:
    """Fit the classical model once per cell and seed, on each run's own labels; kept in the study's tfidf.json."""
    from experiments.finetuning_check.tfidf import baseline

    path = study.directory / "tfidf.json"
    known: dict[str, float | None] = json.loads(path.read_text()) if path.exists() else {}
    values: dict[Cell, list[float]] = defaultdict(list)
    for node in study.nodes:
        if node.command != FINETUNING or node.cell is None or not node.source.pretrained:
            continue
        key = f"{node.cell.task}, {node.cell.labels}, {node.seed}"
        if key not in known:
            print(key, file=sys.stderr)
            known[key] = baseline(node)
            path.write_text(json.dumps(known, indent=1) + "\n")
        value = known[key]
        if value is not None:
            values[node.cell].append(value)
    return {cell: mean_interval(found) for cell, found in values.items()}


def markdown(rows: list[Row], classical: Mapping[Cell, Interval]) -> str:
    """Lay the rows out; the last column says in words whether pretraining helped."""
    head = ["task", "labels", "mode", "metric", "pretrained", "never pretrained", "difference", "TF-IDF + linear"]
    lines = [_line(*head, "pretraining"), "|" + "---|" * (len(head) + 1)]
    for row in rows:
        gain = row.difference
        verdict = NOTHING if gain is None else "no difference shown"
        if gain is not None and gain.clear_of_zero:
            verdict = "helps" if gain.mean > 0 else "hurts"
        shown = [_number(row.value), _number(row.twin), NOTHING if gain is None else _number(gain, sign=True)]
        cell = row.cell
        names = [cell.task, cell.labels, cell.mode, short(cell.metric)]
        lines.append(_line(*names, *shown, _number(classical.get(cell)), verdict))
    return "\n".join(lines)


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _number(interval: Interval | None, *, sign: bool = False) -> str:
    if interval is None:
        return NOTHING
    mean = signed(interval.mean) if sign else f"{interval.mean:.3f}"
    half = interval.high - interval.mean
    return f"{mean} ± {half:.3f}" if half > 0.0005 else mean  # a single run has no ends, equal ones are one


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.finetuning_check", description=__doc__)
    parser.add_argument("study_dir", type=Path, help="of study=finetuning_check, finished or not")
    study = load_study(parser.parse_args().study_dir)
    print(markdown(compare(collect(study)).rows, baselines(study)))


if __name__ == "__main__":
    main()
