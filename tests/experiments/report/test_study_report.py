import csv
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from experiments.report import charts, plots
from experiments.report import write as report
from experiments.report.compare import compare
from experiments.report.sheets import sheets
from experiments.report.table import result_table
from experiments.report.words import describe, describe_cost
from experiments.study.collect import collect, load_study, save_study
from experiments.study.graph import expand
from experiments.study.runner import Here, run_study
from pretraining.optim.optimizers import AdamW
from tests.experiments import fabricated

CHROMIUM = shutil.which("chromium")


def finished(directory, sabotage=None, **changes):
    directory.mkdir(exist_ok=True)
    if sabotage:
        (directory / "sabotage.json").write_text(f'{{"{sabotage}": "raise"}}')
    study = expand(fabricated.spec(**changes), directory=directory, resolve=fabricated.resolve)
    save_study(study)
    executor = Here(directory, fabricated.run)
    run_study(study, executor=executor, watch=fabricated.Silent(), retry_failed=False)
    return study


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    study = finished(tmp_path_factory.mktemp("study") / "s", sabotage="digits-frozen-1-of-labels-simclr-s1003")
    return report.write(collect(study))


class Page(HTMLParser):
    VOID = frozenset(("meta", "link", "br", "img", "input", "hr"))

    def __init__(self, text):
        super().__init__()
        self.open, self.count, self.addresses, self.text = [], {}, [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1
        self.addresses += [value for key, value in attrs if key in ("src", "href", "action", "srcset", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_well_formed_and_needs_nothing_from_anywhere(written):
    text = written.read_text()
    page = Page(text)
    assert page.addresses[0] == "data:,"
    # One of the pretraining; of the first finetuning of each mode, pretrained and not, the first two of its three.
    assert [address[:22] for address in page.addresses[1:]] == ["data:image/png;base64,"] * (1 + 2 * 2 * 2)
    for reference in ("http:", "https:", "//cdn", "@import", "url("):
        assert reference not in text
    assert page.count["svg"] >= 10
    assert page.count["table"] >= 4
    assert "Does it <work> & how well?" in page.text
    assert "RuntimeError: out of <luck>" in page.text
    assert "40 steps planned, 40 steps, 163,840 tokens, 4e+10 FLOPs, 0:20 spent" in page.text
    assert "40 steps planned, 40 steps, 2,560 images, 4e+10 FLOPs, 0:20 spent" in page.text
    assert "simclr: views" in page.text
    for who in ("simclr", "never pretrained (simclr)"):
        assert page.text.count(f"digits, full, 1 % of labels, {who}: 0001") == 1


def test_every_table_and_chart_beside_the_page_is_there(written):
    directory = written.parent
    names = {path.name for path in (directory / "plots").iterdir()}
    assert {"bars-docs-topic.svg", "bars-digits.svg"} <= names
    curves = {name for name in names if name.startswith("curve-") and "validation-loss" in name}
    shared = {"step", "examples", "flops", "time"}
    axes = {"masked-language": {"tokens", *shared}, "simclr": {"images", *shared}}
    assert curves == {f"curve-{arm}-validation-loss-over-{x}.svg" for arm, xs in axes.items() for x in xs}
    assert (directory / "plots" / "bars-digits.svg").read_text().startswith('<svg class="chart"')
    with (directory / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 39
    assert {row["pretrained"] for row in rows} == {"True", "False"}
    markdown = (directory / "report.md").read_text()
    assert "| docs_topic | full | 10 per class | masked_language |" in markdown
    assert "| objective | pretrainings | planned | steps | examples | tokens | images | flops | seconds |" in markdown
    assert "| simclr | 1 | 40 steps | 40 | 2,560 | – | 2,560 | 4e+10 |" in markdown
    assert "Runs without result" in markdown


def test_whatever_a_modality_counts_is_an_axis_a_cost_and_a_word(tmp_path, monkeypatch):
    monkeypatch.setitem(fabricated.UNITS, "masked_language", "clips")
    results = collect(finished(tmp_path, finetuning_seeds=[1]))
    assert {curve.arm: curve.unit for curve in results.curves} == {"masked_language": "clips", "simclr": "images"}
    comparison = compare(results)
    assert list(comparison.cost_columns)[1:5] == ["examples", "clips", "images", "flops"]
    assert describe_cost(comparison.costs[0]).startswith("40 steps planned, 40 steps, 163,840 clips, ")
    (speech, pictures) = plots.draw_curves(results)
    assert speech.xs["clips"] == "clips seen" and "images" not in speech.xs and "clips" not in pictures.xs


def test_a_run_of_a_release_that_counted_no_images_is_told_by_its_examples(tmp_path):
    study = finished(tmp_path, finetuning_seeds=[1])
    simclr = next(node for node in study.nodes if node.source.arm == "simclr" and node.cell is None)
    (study.run_dir(simclr) / "handoff" / "last" / "handoff.json").write_text('{"origin": {}}')
    numbers = study.run_dir(simclr) / "metrics.json"
    numbers.write_text(numbers.read_text().replace('"images": 2560', '"tokens": 0'))
    assert "40 steps, 2,560 examples, 4e+10 FLOPs" in describe_cost(compare(collect(study)).costs[1])


def test_how_the_rate_went_stands_beside_the_cost(tmp_path):
    study = finished(tmp_path, finetuning_seeds=[1])
    assert "learning rate" not in sheets(compare(collect(study)))["costs"].head
    simclr = next(node for node in study.nodes if node.source.arm == "simclr" and node.cell is None)
    path = study.run_dir(simclr) / "metrics.json"
    optimizer = AdamW(
        peak_lr=0.002,
        warmup_steps=0.1,
        schedule="cosine",
        final_fraction=0.05,
        weight_decay=0.0,
        betas=[0.9, 0.9],
        eps=0,
    )
    path.write_text(json.dumps(json.loads(path.read_text()) | optimizer.rates(40)))
    costs = sheets(compare(collect(study)))["costs"]
    place = costs.head.index("learning rate")
    assert [row[place] for row in costs.rows] == ["–", "0.002 after 4 of 40 steps, at the end 0.0001"]
    assert optimizer.describe(40) == "peak rate 0.002 after 4 of 40 steps, then cosine, at the end 0.0001"


def test_a_planted_difference_is_reported_and_a_planted_null_is_not(tmp_path):
    results = collect(finished(tmp_path))
    rows = compare(results).rows
    assert {row.cell.task: row.difference.clear_of_zero for row in rows if row.cell.mode == "full"} == {
        "docs_topic": True,
        "digits": False,
    }
    words = " ".join(describe(compare(results)))
    assert "digits, full, 1 % of labels: simclr reaches accuracy" in words
    assert "no difference to its never-pretrained twin" in words
    assert "above its never-pretrained twin" in words


def test_the_resampled_difference_says_the_same_of_other_test_examples(tmp_path):
    results = collect(finished(tmp_path))
    rows = [row for row in compare(results).rows if row.cell.mode == "full"]
    assert {row.cell.task: row.resampled.clear_of_zero for row in rows} == {"docs_topic": True, "digits": False}
    cell = rows[0].cell
    own, twin = (results.hits(cell, rows[0].arm, pretrained=pretrained) for pretrained in (True, False))
    gains = np.array([own[key] - twin[key] for key in own])
    assert gains.shape == (5, fabricated.TEST_EXAMPLES)
    assert rows[0].resampled.mean == pytest.approx(gains.mean())
    # Seeds and examples both vary: at least as wide as the spread of either alone.
    examples = gains.mean(0).std() / fabricated.TEST_EXAMPLES**0.5
    assert rows[0].resampled.high - rows[0].resampled.low > 2 * 1.96 * examples * 0.9


def test_one_pretraining_counts_finetuning_seeds_and_says_so(tmp_path):
    comparison = compare(collect(finished(tmp_path)))
    assert {(row.value.n, row.pretrainings, row.unit) for row in comparison.rows} == {
        (5, 1, "finetuning seeds of one pretraining")
    }
    console = Console(width=170, record=True)
    console.print(result_table(comparison, "title"))
    assert "do not say how another" in console.export_text()


def test_several_pretrainings_are_the_unit_and_too_few_are_not_tested(tmp_path):
    pretrain = {"mlm": {"overrides": ["objective=mlm", "backbone=bert"], "grid": {"collate.masking_rate": [0.15, 0.3]}}}
    finetune = {"docs_topic": {"overrides": ["task=docs_topic"], "modes": ["full"]}}
    changes = {"pretrain": pretrain, "finetune": finetune, "finetuning_seeds": [1, 2]}
    three = compare(collect(finished(tmp_path, **changes, pretraining_seeds=[1, 2, 3])))
    assert {(row.value.n, row.unit) for row in three.rows} == {(3, "pretraining seeds")}
    assert [contrast.p for contrast in three.contrasts] == [None]
    assert "Too few pretraining seeds to test" in " ".join(describe(three))
    six = compare(collect(finished(tmp_path, **changes, pretraining_seeds=[1, 2, 3, 4, 5, 6])))
    assert 2 / 64 <= six.contrasts[0].p <= 1
    assert "shows no difference to" in " ".join(describe(six))
    assert set(six.ranks) == {"masking_rate 0.15", "masking_rate 0.3"}


def test_a_study_read_back_from_its_directory_is_the_same(tmp_path):
    study = finished(tmp_path, finetuning_seeds=[1])
    assert load_study(tmp_path) == study


def test_a_report_can_be_written_before_anything_has_finished(tmp_path):
    study = expand(fabricated.spec(), directory=tmp_path, resolve=fabricated.resolve)
    page = Page(report.write(collect(study)).read_text())
    assert "No finetuning has finished yet." in page.text


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH; the page is also parsed without it")
def test_a_browser_opens_the_page_without_errors_or_requests(written, tmp_path):
    flags = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"]
    flags += ["disable-background-networking", "disable-component-update", "enable-logging=stderr"]
    flags += [f"user-data-dir={tmp_path / 'profile'}", f"log-net-log={tmp_path / 'net.json'}"]
    flags += ["virtual-time-budget=3000", "dump-dom"]
    done = subprocess.run(
        [CHROMIUM, *(f"--{flag}" for flag in flags), written.as_uri()],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    assert 'data-ready="yes"' in done.stdout  # Written by the last line of the page's script.
    assert done.stdout.count("<svg") >= 10
    assert "<table" in done.stdout
    assert not [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    asked = re.findall(r'"url": *"https?://([^/"]+)', (tmp_path / "net.json").read_text())
    # Chromium's own service calls home whatever it shows; the page mentions none of those hosts.
    assert [host for host in asked if not host.endswith((".googleapis.com", ".google.com"))] == []


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH; nothing else runs the page's script")
def test_the_charts_answer_the_pointer_the_legend_and_the_choices(written, tmp_path):
    script = """
      const panel = document.querySelector(".panel"), svg = panel.querySelector(".choice:not([hidden]) svg");
      const box = svg.getBoundingClientRect();
      const middle = {bubbles: true, clientX: box.left + box.width / 2, clientY: box.top + 50};
      svg.dispatchEvent(new PointerEvent("pointermove", middle));
      document.body.dataset.tip = panel.querySelector(".tip").textContent;
      panel.querySelector(".legend button").click();
      document.body.dataset.off = svg.querySelectorAll(".series.off").length;
      panel.querySelector("select.x").value = "tokens";
      panel.querySelector("select.x").dispatchEvent(new Event("change"));
      document.body.dataset.shown = panel.querySelector(".choice:not([hidden])").dataset.x;
    """
    page = tmp_path / "page.html"
    page.write_text(written.read_text().replace("</body>", f"<script>{script}</script></body>"))
    flags = ["headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking", "disable-sync"]
    flags += ["disable-component-update", f"user-data-dir={tmp_path / 'profile'}", "dump-dom"]
    done = subprocess.run(
        [CHROMIUM, *(f"--{flag}" for flag in flags), page.as_uri()],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    assert re.search(r'data-tip="masked_language: 1\.\d+ at \d+"', done.stdout)
    assert 'data-off="1"' in done.stdout
    assert 'data-shown="tokens"' in done.stdout


def test_names_of_points_of_equal_cost_do_not_overlap():
    assert charts.apart([100.0, 101.0, 99.0, 200.0], 250.0) == [114.0, 129.0, 99.0, 200.0]
    assert charts.apart([245.0, 246.0], 250.0) == [235.0, 250.0]
    points = [charts.Point(f"arm {n}", f"c{n}", 20.0, 0.7 + n / 1000, 0.6, 0.8) for n in range(3)]
    svg = charts.scatter(points, title="t", x_label="x", y_label="y")
    names = [float(y) for y in re.findall(r'y="([\d.]+)"[^>]*>arm \d', svg)]
    assert len(names) == 3 and min(abs(a - b) for a in names for b in names if a != b) >= charts.TEXT_LINE
    assert len(set(re.findall(r'cx="([\d.]+)"', svg))) == 3


def test_long_names_from_both_sides_of_a_cost_chart_do_not_run_into_each_other():
    places = {"never pretrained (masking_rate 0.15, masking_rate 0.3)": (0.0, 0.501), "masking_rate 0.3": (12.0, 0.5)}
    points = [charts.Point(name, "c", x, y, 0.0, 1.0) for name, (x, y) in {**places, "far": (18.0, 0.9)}.items()]
    svg = charts.scatter(points, title="t", x_label="x", y_label="y")
    names = [float(re.search(rf'y="([\d.]+)"[^>]*>{re.escape(name)}<', svg)[1]) for name in places]
    assert abs(names[0] - names[1]) >= charts.TEXT_LINE


def test_a_chart_in_a_file_of_its_own_names_each_curve_once():
    lines = [
        charts.Line(name, style, [0.0, 1.0], [2.0, end])
        for name, style, end in (("a < b", "s0", 1.0), ("a < b", "s0", 0.5), ("c", "s1", 0.0))
    ]
    bare = charts.line_chart(lines, title="loss", x_label="step", y_label="nats")
    alone = charts.standalone(bare)
    root = ElementTree.fromstring(alone)
    height, taller = (float(re.search(r'viewBox="0 0 \d+ (\d+)', svg)[1]) for svg in (bare, alone))
    texts = [text for text in root.iter("{http://www.w3.org/2000/svg}text") if float(text.get("y")) > height]
    assert [text.text for text in texts] == ["a < b", "c"]
    assert all(float(text.get("y")) < taller for text in texts)
