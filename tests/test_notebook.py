"""The notebook of docs/ runs, and a run shows itself where a notebook computes."""

import json
import sys
import types
from pathlib import Path

import pytest

import pretraining as pt
from pretraining.engine.terminal import Progress
from pretraining.errors import RunError
from pretraining.runs.view import curve

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "quickstart.ipynb"


def cells():
    found = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


@pytest.fixture
def shown(monkeypatch):
    """Pretend that this process computes for a notebook; returns what it shows, by the cell's line that holds it."""
    lines = {}

    class Handle:
        def __init__(self, number):
            self.number = number

        def update(self, content, raw):
            lines[self.number].append(content["text/plain"])

    def display(*contents, raw=False, display_id=False):
        for content in contents:
            lines[len(lines)] = [content["text/plain"] if raw else content]
        return Handle(len(lines) - 1) if display_id else None

    kernel = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: kernel))
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    return lines


def test_the_notebook_keeps_its_outputs():
    code = cells()
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kept = json.dumps([cell["outputs"] for cell in code])
    assert "<svg" in kept and "data:image/png;base64" in kept and "step 20/20" in kept and "Traceback" not in kept


def test_the_notebook_s_lines_run(tmp_path, monkeypatch, shown):
    monkeypatch.chdir(tmp_path)
    names = {}
    fewer = {"max_steps=20": "max_steps=4", "val_every=10": "val_every=2", "log_every=5": "log_every=2"}
    for cell in cells():
        code = "".join(cell["source"])
        for word, smaller in fewer.items():
            code = code.replace(word, smaller)
        exec(code, names)
    assert names["result"].metrics["test/accuracy"] > 0.2
    views = next(lines[0] for lines in shown.values() if not isinstance(lines[0], str))
    assert views.content.startswith(b"\x89PNG") and "data:image/png;base64," in views._repr_html_()
    bar = next(lines for lines in shown.values() if isinstance(lines[0], str))
    assert "step 4/4" in bar[-1] and len(bar) > 1
    view = pt.show(names["run"])
    assert (view._repr_html_().count("<svg"), view._repr_html_().count("<img")) == (2, 2)
    assert "validation/loss" in repr(view) and "test/accuracy" in names["result"]._repr_html_()


@pytest.mark.slow
def test_the_notebook_runs_in_a_kernel(tmp_path):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, 4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    kept = json.dumps([cell.outputs for cell in notebook.cells if cell.cell_type == "code"])
    assert "<svg" in kept and "data:image/png;base64" in kept and "step 20/20" in kept


def test_progress_is_one_line_of_a_cell(shown, capsys):
    progress = Progress(show=True)
    for step in range(1, 5):
        progress.draw(step, 4, f"loss {step}")
    progress.close()
    assert list(shown) == [0] and [line.split("  ")[-1] for line in shown[0]] == [f"loss {n}" for n in range(1, 5)]
    assert shown[0][-1].startswith("━" * 24) and capsys.readouterr().err == ""
    Progress(show=False).draw(1, 2, "loss")
    assert list(shown) == [0]


def test_a_curve_goes_through_its_points():
    rows = [{"step": "0", "train/loss": "4"}, {"step": "5", "train/loss": ""}, {"step": "10", "train/loss": "2"}]
    assert 'points="42.0,42.0 438.0,158.0"' in curve(rows, "train/loss", "red")
    assert (
        curve(rows[:2], "train/loss", "red")
        == ""
        == curve([*rows[:1], {"step": "1", "train/loss": "nan"}], "train/loss", "red")
    )
    assert "nan" not in curve([*rows, {"step": "20", "train/loss": "nan"}], "train/loss", "red")


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"holds no run with a metrics\.csv: give the directory of one"):
        pt.show(tmp_path)
