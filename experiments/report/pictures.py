"""What runs have drawn, inside the page: it needs no other file."""

import base64
from typing import NamedTuple

from experiments.study.collect import Results
from experiments.study.graph import FINETUNING, PRETRAINING, Node

FIRST = 2  # of the pictures of a finetuning: a page of hundreds opens slowly


class Picture(NamedTuple):
    """A picture as an address that holds it."""

    caption: str
    address: str


def embedded(results: Results) -> list[Picture]:
    """Embed what the first run of each kind has drawn: all of a pretraining, the first few of a finetuning."""
    found, seen = [], set()
    for command, most in ((PRETRAINING, None), (FINETUNING, FIRST)):
        for node in results.nodes(command):
            drawn = sorted((results.study.run_dir(node) / "pictures").glob("*.png"))
            kind = (node.cell, node.source.arm, node.source.pretrained)
            if drawn and kind not in seen:
                seen.add(kind)
                found += [Picture(f"{_title(node)}: {path.stem}", _address(path.read_bytes())) for path in drawn[:most]]
    return found


def _title(node: Node) -> str:
    who = node.source.arm if node.source.pretrained else f"never pretrained ({node.source.arm})"
    return who if node.cell is None else f"{node.cell.title()}, {who}"


def _address(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
