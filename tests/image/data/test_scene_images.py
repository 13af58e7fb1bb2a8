"""Scenes as images alone: those of the pairs, and made anew in the same way each time."""

import numpy as np
import pytest

from pretraining.image.data.scene_images import SceneImages
from pretraining.image.data.scenes import DigitScenes


def made(**changes):
    settings = {"size": 32, "least": 1, "most": 4, "scenes": 20, "held_out": 10, "cache_dir": "unused"}
    return SceneImages(**(settings | {"batch_size": 4, "eval_batch_size": 4, "workers": 0} | changes))


def test_they_are_the_scenes_of_the_pairs():
    rows = np.array([7, 0, 7])
    for split, count in (("train", 20), ("validation", 10), ("test", 10)):
        source = made().source(split)
        read = source.read(3, rows)
        expected = np.stack([scene.image for scene in DigitScenes(size=32).draw(split, rows)])
        np.testing.assert_array_equal(read.images, expected)
        assert source.count(0) == count and read.labels is None
        assert made().split(split).images.shape == (count, 3, 32, 32) and len(made().split(split).images) == count


def test_settings_name_them_and_bad_ones_are_refused():
    assert made().fingerprint() == made().fingerprint() != made(scenes=21).fingerprint()
    with pytest.raises(ValueError, match="too small to read digits in"):
        made(size=16)
    with pytest.raises(ValueError, match="split 'dev' is unknown"):
        made().split("dev")
