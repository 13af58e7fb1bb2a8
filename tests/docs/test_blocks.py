"""The python and bash blocks of each page of docs/ and of README run as they stand, in one empty directory per page."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pretraining.image.data.decode import Decoding
from pretraining.pairs.data.files import ImageTextFiles
from tests.docs.run_page import blocks, commands
from tests.forked import run_module

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path for path in (ROOT / "docs").glob("*.md") if blocks(path.read_text("utf-8")))
QUICK = {"reproducibility", "extend"}  # run by `make test`, too


def run_page(page, directory, cache_dir, root=ROOT):
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep),
        "PRETRAINING_CACHE": str(cache_dir),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore::DeprecationWarning",
        "https_proxy": "http://127.0.0.1:9",  # what asks for the network fails at once
        "http_proxy": "http://127.0.0.1:9",
    }
    if root == ROOT:
        return run_module("tests.docs.run_page", str(page), cwd=directory, env=environment, timeout=600)
    command = [sys.executable, str(ROOT / "tests" / "docs" / "run_page.py"), str(page)]
    told = {"capture_output": True, "text": True, "timeout": 600}
    return subprocess.run(command, cwd=directory, env=environment, check=False, **told)


def slow_unless_quick(page):
    return pytest.param(page, id=page.stem, marks=() if page.stem in QUICK else pytest.mark.slow)


@pytest.mark.parametrize("page", [slow_unless_quick(page) for page in PAGES])
def test_blocks_of_a_page_run(page, tmp_path, cache_dir):
    ended = run_page(page, tmp_path, cache_dir)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-5000:]
    ran = [block for block in blocks(page.read_text("utf-8")) if block.reason is None]
    assert ended.stdout.count(f"-- {page.name}, line ") == len(ran)


def test_pages_are_found_and_few_blocks_are_left_out():
    found = [block for page in PAGES for block in blocks(page.read_text("utf-8"))]
    assert len(found) > 5
    assert all(len(block.reason.split()) > 1 for block in found if block.reason is not None)
    for page in PAGES:
        text = page.read_text("utf-8")
        opened = re.findall(r"^ *```(?:bash|python)\b", text, re.MULTILINE)
        assert len(opened) == len(blocks(text)), f"{page.name}: a block unseen"


def test_a_page_that_fails_is_named_with_its_line(tmp_path, cache_dir):
    page, left_out = tmp_path / "wrong.md", "<!-- not run: needs a lake -->\n```bash\nfalse\n```"
    page.write_text(f"# Wrong\n\n```python\nx = 1\n```\n\n{left_out}\n\n```bash\nexit 3\n```\n")
    ended = run_page(page, tmp_path, cache_dir)
    assert ended.returncode == 1 and "wrong.md, line 12: exit code 3" in ended.stderr


def test_lines_for_the_shell_go_to_the_shell():
    assert commands("python -m a b=1  # said\npython -m c 'd=[1,2]'\n") == [["a", "b=1"], ["c", "d=[1,2]"]]
    assert commands("python -m a \\\n  b=1\n") == [["a", "b=1"]]
    for code in (
        "cat x",
        "python -m a > b",
        "A=1 python -m a",
        "python -m a data=*.txt",
        "python -m a $x",
        "python a.py",
    ):
        assert commands(f"{code}\n") is None, code


def test_the_pictures_of_the_page_on_pairs_are_enough_to_measure_on(tmp_path):
    """One picture of a test split, as a tenth of few pictures may be, would be found or not."""
    made = blocks((ROOT / "docs" / "pairs.md").read_text("utf-8"))[0]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-ec", made.code], cwd=tmp_path, env={**os.environ, "PATH": path}, check=True)
    decoding, batches = Decoding(size=8), {"batch_size": 8, "eval_batch_size": 8, "workers": 0}
    data = ImageTextFiles(path=str(tmp_path / "photos"), decoding=decoding, cache_dir=tmp_path / "cache", **batches)
    assert {split: len(images) for split, images in data.images.items()} == {"train": 54, "validation": 18, "test": 18}
