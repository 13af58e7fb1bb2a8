"""Write a study's report: report.html (needs no other file), report.md, results.csv, plots/."""

import base64
import csv
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from experiments.report import plots
from experiments.report.charts import STYLE, standalone
from experiments.report.compare import Cost, compare, total_seconds
from experiments.report.words import amount, between, clock, cost_in_words, in_words, resampled, short, signed, spread
from experiments.study.collect import Results, config_difference
from experiments.study.graph import FINETUNING, PRETRAINING, Node
from experiments.study.runner import FAILED
from pretraining.cache import replace_text
from pretraining.runs.provenance import software

HERE = Path(__file__).parent
# What differs in every run, and says nothing.
SELF_EVIDENT = {"run_dir", "handoff"}


class RunEntry(NamedTuple):
    """A run as the report lists it."""

    name: str
    title: str
    status: str
    seconds: str
    value: str
    command: str
    difference: dict[str, tuple[Any, Any]]
    error: str


def write(results: Results) -> Path:
    """Write everything beside the runs and return the path of report.html."""
    comparison = compare(results)
    directory = results.study.directory
    panels = plots.panels(results)
    figures = {**plots.bars(comparison), **plots.cost(comparison)}
    (directory / "plots").mkdir(parents=True, exist_ok=True)
    for name, svg in {
        **figures,
        **{c.name: c.svg for panel in panels for c in panel.charts},
    }.items():
        (directory / "plots" / f"{name}.svg").write_text(standalone(svg))
    write_csv(results, directory / "results.csv")
    content = {
        "study": results.study,
        "comparison": comparison,
        "words": in_words(comparison),
        "counts": counts(results),
        "panels": panels,
        "bars": plots.bars(comparison),
        "cost_charts": plots.cost(comparison),
        "runs": [_entry(results, node) for node in results.study.nodes],
        "environment": software(),
        "cost_of": {cost.arm: cost_in_words(cost) for cost in comparison.costs},
        "pictures": _pictures(results),
        "spent": [clock(seconds) for seconds in total_seconds(results)],
        "cost_columns": [c for c in Cost._fields[3:] if any(getattr(cost, c) is not None for cost in comparison.costs)],
        "written": time.strftime("%Y-%m-%d %H:%M %Z"),
        "chart_style": STYLE,
    }
    for name in ("report.html", "report.md"):
        template = _templates(html=name.endswith("html")).get_template(f"{name}.jinja")
        replace_text(directory / name, template.render(content))
    return directory / "report.html"


def _pictures(results: Results) -> dict[str, dict[str, str]]:
    """What the first pretraining of each arm has drawn, as addresses that hold the picture: arm -> name -> address."""
    found: dict[str, dict[str, str]] = {}
    for node in results.nodes(PRETRAINING):
        drawn = sorted((results.study.run_dir(node) / "pictures").glob("*.png"))
        if drawn and node.source.arm not in found:
            found[node.source.arm] = {
                p.stem: "data:image/png;base64," + base64.b64encode(p.read_bytes()).decode() for p in drawn
            }
    return found


def counts(results: Results) -> dict[str, int]:
    """How many runs there are, by how they stand."""
    left = [state.get("status", "not started") for _, state in results.unfinished()]
    return {
        "all": len(results.study.nodes),
        "done": len(results.metrics),
        **{s: left.count(s) for s in sorted(set(left))},
    }


def write_csv(results: Results, path: Path) -> None:
    """One line per finished finetuning."""
    columns = [
        "task",
        "mode",
        "labels",
        "arm",
        "pretrained",
        "pretraining_seed",
        "seed",
        "metric",
        "value",
        "seconds",
        "planned",
        "pretraining_flops",
        "pretraining_seconds",
        "run",
    ]
    costs = {
        cost.arm: [cost.planned, cost.flops, None if cost.seconds is None else round(cost.seconds, 1)]
        for cost in compare(results).costs
    }
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for node in results.nodes(FINETUNING):
            if node.cell is None:
                continue
            task, mode, labels, metric = node.cell
            seconds = round(results.states[node.name].get("seconds", 0.0), 2)
            source = [node.source.arm, node.source.pretrained, node.source.seed, node.seed]
            value = results.metric(node)
            # A never-pretrained twin costs nothing, a ready checkpoint something that nobody counted.
            spent = costs.get(node.source.arm, [None] * 3) if node.source.pretrained else ["", 0, 0]
            writer.writerow([task, mode, labels, *source, metric, value, seconds, *spent, node.name])


def command_line(node: Node) -> str:
    """What to type to have this run alone."""
    return shlex.join(["python", "-m", node.command, *node.overrides])


def _entry(results: Results, node: Node) -> RunEntry:
    state = results.states[node.name]
    config, reference = results.configs.get(node.name), _reference(results, node)
    difference = config_difference(config, reference) if config and reference and config is not reference else {}
    numbers = results.metrics.get(node.name, {})
    metric = node.cell.metric if node.cell else "validation/loss"
    value = f"{short(metric)} {numbers[metric]:.3f}" if isinstance(numbers.get(metric), float | int) else ""
    return RunEntry(
        node.name,
        node.title(),
        state.get("status", "not started"),
        f"{state['seconds']:.1f} s" if "seconds" in state else "",
        value,
        command_line(node),
        {key: pair for key, pair in difference.items() if key not in SELF_EVIDENT},
        str(state.get("error", "")),
    )


def _reference(results: Results, node: Node) -> Mapping[str, Any] | None:
    """The configuration of the study's first run of the same command."""
    first = next((n for n in results.nodes(node.command) if n.name in results.configs), None)
    return results.configs[first.name] if first else None


def _templates(*, html: bool) -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=html,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    found.filters |= {
        "signed": signed,
        "between": between,
        "short": short,
        "interval": spread,
        "amount": amount,
        "resampled": resampled,
    }
    found.globals |= {
        "PRETRAINING": PRETRAINING,
        "FAILED": FAILED,
    }
    return found
