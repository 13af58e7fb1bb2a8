"""Two ranks take the step of one process, with every objective on audio, however many rows each has; each leaves the
same layer out.
"""

from pretraining.audio.backbones.layerdrop import drawn_layers
from tests.objectives.audio.small_audio import batch_of, codebook, data2vec, masked_units, wav2vec2
from tests.one_step import assert_same_gradient, gradient_of
from tests.ranks import in_ranks, start_group

OBJECTIVES = {"wav2vec2": wav2vec2, "masked_units": masked_units, "data2vec": data2vec}
LAYERDROP = 0.15


def dropping(made):
    model = made()
    model.backbone.layerdrop = LAYERDROP
    return model


def batches(rows):
    return [batch_of(part, codebook=codebook()) for part in rows]


def on_rank(rank, world, path):
    start_group(rank, world)
    mine = [(0, 1, 2), (3, 4), (5,), (6, 7)][2 * rank : 2 * rank + 2]
    return {
        name: gradient_of(dropping(made), batches(mine), path, rank=rank, world=world)
        for name, made in OBJECTIVES.items()
    }


def test_two_ranks_with_two_micro_batches_take_the_same_step(tmp_path):
    assert len(drawn_layers(5, 0, 2, LAYERDROP)) == 1  # of the first step under the seed of `gradient_of`
    whole = {name: gradient_of(dropping(made), batches([range(8)]), tmp_path) for name, made in OBJECTIVES.items()}
    for gradients in in_ranks(on_rank, 2, tmp_path):
        for name, expected in whole.items():
            assert_same_gradient(expected, gradients[name])
