"""A study's runs as Slurm jobs that wait for one another, requeue themselves when preempted, and log into the study.

The jobs are those of slurm/pretrain.sbatch and slurm/finetune.sbatch. They go on whatever becomes of the process that
submitted them, which only watches: started again, it finds its jobs in the queue and watches on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.study import slurm
from experiments.study.graph import FINETUNING, PRETRAINING, Node
from experiments.study.runner import DONE, FAILED, RUNNING, SKIPPED, Executor
from pretraining.runs.snapshot import snapshot_environment

Options = Mapping[str, Any]


class SlurmJobs(Executor):
    """Submits runs with `sbatch`; at most `at_once` of them are in the queue.

    `pretraining` and `finetuning` hold options of sbatch by their long names: {"partition": "gpu", "time": "08:00:00"}.
    """

    chains = True  # a run may be submitted before the one it needs has ended

    def __init__(
        self, directory: Path, *, pretraining: Options, finetuning: Options, at_once: int, poll_seconds: float
    ) -> None:
        super().__init__(directory)
        self.slots, self._poll_seconds = at_once, poll_seconds
        self._options = {PRETRAINING: pretraining, FINETUNING: finetuning}
        self.submitted: dict[str, tuple[Node, str]] = {}  # with its job, by run, until its end has been told
        self._numbers: dict[str, str] = {}  # of every run submitted
        self._known = slurm.queue()
        self._snapshot = snapshot_environment()

    def submit(self, node: Node) -> None:
        """Submit a run, or find the job that an earlier start has submitted for it."""
        number = self.journal.read(node).get("job")
        goes_on = number in self._known and self._known[number].goes_on
        if number is None or not (goes_on or self.journal.has_numbers(node.name)):
            log, needed = self.journal.log(node).resolve(), self._numbers.get(node.needs or "")
            options = {"job-name": node.name, "output": log, **self._options[node.command]}
            options |= {"dependency": f"afterok:{needed}", "kill-on-invalid-dep": "yes"} if needed else {}
            # Last words win: a finetuning that was preempted goes on from its checkpoint, as a pretraining does.
            number = slurm.submit(node.command, [*node.overrides, "resume=auto"], options, self._snapshot)
            self.journal.write(node, status=RUNNING, job=number, started=time.time())
        self.submitted[node.name], self._numbers[node.name] = (node, number), number

    def next(self) -> list[tuple[Node, dict[str, Any]]]:
        """Wait until some jobs have ended, and say how."""
        while True:
            known = slurm.queue()
            ended = [(node, job) for node, job in self.submitted.values() if job not in known or not known[job].goes_on]
            if ended:
                return [(node, self._end(node, known.get(job))) for node, job in ended]
            time.sleep(self._poll_seconds)

    def _end(self, node: Node, job: slurm.Job | None) -> dict[str, Any]:
        number = self.submitted.pop(node.name)[1]
        facts: dict[str, Any] = {"job": number, "ended": time.time(), "seconds": job.seconds if job else 0.0}
        if self.journal.has_numbers(node.name):
            return self.journal.write(node, status=DONE, **facts)
        if node.needs is not None and not self.journal.has_numbers(node.needs):
            return self.journal.write(node, status=SKIPPED, error=f"it needs {node.needs}, which has failed", **facts)
        said = f"Slurm job {number} ended as {job.state if job else 'no longer in the queue'}"
        if job and job.reason not in ("None", ""):
            said += f" ({job.reason})"
        return self.journal.write(node, status=FAILED, error=said, **facts)

    def close(self) -> None:
        """Leave the jobs that are not done to Slurm, and say so."""
        if self.submitted:
            numbers = " ".join(job for _, job in self.submitted.values())
            again = f"the same command watches them again, scancel {numbers} ends them"
            print(f"{self.busy} jobs go on; {again}", file=sys.stderr)
