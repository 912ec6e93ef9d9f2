"""Adapters of language models for other programs.

``NAME-peft/``       PEFT's folder, the adapter in its native form.
``NAME-lora-peft/``  PEFT's folder, the same adapter as plain LoRA, exactly: what vLLM, llama.cpp's converter and other
                     users of PEFT read. GraLoRA becomes a pair of rank k*r + r_h, LoKr of q*r.
A merged model's folder is made on request only: it is as large as the base.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from .. import adapters, tensor_files
from ..config import Config, fields
from ..errors import AdapterError, UserError
from ..export import Exported, replace, save_peft, stored_as, write_tensors
from ..factors import Factors, compress, pad, relative_error
from ..files import read_object
from ..loading import no_progress_bar, reading
from ..metadata import CAPTIONS, shareable
from ..runs import FORMS

PREFIX = "base_model.model."
WEIGHTS, CONFIG, TEMPLATE = "adapter_model.safetensors", "adapter_config.json", "chat_template.jinja"


@dataclass(frozen=True)
class Facts:
    """What an adapter's folder says about where it comes from."""

    name: str
    config: Config
    base: str
    """The hub id of the base, by which readers find it; of a local one its name, which says nothing of the machine."""
    template: str
    """The chat template of training."""
    step: int
    loss: float | None = None
    precision: str = "float32"
    """Type of the frozen base."""

    def metadata(self) -> dict[str, str]:
        """For the header of a safetensors file; all values are texts."""
        values = self.config.dotted()
        settings = {key: values[key] for key in fields("text") if self.config.export.captions or key not in CAPTIONS}
        return {
            "lowrank_diffusion.settings": json.dumps(shareable(settings), ensure_ascii=False),
            "lowrank_diffusion.step": str(self.step),
            "lowrank_diffusion.loss": str(self.loss),
            "lowrank_diffusion.date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }


def export(model: nn.Module, folder: Path, facts: Facts) -> Exported:
    """Write both PEFT folders into ``folder``, each whole or not at all.

    Raises:
        OSError: where the disk does not take them; older folders stay as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    native, plain = (folder / f"{facts.name}{end}" for end in FORMS["text"])
    pairs = {
        layer.path: Factors(*(t.detach().float().cpu().contiguous() for t in layer.factors()))
        for layer in adapters.adapted_layers(model)
    }
    dtype = stored_as(facts.config, facts.precision)
    rounded = {path: Factors(pair.a.to(dtype), pair.b.to(dtype)) for path, pair in pairs.items()}
    rounding = max(relative_error(rounded[path], pair) for path, pair in pairs.items())
    metadata = facts.metadata() | {"lowrank_diffusion.rounding": f"{rounding:.2g}"}

    def write_native(target: Path) -> None:
        save_peft(model, target, metadata, dtype, _about(facts))
        (target / TEMPLATE).write_text(facts.template, encoding="utf-8")

    def write_plain(target: Path) -> None:
        save_lora(rounded, target, metadata, _about(facts) | {"target_modules": _targets(model, pairs)})
        (target / TEMPLATE).write_text(facts.template, encoding="utf-8")

    replace(native, write_native)
    replace(plain, write_plain)
    return Exported([native, plain], dtype, rounding)


def _about(facts: Facts) -> dict[str, Any]:
    return {"base_model_name_or_path": facts.base, "task_type": "CAUSAL_LM"}


def _targets(model: nn.Module, pairs: dict[str, Factors]) -> list[str]:
    """The adapted layers by the ends of their names where that says the same: some readers know no whole paths."""
    ends = sorted({path.rpartition(".")[2] for path in pairs})
    linears = {path for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    same = {
        path.removesuffix(".base_layer") for path in linears if path.removesuffix(".base_layer").split(".")[-1] in ends
    }
    return ends if same == set(pairs) else sorted(pairs)


def save_lora(pairs: dict[str, Factors], folder: Path, metadata: dict[str, str], fields: dict[str, Any]) -> None:
    """A PEFT folder of plain pairs, brought to one rank; alpha = rank, as any scaling is inside the pairs.

    Args:
        pairs: By layer path.
        folder: New.
        metadata: Of the safetensors file.
        fields: Of adapter_config.json, besides those of the pairs themselves; ``target_modules`` at least.
    """
    folder.mkdir(parents=True)
    rank = max(pair.a.shape[0] for pair in pairs.values())
    tensors: dict[str, Tensor] = {}
    for layer, pair in pairs.items():
        whole = pad(pair, rank)
        tensors[f"{PREFIX}{layer}.lora_A.weight"] = whole.a.contiguous()
        tensors[f"{PREFIX}{layer}.lora_B.weight"] = whole.b.contiguous()
    write_tensors(tensors, folder / WEIGHTS, metadata)
    own = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "lora_dropout": 0.0, "bias": "none"}
    config = {**own, "inference_mode": True, **fields}
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def read_lora(folder: Path) -> tuple[dict[str, Factors], dict[str, str], dict[str, Any]]:
    """Pairs by layer path, metadata and adapter_config.json of a folder that :func:`save_lora` wrote."""
    with reading(lambda reason: AdapterError(f"{folder}: cannot be read: {reason}. Export it again.")):
        config = read_object(folder / CONFIG)
        said = tensor_files.read(folder / WEIGHTS).metadata
        metadata = {key: value for key, value in said.items() if key != "format"}
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        layers = [key.removesuffix(".lora_A.weight") for key in tensors if key.endswith(".lora_A.weight")]
        pairs = {
            layer.removeprefix(PREFIX): Factors(tensors[f"{layer}.lora_A.weight"], tensors[f"{layer}.lora_B.weight"])
            for layer in layers
        }
    return pairs, metadata, config


def compress_folder(folder: Path, out: Path, rank: int) -> Path:
    """The adapter of a plain-LoRA folder at a smaller rank, the closest there is, as ``NAME-rRANK-lora-peft``.

    Raises:
        UserError: ``rank`` is less than 1.
    """
    if rank < 1:
        raise UserError(f"--rank: must be at least 1, got {rank}.")
    pairs, metadata, config = read_lora(folder)
    kind = next(iter(pairs.values())).a.dtype
    whole = {layer: Factors(pair.a.float(), pair.b.float()) for layer, pair in pairs.items()}
    smaller = {layer: Factors(*(t.to(kind) for t in compress(pair, rank))) for layer, pair in whole.items()}
    kept = {name: config[name] for name in ("base_model_name_or_path", "task_type", "target_modules")}
    target = out / f"{folder.name.removesuffix('-lora-peft')}-r{rank}-lora-peft"

    def write(path: Path) -> None:
        save_lora(smaller, path, metadata | {"lowrank_diffusion.compressed_to": str(rank)}, kept)
        (path / TEMPLATE).write_bytes((folder / TEMPLATE).read_bytes())

    replace(target, write)
    return target


@torch.no_grad()
def merge(model: Any, tokenizer: Any, folder: Path, target: Path) -> Path:
    """The base with the adapter of a plain-LoRA folder inside its weights, as a model's folder of its own.

    Args:
        model: The base alone, not quantised; its weights are changed. Sums are made in float32 and kept in its type.
        tokenizer: Written beside it, with the chat template of training.
        folder: That :func:`save_lora` wrote.
        target: Where the model goes.

    Raises:
        UserError: the adapter changes an output layer that is one with the embeddings.
    """
    pairs, _, _ = read_lora(folder)
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    for path, pair in pairs.items():
        layer = model.get_submodule(path)
        if layer is head and head.weight is embeddings.weight:
            raise UserError(f"{folder}: changes {path}, whose weights are also the embeddings, so it cannot be merged.")
        delta = Factors(pair.a.float(), pair.b.float()).delta().to(layer.weight.device)
        layer.weight.copy_(layer.weight.to(delta.dtype) + delta)

    def write(path: Path) -> None:
        with no_progress_bar():
            model.save_pretrained(path)
        tokenizer.save_pretrained(path)

    target.parent.mkdir(parents=True, exist_ok=True)
    replace(target, write)
    return target
