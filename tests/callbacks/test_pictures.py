"""Pictures of a run: points where they belong, in the colours of their classes."""

import math

import torch
from PIL import Image

from pretraining.callbacks.pictures import LEGEND, SIDE, draw_points, principal_axes
from pretraining.runs.wandb_logger import Tracked, WandbHistory


def test_the_axes_are_those_of_largest_variance():
    """Unit vectors that lean by a up and down, half as far to the sides: coordinates are sin(a) and sin(a / 2)."""
    a = 0.2
    up, side = (
        [[math.cos(t), math.sin(t), 0.0] for t in (a, -a)],
        [[math.cos(t), 0.0, math.sin(t)] for t in (a / 2, -a / 2)],
    )
    places = principal_axes(torch.tensor([*up, *side]) * 7.0)  # the length does not matter
    wanted = [[math.sin(a), 0], [-math.sin(a), 0], [0, math.sin(a / 2)], [0, -math.sin(a / 2)]]
    assert torch.allclose(places, torch.tensor(wanted, dtype=torch.float64), atol=1e-6)


def test_points_have_the_colour_of_their_class_and_the_legend_names_it(tmp_path):
    places = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    draw_points(places, torch.tensor([0, 0, 1, 1]), ("cat", "dog"), tmp_path / "points.png")
    picture = Image.open(tmp_path / "points.png")
    assert picture.size == (SIDE + LEGEND, SIDE)
    lower_left, upper_right, upper_left, lower_right = (
        picture.getpixel(place) for place in ((16, 624), (624, 16), (16, 16), (624, 624))
    )
    assert lower_left == upper_right == picture.getpixel((SIDE + 4, 20)) != (255, 255, 255)
    assert upper_left == lower_right == picture.getpixel((SIDE + 4, 36)) != lower_left


def test_points_without_labels_have_one_colour_and_no_legend(tmp_path):
    draw_points(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), None, (), tmp_path / "points.png")
    picture = Image.open(tmp_path / "points.png")
    assert picture.size == (SIDE, SIDE) and picture.getpixel((16, 624)) == picture.getpixel((624, 16))


def test_wandb_gets_the_pictures_in_the_row_of_the_last_step(tmp_path, monkeypatch):
    draw_points(torch.eye(2), None, (), tmp_path / "points.png")
    sent = []
    run = type("Run", (), {"log": lambda self, row: sent.append(row)})()
    monkeypatch.setattr(WandbHistory, "experiment", run)
    tracked = Tracked(project="p", name=None, group=None, job_type="pretrain", tags=[])
    history = WandbHistory(tmp_path, tracked=tracked, mode="offline", patience=1, upload_bytes=1)
    history.log_metrics({"probe/knn_accuracy": 0.5}, 9)
    history.log_pictures({"pictures/embeddings": tmp_path / "points.png"}, 9)
    history.save()
    (row,) = sent
    assert (
        row["step"] == 9 and row["probe/knn_accuracy"] == 0.5 and type(row["pictures/embeddings"]).__name__ == "Image"
    )
