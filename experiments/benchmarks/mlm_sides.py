"""The sides of `mlm_step`: this package, transformers' Trainer, a plain Lightning loop; on the same rows in order."""

from __future__ import annotations

import tempfile
from typing import Any

import torch

from experiments.benchmarks.mlm_text import CLIP, ENDLESS, PEAK_LR, WARMUP, WEIGHT_DECAY, Rows, Setting, bert_config
from experiments.benchmarks.turns import Turn

LOG_EVERY = 10


def ours(turn: Turn, setting: Setting) -> Any:
    """Train as the command line does; returns the objective."""
    from experiments.benchmarks import our_loop
    from pretraining.objectives.text.masked_language import MaskedLanguage
    from pretraining.optim.optimizers import AdamW
    from pretraining.text.backbones.transformers_model import TransformersBackbone

    our_loop.prepare_process()
    preprocess, source = setting.text()
    config = {"model_type": "bert", **bert_config(setting.shape, setting.dropout, preprocess)}
    schedule: dict[str, Any] = {"warmup_steps": WARMUP, "schedule": "constant", "final_fraction": 1.0}
    optimizer = AdamW(peak_lr=PEAK_LR, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.999), eps=1e-8, **schedule)
    module = MaskedLanguage(backbone=TransformersBackbone(config=config, impl=setting.impl), optimizer=optimizer)
    facts = {"impl": setting.impl, "compiled": setting.compile_model}
    options = {"max_steps": setting.steps, "clip_norm": CLIP, "compile": setting.compile_model}
    our_loop.train(turn, setting, module, source, setting.masks(preprocess), facts=facts, **options)
    return module


def trainer(turn: Turn, setting: Setting) -> Any:
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

    learning: dict[str, Any] = {"learning_rate": PEAK_LR, "weight_decay": WEIGHT_DECAY, "max_grad_norm": CLIP}
    learning |= {"warmup_steps": WARMUP, "lr_scheduler_type": "constant_with_warmup", "max_steps": setting.steps}
    learning |= {"per_device_train_batch_size": setting.batch, "train_sampling_strategy": "sequential"}
    machine: dict[str, Any] = {"use_cpu": setting.device == "cpu", "bf16": setting.precision == "bf16"}
    machine |= {"torch_compile": setting.compile_model, "seed": setting.seed}
    quiet: dict[str, Any] = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    quiet["logging_steps"] = LOG_EVERY
    with tempfile.TemporaryDirectory() as directory:
        arguments = transformers.TrainingArguments(output_dir=directory, **learning, **machine, **quiet)
        parts: dict[str, Any] = {"model": model, "train_dataset": data, "data_collator": counting}
        transformers.Trainer(args=arguments, callbacks=[Pace()], **parts).train()
    return model


def _their_parts(setting: Setting) -> tuple[Any, Rows, Any]:
    """Build transformers' model and collator, and the rows that it reads."""
    import transformers

    preprocess, source = setting.text()
    config = transformers.BertConfig(**bert_config(setting.shape, setting.dropout, preprocess))
    collate = transformers.DataCollatorForLanguageModeling(preprocess.tokenizer, mlm_probability=0.15)
    rows = Rows(preprocess, source, ENDLESS * setting.batch, setting.seed)
    return transformers.BertForMaskedLM(config), rows, collate


def lightning(turn: Turn, setting: Setting) -> None:
    """Train transformers' model in the Lightning loop that a tutorial would write."""
    import pytorch_lightning as pl

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
    machine: dict[str, Any] = {"accelerator": setting.device, "devices": 1}
    machine["precision"] = "bf16-mixed" if setting.precision == "bf16" else "32-true"
    quiet: dict[str, Any] = {"enable_checkpointing": False, "enable_progress_bar": False}
    learning: dict[str, Any] = {"max_steps": ENDLESS, "gradient_clip_val": CLIP, "log_every_n_steps": LOG_EVERY}
    with tempfile.TemporaryDirectory() as directory:
        logger = pl.loggers.CSVLogger(directory)
        pl.Trainer(logger=logger, **machine, **learning, **quiet).fit(model, loader)
