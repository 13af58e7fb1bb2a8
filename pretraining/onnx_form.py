"""Networks as ONNX files: written from their plain implementation, compared with torch, quantised if asked for."""

from __future__ import annotations

import importlib.util
import json
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pretraining.backbones.base import Features
from pretraining.cli.early import is_true
from pretraining.errors import HandoffError, RunError, reason_of
from pretraining.handoff import Handoff
from pretraining.handoff.write import described_part
from pretraining.modality import Function

NEEDED = ("onnx", "onnxscript", "onnxruntime")  # the extra [export]
TOLERANCE = 1e-4  # of outputs, between torch and ONNX Runtime
ROWS = (1, 2, 3, 5)  # of the batches that are compared, with the function's lengths
LARGEST = 1.9e9  # bytes of weights in one file of protobuf, which holds 2 GiB
REPEATS = 10


class Vectors(nn.Module):
    """What a hand-off's network says: a vector per example, and one per position."""

    def forward(self, features: Features) -> tuple[Tensor, Tensor]:
        """Take [B, D] and [B, L, D]."""
        return features.pooled, features.positions


class Outputs(nn.Module):
    """A function whose results are tensors, as `read` makes them of its features."""

    def __init__(self, function: Function, read: nn.Module) -> None:
        super().__init__()
        self.network, self.read = function.network, read
        self.names = list(function.axes)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute the results of inputs in the order of their names."""
        return self.read(self.network(**dict(zip(self.names, inputs, strict=True))))


def write_onnx(given: Handoff, directory: Path, *, int8: str = "false") -> None:
    """Write model.onnx, of a vector per example (`pooled`) and one per position (`positions`), and the preparation.

    `int8` adds model.int8.onnx. Sizes, times and the difference from torch are printed.
    """
    tower = given.tower
    function = tower.backbone.modality.function(tower)
    write_function(function, Vectors(), ("pooled", "positions"), directory, int8=is_true("int8", int8))
    save_preparation(function, tower.preprocess, directory)


def refuse_lacking() -> None:
    """Refuse to go on where a package that writes or runs ONNX is not installed."""
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        raise RunError(f"to=onnx needs {', '.join(lacking)}: pip install 'pretraining[export]'")


def save_preparation(function: Function, preprocess: Any, directory: Path) -> None:
    """Write what makes a function's inputs, and its settings as preprocess.json."""
    function.save(directory)
    described = json.dumps(described_part(preprocess), indent=2)
    (directory / "preprocess.json").write_text(described + "\n", encoding="utf-8")


def write_function(function: Function, read: nn.Module, outputs: Sequence[str], directory: Path, *, int8: bool) -> None:
    """Write a function, and compare it with torch at four shapes; a difference above 1e-4 is an error."""
    refuse_lacking()
    network, path = Outputs(function, read).eval(), directory / "model.onnx"
    torch.backends.mha.set_fastpath_enabled(False)  # a fused kernel that ONNX has not
    _export(network, function, outputs, path)
    lengths = [function.lengths[place % len(function.lengths)] for place in range(len(ROWS))]
    shapes = list(zip(ROWS, lengths, strict=True))
    size = sum(parameter.nbytes for parameter in network.parameters())
    row = function.example(1, max(lengths))
    print(f"torch fp32   {_size(size)}   {_milliseconds(lambda: _of_torch(network, row))}")
    difference = _compare(network, function, path, shapes)
    print(f"onnx fp32    {_size(_bytes(path))}   {_timed(path, row)}   off by at most {difference:.1e} ({shapes})")
    if not difference <= TOLERANCE:
        raise HandoffError(f"ONNX Runtime differs from torch by {difference:.1e}, more than {TOLERANCE}: not written")
    if int8:
        small = directory / "model.int8.onnx"
        _quantise(path, small)
        difference = _compare(network, function, small, shapes)
        print(f"onnx int8    {_size(_bytes(small))}   {_timed(small, row)}   off by at most {difference:.1e}")


def _export(network: Outputs, function: Function, outputs: Sequence[str], path: Path) -> None:
    rows = function.example(2, function.lengths[-1])
    axes = tuple(dict(enumerate(function.axes[name])) for name in rows)
    large = sum(parameter.nbytes for parameter in network.parameters()) > LARGEST
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                tuple(rows.values()),
                str(path),
                input_names=list(rows),
                output_names=list(outputs),
                dynamic_shapes={"inputs": axes},
                external_data=large,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # of the tracer and of what it calls: there is nothing narrower
        told = f"torch.onnx has no form for this network ({type(error).__name__}: {reason_of(error)})"
        raise HandoffError(f"{told}: take another backbone, or another form (to=)") from error


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@torch.no_grad()
def _of_torch(network: Outputs, rows: dict[str, Tensor]) -> list[np.ndarray]:
    return [part.numpy() for part in network(*rows.values())]


def _of_onnx(session: Any, rows: dict[str, Tensor]) -> list[np.ndarray]:
    return session.run(None, {name: part.numpy() for name, part in rows.items()})


def _compare(network: Outputs, function: Function, path: Path, shapes: Sequence[tuple[int, int]]) -> float:
    """Measure the largest difference between any two results."""
    session, largest = _session(path), 0.0
    for shape in shapes:
        rows = function.example(*shape)
        for ours, theirs in zip(_of_torch(network, rows), _of_onnx(session, rows), strict=True):
            if ours.shape != theirs.shape:
                told = f"ONNX Runtime makes {theirs.shape} of a batch of {shape}, torch {ours.shape}"
                raise HandoffError(f"{told}: this network has no form of free shapes")
            largest = max(largest, float(np.abs(ours - theirs).max(initial=0.0)))
    return largest


def _quantise(path: Path, small: Path) -> None:
    """Store weights of matrix products and tables in 8 bits; activations are quantised as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)  # it advises on a step that is for static quantisation
    quantize_dynamic(path, small, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm", "Gather"])


def _timed(path: Path, row: dict[str, Tensor]) -> str:
    session = _session(path)
    return _milliseconds(lambda: _of_onnx(session, row))


def _milliseconds(run: Callable[[], Any]) -> str:
    """Time one row: the median of some runs, after two that do not count."""
    times = []
    for _ in range(REPEATS + 2):
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return f"{1000 * statistics.median(times[2:]):8.2f} ms a row"


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


def _size(count: int) -> str:
    return f"{count / 1e6:9.2f} MB"
