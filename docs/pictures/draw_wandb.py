"""`python docs/pictures/draw_wandb.py`, in the repository's root: draws wandb.svg, what W&B shows of a study.

The runs of a made-up study are sent by the real client, as our runs send theirs, to the tests' stand-in of its server.
Drawn are the panels that `experiments.dashboard` defines, from what has arrived there.
"""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from experiments import dashboard  # noqa: E402
from experiments.report.charts import STYLE, Bar, Line, bar_chart, line_chart  # noqa: E402
from experiments.report.plots import choose_styles  # noqa: E402
from experiments.study.collect import Results, collect, read_columns, save_study  # noqa: E402
from experiments.study.graph import PRETRAINING, expand  # noqa: E402
from experiments.study.runner import Here, run_study  # noqa: E402
from pretraining.runs.wandb_logger import Tracked, WandbHistory  # noqa: E402
from tests.experiments import fabricated, wandb_stub  # noqa: E402

ARMS = {"mlm": {"overrides": ["objective=mlm", "backbone=bert"], "grid": {"collate.fraction": [0.15, 0.4]}}}
TASKS = {"docs_topic": {"overrides": ["task=docs_topic"], "modes": ["full"], "shots": [10]}}
SEEDS: dict[str, Any] = {"pretraining_seeds": [1, 2, 3], "finetuning_seeds": [1], "references": []}
WIDE, HIGH, GAP = 480, 300, 24


def make_study(directory: Path) -> Results:
    """Run a study whose runs write numbers at once."""
    spec = fabricated.spec(pretrain=ARMS, finetune=TASKS, **SEEDS)
    study = expand(spec, directory=directory, resolve=fabricated.resolve)
    save_study(study)
    run_study(study, executor=Here(directory, fabricated.run), watch=fabricated.Silent(), retry_failed=False)
    return collect(study)


def send(results: Results) -> None:
    """Send every run, as `pretraining` and `finetuning` do."""
    for node in results.study.nodes:
        run_dir, pretrains = results.study.run_dir(node), node.command == PRETRAINING
        config = {"pretrain": {"name": node.source.arm}, "seed": node.seed}
        about: Any = {
            "name": node.name,
            "group": results.study.name,
            "job_type": "pretrain" if pretrains else "finetune",
        }
        tracked = Tracked(project="study", tags=[], config=config, **about)
        logger = WandbHistory(run_dir, tracked=tracked, mode="online", patience=60, upload_bytes=0)
        if pretrains:
            columns = read_columns(run_dir / "metrics.csv")
            for row, step in enumerate(columns["step"]):
                numbers = {name: values[row] for name, values in columns.items() if name != "step"}
                # Made-up losses are a function of the seed alone: apart, both curves are seen.
                apart = 0.2 * list(dict.fromkeys(n.source.arm for n in results.study.nodes)).index(node.source.arm)
                shown = {name: value + apart * name.endswith("loss") for name, value in numbers.items()}
                logger.log_metrics({name: value for name, value in shown.items() if value == value}, int(step))
        else:
            logger.log_metrics(results.metrics[node.name], 40)
        logger.finalize("success")


def draw(panel: dict[str, Any], runs: list[Any]) -> Iterator[str]:
    """Draw a panel of a workspace from the runs that arrived; other kinds than curves and bars are left out."""
    config, arms = panel["config"], dict.fromkeys(run.plain_config["pretrain"]["name"] for run in runs)
    style = choose_styles(arms)
    (metric,) = config.get("metrics") or [None]
    having = [(run, [row for row in run.history if metric in row]) for run in runs]
    if panel["viewType"] == "Run History Line Plot":
        lines = []
        for run, rows in having:
            arm = run.plain_config["pretrain"]["name"]
            lines.append(Line(arm, style[arm], *([row[axis] for row in rows] for axis in (config["xAxis"], metric))))
        yield line_chart(lines, title=metric, x_label=config["xAxisTitle"], y_label=metric, height=HIGH)
    elif panel["viewType"] == "Bar Chart":
        bars = []
        for arm in arms:
            values = [rows[-1][metric] for run, rows in having if rows and run.plain_config["pretrain"]["name"] == arm]
            mean, error = np.mean(values), np.std(values, ddof=1) / len(values) ** 0.5  # the panel asks for stderr
            bars.append(Bar(metric, arm, style[arm], float(mean), float(mean - error), float(mean + error), values))
        yield bar_chart(bars, title=metric, x_label=metric)


def compose(sections: list[dict[str, Any]], runs: list[Any]) -> str:
    """Set the open sections of a workspace one below the other."""
    parts, y = [], 0.0
    for section in (section for section in sections if section["isOpen"]):
        parts.append(f'<text class="strong" x="{GAP}" y="{y + 26:g}">{section["name"]}</text>')
        heights = [0.0]
        for place, svg in zip(count(), (svg for panel in section["panels"] for svg in draw(panel, runs)), strict=False):
            heights.append(float(re.search(r'viewBox="0 0 \d+ ([\d.]+)"', svg)[1]))  # type: ignore[index]
            where = f'x="{GAP + place % 2 * (WIDE + GAP)}" y="{y + 40 + place // 2 * HIGH:g}" width="{WIDE}"'
            parts.append(svg.replace("<svg ", f'<svg {where} height="{heights[-1]:g}" ', 1))
        y += max(heights) + 56
    style = choose_styles(dict.fromkeys(run.plain_config["pretrain"]["name"] for run in runs))
    for number, (arm, kind) in enumerate(style.items()):
        at = GAP + 200 * number
        swatch = f'<rect class="key" x="{at}" y="{y:g}" width="10" height="10"/>'
        parts.append(f'<g class="{kind}">{swatch}<text x="{at + 16}" y="{y + 10:g}">{arm}</text></g>')
    box = f'viewBox="0 0 {2 * WIDE + 3 * GAP} {y + 24:g}"'
    paper = '<rect width="100%" height="100%" style="fill: var(--paper)"/>'
    start = f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" {box}><style>{STYLE}</style>{paper}'
    return f"{start}{''.join(parts)}</svg>\n"


def main() -> None:
    """Draw the picture."""
    server = wandb_stub.Server()
    with tempfile.TemporaryDirectory() as place:
        os.environ |= {
            "WANDB_BASE_URL": server.url,
            "WANDB_API_KEY": "0123456789" * 4,
            "WANDB_ERROR_REPORTING": "false",
        }
        os.environ |= {f"WANDB_{name}": place for name in ("DIR", "CACHE_DIR", "DATA_DIR", "CONFIG_DIR")}
        results = make_study(Path(place))
        send(results)
        panels = dashboard.specification(results, dashboard.Project("", "study"))["workspace"]
    server.close()
    svg = compose(panels["spec"]["section"]["panelBankConfig"]["sections"], list(server.runs.values()))
    (ROOT / "docs" / "pictures" / "wandb.svg").write_text(svg)


if __name__ == "__main__":
    main()
