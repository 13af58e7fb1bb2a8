"""What a person sees of a run: a bar from the first second, numbers beside what they are read against, a last word."""

import io
import json
import re
import sys

from pretraining import launch
from pretraining.cli.configuration import compose
from pretraining.engine.terminal import Progress, describe_quality
from tests.runs import text_overrides, write_corpus


class Terminal(io.StringIO):
    """A terminal of its own, which keeps what was written to it."""

    def isatty(self):
        return True


def on_terminal(monkeypatch):
    """Make stderr one, which pytest would replace between a fixture and its test."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "120")
    return screen


def test_a_bar_is_redrawn_in_place_and_no_wider_than_the_terminal(monkeypatch):
    terminal = on_terminal(monkeypatch)
    bar = Progress(show=True)
    bar.draw(0, 4, "starting")
    bar.draw(1, 4)  # too soon to be drawn again, and nothing new is said
    bar.draw(2, 4, "loss 1.5  " + "x" * 200)
    bar.draw(4, 4, "loss 1.0")
    bar.close()
    drawn = terminal.getvalue().split("\r")[1:]
    assert [re.sub("\x1b.*", "", line).strip("━ \n") for line in drawn] == [
        "step 0/4  starting",
        ("step 2/4  loss 1.5  " + "x" * 200)[: 119 - 25],
        "step 4/4  loss 1.0",
    ]
    assert drawn[-1].endswith("\n") and terminal.getvalue().count("\n") == 1 and drawn[-1].count("━") == 24


def test_a_bar_that_ends_early_leaves_its_line(monkeypatch):
    terminal = on_terminal(monkeypatch)
    bar = Progress(show=True)
    bar.draw(3, 9, "loss 1.0")
    bar.close()
    bar.close()
    assert terminal.getvalue().endswith("\n") and terminal.getvalue().count("\n") == 1


def test_elsewhere_only_news_are_lines_and_without_progress_nothing_is(capsys):
    for show in (True, False):
        bar = Progress(show=show)
        bar.draw(0, 4, "starting")
        bar.draw(1, 4)
        bar.draw(2, 4, "loss 1.5")
        bar.close()
    assert capsys.readouterr().err == "step 0/4  starting\nstep 2/4  loss 1.5\n"


def test_numbers_stand_beside_what_they_are_read_against():
    measured = {"validation/loss": 4.6, "probe/linear_accuracy": 0.5, "probe/knn_accuracy": 0.25, "probe/majority": 0.1}
    facts = {"validation/unigram_entropy": 6.1666, "data/padding_share": 0.4}
    assert describe_quality(measured, facts) == (
        "validation loss 4.600 (unigram entropy 6.167)  probe: linear 0.500, knn 0.250 (always one class: 0.100)"
    )
    terms = {"validation/loss": 4.6, "validation/masked_units": 2.1, "validation/penalty": 0.25}
    entropy = {"validation/unit_entropy": 1.86}
    assert describe_quality(terms, entropy) == "validation loss 4.600, masked units 2.100 (unit entropy 1.860)"
    alone = {"validation/loss": 2.1, "validation/masked_units": 2.1, "validation/accuracy": 0.5}
    assert describe_quality(alone, entropy) == "validation loss 2.100 (unit entropy 1.860)"
    with_intervals = describe_quality(measured, {}, examples=100)
    # Wilson 1927 at 50 and 25 of 100: (0.5 +- 0.0961), (0.2593 +- 0.0842) by its formula.
    assert with_intervals == (
        "validation loss 4.600  probe: linear 0.500 [0.404, 0.596], knn 0.250 [0.175, 0.343] (always one class: 0.100)"
    )
    pairs = {"validation/loss": 4.6, "probe/image_to_text_recall_1": 0.25, "probe/zero_shot_accuracy": 0.5}
    assert describe_quality(pairs | {"probe/classified": 100.0}, {}, examples=100).endswith(
        "probe: image to text recall 1 0.250 [0.175, 0.343], zero shot 0.500 [0.404, 0.596]"
    )
    own = pairs | {"probe/image_to_text_queries": 100.0}  # pictures, of 500 pairs
    assert "recall 1 0.250 [0.175, 0.343]" in describe_quality(own, {}, examples=500)
    few = pairs | {"probe/classified": 10.0, "probe/majority": 0.1}  # of 100 examples with a class
    assert describe_quality(few, {}, examples=100).endswith("zero shot 0.500 [0.237, 0.763] (always one class: 0.100)")
    assert describe_quality({}, facts) == ""


def test_a_pretraining_says_what_it_reads_how_it_goes_and_what_it_reached(tmp_path, cache_dir, capsys):
    corpus = write_corpus(tmp_path)
    path = launch.main(
        compose([*text_overrides(corpus, cache_dir), f"run_dir={tmp_path / 'run'}", "logger.progress=true"])
    )
    said = capsys.readouterr().err
    assert re.search(
        r"data: TextFiles, [\d,]+ training rows \([\d,]+ tokens\), [\d,]+ validation rows; vocabulary \d+", said
    )
    assert re.search(r"^schedule: peak rate .* after 4 of 20 steps", said, re.M)
    metrics = json.loads((path / "metrics.json").read_text())
    loss, entropy = (metrics[f"validation/{name}"] for name in ("loss", "unigram_entropy"))
    last = f"validation loss {loss:.3f} (unigram entropy {entropy:.3f})"
    lines = said.splitlines()
    assert lines[-2] == last, "the closing lines say what was reached"
    assert any(line.startswith("step ") and last in line for line in lines), "and so does the bar"


def test_an_image_run_names_its_probes_and_the_commonest_class(tmp_path, cache_dir, monkeypatch):
    terminal = on_terminal(monkeypatch)
    digits = ["objective=simclr", "data=digits", "backbone=resnet_tiny", "backbone.width=8", "probe.pictures=false"]
    short = ["trainer.max_steps=2", "data.batch_size=32", "logger.wandb.mode=disabled", "trainer.precision=fp32"]
    where = [f"data.cache_dir={cache_dir}", f"run_dir={tmp_path / 'run'}"]
    path = launch.main(compose([*digits, "probe=online", *short, *where]))
    said = terminal.getvalue()
    assert re.search(r"\r +step 0/2  starting", said), "a bar from the first second"
    metrics = json.loads((path / "metrics.json").read_text())
    assert 0.1 < metrics["probe/majority"] < 0.2
    linear = f"{metrics['probe/linear_accuracy']:.3f}"
    assert re.search(rf"^validation loss [\d.]+  probe: linear {linear} \[0.\d+, 0.\d+\], knn", said, re.M)
