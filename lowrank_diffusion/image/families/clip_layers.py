"""The layers of CLIP's text encoders and what files call them. No torch."""

from __future__ import annotations

from .family import Place

_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj")
_MEANT = {"attention": _ATTENTION, "attention+mlp": (*_ATTENTION, "mlp.fc1", "mlp.fc2")}


def layers(blocks: int, kind: str) -> tuple[str, ...]:
    """The linear layers of the first ``blocks`` blocks that ``adapter.text_encoders=kind`` means."""
    return tuple(f"encoder.layers.{index}.{layer}" for index in range(blocks) for layer in _MEANT[kind])


def public_name(path: str) -> str:
    """A layer's name in files, which keep the ``text_model`` that newer transformers leave out."""
    return f"text_model.{path.removeprefix('text_model.')}"


def names(path: str) -> list[str]:
    """Every name under which files speak of a layer: with and without ``text_model``, and ``_`` for ``.``."""
    forms = [public_name(path), path.removeprefix("text_model.")]
    return forms + [form.replace(".", "_") for form in forms]


_KINDS = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


def place(encoder: str, path: str) -> Place:
    """Where a layer of the text encoder of that name is, by the words for the denoiser's layers."""
    kind = _KINDS.get(path.rpartition(".")[2], "feed-forward" if ".mlp." in path else "projection")
    return Place(1 + encoder.count("2"), encoder.replace("_", " "), kind)
