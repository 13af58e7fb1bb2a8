"""What data of any modality have in common: three splits, and how a run reads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pretraining.cache import default_cache
from pretraining.modality import Modality
from pretraining.settings import paths_as_texts


@dataclass(kw_only=True, eq=False)
class Data(ABC):
    """Examples in the splits train, validation and test. The fields of a subclass are its settings.

    `batch_size`: rows per optimizer step, over all ranks and micro-batches. `workers`: loading processes per rank.
    `cache_dir`: of what is decoded or prepared; safe to share and to delete.
    """

    modality: ClassVar[Modality]
    varying_steps: ClassVar[bool] = False  # whether steps have as many rows as their lengths allow, not `batch_size`
    batch_size: int
    eval_batch_size: int
    workers: int = 0
    cache_dir: Any = field(default_factory=default_cache)  # kept as a Path

    def __post_init__(self) -> None:
        vars(self).update({name: paths_as_texts(value) for name, value in vars(self).items()})
        self.cache_dir = Path(self.cache_dir).expanduser()

    @abstractmethod
    def fingerprint(self) -> str:
        """Identify all that the examples of all splits depend on."""

    def refuse_too_few(self, split: str, rows: int, of: str, cure: str = "lower data.batch_size") -> None:
        """Refuse a training split that does not fill one batch; `of` names its rows."""
        if split == "train" and rows < self.batch_size:
            less = f"less than one batch of data.batch_size={self.batch_size}"
            raise ValueError(f"the training split has {rows} {of}, {less}: {cure}")
