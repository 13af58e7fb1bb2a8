"""The classical reference learns from a run's own labels, and each modality says what it reads."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from experiments.classical import STRENGTHS, fit_and_test
from finetuning.data.splits import subset
from finetuning.inputs.image import hog
from finetuning.launch import compose
from pretraining.audio.spectrum import mfcc
from pretraining.cli.configuration import instantiate
from tests.finetuning.conftest import texts, write

PLACE = ["handoff=none", "run_dir=none", "seed=1"]


def split(directory: Path, count: int) -> Path:
    for seed, name in enumerate(("train", "validation", "test")):
        write(directory / f"{name}.parquet", texts(count, seed))
    return directory


def test_topics_are_told_apart_by_the_labels_that_the_run_has(tmp_path: Path) -> None:
    given = ["task=text_classification", f"data.path={split(tmp_path / 'd', 60)}", *PLACE]
    few, more = (fit_and_test([*given, f"shots={shots}"]) for shots in (1, 20))
    assert few is not None and more is not None and few[0] == "TF-IDF + linear"
    assert 0.6 < more[1]["test/accuracy"] <= 1 and few[1]["test/accuracy"] < more[1]["test/accuracy"]
    assert set(more[1]) >= {"test/accuracy", "test/mcc", "test/f1_macro"}
    splits = instantiate(compose(given).data).splits()
    train = subset(splits.train, fraction=None, shots=1, seed=1)  # the very examples that the run finetunes on
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)).fit(train.column("text"))
    read = {name: words.transform(part.column("text")) for name, part in (("train", train), ("test", splits.test))}
    accuracies = [
        LogisticRegression(C=strength, max_iter=2000)
        .fit(read["train"], train.column("label"))
        .score(read["test"], splits.test.column("label"))
        for strength in STRENGTHS
    ]
    assert few[1]["test/accuracy"] in accuracies
    other = fit_and_test([*given[:-1], "seed=2", "shots=1"])
    assert other is not None and other[1] != few[1]  # other labels


def test_the_reference_of_regression_is_scikit_learn_s_best_on_validation(tmp_path: Path) -> None:
    tables = {}
    for seed, name in enumerate(("train", "validation", "test")):
        table = texts(50, seed)
        tables[name] = (table["text"], [float(text.count("a")) + 0.1 * len(text) for text in table["text"]])
        write(tmp_path / "d" / f"{name}.parquet", {"text": tables[name][0], "label": tables[name][1]})
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)).fit(tables["train"][0])
    scored = []
    for strength in STRENGTHS:
        model = Ridge(alpha=1 / strength).fit(words.transform(tables["train"][0]), tables["train"][1])
        pair = [
            stats.pearsonr(tables[name][1], model.predict(words.transform(tables[name][0])))[0]
            for name in ("validation", "test")
        ]
        scored.append(pair)
    found = fit_and_test(["task=text_regression", f"data.path={tmp_path / 'd'}", *PLACE])
    assert found is not None and found[1]["test/pearson"] == pytest.approx(max(scored)[1])


def test_images_are_told_apart_by_their_edges() -> None:
    config = compose(["task=digits", *PLACE])
    splits = instantiate(config.data).splits()
    found = fit_and_test(["task=digits", "shots=20", *PLACE])
    assert found is not None and found[0] == "HOG + linear" and found[1]["test/accuracy"] > 0.9
    pixels = {name: np.stack(getattr(splits, name).column("image")) for name in ("train", "test")}
    flat = {name: images.reshape(len(images), -1) / 255 for name, images in pixels.items()}
    model = LogisticRegression(max_iter=2000).fit(flat["train"], splits.train.column("label"))
    ceiling = model.score(flat["test"], splits.test.column("label"))
    assert found[1]["test/accuracy"] < ceiling + 0.05  # with all labels


def test_histograms_of_gradients_follow_their_definition() -> None:
    ramp = np.broadcast_to(np.arange(16, dtype=np.uint8) * 10, (3, 16, 16))  # brightness grows to the right
    brightness, edges = hog(ramp)[:64].reshape(8, 8), hog(ramp)[64:].reshape(8, 8, 4, 9)
    assert brightness == pytest.approx(np.broadcast_to((np.arange(8) * 2 + 0.5) * 10 / 255, (8, 8)))
    slope = 10 / 255
    norm = np.sqrt(4 * slope**2 + 1e-3)
    assert edges[..., 0] == pytest.approx(np.full((8, 8, 4), min(slope / norm, 0.2)))
    assert not edges[..., 1:].any()
    turned = hog(ramp.transpose(0, 2, 1))[64:].reshape(8, 8, 4, 9)
    assert np.array_equal(turned.argmax(-1), np.full((8, 8, 4), 4))  # a right angle, of nine bins over two
    assert hog(np.zeros((1, 5, 7), np.uint8)).shape == (5 * 7 * (1 + 4 * 9),)  # fewer pixels than cells


def test_tasks_and_modalities_without_one_have_none(tmp_path: Path) -> None:
    table = {"tokens": [["a", "b"]] * 9, "tags": [["X", "Y"]] * 9}
    write(tmp_path / "d" / "train.parquet", table)
    assert fit_and_test(["task=tagging", f"data.path={tmp_path / 'd'}", *PLACE]) is None
    search = f"hydra.searchpath=[file://{Path(__file__).parents[1] / 'new_modality' / 'conf'}]"
    found = fit_and_test([search, "task=frequency", *PLACE])
    assert found is not None and found[0] == "spectrum + linear" and found[1]["test/accuracy"] > 0.9


def test_recordings_are_told_apart_by_their_cepstra() -> None:
    """Mean and deviation of MFCC at 16 kHz, whatever the task; transcripts have no such reference."""
    given = ["task=spoken_keywords", "data.size=60", *PLACE]
    config = compose(given)
    splits = instantiate(config.data).splits()
    features = instantiate(config.task.inputs).classical(splits.train)
    clip = splits.test.column("audio")[3]
    frames = mfcc(clip.samples(16_000) / 32768, 16_000)
    read = features.of(splits.test)
    np.testing.assert_allclose(read[3], [*frames.mean(0), *frames.std(0)])
    found = fit_and_test(given)
    assert found is not None and found[0] == "MFCC + linear" and 0.3 < found[1]["test/accuracy"] <= 1
    assert fit_and_test(["task=spoken_letters", "data.size=8", *PLACE]) is None
