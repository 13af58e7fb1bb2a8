"""Pixels are what a viewer shows: deep greys, real numbers, turned photos and transparency; and folders as they are."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pretraining.image.data.decode import Decoding, decode, pixels
from pretraining.image.data.files import HubImages, ImageFolder
from pretraining.image.data.tables import read_parquet
from tests.image.data.test_images import noise, png, settings

GREY, COLOUR = Decoding(channels=1, size=None), Decoding(channels=3, size=None)


def encoded(image: Image.Image, kind="png", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bits_of_grey_are_scaled_not_clipped(kind):
    levels = np.array([[0, 256, 32896], [65535, 10000, 257]], np.uint16)
    expected = (levels.astype(float) / 257).round()
    grey = decode(encoded(Image.fromarray(levels), kind), "a", GREY)
    assert np.abs(grey[0] - expected).max() <= 1 and grey.max() == 255
    assert np.array_equal(decode(encoded(Image.fromarray(levels), kind), "a", COLOUR), grey.repeat(3, 0))


def test_real_numbers_from_zero_to_one_are_shown_and_others_refused():
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    found = decode(encoded(Image.fromarray(values), "tiff"), "a", GREY)
    assert np.array_equal(found[0], (values * 255).round().astype(np.uint8))
    for wrong in (values * 4000, values - 3, values * np.nan):
        with pytest.raises(ValueError, match=r"a.tif .*real numbers"):
            decode(encoded(Image.fromarray(wrong), "tiff"), "a.tif", GREY)


def test_photos_are_turned_as_their_camera_says():
    pixels = noise(0, (6, 8, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode(encoded(Image.fromarray(pixels), "png", exif=exif), "a", COLOUR)
    assert np.array_equal(turned, np.rot90(pixels, -1).transpose(2, 0, 1))


@pytest.mark.parametrize("decoding", [GREY, COLOUR])
def test_what_is_transparent_is_white_and_what_is_opaque_is_as_before(decoding):
    pixels = noise(1, (4, 4, 4))
    pixels[..., 3] = 255
    opaque = decode(encoded(Image.fromarray(pixels)), "a", decoding)
    assert np.array_equal(opaque, decode(png(pixels[..., :3]), "a", decoding))
    pixels[:2, :, 3] = 0
    shown = decode(encoded(Image.fromarray(pixels)), "a", decoding)
    assert (shown[:, :2] == 255).all() and np.array_equal(shown[:, 2:], opaque[:, 2:])


def test_a_bomb_and_damaged_headers_are_one_line(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match="a is not a readable image"):
        decode(png(noise(0, (50, 50, 3))), "a", COLOUR)
    monkeypatch.undo()
    whole = {
        kind: encoded(Image.fromarray(noise(0, (20, 20, 3))), kind) for kind in ("png", "jpeg", "tiff", "gif", "bmp")
    }
    generator, refused = np.random.default_rng(0), 0
    for kind, content in whole.items():
        for _ in range(60):
            damaged = bytearray(content)
            for place in generator.integers(0, min(len(content), 200), 6):
                damaged[place] = generator.integers(256)
            try:
                decode(bytes(damaged[: generator.integers(10, len(content))]), kind, COLOUR)
            except ValueError as error:
                refused += 1
                assert "is not a readable image" in str(error) and "\n" not in str(error)
    assert refused > 100


def folder(root, *classes, count=10, side=4):
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(count):
            (root / name / f"{index}.png").write_bytes(png(noise(100 * number + index, (side, side, 3))))
    return root


def test_linked_class_folders_are_followed_and_hidden_ones_skipped(tmp_path, capfd):
    folder(tmp_path / "elsewhere", "cat", "dog")
    folder(tmp_path / "data", "eel", "__MACOSX", ".ipynb_checkpoints", count=10)
    (tmp_path / "data" / "eel" / "._0.png").write_bytes(b"no image")
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    (tmp_path / "data" / "gone").symlink_to(tmp_path / "nowhere")
    data = ImageFolder(path=str(tmp_path / "data"), decoding=COLOUR, **settings(tmp_path))
    assert data.tables["train"].class_names == ("cat", "eel") and len(data.tables["train"].encoded) == 20
    said = capfd.readouterr().err
    assert "3 hidden" in said and "1 broken link" in said
    (tmp_path / "data" / "cat" / "loop").symlink_to(tmp_path / "elsewhere" / "cat")
    with pytest.raises(ValueError, match="links back"):
        ImageFolder(path=str(tmp_path / "data"), decoding=COLOUR, **settings(tmp_path))


def table(path, cells, labels=None):
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": cells, "label": labels or [0, 1] * (len(cells) // 2)}), path)
    return path.parent


def hub(directory, tmp_path, **changes):
    names = {"name": str(directory), "image": "image", "label": "label"} | changes
    return HubImages(decoding=COLOUR, **names, **settings(tmp_path))


def test_text_in_an_image_column_and_null_images_are_named(tmp_path):
    good = {"bytes": png(noise(0, (4, 4, 3))), "path": None}
    with pytest.raises(ValueError, match=r"image.*text.*encoded"):
        hub(table(tmp_path / "a" / "train.parquet", ["photos/1.png"] * 20), tmp_path).split("train")
    with pytest.raises(ValueError, match=r"image 3 of .*train.* is null"):
        hub(table(tmp_path / "b" / "train.parquet", [good] * 3 + [None] + [good] * 16), tmp_path).split("train")
    with pytest.raises(ValueError, match=r"label.*row 3|image 3 of .*label"):
        hub(table(tmp_path / "c" / "train.parquet", [good] * 20, [0, 1, 0, None] * 5), tmp_path).split("train")


def test_a_folder_of_save_to_disk_is_read(tmp_path):
    import datasets

    pictures = [Image.fromarray(noise(row, (4, 4, 3))) for row in range(20)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])})
    whole = datasets.Dataset.from_dict({"image": pictures, "label": [0, 1] * 10}, features=features)
    datasets.DatasetDict({"Train": whole, "test": whole.select(range(4))}).save_to_disk(str(tmp_path / "saved"))
    data = hub(tmp_path / "saved", tmp_path)
    assert len(data.split("test").images) == 4 and data.split("train").class_names == ("no", "yes")
    assert np.array_equal(data.split("test").images[1], noise(1, (4, 4, 3)).transpose(2, 0, 1))
    with pytest.raises(ValueError, match=r"configuration|data.name="):
        hub(f"{tmp_path / 'a'}:other", tmp_path)


def test_small_images_that_would_be_enlarged_are_said_with_settings_that_fit(tmp_path, capfd):
    grey = [Image.fromarray(noise(row, (28, 28))).convert("RGB") for row in range(20)]
    (tmp_path / "data" / "a").mkdir(parents=True)
    for row, image in enumerate(grey):
        (tmp_path / "data" / "a" / f"{row}.png").write_bytes(encoded(image))
    data = ImageFolder(path=str(tmp_path / "data"), decoding=Decoding(size=64), **settings(tmp_path))
    data.split("train")
    said = capfd.readouterr().err
    assert "28 x 28" in said and "data.decoding.size=28" in said and "preprocess.channels=1" in said
    assert "preprocess.mean=[0.49" in said and "stem=cifar" in said


def test_a_null_image_of_a_table_and_a_list_of_folders_are_one_line(tmp_path):
    good = {"bytes": png(noise(0, (4, 4, 3))), "path": None}
    path = table(tmp_path / "a" / "train.parquet", [good] * 3 + [None] + [good] * 16) / "train.parquet"
    images = read_parquet({"train": [path]}, image="image", label="label")["train"]
    with pytest.raises(ValueError, match=r"train\.parquet, row 3 is null"):
        pixels(images.encoded, COLOUR, cache_dir=tmp_path, identity=images.identity)
    with pytest.raises(ValueError, match="give one folder"):
        ImageFolder(path=["a", "b"], decoding=COLOUR, **settings(tmp_path))
