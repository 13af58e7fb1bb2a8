"""The sides of `mlm_step`: this package, transformers' Trainer, a plain Lightning loop; on the same rows in order."""

from __future__ import annotations

import tempfile
from multiprocessing.connection import Connection
from typing import Any

import torch

from experiments.benchmarks.mlm_text import CLIP, ENDLESS, PEAK_LR, WARMUP, WEIGHT_DECAY, Rows, Setting, bert_config
from experiments.benchmarks.turns import Turn, open_turn
from pretraining.text.tokenizer import TextPreprocess

LOG_EVERY = 10


def _open(connection: Connection, setting: Setting) -> Turn:
    return open_turn(connection, device=setting.device, threads=setting.threads, seed=setting.seed)


def ours(connection: Connection, *, setting: Setting) -> None:
    """Train with this package."""
    train_ours(_open(connection, setting), setting)


def masks(setting: Setting, preprocess: TextPreprocess) -> Any:
    """Hide tokens as this package does."""
    from pretraining.objectives.text.masked_language import MaskTokens

    return MaskTokens(
        preprocess=preprocess,
        max_tokens=setting.tokens,
        static_shapes=setting.device == "cuda",
        fraction=0.15,
        unit="token",
        mask_share=0.8,
        random_share=0.1,
    )


def train_ours(turn: Turn, setting: Setting) -> Any:
    """Train as the command line does; returns the objective."""
    from experiments.benchmarks import our_loop
    from pretraining.engine.trainer import TrainerSettings
    from pretraining.objectives.text.masked_language import MaskedLanguage
    from pretraining.optim.optimizers import AdamW
    from pretraining.text.backbones.transformers_model import TransformersBackbone

    our_loop.prepare_process()
    preprocess, source = setting.text()
    config = {"model_type": "bert", **bert_config(setting.shape, setting.dropout, preprocess)}
    schedule: dict[str, Any] = {"warmup_steps": WARMUP, "schedule": "constant", "final_fraction": 1.0}
    optimizer = AdamW(peak_lr=PEAK_LR, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.999), eps=1e-8, **schedule)
    module = MaskedLanguage(backbone=TransformersBackbone(config=config, impl=setting.impl), optimizer=optimizer)
    settings = TrainerSettings(
        accelerator=setting.device,
        max_steps=setting.steps,
        precision=setting.precision,
        clip_norm=CLIP,
        compile=setting.compile_model,
    )
    facts = {"impl": setting.impl, "compiled": setting.compile_model}
    rows = our_loop.Rows(source, masks(setting, preprocess), setting.batch, setting.seed)
    our_loop.train(turn, module, rows, settings, facts)
    return module


def trainer(connection: Connection, *, setting: Setting) -> None:
    """Train with transformers."""
    train_trainer(_open(connection, setting), setting)


def train_trainer(turn: Turn, setting: Setting) -> Any:
    """Train transformers' own model with its Trainer and collator, with the defaults of both; returns the model."""
    import transformers

    model, data, collate = _their_parts(setting)
    counted: list[int] = []

    class Pace(transformers.TrainerCallback):
        loss: float | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            attention = model.config._attn_implementation
            turn.tell({"precision": setting.precision, "attention": attention, "compiled": setting.compile_model})

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            self.loss = None if logs is None else float(logs.get("loss", "nan"))

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step:  # logging comes behind on_step_end
                turn.step(counted.pop(0), self.loss)
                self.loss = None

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            turn.step(counted.pop(0), self.loss)

    def counting(examples: list[dict[str, Any]]) -> dict[str, Any]:
        counted.append(sum(len(example["input_ids"]) for example in examples))
        return collate(examples)

    with tempfile.TemporaryDirectory() as directory:
        arguments = _arguments(setting, directory)
        transformers.Trainer(
            model=model, args=arguments, train_dataset=data, data_collator=counting, callbacks=[Pace()]
        ).train()
    return model


def _their_parts(setting: Setting) -> tuple[Any, Rows, Any]:
    """Build transformers' model and collator, and the rows that it reads."""
    import transformers

    preprocess, source = setting.text()
    config = transformers.BertConfig(**bert_config(setting.shape, setting.dropout, preprocess))
    collate = transformers.DataCollatorForLanguageModeling(preprocess.tokenizer, mlm_probability=0.15)
    rows = Rows(preprocess, source, ENDLESS * setting.batch, setting.seed)
    return transformers.BertForMaskedLM(config), rows, collate


def _arguments(setting: Setting, directory: str) -> Any:
    import transformers

    return transformers.TrainingArguments(
        output_dir=directory,
        per_device_train_batch_size=setting.batch,
        max_steps=setting.steps,
        learning_rate=PEAK_LR,
        warmup_steps=WARMUP,
        lr_scheduler_type="constant_with_warmup",
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=CLIP,
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

    turn = _open(connection, setting)
    network, data, collate = _their_parts(setting)
    loader = torch.utils.data.DataLoader(data, batch_size=setting.batch, collate_fn=collate)

    class Model(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = network

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
            optimizer = torch.optim.AdamW(self.parameters(), lr=PEAK_LR, weight_decay=WEIGHT_DECAY)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / WARMUP))
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    model: Any = torch.compile(Model()) if setting.compile_model else Model()
    precision: Any = "bf16-mixed" if setting.precision == "bf16" else "32-true"
    quiet: dict[str, Any] = {"enable_checkpointing": False, "enable_progress_bar": False}
    with tempfile.TemporaryDirectory() as directory:
        pl.Trainer(
            accelerator=setting.device,
            devices=1,
            precision=precision,
            max_steps=ENDLESS,
            gradient_clip_val=CLIP,
            log_every_n_steps=LOG_EVERY,
            logger=pl.loggers.CSVLogger(directory),
            **quiet,
        ).fit(model, loader)
