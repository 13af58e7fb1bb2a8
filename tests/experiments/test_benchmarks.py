"""Sides of benchmarks take a step of what they say: this package's of every method, lightly's where it is installed."""

import importlib.util

import numpy as np
import pytest

from experiments.benchmarks import embed_texts, joint_sides, joint_step, simclr_sides
from experiments.benchmarks.turns import Over

SETTING = simclr_sides.Setting(batch=4, device="cpu", threads=1, workers=0)


class Once:
    """A turn that ends with its first step."""

    def tell(self, facts):
        self.facts = facts

    def step(self, units, loss=None):
        self.units = units
        raise Over


def step_of(work, *given):
    turn = Once()
    with pytest.raises(Over):
        work(*given, turn, SETTING)
    return turn


@pytest.mark.parametrize("method", joint_sides.METHODS)
def test_our_side_of_a_method_takes_a_step(method):
    turn = step_of(joint_sides.ours, method)
    assert turn.units == 4 and turn.facts == {"precision": "fp32", "channels_last": True, "winograd": False}


def test_our_side_of_simclr_takes_a_step():
    assert step_of(simclr_sides.ours).units == 4


@pytest.mark.skipif(not importlib.util.find_spec("lightly"), reason="an optional peer: pip install '.[bench]'")
@pytest.mark.parametrize("method", joint_sides.METHODS)
def test_lightly_s_side_of_a_method_takes_a_step_and_moves_its_teacher(method):
    assert step_of(joint_sides.lightly, method).units == 4


def test_our_side_of_embedding_tells_its_vectors_and_embeds_all_texts(monkeypatch, tmp_path):
    class Model:
        def embed(self, texts, batch_size):
            assert batch_size == 3
            return np.array([[float(len(text))] for text in texts])

    (tmp_path / "texts.json").write_text('["a", "bcd"]')
    monkeypatch.setattr("pretraining.load", lambda folder, **options: Model(), raising=False)
    setting = embed_texts.Setting("folder", str(tmp_path / "texts.json"), 5, "fp32", batch=3, threads=1)
    turn = Once()
    with pytest.raises(Over):
        embed_texts.ours(turn, setting)
    assert turn.units == 5 and turn.facts["vectors"].ravel().tolist() == [1, 3, 1, 3, 1]


def test_vectors_of_both_sides_are_compared_text_by_text(monkeypatch):
    monkeypatch.setattr(embed_texts, "WARM", 2)
    mine, theirs = np.array([[2.0, 0.0], [1.0, 1.0]]), np.array([[5.0, 0.0], [0.0, 3.0]])
    found = embed_texts.cosines({"ours_fp32": {"vectors": mine}, "peer": {"vectors": theirs}})
    assert found == {"cosine_fp32": pytest.approx(0.5**0.5, abs=1e-6), "cosine_others": 0.0}


def test_a_missing_peer_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr("sys.argv", ["joint_step", "--methods", "byol"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"lightly is not installed: pip install '\.\[bench\]'"):
        joint_step.main()


@pytest.mark.parametrize("method", joint_sides.METHODS)
def test_both_sides_of_a_method_have_heads_of_the_same_sizes(method, monkeypatch):
    pytest.importorskip("lightly", reason="an optional peer: pip install '.[bench]'")
    found = {}
    monkeypatch.setattr(joint_sides, "train_peer", lambda turn, network, *rest: found.update(theirs=network))
    monkeypatch.setattr(joint_sides, "train_ours", lambda turn, setting, objective, **parts: found.update(ours=parts))
    for side in (joint_sides.ours, joint_sides.lightly):
        side(method, Once(), SETTING)
    heads = [(name, width) for name, width in (("projector", 512), ("predictor", 256)) if name in found["ours"]]
    ours = [shape for name, width in heads for shape in matrices(found["ours"][name].build(width))]
    prototypes = [(joint_sides.PROTOTYPES, 1), (joint_sides.PROTOTYPES, 256)] if method == "dino" else []
    student = getattr(found["theirs"], "student", found["theirs"])
    predictor = getattr(found["theirs"], "predictor", None)
    theirs = matrices(student) + (matrices(predictor) if predictor is not None else [])
    assert sorted(theirs) == sorted([*ours, *prototypes])


def matrices(module):
    return [tuple(parameter.shape) for parameter in module.parameters() if parameter.ndim == 2]
