"""A wheel holds all that the packages read, and runs the commands of README outside of the repository."""

import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.docs.test_blocks import ROOT, run_page

COMMANDS = """
```python
import conf, pretraining
assert "unpacked" in pretraining.__file__ and "unpacked" in str(list(conf.__path__)), pretraining.__file__
from pretraining.image.augment.compiled import library  # compiled from the wheel's own files
library()
import finetuning.launch, pretraining.launch, sklearn.datasets, wandb.sdk.launch  # once, for the commands
```

```bash
python -m pretraining --help
python -m finetuning --help
python -m experiments --help
python -m pretraining objective=simclr backbone.width=4 data.batch_size=32 \\
  probe=none trainer.max_steps=2 run_dir=runs/one
python -m finetuning handoff=runs/one/handoff/last task=digits shots=5 mode=knn run_dir=runs/knn
python -m finetuning handoff=random:runs/one/handoff/last task=digits shots=5 mode=knn run_dir=runs/twin
python -m experiments study=first_look dry_run=true
```
"""
PACKAGES = ("pretraining", "finetuning", "experiments", "conf")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The wheel's files, built from a copy, so that nothing is left in the repository."""
    source, place = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("unpacked")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(source / "dist"))
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True, timeout=300)
    (wheel,) = (source / "dist").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(place)
    return place


def test_wheel_holds_every_file_that_the_packages_read(unpacked):
    kinds = {".py", ".c", ".h", ".yaml", ".html", ".css", ".js", ".jinja"}
    files = [path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.suffix in kinds]
    assert len(files) > 600
    lacking = [path for path in files if not (unpacked / path.relative_to(ROOT)).is_file()]
    assert not lacking
    assert list(unpacked.glob("*.dist-info/licenses/LICENSE"))


@pytest.mark.slow
def test_wheel_runs_readme_s_commands_outside_of_the_repository(unpacked, tmp_path, cache_dir):
    page = tmp_path / "commands.md"
    page.write_text(COMMANDS)
    ended = run_page(page, tmp_path, cache_dir, root=unpacked)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]
