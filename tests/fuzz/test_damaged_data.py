"""Damaged data of every kind end in success or in one clear line, and a refused run leaves no directory."""

import random
import shutil

import pytest

from tests.fuzz import damaged, ends, wrong
from tests.fuzz.kinds import kinds_of

DAMAGED = 150


@pytest.mark.slow
def test_damaged_data_end_in_success_or_one_line(handoffs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kinds, generator, said = kinds_of(handoffs, tmp_path / "cache"), random.Random(2), []
    for number in range(DAMAGED):
        write, root, words = list(kinds.values())[number % len(kinds)]
        (tmp_path / "data").mkdir()
        path = write(tmp_path / "data")
        files = sorted(file for file in (tmp_path / "data").rglob("*") if file.is_file())
        files += [file for file in files if file.suffix not in (".png", ".jpg", ".wav", ".flac")] * 5  # which are few
        broken = generator.choice(files)
        broken.write_bytes(damaged(generator, broken.read_bytes())[0])
        said.append(ends([*words, f"data.path={path}"], root, tmp_path / "run", [broken.name]))
        for folder in ("data", "cache"):
            shutil.rmtree(tmp_path / folder, ignore_errors=True)
    assert not wrong(said)
    refused = [line for line in said if line is not None]
    assert DAMAGED // 3 < len(refused) < DAMAGED - DAMAGED // 10
    assert list(tmp_path.iterdir()) == []
