"""An encoder of pictures: how similar they are to others, and to what a prompt says.

The cosines of its embeddings are the metrics of the DreamBooth paper (arXiv 2208.12242): CLIP-I and DINO between
pictures, CLIP-T between a picture and its prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from ..config import EMBEDDED
from ..loading import explained, no_progress_bar
from ..paths import EMBEDDED_ENCODER
from . import pretrained

CONTRASTIVE = ("clip", "siglip", "siglip2")
"""Model types of transformers whose pictures and texts share a space."""
VISION = ("vit", "dinov2", "dinov2_with_registers", "dinov3_vit")
"""And those that only see: the embedding is their first token. DINO itself is a ``vit``."""

_WANTED = pretrained.Wanted(
    "--encoder",
    (*CONTRASTIVE, *VISION),
    "Give 'embedded', or the folder or hub id of a CLIP, SigLIP, DINO, DINOv2, DINOv3 or ViT.",
)
_BATCH = 64


def find(where: str) -> Path:
    """The folder of an encoder: the embedded one, one on this disk, or one of the hub, fetched if it is not here.

    Raises:
        ModelError: There is none, it is of another kind, or it has no safetensors.
    """
    return EMBEDDED_ENCODER if where == EMBEDDED else pretrained.find(where, _WANTED)


class Encoder:
    """An encoder on a device, in float32.

    Args:
        folder: What :func:`find` gives.
        device: Where it works; embeddings are returned on the CPU.

    Raises:
        ModelError: The folder cannot be loaded.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.device = device
        self.reads = pretrained.kind(folder, str(folder), _WANTED) in CONTRASTIVE
        """Whether it also embeds texts."""
        here: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        with explained(str(folder), _WANTED.key, "Download it again."), no_progress_bar():
            model, info = AutoModel.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **here
            )
            if wrong := sorted(info["missing_keys"] - {"pooler.dense.weight", "pooler.dense.bias"}):
                raise ValueError(f"{len(wrong)} weights are missing: {', '.join(wrong[:3])}")
            # With PIL even where torchvision is: the same pictures give the same numbers everywhere.
            self._processor: Any = AutoImageProcessor.from_pretrained(folder, backend="pil", **here)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, **here) if self.reads else None
        self._model: Any = model.to(device).eval()

    @torch.no_grad()
    def embed(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Normalised embeddings (N, E), float32."""
        batches = []
        for start in range(0, len(pictures), _BATCH):
            some = [picture.convert("RGB") for picture in pictures[start : start + _BATCH]]
            pixels = self._processor(images=some, return_tensors="pt")["pixel_values"].to(self.device)
            if self.reads:
                seen = self._model.get_image_features(pixel_values=pixels)
                seen = getattr(seen, "pooler_output", seen)
            else:
                seen = self._model(pixel_values=pixels).last_hidden_state[:, 0]
            batches.append(F.normalize(seen.float(), dim=-1).cpu())
        return torch.cat(batches)

    @torch.no_grad()
    def read(self, texts: Sequence[str]) -> Tensor:
        """Normalised embeddings (N, E), float32; long texts are cut. Only where it ``reads``."""
        longest = self._model.config.text_config.max_position_embeddings
        ids = self._tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=longest, return_tensors="pt"
        ).input_ids
        features = self._model.get_text_features(input_ids=ids.to(self.device))
        return F.normalize(getattr(features, "pooler_output", features).float(), dim=-1).cpu()


def likeness(pictures: Tensor, references: Tensor) -> Tensor:
    """The mean cosine of each picture to all references: (N, E), (R, E) -> (N,)."""
    return (pictures @ references.T).mean(1)
