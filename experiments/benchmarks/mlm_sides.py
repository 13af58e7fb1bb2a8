"""The sides of `mlm_step`: this package, transformers' Trainer, and a plain Lightning loop, on the same rows in the same order."""

from __future__ import annotations

import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from experiments.benchmarks.turns import Turn
from pretraining.random import permuted
from pretraining.text.data.stdlib_docs import StdlibDocs
from pretraining.text.plan import PlannedText, one_document_per_row, pack_documents
from pretraining.text.tokenizer import TextPreprocess
from pretraining.text.tokenizer_recipes import WordPiece

SHAPES = {
    "tiny": {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 512},
    "mini": {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024},
    "base": {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
}
VOCABULARY, LOG_EVERY, ENDLESS, SEED = 30_528, 10, 10**6, 1
LEARNING: dict[str, Any] = {
    "peak_lr": 5e-4,
    "warmup": 100,
    "weight_decay": 0.01,
    "clip": 1.0,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
}


class Setting(NamedTuple):
    """What the sides of one comparison have in common, and the precision of one."""

    shape: str
    dropout: float
    precision: Any  # fp32, bf16, or this package's auto
    batch: int  # rows
    tokens: int  # of a row
    rows: str  # packed, or documents
    cache_dir: str
    device: Any
    threads: int
    compile_model: bool
    impl: Any  # of this package's backbone
    seed: int = SEED  # of order, masks and weights
    steps: int = ENDLESS


def text(
    tokens: int, rows: str, cache_dir: str, *, seed: int = SEED, split: str = "train"
) -> tuple[TextPreprocess, PlannedText]:
    """Give the built-in text as rows: whole documents packed into them, or one document in each."""
    data = StdlibDocs(max_tokens=tokens, batch_size=1, eval_batch_size=1, workers=0, cache_dir=cache_dir)
    preprocess = WordPiece(vocab_size=8192, lowercase=True, sample_bytes=10**8).fit(data)
    plan = {"packed": pack_documents, "documents": one_document_per_row}[rows]
    return preprocess, data.source(split, preprocess, lambda corpus, seed, epoch: plan(corpus, tokens), seed=seed)


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """The rows as a dataset of token lists, in the order in which this package's loader serves them."""

    def __init__(self, preprocess: TextPreprocess, source: PlannedText, length: int, seed: int = SEED) -> None:
        self.preprocess, self.source, self.length, self.seed = preprocess, source, length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> dict[str, Any]:
        epoch, place = divmod(number, self.source.count(0))
        row = permuted(np.array([place]), self.source.count(0), seed=self.seed, epoch=epoch, stream="train")
        examples = self.source.read(0, row)
        pieces = np.split(examples.tokens.astype(np.int64), np.cumsum(examples.piece_lengths)[:-1])
        first, last = self.preprocess.bos_id, self.preprocess.eos_id
        ids = [token for piece in pieces for token in (first, *piece.tolist(), last)]
        special = [int(end) for piece in pieces for end in (True, *[False] * len(piece), True)]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "special_tokens_mask": special}


def bert_config(shape: str, dropout: float, preprocess: TextPreprocess) -> dict[str, Any]:
    """Describe the architecture as transformers does."""
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return {**SHAPES[shape], **rates, "vocab_size": VOCABULARY, "pad_token_id": preprocess.pad_id}


def _turn(connection: Connection, setting: Setting) -> Turn:
    torch.set_num_threads(setting.threads)
    torch.manual_seed(setting.seed)
    return Turn(connection, torch.cuda.synchronize if setting.device == "cuda" else lambda: None)


def _model(setting: Setting, preprocess: TextPreprocess) -> Any:
    """Build this package's objective."""
    from pretraining.objectives.text.masked_language import MaskedLanguage
    from pretraining.optim.optimizers import AdamW
    from pretraining.text.backbones.transformers_model import TransformersBackbone

    config = {"model_type": "bert", **bert_config(setting.shape, setting.dropout, preprocess)}
    rates: dict[str, Any] = {
        "peak_lr": LEARNING["peak_lr"],
        "warmup_steps": LEARNING["warmup"],
        "weight_decay": LEARNING["weight_decay"],
    }
    optimizer = AdamW(**rates, schedule="constant", final_fraction=1.0, betas=LEARNING["betas"], eps=LEARNING["eps"])
    return MaskedLanguage(backbone=TransformersBackbone(config=config, impl=setting.impl), optimizer=optimizer)


def ours(connection: Connection, *, setting: Setting) -> None:
    """Train with this package."""
    train_ours(_turn(connection, setting), setting)


def masks(setting: Setting, preprocess: TextPreprocess) -> Any:
    """Hide tokens as this package does."""
    from pretraining.objectives.text.masked_language import MaskTokens

    shares: dict[str, Any] = {"fraction": 0.15, "unit": "token", "mask_share": 0.8, "random_share": 0.1}
    return MaskTokens(
        preprocess=preprocess, max_tokens=setting.tokens, static_shapes=setting.device == "cuda", **shares
    )


def train_ours(turn: Turn, setting: Setting) -> Any:
    """Train as the command line does, with loader, step, throughput and metrics.csv; returns the objective."""
    from pretraining.data.loader import StepLoader
    from pretraining.engine.batch import StepSettings
    from pretraining.engine.memory import keep_freed_memory
    from pretraining.engine.precision import choose_precision
    from pretraining.engine.trainer import TrainerSettings, quieten

    keep_freed_memory()
    quieten()
    preprocess, source = text(setting.tokens, setting.rows, setting.cache_dir, seed=setting.seed)
    module = _model(setting, preprocess)
    settings = TrainerSettings(
        accelerator=setting.device, max_steps=setting.steps, precision=setting.precision, log_every=LOG_EVERY
    )
    settings.precision = choose_precision(settings.precision, settings.accelerator, convolves=False)
    module.settings = StepSettings(setting.seed, setting.steps, LEARNING["clip"])
    module.backbone.set_compute(compiled=setting.compile_model, activation_checkpointing=False, sharded=False)
    loader = StepLoader(
        source, masks(setting, preprocess), batch_size=setting.batch, max_steps=setting.steps, seed=setting.seed
    )
    _fit(
        turn,
        module,
        loader,
        settings,
        {"precision": settings.precision, "impl": setting.impl, "compiled": setting.compile_model},
    )
    return module


def _fit(turn: Turn, module: Any, loader: Any, settings: Any, facts: dict[str, Any]) -> None:
    import pytorch_lightning as pl

    from pretraining.callbacks.throughput import Throughput
    from pretraining.engine.trainer import build_trainer
    from pretraining.runs.csv_logger import CsvHistory

    class Losses(CsvHistory):
        latest = float("nan")

        def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
            self.latest = metrics["train/loss"]
            super().log_metrics(metrics, step)

    class Pace(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            turn.tell(facts)

        def on_train_batch_end(
            self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            turn.step(batch.tokens, losses.latest if trainer.global_step % LOG_EVERY == 0 else None)

    with tempfile.TemporaryDirectory() as directory:
        losses = Losses(Path(directory) / "metrics.csv")
        waited: dict[str, Any] = {"wait_seconds": lambda: loader.wait_seconds, "unit": "tokens", "show": False}
        throughput = Throughput(every=LOG_EVERY, evaluated_every=0, step_flops=lambda step: 0.0, **waited)
        build_trainer(settings, [losses], [throughput, Pace()], Path(directory)).fit(module, loader)


def trainer(connection: Connection, *, setting: Setting) -> None:
    """Train with transformers."""
    train_trainer(_turn(connection, setting), setting)


def train_trainer(turn: Turn, setting: Setting) -> Any:
    """Train transformers' own model with its Trainer and collator, with the defaults of both; returns the model."""
    import transformers

    preprocess, source = text(setting.tokens, setting.rows, setting.cache_dir, seed=setting.seed)
    model = transformers.BertForMaskedLM(
        transformers.BertConfig(**bert_config(setting.shape, setting.dropout, preprocess))
    )
    data = Rows(preprocess, source, ENDLESS * setting.batch, setting.seed)

    class Pace(transformers.TrainerCallback):
        loss: float | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            turn.tell(
                {
                    "precision": setting.precision,
                    "attention": model.config._attn_implementation,
                    "compiled": setting.compile_model,
                }
            )

        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
        ) -> None:
            self.loss = None if logs is None else float(logs.get("loss", "nan"))

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step:  # logging comes behind on_step_end
                turn.step(counted.pop(0), self.loss)
                self.loss = None

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            turn.step(counted.pop(0), self.loss)

    counted, collate = [], transformers.DataCollatorForLanguageModeling(preprocess.tokenizer, mlm_probability=0.15)

    def counting(examples: list[dict[str, Any]]) -> dict[str, Any]:
        counted.append(sum(len(example["input_ids"]) for example in examples))
        return collate(examples)

    with tempfile.TemporaryDirectory() as directory:
        transformers.Trainer(
            model=model,
            args=_arguments(setting, directory),
            train_dataset=data,
            data_collator=counting,
            callbacks=[Pace()],
        ).train()
    return model


def _arguments(setting: Setting, directory: str) -> Any:
    import transformers

    return transformers.TrainingArguments(
        output_dir=directory,
        per_device_train_batch_size=setting.batch,
        max_steps=setting.steps,
        learning_rate=LEARNING["peak_lr"],
        warmup_steps=LEARNING["warmup"],
        lr_scheduler_type="constant_with_warmup",
        weight_decay=LEARNING["weight_decay"],
        max_grad_norm=LEARNING["clip"],
        logging_steps=LOG_EVERY,
        save_strategy="no",
        report_to="none",
        train_sampling_strategy="sequential",
        use_cpu=setting.device == "cpu",
        bf16=setting.precision == "bf16",
        torch_compile=setting.compile_model,
        disable_tqdm=True,
        seed=setting.seed,
    )


def lightning(connection: Connection, *, setting: Setting) -> None:
    """Train transformers' model in the Lightning loop that a tutorial would write."""
    import pytorch_lightning as pl
    import transformers

    turn = _turn(connection, setting)
    preprocess, source = text(setting.tokens, setting.rows, setting.cache_dir, seed=setting.seed)
    collate = transformers.DataCollatorForLanguageModeling(preprocess.tokenizer, mlm_probability=0.15)
    loader = torch.utils.data.DataLoader(
        Rows(preprocess, source, ENDLESS * setting.batch, setting.seed), batch_size=setting.batch, collate_fn=collate
    )

    class Model(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = transformers.BertForMaskedLM(
                transformers.BertConfig(**bert_config(setting.shape, setting.dropout, preprocess))
            )

        def on_train_start(self) -> None:
            turn.tell({"precision": setting.precision, "compiled": setting.compile_model})

        def training_step(self, batch: dict[str, Any], number: int) -> torch.Tensor:
            loss = self.model(**batch).loss
            self.log("loss", loss)
            return loss

        def on_train_batch_end(self, outputs: Any, batch: dict[str, Any], batch_idx: int) -> None:
            logged = (batch_idx + 1) % LOG_EVERY == 0
            turn.step(int(batch["attention_mask"].sum()), float(outputs["loss"]) if logged else None)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(
                self.parameters(), lr=LEARNING["peak_lr"], weight_decay=LEARNING["weight_decay"]
            )
            schedule = torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: min(1.0, (step + 1) / LEARNING["warmup"])
            )
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    model: Any = torch.compile(Model()) if setting.compile_model else Model()
    with tempfile.TemporaryDirectory() as directory:
        pl.Trainer(
            accelerator=setting.device,
            devices=1,
            precision="bf16-mixed" if setting.precision == "bf16" else "32-true",
            max_steps=ENDLESS,
            gradient_clip_val=LEARNING["clip"],
            log_every_n_steps=LOG_EVERY,
            enable_checkpointing=False,
            enable_progress_bar=False,
            logger=pl.loggers.CSVLogger(directory),
        ).fit(model, loader)
