"""``python -m experiments.dashboard study=NAME``: a study's W&B workspace and report, built from its results.

Online they are saved, and saved again over the ones that the study has; offline the specification that would be sent is
written to ``<study_dir>/dashboard.json``.
"""

from pretraining.cli.help import answer_help

if __name__ == "__main__":  # before anything slow is imported
    answer_help(__doc__)


import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.launch import resolve_study
from experiments.report.compare import Comparison, compare
from experiments.report.plots import x_columns
from experiments.report.words import between, describe, short, spread
from experiments.study.collect import Results, collect, config_difference, load_study
from experiments.study.graph import PRETRAINING, Cell
from experiments.study.spec import StudyError, exit_code

ARM = "pretrain.name"
"""The column that both a pretraining run and the finetunings of its hand-off carry."""
BY_ARM: dict[str, Any] = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stderr"}
SAME_FOR_ALL = ("run_dir", "seed", "name", "resume")


class Project(NamedTuple):
    """The W&B project that the runs of a study are in; an empty entity is that of who looks."""

    entity: str
    project: str


def build(results: Results, where: Project) -> tuple[Any, Any]:
    """Make the workspace and the report as wandb-workspaces' objects; asks no server unless ``where`` has an entity."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    name, comparison = results.study.name, compare(results)
    curves = _curves(results, wr)
    by_arm = {**BY_ARM, "groupby": wr.Config(ARM)}
    metrics = dict.fromkeys(cell.column for cell in results.cells())
    bars: list[Any] = [wr.BarPlot(title=metric, metrics=[metric], **by_arm) for metric in metrics]
    labels = x_columns(results.curves)
    sections = [ws.Section(name=f"Over {labels[x]}", panels=drawn, is_open=x == "step") for x, drawn in curves.items()]
    sections.append(ws.Section(name="Downstream", panels=bars, is_open=True))
    sections.append(ws.Section(name="Settings", panels=[_coordinates(results, wr)]))
    groups: list[Any] = [ws.Metric("JobType"), ws.Config(ARM)]
    runs = ws.RunsetSettings(filters=[ws.Metric("Group") == name], groupby=groups)
    workspace = ws.Workspace(**where._asdict(), name=name, sections=sections, runset_settings=runs)

    def grid(panels: list[Any]) -> Any:
        return wr.PanelGrid(runsets=[_runset(wr, where, name, "pretrain")], panels=panels)

    # The curves again: a panel has one place.
    blocks = [
        wr.H1(name),
        wr.P(results.study.question),
        wr.MarkdownBlock("\n".join(f"- {line}" for line in describe(comparison)) or "Nothing has finished yet."),
        wr.MarkdownBlock(_table(comparison)),
        wr.H2("Learning curves"),
        *map(grid, _curves(results, wr).values()),
        wr.H2("Downstream"),
        *(_downstream(wr, where, name, cell) for cell in results.cells()),
        wr.H2("Settings"),
        grid([_coordinates(results, wr)]),
        wr.MarkdownBlock(_best(results)),
    ]
    about = f"{results.study.question} Written by python -m experiments.dashboard."
    return workspace, wr.Report(**where._asdict(), title=name, description=about, blocks=blocks)


def _curves(results: Results, wr: Any) -> dict[str, list[Any]]:
    """Draw each logged metric over each axis, a line per arm with the spread of its seeds."""
    columns = {column for curve in results.curves for column in curve.columns}
    speeds = {"throughput/mfu", *(f"throughput/{curve.unit}_per_second" for curve in results.curves)}
    drawn = ("train/loss", "validation/", "probe/")
    wanted = [column for column in sorted(columns) if column.startswith(drawn) or column in speeds] or ["train/loss"]
    labels = x_columns(results.curves)
    by_arm = {**BY_ARM, "groupby": wr.Config(ARM)}
    axes = [axis for axis in labels if axis in columns] or ["step"]
    return {x: [wr.LinePlot(title=y, x=x, y=[y], title_x=labels[x], **by_arm) for y in wanted] for x in axes}


def _runset(wr: Any, where: Project, group: str, job_type: str, name: str | None = None) -> Any:
    conditions = [f"Metric('Group') == '{group}'", f"Metric('JobType') == '{job_type}'"]
    conditions += [f"Metric('Name') == '{name}'"] if name else []
    known = where._asdict() if where.entity else {}
    return wr.Runset(name=name or job_type, filters=" and ".join(conditions), groupby=[f"config.{ARM}"], **known)


def _downstream(wr: Any, where: Project, group: str, cell: Cell) -> Any:
    title, label = cell.title(), short(cell.metric)
    bar = wr.BarPlot(title=title, metrics=[cell.column], **BY_ARM, groupby=wr.Config(ARM), title_x=label)
    return wr.PanelGrid(runsets=[_runset(wr, where, group, "finetune", title)], panels=[bar])


def _swept(results: Results) -> list[str]:
    """List the settings in which the study's pretrainings differ."""
    configs = [results.configs[node.name] for node in results.nodes(PRETRAINING) if node.name in results.configs]
    differing = {key for config in configs[1:] for key in config_difference(config, configs[0])}
    return sorted(key for key in differing if key not in SAME_FOR_ALL)


def _coordinates(results: Results, wr: Any) -> Any:
    """Draw every pretraining as a line through its settings to what it reached."""
    columns = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(key)) for key in _swept(results) or [ARM]]
    reached = [wr.SummaryMetric(name) for name in ("validation/loss", "flops")]
    columns += [wr.ParallelCoordinatesPlotColumn(metric=metric) for metric in reached]
    return wr.ParallelCoordinatesPlot(title="settings and what they reach", columns=columns)


def _table(comparison: Comparison) -> str:
    head = "| task | mode | labels | objective | mean (95 % interval) | never pretrained | difference | n |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for row in comparison.rows:
        difference = between(row.difference) if row.difference else ""
        numbers = [spread(row.value), spread(row.twin), difference, f"{row.value.n} {row.unit}"]
        lines.append(f"| {' | '.join([*row.cell[:3], row.arm, *numbers])} |")
    return "\n".join(lines)


def _best(results: Results) -> str:
    """Tabulate the pretrainings with the settings in which they differ, the best validation loss first."""
    keys = _swept(results)
    found = []
    for node in results.nodes(PRETRAINING):
        loss = results.metrics[node.name].get("validation/loss")
        if isinstance(loss, int | float):
            config = results.configs.get(node.name, {})
            settings = " | ".join(str(config.get(key)) for key in keys)
            found.append((loss, f"| {node.source.arm} | {node.seed} | {loss:.4f} | {settings} |"))
    head = "| " + " | ".join(["objective", "seed", "validation loss", *keys]) + " |"
    return "\n".join([head, "|" + "---|" * (3 + len(keys)), *(line for _, line in sorted(found))])


def specification(results: Results, where: Project) -> dict[str, Any]:
    """Build all that would be sent, as plain containers."""
    workspace, report = build(results, where)
    dumped = {"workspace": workspace._to_model(), "report": report._to_model()}
    return {name: json.loads(model.model_dump_json(by_alias=True, exclude_none=True)) for name, model in dumped.items()}


def save(results: Results, where: Project) -> dict[str, str]:
    """Save both to W&B, over those that this study saved before; returns their addresses."""
    path = results.study.directory / "dashboard_saved.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    workspace, report = build(results, where)
    if before.get("where") == list(where):
        workspace._internal_name, workspace._internal_id = before["workspace"]
        report.id = before["report"]
    workspace.save()
    report.save()
    names = [workspace._internal_name, workspace._internal_id]
    path.write_text(json.dumps({"where": list(where), "workspace": names, "report": report.id}) + "\n")
    return {"workspace": workspace.url, "report": report.url}


def make(directory: Path) -> str:
    """Save the dashboard of the study in ``directory``, or write its specification; returns a line that says which."""
    if not (directory / "study.json").exists():
        raise StudyError(f"{directory} holds no study: run python -m experiments study=NAME first")
    from pretraining.runs.wandb_logger import key_configured

    results = collect(load_study(directory))
    known = (config["logger.wandb.project"] for config in results.configs.values() if "logger.wandb.project" in config)
    project, entity = next(known, "pretraining"), os.environ.get("WANDB_ENTITY", "")
    if key_configured():
        import wandb

        saved = save(results, Project(entity or wandb.Api().default_entity or "", project))
        return "  ".join(f"{kind}: {address}" for kind, address in saved.items())
    path = directory / "dashboard.json"
    path.write_text(json.dumps(specification(results, Project(entity, project)), indent=1) + "\n")
    return f"offline, so the specification is in {path}: `wandb login`, then the same command saves it"


def main(arguments: Sequence[str]) -> int:
    """Make the dashboard of ``study=NAME`` (with ``study_dir=`` where it is not in its usual place)."""
    try:
        print(make(Path(resolve_study(arguments)["study_dir"])))
    except ImportError as error:
        raise StudyError(f"{error.name} is missing: pip install 'pretraining[dashboard]'") from error
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("dashboard", lambda: main(sys.argv[1:])))
