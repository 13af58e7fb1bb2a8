"""What a report says first and warns of, and what stands beside the numbers: chance, ceiling, a classical model."""

import json
import re
import shutil
import subprocess

import pytest

from experiments.report import __main__ as command
from experiments.report import charts, plots
from experiments.report import write as report
from experiments.report.compare import compare
from experiments.report.flags import warnings
from experiments.report.words import answer
from experiments.study.collect import collect
from experiments.study.references import fit_references, read_references
from tests.experiments import fabricated
from tests.experiments.report.test_study_report import Page, finished

CHROMIUM = shutil.which("chromium")
GRID = {"mlm": {"overrides": ["objective=mlm", "backbone=bert"], "grid": {"collate.masking_rate": [0.15, 0.3]}}}
ONE_TASK = {"docs_topic": {"overrides": ["task=docs_topic"], "modes": ["full"]}}
TWO_ARMS = {"pretrain": GRID, "finetune": ONE_TASK, "finetuning_seeds": [1]}


def fitted(study, fit=fabricated.COMMANDS.classical):
    fit_references(study, fabricated.resolve, fit, lambda line: None)
    return collect(study)


def warned(study):
    results = collect(study)
    return warnings(results, compare(results))


def better_than_chance(monkeypatch, arm, gain):
    """Make the runs of one arm better."""
    made = fabricated.finetune

    def finetune(run_dir, config):
        made(run_dir, config)
        if arm in str(config["handoff"]) and not str(config["handoff"]).startswith("random:"):
            numbers = json.loads((run_dir / "metrics.json").read_text())
            (run_dir / "metrics.json").write_text(json.dumps({name: value + gain for name, value in numbers.items()}))

    monkeypatch.setattr(fabricated, "finetune", finetune)


def test_the_first_sentence_answers_the_question_as_far_as_it_is_answered(tmp_path, monkeypatch):
    results = collect(finished(tmp_path / "two", **TWO_ARMS, pretraining_seeds=[1, 2]))
    said = answer(compare(results))
    assert said.startswith("Not decided: masking_rate 0.15 ")
    assert re.search(
        r" [+−]0\.\d{3} \([+−]0\.\d{3} to [+−]0\.\d{3}\) against masking_rate 0\.3 in docs_topic, full", said
    )
    assert said.endswith("; 2 of 6 pretraining seeds.")
    lines = report.write(results).with_name("report.md").read_text().splitlines()
    assert lines[2] == fabricated.SPEC["question"] and lines[4] == f"**{said}**"
    better_than_chance(monkeypatch, "masking_rate-0.3", 0.2)
    results = collect(finished(tmp_path / "six", **TWO_ARMS, pretraining_seeds=[1, 2, 3, 4, 5, 6]))
    assert answer(compare(results)).startswith("Decided: masking_rate 0.15 −0.2")


def test_without_rivals_the_answer_is_about_never_pretrained_twins(tmp_path):
    said = answer(compare(collect(finished(tmp_path))))
    assert said.startswith("Decided in 2 of 4 comparisons: masked_language +0.2")
    assert "against its never-pretrained twin in docs_topic, f" in said
    assert said.endswith("over finetuning seeds of one pretraining, which do not say how another would turn out.")
    said = answer(compare(collect(finished(tmp_path / "one", finetuning_seeds=[1]))))
    assert said.startswith("Not decided: ") and said.endswith("; one run of each, which says nothing about chance.")
    assert answer(compare(collect(finished(tmp_path / "none", finetune={})))) == "Nothing has been compared yet."


def test_less_is_better_of_a_metric_that_begins_with_a_minus(tmp_path, monkeypatch):
    monkeypatch.setitem(fabricated.SELECT, "docs_topic", "-loss")
    comparison = compare(collect(finished(tmp_path)))
    row = comparison.rows[0]
    assert row.cell.metric == "-test/loss" and row.difference.mean < -0.1 and row.helps
    assert "| loss |" in report.write(collect(finished(tmp_path))).with_name("report.md").read_text()


def test_warnings_name_what_spoils_a_comparison(tmp_path):
    study = finished(tmp_path)
    assert warned(study) == []
    run = study.run_dir(study.nodes[0])
    numbers = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(numbers | {"validation/loss": 7.0, "validation/unigram_entropy": 6.0}))
    rows = (run / "metrics.csv").read_text().splitlines()
    rising = [f"{row},{number * 1e-4:.4f}" for number, row in enumerate(rows)]
    (run / "metrics.csv").write_text("\n".join([f"{rows[0]},learning_rate", *rising[1:]]) + "\n")
    full = next(n for n in study.nodes if n.cell and n.cell.mode == "full" and n.source.arm == "masked_language")
    fabricated.write_predictions(study.run_dir(full), [0] * 130 + [1] * 70, [0] * 200)
    flags = warned(study)
    assert flags == [
        "masked_language: its validation loss, 7.000, is worse than the unigram entropy of its tokens, 6.000: "
        "it has learnt less than their frequencies.",
        "masked_language: still in warm-up at its last step (learning rate 0.004 and rising): "
        "give it more steps, or fewer optimizer.warmup_steps.",
        "docs_topic, full, 10 per class: 1 of 5 runs of masked_language predict 'a' alone, which gives accuracy 0.650.",
    ]
    assert flags[0] in Page(report.write(collect(study)).read_text()).text
    falling = [f"{row},{1 - number * 1e-4:.4f}" for number, row in enumerate(rows)]
    (run / "metrics.csv").write_text("\n".join([f"{rows[0]},learning_rate", *falling[1:]]) + "\n")
    assert "warm-up" not in " ".join(warned(study))


def test_a_classical_reference_on_the_same_labels_is_fitted_once_and_said(tmp_path):
    calls = []

    def fit(overrides):
        calls.append(overrides)
        return ("counting words", {"test/accuracy": 0.9}) if "task=docs_topic" in overrides else None

    study = finished(tmp_path)
    results = fitted(study, fit)
    assert len(calls) == 2 * 5  # tasks and seeds: all modes see the same labels
    fitted(study, fit)
    assert len(calls) == 2 * 5
    seeds = {o for overrides in calls for o in overrides if o.startswith("seed=")}
    assert seeds == {f"seed={1000 + seed}" for seed in range(1, 6)}
    comparison = compare(results)
    row, other = comparison.rows[0], comparison.rows[-1]
    assert row.classical == ("counting words", (0.9, 0.9, 0.9, 5)) and other.classical is None
    value = f"masked_language ({row.value.mean:.3f}) stays behind counting words on the same labels"
    assert warned(study)[0] == f"docs_topic, full, 10 per class: {value}, which reaches accuracy 0.900."
    text = report.write(results).with_name("report.md").read_text()
    assert "counting words 0.900 (0.900 to 0.900)" in text
    assert "counting words" in plots.draw_bars(comparison)["bars-docs-topic"]


def test_a_reference_that_fails_leaves_a_report_that_says_so(tmp_path):
    def fit(overrides):
        raise ValueError("no <luck>")

    study = finished(tmp_path, finetuning_seeds=[1])
    results = fitted(study, fit)
    assert read_references(tmp_path)["digits, 1 % of labels, seed 1001"]["error"] == "ValueError: no <luck>"
    page = Page(report.write(results).read_text())
    assert "no classical reference for docs_topic, 10 per class, seed 1001: ValueError: no <luck>" in page.text


def test_chance_and_the_ceiling_of_all_labels_are_lines_in_the_bars(tmp_path):
    study = finished(tmp_path, references=["never_pretrained", "supervised"], finetuning_seeds=[1, 2])
    comparison = compare(collect(study))
    row = comparison.rows[0]
    assert row.chance.name == "a" and row.chance.share == pytest.approx(67 / 200)
    whole = [n for n in study.nodes if n.cell and n.cell.labels == "all labels" and n.source.arm == "masked_language"]
    values = [json.loads((study.run_dir(n) / "metrics.json").read_text())["test/accuracy"] for n in whole]
    assert len(values) == 2 and row.ceiling.mean == pytest.approx(sum(values) / 2)
    svg = plots.draw_bars(comparison)["bars-docs-topic"]
    assert svg.count('class="mark"') == 2
    assert "always 'a': 0.335" in svg
    assert f"never pretrained, all labels: {row.ceiling.mean:.3f}" in svg


def test_curves_begin_with_validation_and_show_a_band_over_seeds(tmp_path):
    (panel,) = plots.draw_curves(collect(finished(tmp_path, **TWO_ARMS, pretraining_seeds=[1, 2, 3])))
    assert (panel.charts[0].y, panel.charts[0].x) == ("validation/loss", "step")
    svg = panel.charts[0].svg
    assert svg.count('class="series') == 2 and svg.count('class="band"') == 2
    lines = [charts.Line("a", "s0", [0.0, 1.0], [2.0, 1.0]), charts.Line("a", "s0", [0.0, 1.0], [4.0, 2.0])]
    drawn = charts.line_chart(lines, title="t", x_label="x", y_label="y")
    points = json.loads(re.search(r"data-points='(.*?)'", drawn)[1])
    assert [point[3] for point in points] == ["3", "1.5"]  # the mean; the band spans the seeds


def test_names_in_cost_charts_stand_at_their_points():
    points = [charts.Point(f"arm {n}", f"s{n}", 20.0 * n, 0.5 + n / 10, 0.4, 0.9) for n in range(4)]
    svg = charts.scatter(points, title="t", x_label="x", y_label="y")
    for n in range(4):
        name = re.search(rf'x="([\d.]+)" y="([\d.]+)" text-anchor="\w+">arm {n}<', svg)
        x, y = map(float, re.search(rf'class="s{n}">.*?cx="([\d.]+)" cy="([\d.]+)"', svg).groups())
        assert abs(float(name[1]) - x) <= 10 and abs(float(name[2]) - y) <= 6


def test_twins_are_called_after_all_arms_that_share_them(tmp_path):
    comparison = compare(collect(finished(tmp_path, **TWO_ARMS, pretraining_seeds=[1, 2])))
    twin = "never pretrained (masking_rate 0.15, masking_rate 0.3)"
    assert twin in plots.draw_bars(comparison)["bars-docs-topic"]
    assert twin in plots.draw_costs(comparison)["cost-docs-topic-full-all-labels"]


def test_tables_are_written_in_latex_too(tmp_path):
    study = finished(tmp_path, name="a_b")
    directory = report.write(fitted(study)).parent
    text = (directory / "tables" / "results.tex").read_text()
    assert text.startswith(r"\begin{tabular}{") and text.rstrip().endswith(r"\end{tabular}")
    row = next(line for line in text.splitlines() if line.startswith(r"docs\_topic & full & 10 per class &"))
    assert row.endswith(r" \\") and row.count(" & ") == text.splitlines()[2].count(" & ")
    digits = next(line for line in text.splitlines() if line.startswith("digits & full"))
    assert r"1 \% of labels" in digits
    assert {path.name for path in (directory / "tables").iterdir()} >= {"results.tex", "costs.tex"}


def test_the_environment_names_lightning_and_the_device(tmp_path):
    study = finished(tmp_path, finetuning_seeds=[1])
    for card in sorted(tmp_path.rglob("handoff.json"))[:1]:
        known = json.loads(card.read_text())
        card.write_text(json.dumps(known | {"origin": known["origin"] | {"device": "NVIDIA H200"}}))
    text = report.write(collect(study)).with_name("report.md").read_text()
    last = text.split("## Environment")[1]
    assert "pytorch-lightning 2." in last and re.search(r"accelerator \w+", last) and re.search(r"cpu \S+", last)
    assert "pretrained on NVIDIA H200, not recorded. This report was written with" in last


def chromium(*flags, profile):
    quiet = ["headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-sync", "disable-component-update"]
    quiet += ["disable-background-networking", f"user-data-dir={profile}", "virtual-time-budget=3000", "dump-dom"]
    command = [CHROMIUM, *(f"--{flag}" for flag in quiet), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH")
def test_nothing_is_cut_on_a_phone(tmp_path):
    study = finished(tmp_path / "s", **TWO_ARMS, pretraining_seeds=[1, 2])
    path = report.write(fitted(study))
    # A window has a least width; a frame has not.
    script = """
      const frame = document.createElement("iframe"), text = document.getElementById("page").textContent;
      frame.style.width = "400px"; frame.srcdoc = text; document.body.append(frame);
      frame.addEventListener("load", () => {
        const page = frame.contentDocument;
        page.querySelectorAll("details").forEach((part) => { part.open = true; });
        const parts = [page.documentElement, ...page.querySelectorAll("table, div")];
        const cut = parts.filter((part) => part.scrollWidth > part.clientWidth + 1);
        document.body.dataset.cut = cut.map((part) => part.outerHTML.slice(0, 80)).join(" | ") || "nothing";
        document.body.dataset.width = page.documentElement.clientWidth;
      });
    """
    page = path.read_text().replace("</script", "<\\/script")
    (tmp_path / "page.html").write_text(
        f'<body><script type="text/plain" id="page">{page}</script><script>'
        + script.replace(".textContent;", '.textContent.replaceAll("<\\\\/script", "</" + "script");')
        + "</script></body>"
    )
    shown = chromium((tmp_path / "page.html").as_uri(), profile=tmp_path / "profile")
    assert 'data-cut="nothing"' in shown, re.search(r'data-cut="([^"]*)"', shown)
    assert int(re.search(r'data-width="(\d+)"', shown)[1]) <= 400


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH")
def test_figures_are_printed_as_png_and_pdf(tmp_path, capsys):
    study = finished(tmp_path, finetuning_seeds=[1], finetune=ONE_TASK, pretrain=GRID)
    report.write(collect(study))
    assert command.main([str(tmp_path), "--figures", "bars-*"]) == 0
    assert "2 files in" in capsys.readouterr().out
    assert (tmp_path / "plots" / "bars-docs-topic.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "plots" / "bars-docs-topic.pdf").read_bytes().startswith(b"%PDF")
