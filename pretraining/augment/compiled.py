"""Views of uint8 images on a CPU, by the C code of views.c: compiled for the machine that runs it, when it first asks, and kept.

The compiler is the machine's own ($CC, else cc). Where there is none, `library` says so once and gives None; tensor operations then do
the same, several times slower.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import torch
from torch import Tensor

from pretraining.augment.parts import Blur, Crop, Output
from pretraining.cache import build_once, key

SOURCE = Path(__file__).with_name("views.c")
# Sums may be reordered, which vectors need. Not -ffast-math, which makes the whole process round its smallest numbers to zero.
FLAGS = ["-O3", "-std=c11", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"]
INPUTS = {
    **dict.fromkeys(("boxes", "order"), torch.int64),
    **dict.fromkeys(("factors", "sigma"), torch.float32),
    **dict.fromkeys(("flip", "greyscale", "blur", "solarise"), torch.bool),
    **dict.fromkeys(("mean", "std"), torch.float32),
}


class Batch(ctypes.Structure):
    """The struct of the same name in views.c."""

    _fields_ = (
        ("images", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("batch", "channels", "height", "width", "rows", "size", "bicubic", "taps")),
        *((name, ctypes.c_void_p) for name in (*INPUTS, "out")),
        *((name, ctypes.c_int64) for name in ("bfloat16", "channels_last")),
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """Load the compiled code, or compile it first: a second or two, once per kind of machine."""
    cache = Path(os.environ.get("PRETRAINING_CACHE", "~/.cache/pretraining")).expanduser()
    compiler = os.environ.get("CC", "cc").split()
    try:
        version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
        parts = {"source": SOURCE.read_text("utf-8"), "flags": FLAGS, "compiler": [*compiler, version], "machine": _machine()}
        directory = build_once(cache / "compiled" / key(parts), lambda partial: _compile(compiler, partial / "views.so"))
        return ctypes.CDLL(str(directory / "views.so"))
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        print(
            f"views are made by tensor operations, slower than compiled ones: {' '.join(compiler)} gave no library: {reason}",
            file=sys.stderr,
        )
        return None


def _machine() -> list[str]:
    """Describe what code for this processor may use: home directories are shared by machines that differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    return [platform.system(), platform.machine(), *(line for line in lines if line.startswith(("flags", "Features")))][:3]


def _compile(compiler: list[str], target: Path) -> None:
    """Use the processor's own instructions where the compiler knows how to ask for them."""
    common = [*compiler, *FLAGS, str(SOURCE), "-o", str(target), "-lm"]
    try:
        subprocess.run([*common, "-march=native"], capture_output=True, text=True, check=True, timeout=120)
    except subprocess.CalledProcessError:
        subprocess.run(common, capture_output=True, text=True, check=True, timeout=120)


def compute(code: ctypes.CDLL, images: Tensor, drawn: dict[str, Tensor], out: Tensor, crop: Crop, blur: Blur, output: Output) -> Tensor:
    """Fill `out` [N, C, S, S] with the views of `images` uint8 [B, C, H, W] with the parameters `drawn`, on as many threads as torch uses.

    Raises ValueError where a box is empty or leaves its image, and MemoryError where a thread finds no room for a view.
    """
    images, rows, channels = images.contiguous(), len(out), images.shape[1]
    inputs = {**drawn, "mean": torch.tensor(output.mean).expand(channels), "std": torch.tensor(output.std).expand(channels)}
    held = [inputs[name].to(dtype).contiguous() for name, dtype in INPUTS.items()]
    _check(drawn["boxes"], drawn["order"], images.shape[2:])
    batch = Batch(
        images.data_ptr(), *images.shape, rows, crop.size, crop.interpolation == "bicubic", blur.kernel_size,
        *(part.data_ptr() for part in held), out.data_ptr(), out.dtype == torch.bfloat16, output.channels_last,
    )  # fmt: skip
    following, failures = ctypes.c_int64(0), []

    def work() -> None:  # ctypes lets go of the interpreter meanwhile
        if code.compute_views(ctypes.byref(batch), ctypes.byref(following)):
            failures.append(threading.current_thread())

    others = [threading.Thread(target=work) for _ in range(min(torch.get_num_threads(), rows) - 1)]
    for thread in others:
        thread.start()
    work()
    for thread in others:
        thread.join()
    if failures:
        raise MemoryError(f"no memory for a view of {crop.size} x {crop.size} pixels")
    return out


def _check(boxes: Tensor, order: Tensor, extent: torch.Size) -> None:
    """Compiled code reads where it is told."""
    corner, sides = boxes[:, :2], boxes[:, 2:]
    inside = (corner >= 0) & (sides >= 1) & (corner + sides <= torch.tensor(extent))
    if not bool(inside.all()):
        worst = boxes[~inside.all(1)][0].tolist()
        raise ValueError(f"the crop (top, left, height, width) {worst} is empty or leaves its image of {extent[0]} x {extent[1]} pixels")
    if not bool(((order >= 0) & (order < 4)).all()):
        raise ValueError("the order of colour operations must hold 0, 1, 2 and 3")
