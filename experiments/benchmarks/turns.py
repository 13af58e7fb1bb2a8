"""Sides of a comparison take turns: each lives in a process of its own, and works only while the others sleep.

A side calls `Turn.step` after each optimizer step; the call returns at once while its block lasts, and sleeps between
blocks. So data loading, logging and whatever else a loop does between two steps is inside of what is timed, and nothing
of another side is.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

CORES = os.cpu_count() or 1
DEVICE = "cpu", ["cpu", "cuda"]
CACHE = "~/.cache/pretraining"
BLOCKS = {"blocks": 3, "seconds": (60.0, "of a block"), "warmup": (15.0, "seconds")}


def read_options(doc: str | None, **options: Any) -> argparse.Namespace:
    """Read a benchmark's command line, whose help is its docstring.

    An option is its default, whose type it has (a list takes several), beside its help or its choices where it has
    them: `batch=(256, "rows")`; or what argparse is to be told of it.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, option in options.items():
        if not isinstance(option, dict):
            default, *about = option if isinstance(option, tuple) else (option,)
            several = isinstance(default, list)
            option = {"help" if isinstance(one, str) else "choices": one for one in about} | {"default": default}
            option |= {"type": type(default[0]), "nargs": "+"} if several else {"type": type(default)}
        parser.add_argument(f"--{name.replace('_', '-')}", **option)
    return parser.parse_args()


def alternate_rates(runs: Mapping[str, Callable[[], int]], *, seconds: float, rounds: int) -> dict[str, list[float]]:
    """Repeat each piece of work for so many seconds of processor time per round; lists what it made per second."""

    def rate(run: Callable[[], int]) -> float:
        made, started = 0, time.process_time()
        while time.process_time() - started < seconds:
            made += run()
        return made / (time.process_time() - started)

    for run in runs.values():
        run()  # warms up
    return alternate({name: functools.partial(rate, run) for name, run in runs.items()}, rounds)


def alternate(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure every side once in each round, so that a slow stretch of the machine meets all of them."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, measure in sides.items():
            found[name].append(measure())
    return found


class Block(NamedTuple):
    """What a side did in one block."""

    seconds: float
    steps: int
    units: float  # non-padding tokens, or images
    losses: list[tuple[float, float]]  # (units so far over all blocks, logged loss)

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.units / self.seconds


class Over(Exception):  # noqa: N818 - no error: it unwinds a trainer's loop
    """The comparison has ended: leave the loop."""


class Turn:
    """A side's view of the comparison."""

    def __init__(self, connection: Connection, synchronise: Callable[[], None]) -> None:
        self.connection, self.synchronise = connection, synchronise
        self.total = 0.0
        self._begun = self._until = 0.0
        self._block: dict[str, Any] = {}

    def tell(self, facts: dict[str, Any]) -> None:
        """Say what this side is, once, before its first block; then wait for it."""
        self.connection.send(facts)
        self._wait()

    def step(self, units: float, loss: float | None = None) -> None:
        """Count a step, with its loss where it was logged; at the end of a block report it and sleep."""
        self.total += units
        self._block["steps"] += 1
        self._block["units"] += units
        if loss is not None:
            self._block["losses"].append((self.total, loss))
        if time.perf_counter() < self._until:
            return
        self.synchronise()
        self.connection.send(Block(seconds=time.perf_counter() - self._begun, **self._block))
        self._wait()

    def _wait(self) -> None:
        seconds = self.connection.recv()
        if seconds is None:
            raise Over
        self._block = {"steps": 0, "units": 0.0, "losses": []}
        self._begun = time.perf_counter()
        self._until = self._begun + seconds


Side = tuple[Callable[[Turn, Any], Any], Any]
"""What a side does, and its setting, which holds at least its device, its threads and its seed."""


@contextlib.contextmanager
def start_side(side: Side) -> Iterator[tuple[Connection, dict[str, Any]]]:
    """Start a side in a fresh process; yields the connection and the facts of this side."""
    ours, theirs = multiprocessing.Pipe()
    # No daemon, which may have no children: a loop's data loader may start workers. A side ends with its connection.
    process = multiprocessing.get_context("spawn").Process(target=_carry_out, args=(theirs, *side))
    process.start()
    theirs.close()
    try:
        yield ours, ours.recv()
    except EOFError:
        process.join(10)
        ended = f"a side of the comparison ended by itself (exit code {process.exitcode})"
        raise SystemExit(f"{ended}; what it said is above") from None
    finally:
        with contextlib.suppress(BrokenPipeError):
            ours.send(None)
        process.join(60)


def _carry_out(connection: Connection, work: Callable[[Turn, Any], Any], setting: Any) -> None:
    import torch

    os.dup2(2, 1)  # trainers print to stdout, which is for the result
    torch.set_num_threads(setting.threads)
    torch.manual_seed(setting.seed)
    with contextlib.suppress(Over):
        work(Turn(connection, torch.cuda.synchronize if setting.device == "cuda" else lambda: None), setting)


def take_turns(sides: Mapping[str, Side], given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Run A B C A B C ...: a warm-up of each, then `blocks` blocks each; returns each one's facts, rates and losses."""
    with contextlib.ExitStack() as stack:
        alive = {name: stack.enter_context(start_side(side)) for name, side in sides.items()}
        done: dict[str, list[Block]] = {name: [] for name in alive}
        for number in range(given.blocks + 1):
            for name, (connection, _) in alive.items():
                connection.send(given.seconds if number else given.warmup)
                block: Block = connection.recv()
                done[name].append(block)
                kind = f"block {number}" if number else "warm-up"
                told = f"  {name:<28}{kind:<10}{block.rate:12,.0f} units/s {block.steps:6} steps"
                print(told, file=sys.stderr, flush=True)
    return {name: facts | summarise(done[name]) for name, (_, facts) in alive.items()}


def ratios(found: Mapping[str, Mapping[str, Any]], pairs: Mapping[str, tuple[str, str]]) -> dict[str, float]:
    """Divide the median rates of pairs of sides, where both were measured.

    `ours_auto` also stands for the precision that it chose, where that is no side.
    """
    rates = {name: side["per_second"] for name, side in found.items()}
    if "ours_auto" in found:
        rates.setdefault(f"ours_{found['ours_auto']['precision']}", rates["ours_auto"])
    known = {name: pair for name, pair in pairs.items() if all(side in rates for side in pair)}
    return {name: round(rates[one] / rates[other], 2) for name, (one, other) in known.items()}


def show_rates(found: Mapping[str, Mapping[str, Any]], unit: str, of: str = "") -> None:
    """Print the median rate of each side and its spread; `of` stands before, where there are several tables."""
    for name, side in found.items():
        spread = f"({side['lowest']:,.1f} to {side['highest']:,.1f})"
        print(f"{of}{name:<28}{side['per_second']:10,.1f} {unit} {spread}", flush=True)


def summarise(blocks: list[Block]) -> dict[str, Any]:
    """Compute median and spread of the rates, the first block (warm-up) left out, and list the losses of all."""
    rates = [block.rate for block in blocks[1:]]
    curve = [point for block in blocks for point in block.losses]
    return {
        "per_second": statistics.median(rates),
        "lowest": min(rates),
        "highest": max(rates),
        "step_ms": 1e3 * statistics.median(block.seconds / block.steps for block in blocks[1:]),
        "losses": [[round(units), round(loss, 4)] for units, loss in curve],
    }
