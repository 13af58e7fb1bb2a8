"""Quality while training: linear probe, nearest neighbours and geometry of features that the objective computes anyway.

Shapes: B images of this rank's step, b of them in a micro-batch, V views, D width of the features, C classes, S steps
that the bank remembers, R ranks, N validation images.
"""

from __future__ import annotations

from collections import deque
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from pretraining import probes
from pretraining.backbones.base import Features
from pretraining.data.loader import EvalLoader
from pretraining.distributed.collectives import all_reduce_sum, gather_rows, rank, world_size
from pretraining.engine.batch import Batch, Step
from pretraining.engine.callback import StepCallback, is_due, log
from pretraining.engine.step import StepModule
from pretraining.engine.watchdog import heartbeat
from pretraining.errors import RunError
from pretraining.modality import Preprocess
from pretraining.objectives.base import Objective


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """What the probe is: a linear classifier that Adam trains at `rate`, the `k` nearest of the last `bank` examples.

    `temperature` weighs the neighbours' votes. `pictures`: of embeddings and views, drawn at the end of the run.
    """

    kind: ClassVar[str] = "online"  # its option of probe=
    rate: float = 1e-3
    bank: int = 8192
    k: int = 200
    temperature: float = 0.1
    pictures: bool = True

    def __post_init__(self) -> None:
        if not (self.rate > 0 and self.bank >= 1 and self.k >= 1 and self.temperature > 0):
            what = f"probe.rate={self.rate}, probe.bank={self.bank}, probe.k={self.k}"
            raise ValueError(f"got {what} and probe.temperature={self.temperature}: all must be above 0")


@dataclass(eq=False)
class OnlineProbe(StepCallback):
    """Trains a linear classifier beside the objective; measures it on clean validation examples each `every` steps.

    It reads the pooled features that each step computes, of all views, detached: the objective takes no gradient from
    it and draws no random number less or more. Nearest neighbours are looked up among the last training images' first
    views. Without labels (`classes` None) only the geometry of the features is measured. Validation images go through
    the current weights, not their average, since those made what the probe learnt from.
    """

    settings: ProbeSettings
    _: KW_ONLY
    validation: EvalLoader
    every: int
    preprocess: Preprocess
    classes: int | None
    batch_size: int

    def __post_init__(self) -> None:
        size = max(1, self.settings.bank // self.batch_size)
        self.bank: deque[tuple[Tensor, Tensor]] = deque(maxlen=size)  # of [B, D], [B]
        self.latest: tuple[Tensor, Tensor | None]  # features [N, D] and labels [N] of the last evaluation, of all ranks
        self._seen: list[Tensor] = []  # pooled features of this step's forward passes
        self._watch: Any = None
        self._saved: dict[str, Any] | None = None

    # -- features that were computed anyway ----------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the classifier, at zero, and start to watch the backbone."""
        assert isinstance(pl_module, Objective)
        held = next(pl_module.backbone.parameters())
        place: dict[str, Any] = {"dtype": torch.promote_types(held.dtype, torch.float32), "device": held.device}
        outputs = self.classes or 0
        self.weight = torch.zeros(outputs, pl_module.backbone.dim, **place).requires_grad_()
        self.bias = torch.zeros(outputs, **place).requires_grad_()
        self.optimizer = torch.optim.Adam([self.weight, self.bias], lr=self.settings.rate)
        if self._saved is not None:
            self._restore(self._saved)
        self._watch = pl_module.backbone.register_forward_hook(self._note)

    def _note(self, backbone: torch.nn.Module, inputs: Any, features: Features) -> None:
        # Without gradient it is an evaluation, or the first of two passes over cached representations.
        if backbone.training and torch.is_grad_enabled():
            self._seen.append(features.pooled.detach())

    def at_end(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            self._watch.remove()

    def after_step(self, trainer: pl.Trainer, module: StepModule, batch: Step) -> None:
        """Learn from this step's features, and measure if it is due."""
        assert isinstance(module, Objective)
        views = self._views(batch)
        if self.classes is not None:
            if any("labels" not in part for part in batch.micro_batches):
                raise RunError("probe= needs the labels of its data, which this collate leaves out: set probe=none")
            labels = torch.cat([part["labels"] for part in batch.micro_batches]).to(self.weight.device)
            self._learn(views, labels)
            self.bank.append((views[0], labels))
        if is_due(trainer, self.every):
            heartbeat("validation")
            values = self._measure(module, views)
            heartbeat("between steps")
            module.measured |= values
            log(trainer, values)

    def _views(self, step: Step) -> Tensor:
        """Put this step's features into order. [V, B, D]"""
        seen, self._seen = self._seen, []
        calls, rest = divmod(len(seen), len(step.micro_batches))
        if not calls or rest:
            what = f"{len(seen)} forward passes of the backbone in {len(step.micro_batches)} micro-batches"
            why = "this objective does not call its backbone once per micro-batch or view; set probe=none"
            raise RuntimeError(f"the online probe saw {what}: {why}")
        parts = []
        for number, part in enumerate(step.micro_batches):
            pooled = torch.cat(seen[number * calls : (number + 1) * calls])
            parts.append(pooled.to(self.weight.dtype).unflatten(0, (-1, len(part["keys"].index))))
        return torch.cat(parts, 1)

    def _learn(self, views: Tensor, labels: Tensor) -> None:
        """Take one step of the classifier on all views of all ranks."""
        with torch.enable_grad(), torch.autocast(views.device.type, enabled=False):
            scores = F.linear(views.flatten(0, 1), self.weight, self.bias)
            total = F.cross_entropy(scores, labels.repeat(len(views)), reduction="sum") / (len(scores) * world_size())
            gradients = torch.autograd.grad(total, (self.weight, self.bias))
        for parameter, gradient in zip((self.weight, self.bias), gradients, strict=True):
            parameter.grad = all_reduce_sum(gradient)
        self.optimizer.step()

    # -- measures ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _measure(self, objective: Objective, views: Tensor) -> dict[str, float]:
        features, labels = self._clean_features(objective)
        values = self._accuracies(features, labels) if self.classes is not None else {}
        whole = gather_rows(features)
        known = None if self.classes is None else gather_rows(labels)
        self.latest = whole, known
        if known is not None:
            values["probe/majority"] = float(torch.bincount(known).max()) / len(known)
        values["probe/effective_rank"] = probes.effective_rank(whole)
        if len(whole) > 1:  # one vector is spread over nothing
            values["probe/uniformity"] = probes.uniformity(whole)
            values["probe/feature_spread"] = probes.feature_spread(whole)
        if len(views) > 1:
            apart = torch.tensor([probes.alignment(views[0], views[1])], device=views.device)
            values["probe/alignment"] = float(all_reduce_sum(apart)) / world_size()
        return values

    def _clean_features(self, objective: Objective) -> tuple[Tensor, Tensor]:
        """Compute the features of this rank's share of the validation data, not augmented. [N / R, D], [N / R]"""
        training, found, labels = objective.training, [], []
        objective.eval()
        for batch, share in self.validation:
            inputs = self._inputs(objective, batch)
            with objective.forward_context():
                # On every rank as often: where weights are shared out, each forward pass gathers them.
                pooled = objective(lambda inputs: objective.backbone(**inputs).pooled, inputs)
            if not share:  # repeated to make up the number of batches
                continue
            found.append(pooled.to(self.weight.dtype))
            labels.append(batch["labels"] if "labels" in batch else torch.zeros(len(pooled), dtype=torch.long))
        objective.train(training)
        if not found:  # more ranks than batches
            found, labels = [self.weight.new_zeros(0, objective.backbone.dim)], [torch.zeros(0, dtype=torch.long)]
        return torch.cat(found), torch.cat(labels).to(self.weight.device)

    def _inputs(self, objective: Objective, batch: Batch) -> dict[str, Tensor]:
        """Make the backbone's arguments for untouched examples, in the precision of its weights."""
        moved = objective.transfer_batch_to_device(batch, objective.device, 0)
        inputs = objective.backbone.modality.clean_inputs(moved, self.preprocess)
        floats = {name: value.to(objective.dtype) for name, value in inputs.items() if value.is_floating_point()}
        return {**inputs, **floats}

    def _accuracies(self, features: Tensor, labels: Tensor) -> dict[str, float]:
        assert self.classes is not None
        bank, classes = (gather_rows(torch.cat(part)) for part in zip(*self.bank, strict=True))
        with torch.autocast(features.device.type, enabled=False):
            linear = F.linear(features, self.weight, self.bias).argmax(1)
        right = [(linear == labels).sum(), torch.zeros_like(labels.sum())]
        if len(features):
            options: dict[str, Any] = {"k": self.settings.k, "temperature": self.settings.temperature}
            scores = probes.nearest_neighbours(bank, classes, features, count=self.classes, **options)
            right[1] = (scores.argmax(1) == labels).sum()
        counts = torch.stack([*right, torch.tensor(len(labels), device=labels.device)]).double()
        correct_linear, correct_knn, count = all_reduce_sum(counts).tolist()
        return {"probe/linear_accuracy": correct_linear / count, "probe/knn_accuracy": correct_knn / count}

    # -- what a checkpoint holds ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Save the classifier, its optimizer and the bank of all ranks (called on every rank)."""
        state: dict[str, Any] = {"weight": self.weight.detach(), "bias": self.bias.detach()}
        state["optimizer"] = self.optimizer.state_dict()
        if self.bank:
            features, labels = (gather_rows(torch.stack(part, 1)) for part in zip(*self.bank, strict=True))
            state |= {"features": features, "labels": labels}  # [R * B, S, D], [R * B, S]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep what was saved until there is a classifier to put it into."""
        self._saved = state_dict

    @torch.no_grad()
    def _restore(self, state: dict[str, Any]) -> None:
        self.weight.copy_(state["weight"])
        self.bias.copy_(state["bias"])
        self.optimizer.load_state_dict(state["optimizer"])
        if "features" in state:
            saved = (state[name].to(self.weight.device) for name in ("features", "labels"))
            features, labels = (part.chunk(world_size())[rank()] for part in saved)
            self.bank.extend((features[:, step], labels[:, step]) for step in range(features.shape[1]))
