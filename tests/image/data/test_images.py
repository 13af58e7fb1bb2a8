"""Image data: what is served, what is cached, and what bad input says."""

import io
import multiprocessing
import time

import numpy as np
import pytest
from PIL import Image

from pretraining.data.splits import stratified
from pretraining.image.data.base import ImageSource
from pretraining.image.data.builtin import CIFAR10_CLASSES, Cifar10, Digits
from pretraining.image.data.decode import Decoding
from pretraining.image.data.files import HubImages, ImageFolder


def settings(tmp_path, **changes):
    return {"batch_size": 4, "eval_batch_size": 4, "workers": 0, "cache_dir": str(tmp_path / "cache")} | changes


def noise(seed: int, shape=(12, 12, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def folder(tmp_path, per_class=20, classes=("cat", "dog"), shape=(12, 12, 3)):
    for number, name in enumerate(classes):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(per_class):
            (tmp_path / "images" / name / f"{index:03d}.png").write_bytes(png(noise(1000 * number + index, shape)))
    return tmp_path / "images"


def parquet(path, images, labels, column="image"):
    import pyarrow
    import pyarrow.parquet

    cells = [{"bytes": png(image), "path": None} for image in images]
    pyarrow.parquet.write_table(pyarrow.table({column: cells, "label": labels}), path)


# -- digits ------------------------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_and_their_splits_partition_them(tmp_path):
    from sklearn.datasets import load_digits

    data = Digits(**settings(tmp_path))
    parts = [data.split(split) for split in ("train", "validation", "test")]
    assert [len(part.images) for part in parts] == [1259, 179, 359]
    ours = np.sort(np.concatenate([part.images.reshape(-1, 64) for part in parts]), axis=0)
    theirs = np.sort(np.round(load_digits().data * 255 / 16).astype(np.uint8), axis=0)
    assert np.array_equal(ours, theirs)
    for part in parts:
        share = np.bincount(part.labels) / len(part.labels)
        assert np.abs(share - np.bincount(load_digits().target) / 1797).max() < 0.01


def test_digits_stay_in_their_split(tmp_path):
    first, second = (Digits(**settings(tmp_path, batch_size=size)).split("test") for size in (4, 64))
    assert np.array_equal(first.images, second.images)
    assert Digits(**settings(tmp_path)).fingerprint() == Digits(**settings(tmp_path)).fingerprint()


def test_a_source_gives_the_rows_that_were_asked_for(tmp_path):
    split = Digits(**settings(tmp_path)).split("train")
    examples = ImageSource(split).read(3, np.array([5, 0, 5]))
    assert np.array_equal(examples.images, split.images[[5, 0, 5]]) and np.array_equal(
        examples.labels, split.labels[[5, 0, 5]]
    )
    assert examples.images.dtype == np.uint8 and examples.labels.dtype == np.int64


def test_a_batch_larger_than_the_training_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"lower data.batch_size"):
        Digits(**settings(tmp_path, batch_size=2000)).source("train")


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="choose train, validation, test"):
        Digits(**settings(tmp_path)).split("valid")


def test_stratified_splits_keep_each_class_in_its_share():
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    parts = stratified(labels, validation_share=0.1, test_share=0.2)
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(160))
    assert np.bincount(labels[parts["test"]]).tolist() == [20, 10, 2]
    assert np.bincount(labels[parts["validation"]]).tolist() == [10, 5, 1]
    other = stratified(labels, validation_share=0.1, test_share=0.2, seed=1)
    assert not np.array_equal(parts["test"], other["test"])


# -- CIFAR-10 ----------------------------------------------------------------------------------------------------------


def cifar_arrays(count, seed):
    return [noise(seed + row, (32, 32, 3)) for row in range(count)], [row % 10 for row in range(count)]


def test_cifar10_in_parquet_and_in_binary_are_the_same(tmp_path):
    for part, count, seed in (("train", 100, 0), ("test", 20, 500)):
        images, labels = cifar_arrays(count, seed)
        parquet(tmp_path / f"{part}.parquet", images, labels)
        records = b"".join(
            bytes([label]) + image.transpose(2, 0, 1).tobytes() for image, label in zip(images, labels, strict=True)
        )
        (tmp_path / "binary").mkdir(exist_ok=True)
        (tmp_path / "binary" / ("data_batch_1.bin" if part == "train" else "test_batch.bin")).write_bytes(records)
    tables, binary = (Cifar10(path=str(path), **settings(tmp_path)) for path in (tmp_path, tmp_path / "binary"))
    for split in ("train", "validation", "test"):
        first, second = tables.split(split), binary.split(split)
        assert np.array_equal(first.images, second.images) and np.array_equal(first.labels, second.labels)
    assert tables.split("train").class_names == CIFAR10_CLASSES
    original = cifar_arrays(20, 500)[0][7].transpose(2, 0, 1)
    assert np.array_equal(tables.split("test").images[7], original)


def test_a_folder_without_cifar10_says_what_it_should_hold(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"set data.path"):
        Cifar10(path=str(tmp_path / "absent"), **settings(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"test_batch.bin"):
        Cifar10(path=str(tmp_path), **settings(tmp_path))


def test_a_truncated_binary_file_is_named(tmp_path):
    for name in ("data_batch_1.bin", "test_batch.bin"):
        (tmp_path / name).write_bytes(b"x" * 3000)
    with pytest.raises(ValueError, match=r"data_batch_1.bin.*3000 bytes"):
        Cifar10(path=str(tmp_path), **settings(tmp_path)).split("train")


def test_a_truncated_parquet_file_is_named(tmp_path):
    for part in ("train", "test"):
        (tmp_path / f"{part}.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ValueError, match=r"train.parquet cannot be read as parquet"):
        Cifar10(path=str(tmp_path), **settings(tmp_path)).split("train")


def test_a_missing_column_is_named_with_those_there_are(tmp_path):
    for part in ("train", "test"):
        parquet(tmp_path / f"{part}.parquet", *cifar_arrays(4, 0), column="picture")
    with pytest.raises(ValueError, match="no column 'image', only picture, label"):
        Cifar10(path=str(tmp_path), **settings(tmp_path)).split("train")


# -- folders -----------------------------------------------------------------------------------------------------------


def test_a_folder_of_classes_is_split_and_served_pixel_for_pixel(tmp_path):
    data = ImageFolder(path=str(folder(tmp_path)), decoding=Decoding(size=None), **settings(tmp_path))
    parts = {split: data.split(split) for split in ("train", "validation", "test")}
    assert {split: len(part.images) for split, part in parts.items()} == {"train": 32, "validation": 4, "test": 4}
    every = {image.tobytes() for part in parts.values() for image in np.asarray(part.images)}
    originals = {noise(1000 * number + index).transpose(2, 0, 1).tobytes() for number in (0, 1) for index in range(20)}
    assert every == originals
    assert parts["train"].class_names == ("cat", "dog") and isinstance(parts["train"].images, np.memmap)


def test_splits_that_exist_are_taken_as_they_are(tmp_path):
    source = folder(tmp_path)
    for split in ("train", "val", "test"):
        (tmp_path / "split").mkdir(exist_ok=True)
        (tmp_path / "split" / split).symlink_to(source)
    data = ImageFolder(path=str(tmp_path / "split"), decoding=Decoding(size=None), **settings(tmp_path))
    assert all(len(data.split(split).images) == 40 for split in ("train", "validation", "test"))


def test_images_without_classes_have_no_labels(tmp_path):
    source = folder(tmp_path) / "cat"
    split = ImageFolder(path=str(source), decoding=Decoding(size=None), **settings(tmp_path)).split("train")
    assert split.labels is None and len(split.images) == 16


@pytest.mark.parametrize("max_cache_gb", [1.0, 0.0])
def test_images_of_many_sizes_come_to_one_or_are_refused(tmp_path, max_cache_gb):
    source = folder(tmp_path)
    (source / "cat" / "005.png").write_bytes(png(noise(9, (24, 30, 3))))
    sized = ImageFolder(path=str(source), decoding=Decoding(size=10, max_cache_gb=max_cache_gb), **settings(tmp_path))
    train = sized.split("train")
    assert train.images.shape == (32, 3, 10, 10)
    assert train.images[np.arange(32)].shape == (32, 3, 10, 10)
    unsized = ImageFolder(
        path=str(source), decoding=Decoding(size=None, max_cache_gb=max_cache_gb), **settings(tmp_path)
    )
    with pytest.raises(ValueError, match=r"005.png has 24 x 30.*set data.decoding.size .*such as \d+ here"):
        for split in ("train", "validation", "test"):
            opened = unsized.split(split).images
            opened[np.arange(len(opened))]


def test_decoding_on_demand_gives_the_cached_pixels(tmp_path):
    source = str(folder(tmp_path))
    cached, lazy = (
        ImageFolder(path=source, decoding=Decoding(size=8, max_cache_gb=limit), **settings(tmp_path / str(limit)))
        .split("train")
        .images
        for limit in (1.0, 0.0)
    )
    assert isinstance(cached, np.memmap) and not isinstance(lazy, np.ndarray)
    rows = np.array([3, 0, 31])
    assert np.array_equal(cached[rows], lazy[rows])


def test_a_corrupt_image_is_named_and_leaves_no_cache_behind(tmp_path):
    source = folder(tmp_path)
    for index in range(20):
        path = source / "dog" / f"{index:03d}.png"
        path.write_bytes(path.read_bytes()[:200])
    data = ImageFolder(path=str(source), decoding=Decoding(size=None), **settings(tmp_path))
    with pytest.raises(ValueError, match=r"dog/\d+.png is not a readable image"):
        data.split("train")
    assert not list((tmp_path / "cache").rglob("pixels/*/images.npy")) or all(
        path.parent.name.endswith(".partial") for path in (tmp_path / "cache").rglob("images.npy")
    )


def test_changed_images_are_decoded_again(tmp_path):
    source = folder(tmp_path)
    first = ImageFolder(path=str(source), decoding=Decoding(size=None), **settings(tmp_path))
    before, identity = np.array(first.split("train").images), first.fingerprint()
    for path in source.rglob("*.png"):
        path.write_bytes(png(noise(77)))
    second = ImageFolder(path=str(source), decoding=Decoding(size=None), **settings(tmp_path))
    assert second.fingerprint() != identity and not np.array_equal(before, second.split("train").images)


def test_a_path_that_is_missing_or_empty_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent does not exist"):
        ImageFolder(path=str(tmp_path / "absent"), decoding=Decoding(size=None), **settings(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no image in"):
        ImageFolder(path=str(tmp_path / "empty"), decoding=Decoding(size=None), **settings(tmp_path))


def test_a_file_outside_of_the_class_folders_is_named(tmp_path):
    source = folder(tmp_path)
    (source / "stray.png").write_bytes(png(noise(1)))
    with pytest.raises(ValueError, match=r"stray.png lies in none of the class folders cat, dog"):
        ImageFolder(path=str(source), decoding=Decoding(size=None), **settings(tmp_path))


def _open(path, cache, queue):
    data = ImageFolder(
        path=path, decoding=Decoding(size=None), batch_size=4, eval_batch_size=4, workers=0, cache_dir=cache
    )
    queue.put(int(np.asarray(data.split("train").images).astype(np.int64).sum()))


def test_two_processes_that_build_the_cache_at_once_get_the_same(tmp_path):
    source = str(folder(tmp_path, per_class=60))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_open, args=(source, str(tmp_path / "cache"), queue)) for _ in range(2)]
    for process in processes:
        process.start()
    sums = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    assert sums[0] == sums[1]
    started = time.perf_counter()
    _open(source, str(tmp_path / "cache"), queue)
    assert queue.get(timeout=60) == sums[0] and time.perf_counter() - started < 10


# -- hub ---------------------------------------------------------------------------------------------------------------


def test_a_local_directory_of_parquet_loads_as_hub_images(tmp_path):
    images, labels = cifar_arrays(100, 0)
    (tmp_path / "set").mkdir()
    parquet(tmp_path / "set" / "train.parquet", images, labels)
    parquet(tmp_path / "set" / "test.parquet", images[:10], labels[:10])
    data = HubImages(
        name=str(tmp_path / "set"), image="image", label="label", decoding=Decoding(size=None), **settings(tmp_path)
    )
    test = data.split("test")
    assert np.array_equal(test.images[3], images[3].transpose(2, 0, 1)) and test.labels.tolist() == labels[:10]
    assert len(data.split("train").images) + len(data.split("validation").images) == 100
    with pytest.raises(ValueError, match=r"no column 'picture', only image, label.*data.image"):
        HubImages(
            name=str(tmp_path / "set"), image="picture", label=None, decoding=Decoding(size=None), **settings(tmp_path)
        )


def test_a_data_set_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ValueError, match="cannot be loaded"):
        HubImages(
            name=str(tmp_path / "absent"), image="image", label=None, decoding=Decoding(size=None), **settings(tmp_path)
        )
