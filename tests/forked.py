"""Command lines and ranks as forks of a process that has the imports behind it: what a new interpreter would do, but
seconds sooner. A few tests start real interpreters instead.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
from pytorch_lightning.utilities import rank_zero_only

from pretraining.cli import spawn
from tests.docs.run_page import disown

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["pretraining.launch", "finetuning.launch", "experiments.launch", "tests.behind"])


def run_module(module, *words, cwd=None, env=None, timeout=240):
    """Run `python -m module words` to its end; returns what `subprocess.run` would with captured text."""
    with tempfile.TemporaryDirectory() as said:
        given = ([module, *words], str(cwd or Path.cwd()), dict(os.environ if env is None else env), said)
        process = SERVER.Process(target=_command, args=given)
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired([module, *words], timeout)
        out, error = ((Path(said) / name).read_text() for name in ("out", "error"))
    return subprocess.CompletedProcess([module, *words], process.exitcode, out, error)


def _command(words, cwd, environment, said):
    for name, number in (("out", 1), ("error", 2)):
        os.dup2(os.open(f"{said}/{name}", os.O_WRONLY | os.O_CREAT), number)
    _be(words, cwd, environment)


def _be(words, cwd, environment):
    disown()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    # A fork's pool of threads is not valid, and is made anew by whoever comes first: two who come at once end the run.
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", "1")))
    sys.path[:0] = [cwd, *environment.get("PYTHONPATH", "").split(os.pathsep)]
    sys.argv = words
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, closefd=False) for number in (1, 2))
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()


class Rank:
    """What `pretraining.cli.spawn` asks of a rank's `subprocess.Popen`, as a fork of this process."""

    def __init__(self, command, env, stderr):
        assert command[:2] == [sys.executable, "-m"]
        self.returncode, self.pid = None, os.fork()
        if self.pid == 0:
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):  # as after an exec
                signal.signal(number, signal.SIG_DFL)
            rank_zero_only.rank = int(env["RANK"])  # which Lightning reads when it is imported
            if stderr is not None:
                os.dup2(stderr.fileno(), 2)
            code = 1
            try:
                _be(command[2:], str(Path.cwd()), env)
                code = 0
            except SystemExit as end:
                code = end.code or 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    def poll(self):
        """Look whether it has ended."""
        return self._ended(os.WNOHANG)

    def wait(self):
        """Wait for its end."""
        return self._ended(0)

    def _ended(self, how):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, how)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number):
        """Send it a signal, if it lives."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        """End it."""
        self.send_signal(signal.SIGKILL)


FORKS = SimpleNamespace(Popen=Rank)


def fork_ranks():
    """Have `run_ranks` fork this process, from now on."""
    spawn.subprocess = FORKS
