"""Run the blocks of a page in order, in the current directory: python run_page.py PAGE.

Python blocks share one namespace. A bash block whose lines are all `python -m …` is run line by line in forks of this
process; any other goes to bash. The first block that fails ends the run, named by its line.
"""

import atexit
import contextlib
import os
import re
import runpy
import shlex
import subprocess
import sys
import traceback
import weakref
from pathlib import Path
from typing import NamedTuple


class Block(NamedTuple):
    line: int
    language: str
    code: str
    reason: str | None  # why it is not run


def blocks(text):
    """List the bash and python blocks of a page."""
    fences = r"(?:<!-- not run: ([^\n]+?) -->\n)?^```(bash|python)\n(.*?)^```$"
    found = re.finditer(fences, text, re.DOTALL | re.MULTILINE)
    return [Block(text[: one.start(2)].count("\n") + 1, one[2], one[3], one[1]) for one in found]


def commands(code):
    """List a block's command lines as words where all are `python -m …` without anything of the shell, else None."""
    code = code.replace("\\\n", " ").replace("$PWD", os.getcwd())
    lines = [line for line in code.splitlines() if line and not line.startswith("#")]
    outside = re.sub(r"'[^']*'|\"[^\"$`]*\"|#.*", "", "\n".join(lines))
    if re.search(r"[|<>;&$`*~]|\{.*,.*\}", outside) or not all(line.startswith("python -m ") for line in lines):
        return None
    return [shlex.split(line, comments=True)[2:] for line in lines]


def disown():
    """Leave the parent's temporary directories to the parent: the first fork that ended would take them away."""
    weakref.finalize._registry.clear()
    if held := sys.modules.get("wandb.sdk.data_types._private"):
        atexit.unregister(held.MEDIA_TMP.cleanup)


def run_command(words):
    """Run `python -m words` in a fork; returns the exit code."""
    sys.stdout.flush()
    sys.stderr.flush()
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    disown()
    code = 1
    try:
        sys.argv = list(words)
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def run_block(block, page, namespace):
    """Run one block; returns the exit code."""
    if block.language == "python":
        exec(compile("\n" * block.line + block.code, page, "exec"), namespace)
        return 0
    lines = commands(block.code)
    if lines is None:
        return subprocess.run(["bash", "-euo", "pipefail", "-c", block.code], check=False).returncode
    return next((code for words in lines if (code := run_command(words))), 0)


def main(page):
    namespace = {"__name__": "__main__"}
    found = [block for block in blocks(Path(page).read_text("utf-8")) if block.reason is None]
    if any(block.language == "bash" and "python -m" in block.code for block in found):
        import pretraining.launch  # noqa: F401
    for block in found:
        print(f"-- {Path(page).name}, line {block.line}", flush=True)
        if code := run_block(block, page, namespace):
            sys.exit(f"{page}, line {block.line}: exit code {code}\n{block.code}")


if __name__ == "__main__":
    main(sys.argv[1])
