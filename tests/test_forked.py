"""What forks of a test's process leave alone."""

import os
import sys
import tempfile
from pathlib import Path

from wandb.sdk.data_types._private import MEDIA_TMP

from tests.docs.run_page import run_command
from tests.forked import Rank


def test_a_fork_that_ends_leaves_its_parents_temporary_directories(tmp_path, monkeypatch):
    (tmp_path / "ends_with_three.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = tempfile.TemporaryDirectory()
    environment = os.environ | {"RANK": "0", "PYTHONPATH": str(tmp_path)}
    assert Rank([sys.executable, "-m", "ends_with_three"], environment, None).wait() == 3
    assert run_command(["ends_with_three"]) == 3
    assert Path(own.name).is_dir() and Path(MEDIA_TMP.name).is_dir()
