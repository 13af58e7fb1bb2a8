"""Pictures with captions that `datasets` loads."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pretraining.data.files import say
from pretraining.data.hub import load
from pretraining.data.splits import described, names_of_splits
from pretraining.image.data.tables import check_part, hub_images
from pretraining.pairs.data.captioned import Captioned, CaptionedImages
from pretraining.pairs.data.captions import captions_of
from pretraining.pairs.data.contents import Seen


@dataclass(kw_only=True, eq=False)
class HubImageText(CaptionedImages):
    """Whatever `datasets` loads: a name on the hub or a local directory; `name:configuration` where it has several.

    `columns` name the `image`, and the `text`: a caption or a list of them; rows of equal images add up. To find these
    every image is read once, still encoded, when the data are opened.
    """

    name: str
    columns: Mapping[str, str] = field(default_factory=lambda: {"image": "image", "text": "text"})

    @property
    def where(self) -> str:
        """Name the data set."""
        return f"data.name={self.name}"

    def found(self) -> dict[str, Iterable[Captioned]]:
        """Load the splits."""
        splits = load(self.name)
        names = names_of_splits(splits)
        if "train" not in names:
            told = f"{self.where} has the splits {', '.join(splits)}, but no train"
            raise ValueError(f"{told}: choose another data set")
        unused = [part for part in splits if part not in names.values()]
        say(described(self.where, {split: [part] for split, part in names.items()}, unused))
        return {split: self._rows(splits[part], split) for split, part in names.items()}

    def _rows(self, part: Any, split: str) -> Iterator[Captioned]:
        image, text = self.columns["image"], self.columns["text"]
        roles = {"columns.image": image, "columns.text": text}
        check_part(part, self.where, split, roles, image)
        encoded = hub_images(part, self.name, split, image)
        said = captions_of(zip(part[text][:], encoded.names, strict=True), "an image")
        for row, (place, captions) in enumerate(zip(encoded.names, said, strict=True)):
            content = Seen.of(encoded.read(row) or b"")  # what is empty is refused when it is decoded
            name = content.digest().hex()
            yield Captioned(name, place, functools.partial(encoded.read, row), name, content, captions)
