"""What a folder says of itself on the Hub: a model card, whose header its search, widgets and tables read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

TASKS = {  # the end of the name of transformers' class: the Hub's name of what it does
    "ForMaskedLM": "fill-mask",
    "BertForPreTraining": "fill-mask",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForConditionalGeneration": "text2text-generation",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForCTC": "automatic-speech-recognition",
    "ForAudioClassification": "audio-classification",
    "ForImageClassification": "image-classification",
    "CLIPModel": "zero-shot-image-classification",
    "ViTModel": "image-feature-extraction",
    "ResNetModel": "image-feature-extraction",
}
USAGE = {  # DIR stands for the folder
    "transformers": 'import transformers\n\nmodel = transformers.{kind}.from_pretrained("DIR")',
    "sentence-transformers": "from sentence_transformers import SentenceTransformer\n\n"
    'model = SentenceTransformer("DIR")\nvectors = model.encode(["a text"])',
    "onnx": 'import numpy\nimport onnxruntime\n\nsession = onnxruntime.InferenceSession("DIR/model.onnx")',
    "pretraining": 'from pretraining import handoff\n\nbackbone = handoff.read("DIR").backbone',
}


class Form(NamedTuple):
    """Which library reads a folder, what the Hub calls what it does, and transformers' class if it is one of theirs."""

    library: str
    task: str = "feature-extraction"
    kind: str = "AutoModel"


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a card says beside what its folder shows: where the weights come from, and what was measured."""

    origin: Mapping[str, Any]
    results: Mapping[str, float] = field(default_factory=dict)  # as metrics.json has them
    task: str | None = None  # that the results are of
    license: str | None = None
    datasets: tuple[str, ...] = ()  # names on the Hub


def form_of(directory: Path) -> Form:
    """Look at the files of a folder."""
    if (directory / "handoff.json").is_file():
        return Form("pretraining")
    if (directory / "modules.json").is_file():
        return Form("sentence-transformers", "sentence-similarity")
    if (directory / "model.onnx").is_file():
        return Form("onnx")
    if not (directory / "config.json").is_file():
        return Form("pretraining")
    described = json.loads((directory / "config.json").read_text("utf-8"))
    if "architectures" not in described:
        return Form("timm", "image-feature-extraction")
    kind = (described["architectures"] or ["AutoModel"])[0]
    task = next((task for end, task in TASKS.items() if kind.endswith(end)), "feature-extraction")
    return Form("transformers", task, kind)


def text_of(directory: Path, told: Told) -> str:
    """Write a folder's README.md without a header: the one that is there, or one that tells the origin."""
    if (directory / "README.md").is_file():
        return (directory / "README.md").read_text("utf-8")
    form = form_of(directory)
    rows = "\n".join(f"| {name} | {value} |" for name, value in told.origin.items() if value not in (None, "", {}))
    usage = USAGE.get(form.library, "").format(kind=form.kind)
    if form.library == "onnx":
        usage += _onnx_lines(directory)
    code = f"\n```python\n{usage}\n```\n" if usage else ""
    title = f"# {told.origin.get('objective', 'a network')}, for {form.library}"
    licence = "The licence of the weights follows from that of the data above."
    return f"{title}\n\n| | |\n|---|---|\n{rows}\n{code}\n{licence}\n"


def _onnx_lines(directory: Path) -> str:
    """Say in python what model.onnx reads and gives, and run it once on ones: 2 rows of 8 tokens, or 16000 samples."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(directory / "model.onnx"), providers=["CPUExecutionProvider"])
    told, ones, kinds = "", [], {"tensor(float)": "float32", "tensor(int64)": "int64"}
    for role, parts in (("reads", session.get_inputs()), ("gives", session.get_outputs())):
        for part in parts:
            shape, kind = ", ".join(map(str, part.shape)), kinds.get(part.type, part.type)
            told += f"\n# {role} {part.name}: {kind} [{shape}]"
            if role == "reads":
                free = 8 if kind == "int64" else 16000
                sizes = [size if isinstance(size, int) else 2 if size == "batch" else free for size in part.shape]
                ones.append(f'"{part.name}": numpy.ones({sizes}, "{kind}")')
    names = ", ".join(part.name for part in session.get_outputs()) + "," * (len(session.get_outputs()) == 1)
    return f"{told}\n{names} = session.run(None, {{{', '.join(ones)}}})"


def card_of(directory: Path, name: str, told: Told) -> str:
    """Write the model card of the repository `name`: header, results with their intervals, and the folder's README."""
    from huggingface_hub import ModelCardData

    form, results = form_of(directory), _results(told)
    data = ModelCardData(
        license=told.license or "other",
        library_name=form.library,
        pipeline_tag=form.task,
        tags=_tags(told),
        datasets=list(told.datasets) or None,
        model_name=name if results else None,
        eval_results=_entries(form, told, results) or None,
    )
    lines = [f"| {metric} | {value:.4g} | {interval} |" for metric, value, interval in results]
    table = "\n".join(["## Results on test", "", "| metric | value | 95 % interval |", "|---|---|---|", *lines, ""])
    body = text_of(directory, told).replace("<this directory>", f"hf:{name}")
    where = f'`DIR` is what `huggingface_hub.snapshot_download("{name}")` returns.'
    return f"---\n{data.to_yaml()}\n---\n\n{body}\n{where}\n" + (f"\n{table}" if lines else "")


def _tags(told: Told) -> list[str]:
    words = (told.origin.get(part) for part in ("objective", "backbone", "task"))
    return list(dict.fromkeys(["pretraining", *(str(word) for word in words if word)]))


def _results(told: Told) -> list[tuple[str, float, str]]:
    """List what was measured on test: the metric, its value, and its interval in words."""
    found = {name.removeprefix("test/"): value for name, value in told.results.items() if name.startswith("test/")}
    intervals = {name: (found.get(f"{name}_low"), found.get(f"{name}_high")) for name in found}
    bounds = {f"{name}_{end}" for name, ends in intervals.items() if None not in ends for end in ("low", "high")}
    return [
        (name, value, "" if None in intervals[name] else "{:.4g} to {:.4g}".format(*intervals[name]))
        for name, value in found.items()
        if name not in bounds and isinstance(value, int | float)
    ]


def _entries(form: Form, told: Told, results: list[tuple[str, float, str]]) -> list[Any]:
    """Make the header's model-index, which other tools read."""
    from huggingface_hub import EvalResult

    name = told.task or "test"
    known: dict[str, Any] = {"task_type": form.task, "dataset_type": name, "dataset_name": name}
    return [
        EvalResult(
            **known,
            dataset_split="test",
            metric_type=metric,
            metric_value=value,
            metric_name=f"{metric} (95 % interval {interval})" if interval else metric,
        )
        for metric, value, interval in results
    ]
