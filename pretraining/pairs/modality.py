"""What the core asks of pairs, which two other modalities answer for their sides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pretraining.data.files import say
from pretraining.data.source import Source
from pretraining.modality import Modality, Row, Tower

LOOKED_AT = 512  # training pairs whose length is looked at


class Pairs(Modality):
    """Examples of two modalities that belong together, each read by a network of its own."""

    name = "pairs"
    unit = "pairs"
    probes = "pairs"
    joins = "pretraining.pairs.towers.joined"
    writers = {"transformers": "pretraining.pairs.checkpoints.write_transformers"}  # noqa: RUF012
    shares = "pretraining.pairs.space.projections"

    def source(self, data: Any, split: str, preprocess: Any, collate: Any, *, seed: int) -> Source:
        """Open a split as it is."""
        return data.source(split)

    def backbone_arguments(self, preprocess: Any) -> dict[str, Any]:
        """Name what each side's network must be told, and what prepares its inputs."""
        told = {name: part.modality.backbone_arguments(part) for name, part in preprocess.sides.items()}
        return {"arguments": told, "preprocess": preprocess.sides}

    def average_row(self, objective: Any, source: Source, collate: Any, preprocess: Any) -> Row:
        """Count pairs; what they cost is measured."""
        for name, side in collate.sides.items():
            wanted = getattr(side, "max_tokens", None)
            limit = getattr(objective.backbone.towers[name], "max_tokens", None)
            if wanted is not None and limit is not None and wanted > limit:
                what = f"collate.sides.{name}.max_tokens={wanted}, but this backbone has positions for {limit}"
                raise ValueError(f"{what}: lower it, or raise the backbone's own")
        return Row(units=1.0)

    def facts(self, train: Source, validation: Source, collate: Any, preprocess: Any) -> dict[str, float]:
        """Measure which share of the captions does not fit into the network that reads them, and say so; say, too, how
        many of those that differ it cannot tell apart.
        """
        facts = {}
        for name, side in collate.sides.items():
            if hasattr(side, "cut"):
                rows = np.arange(min(train.count(0), LOOKED_AT))
                said = train.read(0, rows).sides[name]
                cut = side.cut(said)
                facts[f"data/{name}_cut_share"] = float(cut.mean())
                if cut.any():
                    told = f"{cut.sum()} of {len(rows)} captions looked at are longer than"
                    say(f"{told} collate.sides.{name}.max_tokens={side.max_tokens}, and cut")
                different, read = len({*said.texts.tolist()}), len({*side.identify(side(said))})
                if read < different:
                    told = "by the words that its tokenizer knows, and up to the cut"
                    say(f"{different} different captions looked at are {read} to the network that reads them: {told}")
        return facts

    def clean_inputs(self, batch: Mapping[str, Any], preprocess: Any) -> dict[str, Tensor]:
        """Take what the collate has prepared."""
        return batch["inputs"]

    def show(self, collate: Any, batch: Mapping[str, Any], count: int, path: Path) -> list[str]:
        """Show both sides as their modalities do."""
        lines = []
        for name, side in collate.sides.items():
            shown = {**batch["sides"][name], "inputs": batch["inputs"][name]}
            place = path.with_name(f"{path.name}-{name}")
            lines += side.preprocess.modality.show(side, shown, count, place)
        return lines

    def towers(self, backbone: Any, preprocess: Any) -> dict[str, Tower]:
        """Name both networks."""
        return {name: Tower(tower, preprocess.sides[name]) for name, tower in backbone.towers.items()}


PAIRS = Pairs()
