"""What a downstream task is: a backbone under a transfer mode, a head, a loss and metrics. The twin of an objective.

Shapes: B rows, N things to predict (one per row, or one per word), D width.
"""

from __future__ import annotations

import contextlib
import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from finetuning.best import Best, selected
from finetuning.data.splits import Examples, Splits
from finetuning.inputs.base import CachedVectors, EncodedSplit, Inputs
from finetuning.layers import read_layers
from finetuning.metrics.bootstrap import Intervals, Numbers
from finetuning.metrics.reference import Answers, one_answer
from finetuning.modes import Mode, rest_frozen
from pretraining.backbones.base import Backbone, Features
from pretraining.distributed.collectives import gather_objects
from pretraining.engine.batch import Batch, Loss, Term
from pretraining.engine.meter import Meter
from pretraining.engine.step import StepModule
from pretraining.errors import RunError
from pretraining.handoff import Handoff
from pretraining.optim.optimizers import Optimizer, ParameterGroup


class TaskParts(NamedTuple):
    """What a run hands to its task, beside the task's settings."""

    handoff: Handoff
    labels: dict[str, Any]  # what `collect_labels` found
    mode: Mode
    optimizer: Optimizer
    head: Mapping[str, Tensor] | None = None  # of a finished run; None: a new one is to be made


class Predictions(NamedTuple):
    """The truth about each example and what was predicted, in the task's own terms, and the scores behind it."""

    labels: Any
    predictions: Any
    scores: Any = None


class Task(StepModule):
    """A downstream task: a subclass writes its head in `__init__`, what of labels and outputs is its own, and metrics.

    `inputs` says how examples reach the backbone, `select` by which validation metric weights are best ("-": least).
    """

    term: ClassVar[str] = "cross_entropy"  # the name of the loss in metrics.csv
    cacheable: ClassVar[bool] = True  # the head reads single vectors, which a frozen backbone computes once and for all
    transformers_class: ClassVar[str | None] = None  # of models for the same task
    problem_type: ClassVar[Any] = None  # None, or a name by which transformers tells tasks of one class apart
    per_position: ClassVar[bool] = False  # the head reads vectors of positions, not the pooled one
    measures: ClassVar[tuple[str, ...] | None] = None  # what may be selected by, so that a study can tell beforehand
    reads_layers: ClassVar[bool] = True  # the head may read other layers than the last
    own_head: ClassVar[bool] = False  # the backbone is a model with this task's head already
    given_head: ClassVar[bool] = False  # the head is made of what a hand-off has beside its network
    learns: ClassVar[bool] = True  # a finished run may have a model that is not its hand-off
    placeholder: Any  # a valid label
    head: nn.Module

    def __init__(self, parts: TaskParts, *, inputs: Inputs, select: str) -> None:
        super().__init__(optimizer=parts.optimizer)
        self.backbone: Backbone = parts.handoff.backbone
        self.preprocess = parts.handoff.preprocess
        self.labels, self.mode, self.inputs, self.select = parts.labels, parts.mode, inputs, select
        if self.mode.closed_form and not self.cacheable:
            what = f"got mode={type(self.mode).__name__} for {type(self).__name__}, whose head reads no single vectors"
            raise RunError(f"{what}: take mode=full, frozen, partial or lora")
        self.layers, self.best, self.precision = read_layers(self), Best(), "fp32"  # the last: outside of a trainer
        self.mode.begin(self.backbone)

    # -- what a subclass says -----------------------------------------------------------------------------------------

    @classmethod
    def collect_labels(cls, splits: Splits) -> dict[str, Any]:
        """Collect what the head must know of the labels, as plain data; labels that cannot be learnt are an error."""
        return {}

    def learn_beforehand(self, train: Examples) -> None:
        """Learn of the training examples what no weight learns, such as how texts are written; `labels` keep it."""

    def placeholder_label(self, example: dict[str, Any]) -> Any:
        """Take a valid label for an example that has none and is only predicted."""
        return self.placeholder

    @abstractmethod
    def targets(self, examples: Examples) -> list[Any]:
        """List what is to be predicted of each example, as `inputs` take it: for most, arrays of class numbers."""

    @abstractmethod
    def criterion(self, logits: Tensor, batch: Batch) -> Tensor:
        """Sum the loss over the batch's targets. []"""

    @abstractmethod
    def predict(self, outputs: list[Any], split: EncodedSplit) -> Predictions:
        """Turn each row's logits into a prediction."""

    @abstractmethod
    def metrics(self, predictions: Predictions) -> Numbers:
        """Compute the standard metrics."""

    def score(self, features: Features, batch: Batch) -> Tensor:
        """Apply the head to what it reads. [N, ...]"""
        return self.head(self.vectors(features, batch))

    def vectors(self, features: Features, batch: Batch) -> Tensor:
        """Select what the head reads: the pooled vectors, or those at the batch's target positions. [N, D]"""
        places = batch.get("target_positions")
        return features.pooled if places is None else features.positions.flatten(0, 1)[places]

    def intervals(self, predictions: Predictions) -> Intervals:
        """Compute 95 % bootstrap intervals of the main metrics."""
        return {}

    def answers(self, predictions: Predictions) -> Answers | None:
        """Name the true and the predicted answers, where a task chooses one of several; None elsewhere."""
        return None

    def report(self, predictions: Predictions) -> dict[str, Any] | None:
        """Tabulate what does not fit into flat metrics: numbers per class, the confusion matrix."""
        return None

    def table(self, predictions: Predictions) -> dict[str, Any]:
        """Name the columns of predictions.parquet."""
        scores = {} if predictions.scores is None else {"scores": predictions.scores}
        return {"label": predictions.labels, "prediction": predictions.predictions, **scores}

    def unlabelled_table(self, predictions: Predictions) -> dict[str, Any]:
        """Name the columns that are said of examples without labels."""
        return {name: values for name, values in self.table(predictions).items() if name != "label"}

    def save(self, directory: Path, predictions: Predictions, split: EncodedSplit) -> None:
        """Write what of a test split's predictions fits no table, such as pictures."""

    def viewed(self, predictions: Predictions, split: EncodedSplit) -> list[dict[str, Any]]:
        """Describe test examples to W&B's viewers of images: what each of its images is made of."""
        return []

    def transformers_config(self, outputs: int) -> dict[str, Any]:
        """Name what transformers' configuration says of the head's outputs, beside the names of classes."""
        return {}

    def save_vocabulary(self, directory: Path) -> None:
        """Write what transformers makes a text of outputs with, where they are one."""

    def zero_outputs(self, split: EncodedSplit) -> list[Any]:
        """Compute each row's logits as if its vectors were zero."""
        logits = self.head(torch.zeros(1, self.layers.zeros)).detach().numpy()
        return [logits.repeat(len(target), 0) for target in split.targets]

    def by_row(self, logits: Tensor, batch: Batch) -> Iterable[np.ndarray]:
        """Cut a batch's logits into rows."""
        return np.split(logits.float().cpu().numpy(), np.cumsum(batch["targets_per_row"].numpy())[:-1])

    def encode(self, examples: Examples) -> EncodedSplit:
        """Make raw examples ready for the backbone; what cannot be learnt from or judged is an error here."""
        return self.inputs.encode(examples, self.targets(examples), self.preprocess, self.backbone)

    def features(self, batch: Batch) -> Features:
        """Run the backbone."""
        return self.layers(self.backbone, self.inputs.on_device(batch["inputs"], self.preprocess))

    def logits(self, batch: Batch) -> Tensor:
        """Compute the head's answer to each thing that is to be predicted. [N, ...]"""
        if "vectors" in batch:
            return self.head(batch["vectors"])
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.mode.frozen):
            features = self.features(batch)
        return self.score(features, batch)

    def loss(self, batch: Batch) -> Loss:
        """Compute the task's one term."""
        return self.loss_of(self.logits(batch), batch)

    def loss_of(self, logits: Tensor, batch: Batch) -> Loss:
        """Compute the task's one term from its logits."""
        return Loss({self.term: Term(self.criterion(logits, batch), self.counts(batch)[self.term])})

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

    # -- evaluation ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def validate(self, loader: Any) -> Numbers:
        """Compute loss and metrics over an `EvalLoader` of the validation split, and keep the weights that are best."""
        outputs, values = self.compute_outputs(loader, "validation")
        for name, value in self.measured_on(self.predict(outputs, loader.source)).items():
            values[f"validation/{name}"] = value
        self.keep_best(values)
        return values

    def measured_on(self, predictions: Predictions) -> Numbers:
        """Compute the metrics, and what a single answer to everything would reach."""
        return self.metrics(predictions) | one_answer(self.answers(predictions))

    @torch.no_grad()
    def compute_outputs(self, loader: Any, prefix: str = "test") -> tuple[list[np.ndarray], Numbers]:
        """Compute every row's logits, in the order of the split, and the mean loss; each rank ends with all."""
        meter, training = Meter(), self.training

        def compute(batch: Batch, share: float) -> Tensor:
            logits = self.logits(batch)
            meter.add(self.loss_of(logits, batch), share)
            return logits

        self.eval()
        with self.averaged():
            outputs = self._each_row(loader, compute, self.by_row)
        self.train(training)
        return outputs, meter.read(prefix)

    @torch.no_grad()
    def cache_vectors(self, loader: Any) -> CachedVectors:
        """Compute what the head reads of an encoded split with the frozen backbone, once and for all."""

        def compute(batch: Batch, share: float) -> Tensor:
            return self.vectors(self.features(batch), batch).float().cpu()

        self.eval()  # for good: the backbone is frozen
        rows = self._each_row(loader, compute, lambda found, batch: found.split(batch["targets_per_row"].tolist()))
        return CachedVectors(loader.source, torch.cat(rows))

    def _each_row(
        self, loader: Any, compute: Callable[[Batch, float], Tensor], cut: Callable[[Tensor, Batch], Iterable[Any]]
    ) -> list[Any]:
        """Compute something of each batch, cut it into rows, and list these in the split's order, on every rank."""
        rows: dict[int, Any] = {}
        for batch, share in loader:
            moved = self.finished(self.transfer_batch_to_device(batch, self.device, 0))
            with self.forward_context():
                found = compute(moved, share)
            places = loader.source.order[batch["keys"].index.numpy()].tolist()
            rows |= zip(places, cut(found, batch), strict=True)
        rows = dict(pair for part in gather_objects(rows) for pair in part.items())
        return [rows[row] for row in range(len(rows))]

    def forward_context(self) -> contextlib.AbstractContextManager[Any]:
        """Compute in the trainer's precision, or without one in `precision`."""
        if self._trainer is None and self.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return super().forward_context()

    def keep_best(self, values: Numbers) -> None:
        """Keep the weights if they are the best so far by what was measured with them."""
        self.best.evaluations_since += 1
        if (value := selected(self.select, values)) > self.best.value:
            weights = {name: tensor.to("cpu", copy=True) for name, tensor in self._moving().items()}
            self.best = Best(value, self.global_step, weights, dict(values))

    def restore_best(self) -> None:
        """Put the best weights back in place."""
        own = self._moving() if self.best.weights else {}
        assert own.keys() == self.best.weights.keys()
        for name, tensor in own.items():
            tensor.copy_(self.best.weights[name])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the best weights so far (called by Lightning)."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["best"] = dataclasses.asdict(self.best)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them back (called by Lightning)."""
        super().on_load_checkpoint(checkpoint)
        self.best = Best(**checkpoint["best"])

    def _moving(self) -> dict[str, Tensor]:
        """Take all tensors that training may change: a frozen backbone's are not among them."""
        rests = self.mode.frozen
        return {name: part for name, part in self.state_dict().items() if not (rests and name.startswith("backbone."))}
