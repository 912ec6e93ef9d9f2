"""Adapters of all three models in a pipeline: they say what the formula says, and a failure leaves no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file

from lowrank_diffusion.adapters import AdapterError, matching_layers
from lowrank_diffusion.image import apply
from lowrank_diffusion.image.apply import load_adapter, select
from lowrank_diffusion.image.families.unet.names import Layout, names

from .conftest import copied

MODELS = ("unet", "text_encoder", "text_encoder_2")
Deltas = dict[str, dict[str, torch.Tensor]]


def kohya(pipeline: Any, layers: dict[str, list[str]], dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], Deltas]:
    """A file of kohya's for these layers of each model, of ranks 4, 8 and 16 in turn; and the updates it means."""
    draws, tensors, deltas = torch.Generator().manual_seed(5), {}, {}
    for name, paths in layers.items():
        model, own = getattr(pipeline, name), deltas.setdefault(name, {})
        layout = Layout.of(pipeline.unet.config)
        for index, path in enumerate(paths):
            layer, rank, alpha = model.get_submodule(path), (4, 8, 16)[index % 3], float(1 + index % 5)
            a = (0.1 * torch.randn(rank, layer.in_features, generator=draws)).to(dtype)
            b = (0.1 * torch.randn(layer.out_features, rank, generator=draws)).to(dtype)
            text = f"text_model_{path.removeprefix('text_model.').replace('.', '_')}"
            full = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}[name]
            full += names(path, layout)[1] if name == "unet" else text
            tensors |= {f"{full}.lora_down.weight": a, f"{full}.lora_up.weight": b}
            tensors[f"{full}.alpha"] = torch.tensor(alpha, dtype=dtype)
            own[path] = alpha / rank * b.float() @ a.float()
    return tensors, deltas


def linears(model: Any) -> list[str]:
    return [path for path, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)]


def says(pipeline: Any) -> list[torch.Tensor]:
    """Both encoders' hidden states side by side, the pooled text, and what the UNet makes of them."""
    with torch.no_grad():
        tokens, _, pooled, _ = pipeline.encode_prompt("a cat", device="cpu", do_classifier_free_guidance=False)
        added = {"text_embeds": pooled, "time_ids": torch.ones(1, 6)}
        sample = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        noise = pipeline.unet(sample, torch.tensor(500), tokens, added_cond_kwargs=added).sample
    return [tokens, pooled, noise]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_file_of_all_three_models_says_what_the_formula_says(pipeline: Any, dtype: torch.dtype, tmp_path: Path):
    layers = {"unet": list(matching_layers(pipeline.unet, "attention"))}
    layers |= {name: [path for path in linears(getattr(pipeline, name)) if "layers" in path] for name in MODELS[1:]}
    tensors, deltas = kohya(pipeline, layers, dtype)
    save_file(tensors, tmp_path / "x.safetensors")
    plain = says(pipeline)
    expected = copied(pipeline)
    for name, own in deltas.items():
        for path, delta in own.items():
            getattr(expected, name).get_submodule(path).weight.data += delta
    load_adapter(pipeline, tmp_path / "x.safetensors", "x")
    for said, right, before in zip(says(pipeline), says(expected), plain, strict=True):
        assert (said - right).abs().max() < 1e-5
        assert (said - before).abs().max() > 1e-2
    assert set(pipeline.get_list_adapters()) == set(MODELS)


def state(pipeline: Any) -> list[Any]:
    """Everything of a pipeline that loading an adapter could change."""
    found: list[Any] = []
    for name in MODELS:
        model = getattr(pipeline, name)
        own_names = model.__dict__.keys() - {"_hf_peft_config_loaded"}  # which stands in the class until it is set
        found += [sorted(own_names), model._hf_peft_config_loaded, dict(getattr(model, "peft_config", {}))]
        found.append([(path, type(layer), layer.training) for path, layer in model.named_modules()])
        found.append([(path, parameter.requires_grad) for path, parameter in model.named_parameters()])
        for layer in (layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)):
            own: Any = layer
            kept = (dict(own.scaling), dict(own.r), dict(own.lora_alpha), list(own.lora_dropout))
            found.append((kept, own.active_adapters, own.disable_adapters))
    return found


def bits(pipeline: Any) -> dict[str, torch.Tensor]:
    return {f"{n}.{key}": t.clone() for n in MODELS for key, t in getattr(pipeline, n).state_dict().items()}


class Fuse:
    """Stands before two of the steps of a load and lets the one of this number fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.left, self.error = -1, Exception()
        for owner, name in ((LoraLayer, "update_layer"), (apply, "_fill")):
            monkeypatch.setattr(owner, name, self._before(getattr(owner, name)))

    def _before(self, step: Any) -> Any:
        def stepped(*args: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise self.error
            return step(*args, **options)

        return stepped


@pytest.mark.slow
@pytest.mark.parametrize("loaded", [False, True], ids=["the first", "a second"])
def test_a_load_that_fails_anywhere_leaves_no_trace(
    pipeline: Any, loaded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A layer is added and filled in each model, three of the UNet: every step fails once, and then none."""
    some = list(matching_layers(pipeline.unet, "attention"))[:4]
    text = {name: [path for path in linears(getattr(pipeline, name)) if "layers.0" in path][:2] for name in MODELS[1:]}
    first, _ = kohya(pipeline, {"unet": some[:2], "text_encoder": text["text_encoder"][:1]}, torch.float32)
    second, _ = kohya(pipeline, {"unet": some[1:], **text}, torch.float32)
    save_file(first, tmp_path / "first.safetensors")
    save_file(second, tmp_path / "second.safetensors")
    save_file(second | {"lora_unet_nowhere.alpha": torch.ones(1)}, tmp_path / "bad.safetensors")
    whole = copied(pipeline)
    pipeline.text_encoder.requires_grad_(False)
    for pipe in (pipeline, whole) if loaded else ():
        load_adapter(pipe, tmp_path / "first.safetensors", "first")
        select(pipe, {"first": 0.5})
        pipe.text_encoder_2.requires_grad_(True)
    load_adapter(whole, tmp_path / "second.safetensors", "second")
    said = says(pipeline)  # first: transformers adds attributes of its own then
    before, weights = state(pipeline), bits(pipeline)

    def untouched() -> None:
        assert state(pipeline) == before
        now = bits(pipeline)
        assert now.keys() == weights.keys() and all(torch.equal(now[key], weights[key]) for key in now)
        assert all(map(torch.equal, says(pipeline), said))

    with pytest.raises(AdapterError):
        load_adapter(pipeline, tmp_path / "bad.safetensors", "second")
    untouched()
    fuse, steps = Fuse(monkeypatch), 2 * 3 + 2 * 2 + 2 * 2
    for number in range(1, steps + 1):
        fuse.left, fuse.error = number, RuntimeError("injected")
        with pytest.raises(AdapterError, match=r"second\.safetensors: cannot be applied to this base: injected"):
            load_adapter(pipeline, tmp_path / "second.safetensors", "second")
        untouched()
    fuse.left, fuse.error = steps - 1, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        load_adapter(pipeline, tmp_path / "second.safetensors", "second")
    untouched()
    fuse.left = steps + 1
    load_adapter(pipeline, tmp_path / "second.safetensors", "second")
    assert fuse.left == 1
    assert all(map(torch.equal, says(pipeline), says(whole)))
