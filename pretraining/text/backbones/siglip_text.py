"""The text network of transformers' SigLIP, which reads rows of a fixed length, padding included.

Shapes: B rows, T tokens, P positions, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pretraining.backbones.base import Backbone, Features
from pretraining.backbones.transformers_loading import quieten, read_as
from pretraining.text.modality import TEXT


class SiglipText(Backbone):
    """SigLIP's text network, built from `config`; `pad_id` stands behind each text, as it did in its training.

    A row's vector is that of its last position, through the network's own linear layer. What a tokenizer tells is that
    of the checkpoint: `vocab_size` and `frame_ids` are not used.
    """

    modality = TEXT
    model: Any  # transformers', whose parts the type checker does not know

    def __init__(self, *, config: dict[str, Any], pad_id: int, vocab_size: Any = None, frame_ids: Any = None) -> None:
        super().__init__()
        import transformers

        given = {name: value for name, value in config.items() if name != "model_type"}
        self.model = transformers.SiglipTextModel._from_config(transformers.SiglipTextConfig(**given))
        plain = self.model.config.to_diff_dict()
        plain.pop("transformers_version", None)
        self.kwargs = {"config": plain, "pad_id": pad_id}
        self.dim, self.max_tokens = self.model.config.projection_size, self.model.config.max_position_embeddings
        self.pad_id = pad_id

    def forward(self, input_ids: Tensor, document_ids: Tensor) -> Features:
        """Compute the vectors of tokens and rows."""
        rows, tokens = input_ids.shape
        whole = torch.full((rows, self.max_tokens), self.pad_id, dtype=input_ids.dtype, device=input_ids.device)
        whole[:, :tokens] = torch.where(document_ids > 0, input_ids, self.pad_id)[:, : self.max_tokens]
        found = self.model(input_ids=whole)
        return Features(found.last_hidden_state[:, :tokens], found.pooler_output, valid=document_ids > 0)

    def blocks(self) -> list[nn.Module]:
        """List the embeddings, each layer, and what follows them."""
        model = self.model
        return [model.embeddings, *model.encoder.layers, nn.ModuleList([model.final_layer_norm, model.head])]

    def export(self, directory: Path) -> None:
        """Write config.json and model.safetensors as `save_pretrained` does."""
        quieten()
        self.model.save_pretrained(directory)

    def load(self, directory: Path) -> None:
        """Read the weights strictly."""
        self.model.load_state_dict(read_as("SiglipTextModel", str(directory), {}).state_dict())

    def usage(self) -> str:
        """Write the lines that load it with transformers alone."""
        return 'import transformers\n\nmodel = transformers.SiglipTextModel.from_pretrained("DIR")'
