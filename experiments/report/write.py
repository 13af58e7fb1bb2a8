"""Write a study's report: report.html (needs no other file), report.md, results.csv, plots/, tables/."""

import csv
import re
import shlex
import time
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from experiments.report import plots, words
from experiments.report.charts import STYLE, standalone
from experiments.report.compare import compare
from experiments.report.flags import warnings
from experiments.report.pictures import embedded
from experiments.report.sheets import Sheet, every_number, latex, sheets
from experiments.study.collect import Results, config_difference
from experiments.study.graph import FINETUNING, PRETRAINING, Node
from pretraining.cache import replace_text
from pretraining.runs.provenance import hardware, software

TEMPLATES = Path(__file__).parent / "templates"
SELF_EVIDENT = {"run_dir", "handoff"}  # differ in every run, and say nothing


def write(results: Results) -> Path:
    """Write everything beside the runs; returns the path of report.html."""
    comparison, directory = compare(results), results.study.directory
    panels, bars, costs = plots.draw_curves(results), plots.draw_bars(comparison), plots.draw_costs(comparison)
    (directory / "plots").mkdir(parents=True, exist_ok=True)
    for name, svg in {**bars, **costs, **{c.name: c.svg for panel in panels for c in panel.charts}}.items():
        (directory / "plots" / f"{name}.svg").write_text(standalone(svg))
    write_csv(results, directory / "results.csv")
    used = {
        str(config["trainer.accelerator"]) for config in results.configs.values() if "trainer.accelerator" in config
    }
    devices = {"accelerator": used, "pretrained_on": set(results.devices.values())}
    ran = {name: ", ".join(sorted(values)) or "not recorded" for name, values in devices.items()}
    tables = sheets(comparison)
    (directory / "tables").mkdir(exist_ok=True)
    for name, sheet in tables.items():
        (directory / "tables" / f"{name}.tex").write_text(latex(sheet))
    content = {
        "study": results.study,
        "comparison": comparison,
        "answer": words.answer(comparison),
        "flags": warnings(results, comparison),
        "sheets": tables,
        "numbers": every_number(comparison),
        "words": words.describe(comparison),
        "counts": count_runs(results),
        "panels": panels,
        "bars": bars,
        "cost_charts": costs,
        "runs": [_entry(results, node) for node in results.study.nodes],
        "ran": ran,
        "environment": {name: value for name, value in (software() | hardware()).items() if value is not None},
        "pictures": embedded(results),
        "spent": [words.clock(_seconds(results, command)) for command in (PRETRAINING, FINETUNING)],
        "written": time.strftime("%Y-%m-%d %H:%M %Z"),
        "chart_style": STYLE,
    }
    for name in ("report.html", "report.md"):
        template = templates(html=name.endswith("html")).get_template(f"{name}.jinja")
        replace_text(directory / name, template.render(content))
    return directory / "report.html"


def _seconds(results: Results, command: str) -> float:
    nodes = (node for node in results.study.nodes if node.command == command)
    return sum((float(results.states[node.name].get("seconds") or 0) for node in nodes), 0.0)


def count_runs(results: Results) -> dict[str, int]:
    """Count all runs, those done, and the others by their status."""
    nodes = [node for node in results.study.nodes if node.name not in results.metrics]
    left = [results.states[node.name].get("status", "not started") for node in nodes]
    others = {status: left.count(status) for status in sorted(set(left))}
    return {"all": len(results.study.nodes), "done": len(results.metrics), **others}


def write_csv(results: Results, path: Path) -> None:
    """Write one line per finished finetuning."""
    run = ["task", "mode", "labels", "arm", "pretrained", "pretraining_seed", "seed", "metric", "value", "seconds"]
    costs = {cost.arm: cost for cost in compare(results).costs}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*run, "planned", "pretraining_flops", "pretraining_seconds", "run"])
        for node in results.nodes(FINETUNING):
            if node.cell is None:
                continue
            task, mode, labels, metric = *node.cell[:3], node.cell.column
            seconds = round(results.states[node.name].get("seconds", 0.0), 2)
            source = [node.source.arm, node.source.pretrained, node.source.seed, node.seed]
            # A never-pretrained twin costs nothing, a ready checkpoint something that nobody counted.
            spent: list[Any] = [None] * 3 if node.source.pretrained else ["", 0, 0]
            if node.source.pretrained and (cost := costs.get(node.source.arm)):
                taken = cost.spent.get("seconds")
                spent = [cost.planned, cost.spent.get("flops"), None if taken is None else round(taken, 1)]
            writer.writerow([task, mode, labels, *source, metric, results.metric(node), seconds, *spent, node.name])


def _entry(results: Results, node: Node) -> dict[str, Any]:
    """Describe a run as the report lists it."""
    state = results.states[node.name]
    config, alike = results.configs.get(node.name), results.nodes(node.command)
    reference = next((results.configs[n.name] for n in alike if n.name in results.configs), None)
    difference = config_difference(config, reference) if config and reference and config is not reference else {}
    metric = node.cell.column if node.cell else "validation/loss"
    return {
        "title": node.title(),
        "status": state.get("status", "not started"),
        "seconds": f"{state['seconds']:.1f} s" if "seconds" in state else "",
        "value": words.headline(results.metrics.get(node.name, {}), metric).replace(metric, words.short(metric)),
        "command": shlex.join(["python", "-m", node.command, *node.overrides]),
        "difference": Sheet(
            ["setting", "first run of its kind", "this run"],
            [[key, *map(str, pair)] for key, pair in difference.items() if key not in SELF_EVIDENT],
        ),
        "error": str(state.get("error", "")),
    }


def templates(*, html: bool) -> jinja2.Environment:
    """Open the templates of pages (whose values are escaped), or of markdown."""
    strict: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "undefined": jinja2.StrictUndefined}
    found = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=html, **strict)
    # Names of settings and metrics have no spaces to break a line at.
    found.filters["breakable"] = lambda words: Markup(re.sub(r"([/._])", r"\1<wbr>", str(escape(words))))
    return found
