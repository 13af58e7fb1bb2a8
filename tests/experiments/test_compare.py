"""`experiments.compare` shows what differs among any runs, what they reached, and their curves, on one page."""

import csv
import html
import json
import re
from xml.etree import ElementTree

import pytest
import yaml

from experiments import compare, ls
from experiments.report import plots
from experiments.study.spec import StudyError

STEPS = 40


def make_run(path, *, rate, seed=1, done=True, task=None, life=None, unit="images"):
    """Write what a run leaves: loss 10 / step + rate, validation every 20 steps; `life`: where time begins anew."""
    path.mkdir(parents=True)
    config = {"seed": seed, "optimizer": {"_target_": "x.AdamW", "peak_lr": rate}, "trainer": {"max_steps": STEPS}}
    config |= {"run_dir": str(path), "name": path.name, "fingerprint": {"data": path.name}}
    config |= {"task": {"_target_": "x.Task", "select": "accuracy"}} if task else {}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    (path / "overrides.txt").write_text(f"optimizer.peak_lr={rate}\nseed={seed}\nrun_dir={path}\nresume=auto\n")
    columns = [
        "step",
        "train/loss",
        "validation/loss",
        "examples",
        unit,
        "flops",
        "time",
        f"throughput/{unit}_per_second",
    ]
    with (path / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for step in range(10, STEPS + 1 if done else 31, 10):
            loss, since = 10 / step + rate, step - (life if life and step > life else 0)
            writer.writerow(
                [step, loss, loss if step % 20 == 0 else "", 8 * step, 8 * step, 1e9 * step, since * 500, 4]
            )
    if done:
        numbers = (
            {"test/accuracy": 1 - rate, "test/accuracy_low": 0.0, "test/accuracy_high": 1.0}
            if task
            else {"validation/loss": 0.25 + rate}
        )
        (path / "metrics.json").write_text(json.dumps({**numbers, "steps": STEPS, "flops": 4e10, "seconds": 2e4}))
    return path


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch):
    monkeypatch.setattr(ls.slurm, "is_here", lambda: False)


def points(page, name, x, y):
    """Read the points of a curve from the page: [(x, y)] as the pointer is told them."""
    (chart,) = re.findall(rf'data-x="{x}" data-y="{y}"[^>]*>(<svg.*?</svg>)', page, re.DOTALL)
    (found,) = re.findall(rf'data-name="{name}" data-points="([^"]*)"', chart) or re.findall(
        rf"data-name=\"{name}\" data-points='([^']*)'", chart
    )
    return [(a, float(b)) for *_, a, b in json.loads(html.unescape(found))]


def test_columns_are_what_differs_and_what_was_reached(tmp_path, capsys):
    for name, rate, done in (("a", 0.1, True), ("b", 0.2, True), ("c", 0.3, False)):
        make_run(tmp_path / "sweep" / name, rate=rate, done=done)
    assert compare.main([str(tmp_path / "sweep"), "--sort=-optimizer.peak_lr"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.split()]
    head = ["run", "status", "step", "optimizer.peak_lr", "validation/loss", "examples", "flops", "seconds"]
    assert lines[1] == head  # neither seed, which is the same, nor names and places, nor the data's fingerprint
    assert lines[3:6] == [
        ["c", "stopped", "30", "of", "40", "0.3", "0.8", "240", "3e+10"],  # the latest: 10 / 20 + 0.3 at step 20
        ["b", "done", "40", "of", "40", "0.2", "0.45", "4e+10", "20,000"],
        ["a", "done", "40", "of", "40", "0.1", "0.35", "4e+10", "20,000"],
    ]


def test_the_page_has_the_curves_over_each_axis_and_the_picture_is_whole(tmp_path):
    make_run(tmp_path / "sweep" / "once", rate=0.0)
    make_run(tmp_path / "sweep" / "again", rate=1.0, life=20)  # resumed at step 20
    assert compare.main([str(tmp_path / "sweep")]) == 0
    page = (tmp_path / "sweep" / "compare.html").read_text()
    assert points(page, "once", "step", "validation/loss") == [("20", 0.5), ("40", 0.25)]
    assert points(page, "again", "flops", "validation/loss") == [("20G", 1.5), ("40G", 1.25)]
    assert points(page, "again", "images", "train/loss")[-1] == ("320", 1.25)
    # 500 seconds a step: 20,000 seconds are 5.556 hours, whether the run had one life or two.
    over_time = [points(page, name, "time", "validation/loss")[-1][0] for name in ("once", "again")]
    assert over_time == ["5.556", "5.556"] and "hours" in page
    assert not [word for word in ("http:", "https:", "//cdn", "@import", "url(") if word in page]
    ElementTree.fromstring((tmp_path / "sweep" / "compare.svg").read_text())
    assert "python -m pretraining optimizer.peak_lr=1.0 seed=1" in page and "resume=auto" not in page


def test_one_run_leaves_its_own_page_and_a_picture_of_both_losses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert compare.main([str(make_run(tmp_path / "runs" / "one", rate=0.5))]) == 0
    picture = (tmp_path / "runs" / "one" / "compare.svg").read_text()
    assert re.findall(r'data-name="([^"]*)"', picture) == ["validation/loss", "train/loss"]
    assert "<title>one</title>" in (tmp_path / "runs" / "one" / "compare.html").read_text()
    two = ["runs/one", str(make_run(tmp_path / "other", rate=0.1))]
    assert compare.main(two) == 0 and (tmp_path / "compare.html").exists()


def test_commands_are_compared_each_by_itself(tmp_path, capsys):
    make_run(tmp_path / "a", rate=0.1)
    make_run(tmp_path / "b", rate=0.2, task=True)
    make_run(tmp_path / "c", rate=0.3, seed=2, task=True)
    assert compare.main([str(tmp_path), "--output", str(tmp_path / "page.html")]) == 0
    heads = [line.split() for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["run"]]
    assert [head[3:5] for head in heads] == [["validation/loss", "flops"], ["seed", "optimizer.peak_lr"]]
    page = (tmp_path / "page.html").read_text()
    assert '<section id="pretraining">' in page and '<section id="finetuning">' in page


def test_what_cannot_be_compared_is_said_in_a_line(tmp_path):
    with pytest.raises(StudyError, match="nowhere is no directory"):
        compare.main([str(tmp_path / "nowhere")])
    with pytest.raises(StudyError, match=r"no runs in .*: a run is a directory with a config\.yaml"):
        compare.main([str(tmp_path)])
    begun = make_run(tmp_path / "begun", rate=0.1, done=False)
    (begun / "metrics.csv").unlink()
    assert compare.main([str(begun)]) == 0
    assert "Nothing is recorded yet." in (begun / "compare.html").read_text() and not (begun / "compare.svg").exists()


def test_times_of_lives_add_up_and_clock_times_begin_at_zero():
    nan = float("nan")
    assert plots._elapsed([1.0, 3.0, 0.5, 2.0, 1.0]) == [1.0, 3.0, 3.5, 5.0, 6.0]
    assert plots._elapsed([1.7e9, 1.7e9 + 4]) == [0.0, 4.0]
    assert plots._elapsed([2.0, nan, 1.0])[::2] == [2.0, 3.0]
