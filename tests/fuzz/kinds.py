"""Every kind of data that the product reads, made up small, with a command that reads it in no time."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from PIL import Image

from pretraining.audio.data.letters import spoken
from tests.finetuning.dense.made_up import write_coco, write_maps, write_voc
from tests.fuzz import ONE_STEP, QUIET

BERT = ["hidden_size=16", "num_hidden_layers=1", "num_attention_heads=2", "intermediate_size=16"]
VIT = "{image_size: 8, patch_size: 4, num_layers: 1, num_heads: 2, hidden_dim: 16, mlp_dim: 16}"
TEXTS = ["objective=masked_language", "data=text_files", "data.max_tokens=16", "data.preparation.workers=1"]
TEXTS += ["preprocess.vocab_size=100", "backbone=bert_tiny", *(f"backbone.config.{word}" for word in BERT)]
PAIRS = ["objective=clip", "data=image_text", "objective.width=8", f"backbone.towers.image.options={VIT}"]
PAIRS += ["preprocess.sides.image.size=8", *(f"backbone.towers.text.config.{word}" for word in BERT)]
PAIRS += ["preprocess.sides.text.vocab_size=100"]
SOUNDS = ["objective=masked_units", "data=audio_folder", "data.max_seconds=2.0", "backbone=log_mel_tiny"]
SOUNDS += ["backbone.encoder.hidden_size=16", "backbone.encoder.num_hidden_layers=1", "collate.span=5"]
SOUNDS += ["backbone.encoder.intermediate_size=32", "backbone.encoder.conv_dim=[20,12,16]", "preprocess.units=4"]
SOUNDS += ["preprocess.sample_seconds=5", "objective.width=8"]
IMAGES = ["objective=simclr", "backbone=resnet_tiny", "backbone.width=4", "preprocess.size=8", "probe=none"]
IMAGES += ["augment=digits", "augment.crop.size=8"]
KNN = [*QUIET, "mode=knn", "mode.k=3", "save_model=false", "data.batch_size=8"]
HEAD = [*ONE_STEP, "save_model=false", "data.batch_size=2"]
ROWS = [(f"the quick brown fox number {row} jumps over a lazy dog", "ab"[row % 2]) for row in range(40)]
COUNT = 24


def columns(*names):
    return dict(zip(names, map(list, zip(*ROWS, strict=True)), strict=True))


def write_table(root, kind):
    """Write texts with a class each."""
    path = root / f"data.{kind}"
    if kind in ("csv", "tsv"):
        mark = {"csv": ",", "tsv": "\t"}[kind]
        path.write_text("".join(f"{text}{mark}{label}\n" for text, label in [("text", "label"), *ROWS]))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS))
    elif kind == "json":
        path.write_text(json.dumps([{"text": text, "label": label} for text, label in ROWS], indent=1))
    elif kind == "txt":
        path.write_text("\n\n".join(text for text, _ in ROWS))
    else:
        pq.write_table(pa.table(columns("text", "label")), path)
    return path


def picture(row, path):
    pixels = np.random.default_rng(row).integers(0, 255, (8, 8, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_folder(root):
    """Write pictures in folders of two classes."""
    for row in range(COUNT):
        picture(row, root / "ab"[row % 2] / f"{row}.{'png' if row % 4 < 2 else 'jpg'}")
    return root


def write_cells(root):
    """Write pictures into a table."""
    contents = [picture(row, root / "one.png").read_bytes() for row in range(COUNT)]
    (root / "one.png").unlink()
    cells = [{"bytes": content, "path": None} for content in contents]
    pq.write_table(pa.table({"image": cells, "label": [row % 2 for row in range(COUNT)]}), root / "train.parquet")
    return root


def write_captions(root):
    """Write pictures with captions."""
    names = [picture(row, root / "pictures" / f"{row}.png").relative_to(root) for row in range(COUNT)]
    rows = [{"image": str(name), "text": text} for name, (text, _) in zip(names, ROWS, strict=False)]
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def write_sounds(root, form):
    """Write recordings: alone, in folders of classes, with transcripts, or with a table."""
    rows, said = [], []
    root.mkdir(parents=True, exist_ok=True)
    for row in range(COUNT // 2):
        clip = spoken(3, "train", row, longest=1)
        name = f"{row}.{'wav' if row % 2 else 'flac'}"
        path = root / (f"{'ab'[row % 4 // 2]}/{name}" if form == "classes" else name)
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, clip.samples(8000), 8000)
        rows.append({"audio": name, "text": clip.text})
        said.append(f"{row} {clip.text.upper()}")
    if form == "table":
        (root / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if form == "transcripts":
        (root / "all.trans.txt").write_text("\n".join(said) + "\n")
    return root


def pretraining(words, batch=4):
    return "pretrain", [*words, *ONE_STEP, f"data.batch_size={batch}", "data.eval_batch_size=4"]


def finetuning(task, handoff, words):
    return "finetune", [f"task={task}", f"handoff={handoff}", *words]


def kinds_of(handoffs, cache):
    """Name all kinds: how each is written into a folder, and the root and words of a command that reads it."""
    kept = [f"data.cache_dir={cache}"]
    kinds = {
        f"{kind} to pretrain on": (lambda root, kind=kind: write_table(root, kind), *pretraining([*TEXTS, *kept], 2))
        for kind in ("txt", "csv", "tsv", "jsonl", "json", "parquet")
    }
    text = [*KNN, "task.inputs.max_tokens=16"]
    kinds |= {
        f"labelled {kind}": (
            lambda root, kind=kind: write_table(root, kind),
            *finetuning("text_classification", handoffs["text"], text),
        )
        for kind in ("csv", "tsv", "jsonl", "json", "parquet")
    }
    maps = ["data.files.image=images/*.png", "data.files.mask=annotations/*.png"]
    maps += ["data.class_names=[o,a,b,c,d,e,f,g,h,i,j]"]
    sizes = ["data.decoding.size=8", *kept]
    return kinds | {
        "pictures": (write_folder, *pretraining([*IMAGES, *sizes, "data=image_folder"])),
        "labelled pictures": (write_folder, *finetuning("image_classification", handoffs["image"], [*KNN, *sizes])),
        "pictures in a table": (write_cells, *finetuning("image_classification", handoffs["image"], [*KNN, *sizes])),
        "captions": (write_captions, *pretraining([*PAIRS, *kept])),
        "recordings": (lambda root: write_sounds(root, "alone"), *pretraining([*SOUNDS, *kept], 2)),
        "recordings of classes": (
            lambda root: write_sounds(root, "classes"),
            *finetuning("audio_classification", handoffs["audio"], KNN),
        ),
        "recordings in a table": (
            lambda root: write_sounds(root, "table"),
            *finetuning("speech_recognition", handoffs["audio"], HEAD),
        ),
        "transcripts": (
            lambda root: write_sounds(root, "transcripts"),
            *finetuning("speech_recognition", handoffs["audio"], HEAD),
        ),
        "coco": (write_coco, *finetuning("detection", handoffs["scenes"], [*HEAD, "task.width=32"])),
        "coco's masks": (
            write_coco,
            *finetuning("instance_segmentation", handoffs["scenes"], [*HEAD, "task.width=32"]),
        ),
        "voc": (write_voc, *finetuning("detection", handoffs["scenes"], [*HEAD, "task.width=32"])),
        "label maps": (
            lambda root: write_maps(root, endings=(".png", ".png")),
            *finetuning("semantic_segmentation", handoffs["scenes"], [*HEAD, *maps]),
        ),
    }
