"""What a step costs: the formulas of text equal what torch counts on the plain path, as does what is measured."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pretraining.budget import affordable_steps
from pretraining.cli.configuration import CONF, class_of, compose, instantiate
from pretraining.cost import row_flops
from pretraining.data.batches import EqualBatches
from pretraining.engine.batch import Loss
from pretraining.engine.trainer import TrainerSettings
from pretraining.errors import RunError
from pretraining.modality import Row, formula_of
from pretraining.objectives.text.masked_language import MaskedLanguage
from pretraining.text.cost import TextRow
from pretraining.text.modality import TEXT

B, T, U, K = 8, 64, 24, 10  # rows, tokens, tokens that a decoder writes, predictions per row
VOCABULARY = 600
OBJECTIVES = [
    ("masked_language", "bert_tiny"),
    ("masked_language", "modernbert_tiny"),
    ("masked_language", "roberta_tiny"),
    ("spanbert", "bert_tiny"),
    ("next_sentence", "bert_tiny"),
    ("bert", "bert_tiny"),
    ("denoising_bart", "bart_tiny"),
    ("denoising_t5", "t5_tiny"),
    ("causal_language", "gpt2_tiny"),
    ("supervised_text", "bert_tiny"),
]
SIZES = {"supervised_text": ["objective.classes=4"]}  # else read from the data
WITHIN = 0.02


def counted(objective, batch):
    """Let torch count a forward pass in plain matrix products."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        objective.loss(batch)
    return counter.get_total_flops()


def built(name, backbone, *overrides):
    plain = "+backbone.config.attn_implementation=eager"
    config = compose([f"objective={name}", f"backbone={backbone}", plain, *SIZES.get(name, []), *overrides])
    words = {"vocab_size": VOCABULARY, "pad_id": 0, "frame_ids": {"bos": 1, "eos": 2}}
    backbone = instantiate(config.backbone, **words)
    return instantiate(config.objective, backbone=backbone, optimizer=instantiate(config.optimizer)).train()


def rows_without_padding(name, rows=B):
    """A batch in which every token is real and sees all others of its row, and every listed place is predicted."""
    ids, ones = torch.randint(5, VOCABULARY, (rows, T)), torch.ones(rows, T, dtype=torch.long)
    written = U if name.startswith("denoising") else 0
    width, places = (U, U) if written else (T, K)
    batch = {"inputs": {"input_ids": ids, "document_ids": ones}, "is_random": torch.zeros(rows, dtype=torch.long)}
    if name in ("bert", "next_sentence"):
        batch["inputs"]["token_type_ids"] = 1 - ones
    batch["decoder_input_ids"] = torch.randint(5, VOCABULARY, (rows, U))
    batch["target_positions"] = (torch.arange(places) + width * torch.arange(rows)[:, None]).flatten()
    batch["labels"] = torch.randint(5, VOCABULARY, (rows * places,))
    if name == "supervised_text":
        batch["labels"] = torch.randint(0, 4, (rows,))
    return batch, TextRow(read=T, seen=T, tokens=T, target_positions=places, written_seen=written)


@pytest.mark.parametrize(("name", "backbone"), OBJECTIVES)
def test_text_costs_what_torch_counts(name, backbone):
    batch, row = rows_without_padding(name)
    objective = built(name, backbone)
    assert B * objective.forward_flops(row) == pytest.approx(counted(objective, batch), rel=WITHIN)


class Rows:
    """A source of rows that are their numbers."""

    def count(self, epoch):
        return 100

    def read(self, epoch, rows):
        return rows


def parts_of(name, objective, flops):
    def collate(rows, keys):
        return rows_without_padding(name, len(rows))[0]

    return SimpleNamespace(
        objective=objective,
        train=Rows(),
        collate=collate,
        row=Row(T, flops),
        data=SimpleNamespace(),
        batches=EqualBatches(Rows(), 64),
    )


@pytest.mark.parametrize(("name", "backbone"), OBJECTIVES)
def test_what_is_measured_without_a_formula_agrees_with_it(name, backbone):
    _, row = rows_without_padding(name)
    objective, settings = built(name, backbone), TrainerSettings(max_steps=1)
    formula = row_flops(parts_of(name, objective, objective.forward_flops(row)), settings)
    assert formula == 3 * objective.forward_flops(row)
    assert row_flops(parts_of(name, objective, None), settings) == pytest.approx(formula, rel=WITHIN)


@pytest.mark.parametrize(("name", "backbone"), [("masked_language", "modernbert_tiny"), ("denoising_t5", "t5_tiny")])
def test_a_backward_pass_costs_twice_a_forward_pass(name, backbone):
    batch, row = rows_without_padding(name)
    objective = built(name, backbone)
    with FlopCounterMode(display=False) as counter:
        loss = objective.loss(batch)
        sum(term.total for term in loss.terms.values()).backward()
    assert 3 * B * objective.forward_flops(row) == pytest.approx(counter.get_total_flops(), rel=WITHIN)


def test_an_encoder_whose_shapes_depend_on_its_rows_is_measured_on_the_rows_themselves():
    _, row = rows_without_padding("masked_language")
    config = compose(["objective=masked_language", "backbone=bert_tiny", "backbone.impl=fast"])
    backbone = instantiate(config.backbone, vocab_size=VOCABULARY, pad_id=0)
    objective = instantiate(config.objective, backbone=backbone, optimizer=instantiate(config.optimizer)).train()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    measured = row_flops(parts_of("masked_language", objective, None), TrainerSettings(max_steps=1))
    assert measured <= 3 * objective.forward_flops(row) * (1 + WITHIN)
    assert measured > 2 * objective.forward_flops(row), "the last of two layers is computed where it is asked for alone"
    assert all(torch.equal(before[name], value) for name, value in objective.state_dict().items())
    assert all(parameter.grad is None and parameter.device.type == "cpu" for parameter in objective.parameters())


def test_heads_that_are_wider_than_the_model_are_counted_as_they_are():
    batch, row = rows_without_padding("denoising_t5")
    objective = built("denoising_t5", "t5_tiny", "backbone.config.d_kv=96", "backbone.config.num_heads=4")
    assert B * objective.forward_flops(row) == pytest.approx(counted(objective, batch), rel=WITHIN)


def test_hiding_more_tokens_costs_more():
    objective = built("masked_language", "modernbert_tiny")
    _, row = rows_without_padding("masked_language")
    less, more = (objective.forward_flops(row._replace(target_positions=share * T)) for share in (0.15, 0.4))
    assert more - less == pytest.approx(0.25 * T * 2 * (128 * 128 + 128 * VOCABULARY))


def test_every_text_objective_shipped_is_counted_here():
    shipped = [path.stem for path in (CONF / "objective").glob("*.yaml") if not path.stem.startswith("_")]
    shipped = [name for name in shipped if not name.endswith("_image") and "_image_" not in name]
    learns_from = {name: class_of(compose([f"objective={name}"]).objective).modality for name in shipped}
    assert {name for name, kind in learns_from.items() if kind is TEXT} == {name for name, _ in OBJECTIVES}


# -- objectives of one's own -------------------------------------------------------------------------------------------


class Twice(MaskedLanguage):
    """Reads each row twice: an objective of one's own that inherits the formula of what it derives from."""

    def loss(self, batch):
        first, again = super().loss(batch).terms["mlm"], self.backbone(**batch["inputs"]).positions
        return Loss({"mlm": first._replace(total=first.total + 0.0 * again.sum())})


class Counted(Twice):
    """With a formula of its own."""

    passes = 2.0

    def loss(self, batch):
        return super().loss(batch)

    def forward_flops(self, row):
        return self.passes * self.backbone.forward_flops(row) + row.target_positions * self.head.flops()


class Miscounted(Counted):
    """And with a wrong one."""

    passes = 1.0


def own(kind, impl="transformers"):
    config = compose(["objective=masked_language", "backbone=modernbert_tiny", f"backbone.impl={impl}"])
    backbone = instantiate(config.backbone, vocab_size=VOCABULARY, pad_id=0)
    return kind(backbone=backbone, optimizer=instantiate(config.optimizer)).train()


def own_parts(objective):
    counter = formula_of(objective)
    flops = None if counter is None else counter(rows_without_padding("masked_language")[1])
    parts = parts_of("masked_language", objective, flops)
    parts.data.modality = TEXT
    return parts


def test_an_objective_that_computes_more_than_what_it_derives_from_is_measured():
    """It was taken to cost what its parent does: one pass of two, so an equal budget bought it twice as much."""
    alone, more, settings = own(MaskedLanguage), own(Twice), TrainerSettings(max_steps=1)
    assert formula_of(alone) is not None and formula_of(more) is None
    _, row = rows_without_padding("masked_language")
    expected = 3 * (2 * alone.backbone.forward_flops(row) + row.target_positions * alone.head.flops())
    assert row_flops(own_parts(more), settings) == pytest.approx(expected, rel=0.1)
    assert row_flops(own_parts(own(Counted)), settings) == pytest.approx(expected), "its own formula counts"


@pytest.mark.parametrize("impl", ["transformers", "fast"])
def test_a_formula_that_is_off_by_more_than_a_tenth_buys_no_steps(impl):
    settings, budget = TrainerSettings(max_steps=1), {"flops": 1e15, "steps": None}
    wrong = own_parts(own(Miscounted, impl))
    with pytest.raises(RunError, match=r"Miscounted.forward_flops says .* FLOP per row, but .* are measured: mend it"):
        affordable_steps(budget, settings, wrong)
    assert affordable_steps({"steps": 7}, settings, wrong) == 7, "there it is not asked"
    assert affordable_steps(budget, settings, own_parts(own(Counted, impl))) > 1
