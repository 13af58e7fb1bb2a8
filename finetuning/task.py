"""What a downstream task is: a backbone under a transfer mode, a head, a loss and standard metrics. The twin of an objective.

Shapes: B examples, N things to predict (one per example, or one per word), D width.
"""

from __future__ import annotations

import contextlib
import dataclasses
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from finetuning.data.splits import Examples, Splits
from finetuning.inputs.base import Encoded
from finetuning.inputs.cached import Cached
from finetuning.metrics.classification import Numbers
from finetuning.modes import Mode, rest_frozen
from pretraining.backbones.base import Backbone, Features
from pretraining.distributed.collectives import is_distributed, world_size
from pretraining.engine.batch import Batch, Loss, Term
from pretraining.engine.meter import Meter
from pretraining.engine.step import StepModule
from pretraining.errors import RunError
from pretraining.handoff import Handoff
from pretraining.optim.optimizers import Optimizer, ParameterGroup


class Judged(NamedTuple):
    """What was to be said of each example and what was said, in the task's own terms, and the scores behind it."""

    labels: Any
    predictions: Any
    scores: Any = None


@dataclasses.dataclass
class Best:
    """The weights with the highest selection metric on validation so far."""

    value: float = float("-inf")
    step: int = -1
    weights: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    values: Numbers = dataclasses.field(default_factory=dict)  # everything measured with them
    evaluations_since: int = 0


class Task(StepModule):
    """A downstream task. A subclass writes its head in `__init__`, and `survey`, `encode`, `criterion`, `judge` and `metrics`.

    `labels` is what `survey` collected. `select` names the validation metric by which the best weights are chosen; a leading "-"
    asks for the smallest.
    """

    modality: ClassVar[str]
    term: ClassVar[str] = "cross_entropy"  # the name of the loss in metrics.csv
    cacheable: ClassVar[bool] = (
        True  # the head reads independent vectors, which a frozen backbone gives once and for all
    )
    head: nn.Module

    def __init__(
        self, *, handoff: Handoff, labels: dict[str, Any], mode: Mode, optimizer: Optimizer, select: str
    ) -> None:
        super().__init__(optimizer=optimizer)
        self.backbone: Backbone = handoff.backbone
        self.preprocess = handoff.preprocess
        if self.backbone.modality != self.modality:
            raise RunError(
                f"{type(self).__name__} reads {self.modality}, but the hand-off {handoff.path} holds a backbone for "
                f"{self.backbone.modality}: choose another task= or handoff="
            )
        if mode.solved and not self.cacheable:
            raise RunError(
                f"got mode={type(mode).__name__} for {type(self).__name__}, whose head does not read single vectors that can be "
                "computed beforehand: take mode=full, partial or lora"
            )
        self.labels, self.mode, self.select = labels, mode, select
        self.best = Best()
        self.precision = "fp32"  # of forward passes outside of a trainer
        mode.begin(self.backbone)

    # -- what a subclass gives --------------------------------------------------------------------------------------------------

    @classmethod
    def survey(cls, splits: Splits) -> dict[str, Any]:
        """Collect what the head must know of the labels (the classes), as plain data; labels that cannot be learnt are an error."""
        return {}

    @abstractmethod
    def blank(self) -> Any:
        """Give a valid label, for examples that have none and are only predicted."""

    @abstractmethod
    def encode(self, examples: Examples) -> Encoded:
        """Make raw examples ready for the backbone; what cannot be learnt from or judged is an error here."""

    @abstractmethod
    def criterion(self, logits: Tensor, batch: Batch) -> Term:
        """Sum the loss over the batch's targets."""

    @abstractmethod
    def judge(self, outputs: list[np.ndarray], encoded: Encoded) -> Judged:
        """Turn each row's logits into a prediction."""

    @abstractmethod
    def metrics(self, judged: Judged) -> Numbers:
        """Compute the standard metrics."""

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Name the backbone's arguments."""
        names = ("input_ids", "documents", "token_type_ids")
        return {name: batch[name] for name in names if name in batch}

    def vectors(self, features: Features, batch: Batch) -> Tensor:
        """Select what the head reads: the pooled vectors, or those of the batch's units. [N, D]"""
        if "units_at" not in batch:
            return features.pooled
        return features.positions.flatten(0, 1)[batch["units_at"]]

    def intervals(self, judged: Judged) -> dict[str, tuple[float, float]]:
        """Give 95 % bootstrap intervals of the main metrics."""
        return {}

    def report(self, judged: Judged) -> dict[str, Any] | None:
        """Give what does not fit into flat metrics: numbers per class, the confusion matrix."""
        return None

    def table(self, judged: Judged) -> dict[str, Any]:
        """Give the columns of predictions.parquet."""
        return {"label": judged.labels, "prediction": judged.predictions}

    def silence(self, encoded: Encoded) -> list[np.ndarray]:
        """Give outputs as if the backbone had said nothing."""
        with torch.no_grad():
            logits = self.head(torch.zeros(1, self.backbone.dim)).numpy()
        return [logits.repeat(len(target), 0) for target in encoded.targets]

    # -- the step ---------------------------------------------------------------------------------------------------------------

    def logits(self, batch: Batch) -> Tensor:
        """Compute the head's answer for each unit. [N, ...]"""
        if "vectors" in batch:
            return self.head(batch["vectors"])
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.mode.frozen):
            vectors = self.vectors(self.backbone(**self.inputs(batch)), batch)
        return self.head(vectors)

    def loss(self, batch: Batch) -> Loss:
        """Compute the task's one term."""
        return Loss({self.term: self.criterion(self.logits(batch), batch)})

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the targets."""
        return {self.term: torch.tensor(float(len(batch["targets"])), device=batch["targets"].device)}

    def parameter_groups(self) -> list[ParameterGroup]:
        """Let the mode decide the rates."""
        return self.mode.groups(self.backbone, self.head)

    def training_step(self, step: Any, index: int) -> None:
        """Let the mode release parts, then take the step."""
        if self.mode.advance(self.backbone, step.number, self.settings.max_steps):
            self.train()
        super().training_step(step, index)

    def train(self, mode: bool = True) -> Task:
        """Enter training or evaluation; frozen parts stay in evaluation."""
        super().train(mode)
        rest_frozen(self.backbone)
        return self

    # -- evaluation -------------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, loader: Any, prefix: str = "validation") -> Numbers:
        """Compute loss and metrics over an `EvalLoader` of an encoded split; on validation, keep the best weights so far."""
        outputs, values = self.predict(loader, prefix)
        values |= {
            f"{prefix}/{name}": value for name, value in self.metrics(self.judge(outputs, loader.source)).items()
        }
        if prefix == "validation":
            self._keep_best(values)
        return values

    @torch.no_grad()
    def predict(self, loader: Any, prefix: str = "test") -> tuple[list[np.ndarray], Numbers]:
        """Compute every row's logits, in the order of the split, and the mean loss; each rank ends with all of them."""
        meter, training = Meter(), self.training
        rows: dict[int, np.ndarray] = {}
        self.eval()
        with self.averaged():
            for batch, share in loader:
                moved = self.on_device(self.transfer_batch_to_device(batch, self.device, 0))
                with self.forward_context():
                    logits = self.logits(moved)
                    meter.add(Loss({self.term: self.criterion(logits, moved)}), share)
                rows |= zip(
                    loader.source.order[batch["keys"].index.numpy()].tolist(), self.by_row(logits, batch), strict=True
                )
        self.train(training)
        rows = dict(kv for part in _gathered(rows) for kv in part.items())
        return [rows[row] for row in range(len(rows))], meter.read(prefix)

    def by_row(self, logits: Tensor, batch: Batch) -> Iterable[np.ndarray]:
        """Cut the units' logits into rows."""
        array = logits.float().cpu().numpy()
        return np.split(array, np.cumsum(batch["units"].numpy())[:-1])

    @torch.no_grad()
    def cached(self, loader: Any) -> Cached:
        """Compute the vectors that the frozen backbone gives for an encoded split."""
        rows: dict[int, Tensor] = {}
        self.eval()  # for good: the backbone is frozen
        for batch, _ in loader:
            moved = self.on_device(self.transfer_batch_to_device(batch, self.device, 0))
            with self.forward_context():
                vectors = self.vectors(self.backbone(**self.inputs(moved)), moved).float().cpu()
            rows |= zip(
                loader.source.order[batch["keys"].index.numpy()].tolist(),
                vectors.split(batch["units"].tolist()),
                strict=True,
            )
        rows = dict(kv for part in _gathered(rows) for kv in part.items())
        return Cached(loader.source, torch.cat([rows[row] for row in range(len(rows))]))

    def forward_context(self) -> contextlib.AbstractContextManager[Any]:
        if self._trainer is None and self.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return super().forward_context()

    # -- the best weights on validation -------------------------------------------------------------------------------------------

    def selection(self, values: Numbers) -> float:
        """Read the selection metric, so that more is better."""
        name = f"validation/{self.select.removeprefix('-')}"
        if name not in values:
            known = ", ".join(key.removeprefix("validation/") for key in values)
            raise RunError(f"got task.select={self.select}, which this task does not measure: choose one of {known}")
        return -values[name] if self.select.startswith("-") else values[name]

    def restore_best(self) -> None:
        """Put the best weights back in place."""
        if self.best.weights:
            own = dict(self._moving())
            assert own.keys() == self.best.weights.keys()
            for name, tensor in own.items():
                tensor.copy_(self.best.weights[name])

    def _keep_best(self, values: Numbers) -> None:
        value = self.selection(values)
        self.best.evaluations_since += 1
        if value > self.best.value:
            weights = {name: tensor.to("cpu", copy=True) for name, tensor in self._moving()}
            self.best = Best(value, self.global_step, weights, dict(values))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the best weights so far (called by Lightning)."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["best"] = dataclasses.asdict(self.best)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them back (called by Lightning)."""
        super().on_load_checkpoint(checkpoint)
        self.best = Best(**checkpoint["best"])

    def _moving(self) -> Iterator[tuple[str, Tensor]]:
        """Name all tensors that training may change: a frozen backbone's are not among them."""
        frozen = self.mode.frozen
        for name, tensor in self.state_dict().items():
            if not (frozen and name.startswith("backbone.")):
                yield name, tensor


def _gathered(part: Any) -> list[Any]:
    if not is_distributed():
        return [part]
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, part)
    return parts
