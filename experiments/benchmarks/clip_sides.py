"""The sides of `clip_step`: this package, and transformers' CLIPModel in a loop as open_clip's training goes.

Both train networks of the same sizes by AdamW on the same pictures and captions with the same words, and clip gradients
at the same norm. transformers' differ in a norm before the first block, their activation and their causal mask.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from experiments.benchmarks.turns import Turn

SIZE, PATCH, COUNT, WIDTH, LOG_EVERY, ENDLESS, SEED = 64, 8, 4096, 128, 10, 10**6, 1
IMAGE = {"layers": 12, "heads": 3, "width": 192, "inner": 768}  # ViT-Ti
TEXT = {"layers": 4, "heads": 4, "width": 256, "inner": 1024}  # BERT-mini
CONTEXT = 77  # tokens to which open_clip pads
RATE, CLIP = 5e-4, 1.0
LEARNING: dict[str, Any] = {"weight_decay": 0.2, "betas": (0.9, 0.98), "eps": 1e-6}
MEAN, STD = [0.27] * 3, [0.18] * 3


class Setting(NamedTuple):
    """What a side trains with; `workers` and `padded` (to a fixed number of tokens) are the peer's."""

    batch: int
    device: str
    threads: int
    workers: int
    precision: str = "fp32"
    padded: bool = False
    seed: int = SEED


def scenes() -> tuple[np.ndarray, list[str]]:
    """Draw pictures, uint8 [COUNT, 3, SIZE, SIZE], and their captions."""
    from pretraining.image.data.scenes import DigitScenes

    drawn = DigitScenes(size=SIZE).draw("train", range(COUNT))
    return np.stack([scene.image for scene in drawn]), [scene.caption for scene in drawn]


def tokenizer(captions: list[str]) -> Any:
    """Learn the captions' words."""
    from pretraining.text.tokenizer_recipes import WordPiece

    return WordPiece(vocab_size=200, lowercase=True, sample_bytes=10**6).train(iter(captions))


def ours(turn: Turn, setting: Setting) -> None:
    """Train with this package as its command line does."""
    from experiments.benchmarks import our_loop
    from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
    from pretraining.image.collate import StackImages
    from pretraining.image.preprocess import ImagePreprocess
    from pretraining.objectives.pairs.clip import Clip
    from pretraining.optim.optimizers import AdamW
    from pretraining.pairs.collate import PairCollate
    from pretraining.pairs.dual_encoder import DualEncoder
    from pretraining.pairs.modality import PAIRS
    from pretraining.pairs.preprocess import PairPreprocess
    from pretraining.text.backbones.transformers_model import TransformersBackbone
    from pretraining.text.raw import TokeniseTexts
    from pretraining.text.tokenizer import TextPreprocess

    our_loop.prepare_process()
    images, captions = scenes()
    picture = ImagePreprocess(size=SIZE, channels=3, mean=MEAN, std=STD)
    words = TextPreprocess(tokenizer=tokenizer(captions))
    preprocess = PairPreprocess(sides={"image": picture, "text": words})
    vit: dict[str, Any] = {"image_size": SIZE, "patch_size": PATCH, "num_layers": IMAGE["layers"]}
    vit |= {"num_heads": IMAGE["heads"], "hidden_dim": IMAGE["width"], "mlp_dim": IMAGE["inner"]}
    bert: dict[str, Any] = {"model_type": "bert", "num_hidden_layers": TEXT["layers"], "hidden_size": TEXT["width"]}
    bert |= {"num_attention_heads": TEXT["heads"], "intermediate_size": TEXT["inner"], "max_position_embeddings": 77}
    bert |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    towers: dict[str, Any] = {
        "image": functools.partial(TorchvisionBackbone, name="vision_transformer", options=vit),
        "text": functools.partial(TransformersBackbone, config=bert, impl="fast"),
    }
    backbone = DualEncoder(towers=towers, **PAIRS.backbone_arguments(preprocess))
    schedule: dict[str, Any] = {"warmup_steps": 0, "schedule": "constant", "final_fraction": 1.0}
    optimizer = AdamW(peak_lr=RATE, **LEARNING, **schedule)
    module = Clip(backbone=backbone, optimizer=optimizer, width=WIDTH, scale=1 / 0.07, max_scale=100.0)
    sides: dict[str, Any] = {"image": StackImages, "text": functools.partial(TokeniseTexts, max_tokens=CONTEXT)}
    collate = PairCollate(preprocess=preprocess, sides=sides)
    options: dict[str, Any] = {"max_steps": ENDLESS, "clip_norm": CLIP}
    our_loop.train(turn, setting, module, Held(images, captions), collate, facts={"impl": "fast"}, **options)


class Held:
    """Pairs held in memory."""

    def __init__(self, images: np.ndarray, captions: list[str]) -> None:
        self.images, self.captions = images, np.array(captions, object)

    def count(self, epoch: int) -> int:
        """Count the pairs."""
        return len(self.captions)

    def read(self, epoch: int, rows: np.ndarray) -> Any:
        """Read pairs by their numbers."""
        from pretraining.image.data.base import ImageExamples
        from pretraining.pairs.data.base import PairExamples
        from pretraining.text.raw import RawTexts

        sides = {"image": ImageExamples(self.images[rows], None), "text": RawTexts(self.captions[rows])}
        return PairExamples(sides, rows, self.captions[rows, None])


class Pairs(torch.utils.data.Dataset[tuple[Tensor, str]]):
    """Pictures as tensors of unit scale, and captions, one by one, as a data loader's workers make them."""

    def __init__(self) -> None:
        from torchvision import transforms
        from torchvision.transforms.functional import to_pil_image

        images, self.captions = scenes()
        self.images = [to_pil_image(torch.from_numpy(image)) for image in images]
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, place: int) -> tuple[Tensor, str]:
        return self.transform(self.images[place % COUNT]), self.captions[place % COUNT]


def stacked(rows: list[tuple[Tensor, str]], *, words: Any, padding: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Make a batch as open_clip's loaders do: pictures, and tokens with their mask."""
    read = words([text for _, text in rows], **padding)
    return torch.stack([image for image, _ in rows]), read["input_ids"], read["attention_mask"]


def plain(turn: Turn, setting: Setting) -> None:
    """Train transformers' CLIPModel as open_clip trains: both networks, cross-entropies, clipping, AdamW, a clamp."""
    data = Pairs()
    words = tokenizer(data.captions)
    model: Any = their_model(words).to(setting.device)
    decayed = [part for name, part in model.named_parameters() if part.ndim >= 2]
    others = [part for name, part in model.named_parameters() if part.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, **LEARNING)
    padding: dict[str, Any] = {"padding": "max_length" if setting.padded else "longest"}
    padding |= {"max_length": CONTEXT, "truncation": True, "return_tensors": "pt"}
    collate = functools.partial(stacked, words=words, padding=padding)
    shape: dict[str, Any] = {"shuffle": True, "drop_last": True, "persistent_workers": setting.workers > 0}
    shape |= {"num_workers": setting.workers, "pin_memory": setting.device == "cuda", "collate_fn": collate}
    loader = torch.utils.data.DataLoader(data, batch_size=setting.batch, **shape)
    turn.tell(
        {"precision": setting.precision, "attention": model.config._attn_implementation, "padded": setting.padded}
    )
    for number, batch in enumerate(loader, 1):
        images, ids, mask = (part.to(setting.device, non_blocking=True) for part in batch)
        with torch.autocast(setting.device, dtype=torch.bfloat16, enabled=setting.precision == "bf16"):
            made = model(pixel_values=images, input_ids=ids, attention_mask=mask)
        logits = model.logit_scale.exp() * made.image_embeds.float() @ made.text_embeds.float().T
        labels = torch.arange(len(logits), device=logits.device)
        loss = (nn.functional.cross_entropy(logits, labels) + nn.functional.cross_entropy(logits.T, labels)) / 2
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0.0, float(np.log(100.0)))
        turn.step(setting.batch, loss.item() if number % LOG_EVERY == 0 else None)


def their_model(words: Any) -> nn.Module:
    """Build transformers' model of these sizes."""
    import transformers

    def sizes(of: dict[str, int]) -> dict[str, Any]:
        named = {"num_hidden_layers": "layers", "num_attention_heads": "heads", "hidden_size": "width"}
        return {name: of[ours] for name, ours in {**named, "intermediate_size": "inner"}.items()}

    vision = {**sizes(IMAGE), "image_size": SIZE, "patch_size": PATCH}
    ids = {"bos_token_id": words.cls_token_id, "eos_token_id": words.sep_token_id, "pad_token_id": words.pad_token_id}
    text = {**sizes(TEXT), "vocab_size": len(words), "max_position_embeddings": CONTEXT, **ids}
    config = transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=WIDTH)
    return transformers.CLIPModel(config).train()
