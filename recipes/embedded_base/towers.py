"""CLIP text towers as plain modules: the weight names of transformers' CLIPTextModel, without its Python.

The library's forward builds masks and looks for the end token in ways that a CUDA graph cannot capture and
that change between releases. These 60 lines compute the same numbers (a test compares them).
Shapes: B captions, T tokens, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

HEAD = 64  # channels per head


class Attention(nn.Module):
    """Causal self-attention, (B, T, D) -> (B, T, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend to earlier tokens."""
        query, key, value = (
            p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out_proj(mixed.transpose(1, 2).flatten(-2))


class Mlp(nn.Module):
    """Two linear layers around CLIP's quick GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, D) -> (B, T, D)."""
        hidden = self.fc1(x)
        return self.fc2(hidden * torch.sigmoid(1.702 * hidden))


class Layer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attn, self.mlp = Attention(width, heads), Mlp(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class TextTower(nn.Module):
    """Token ids (B, T) -> penultimate states (B, T, D) and pooled state of the first end token (B, P).

    SDXL reads the penultimate layer of both towers and the projected pooled state of the second.
    """

    def __init__(self, vocabulary: int, width: int, layers: int, context: int, projection: int | None) -> None:
        super().__init__()
        self.end = vocabulary - 1
        text = nn.Module()
        text.embeddings = nn.Module()
        text.embeddings.token_embedding = nn.Embedding(vocabulary, width)
        text.embeddings.position_embedding = nn.Embedding(context, width)
        text.encoder = nn.Module()
        text.encoder.layers = nn.ModuleList(Layer(width, max(1, width // HEAD)) for _ in range(layers))
        text.final_layer_norm = nn.LayerNorm(width)
        self.text_model = text
        self.text_projection = nn.Linear(width, projection, bias=False) if projection else None
        nn.init.normal_(text.embeddings.token_embedding.weight, std=0.02)
        nn.init.normal_(text.embeddings.position_embedding.weight, std=0.01)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See the class."""
        text = self.text_model
        x = text.embeddings.token_embedding(ids) + text.embeddings.position_embedding.weight[: ids.shape[1]]
        before = x
        for layer in text.encoder.layers:
            before, x = x, layer(x)
        last = text.final_layer_norm(x)
        first_end = (ids == self.end).int().argmax(1)
        pooled = last.gather(1, first_end.view(-1, 1, 1).expand(-1, 1, last.shape[-1]))[:, 0]
        return before, self.text_projection(pooled) if self.text_projection is not None else pooled
