"""Each message of the index of errors is one that the source has, and each exit code is said."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "errors.md").read_text("utf-8")


def test_each_message_of_the_index_is_in_the_source():
    packages = ("pretraining", "finetuning", "experiments")
    source = "\n".join(path.read_text("utf-8") for package in packages for path in (ROOT / package).rglob("*.py"))
    messages = re.findall(r"^### `(.+)`$", PAGE, re.MULTILINE)
    assert len(messages) > 25 and len(messages) == PAGE.count("\n### ")
    for message in messages:
        parts = [part.strip() for part in message.split("…") if len(part.strip()) > 2]
        assert parts and sum(map(len, parts)) > 10, message
        for part in parts:
            assert part in source, f"{message}: the source has no {part!r}"


def test_each_exit_code_is_said():
    from pretraining.engine.checkpoints import EXIT_INTERRUPTED, EXIT_PREEMPTED
    from pretraining.engine.watchdog import EXIT_HUNG

    for code in (2, 3, EXIT_PREEMPTED, EXIT_HUNG, EXIT_INTERRUPTED):
        assert f"\n| {code} | " in PAGE
