"""A studio's pictures with the embedded base: batches of seeds, adapters, and what happens when memory is short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lowrank_diffusion.adapters import matching_layers
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.image import generate
from lowrank_diffusion.image.generate import Drawn, Studio
from lowrank_diffusion.image.model import draw
from lowrank_diffusion.image.request import AdapterChoice, DrawRequest

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {"prompt": "an emoji of a fox", "steps": 2, "width": 64, "height": 64, "device": "cpu"}


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio()


@pytest.fixture(scope="module")
def files(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters of ranks 4 and 6 that visibly change a picture."""
    unet, paths = studio.prepare(DrawRequest(**SMALL))[0].unet, []
    for rank in (4, 6):
        draws, tensors = torch.Generator().manual_seed(rank), {}
        for path, layer in matching_layers(unet, "attention").items():
            for name, shape in (("A", (rank, layer.in_features)), ("B", (layer.out_features, rank))):
                tensors[f"unet.{path}.lora_{name}.weight"] = 0.1 * torch.randn(shape, generator=draws)
        paths.append(tmp_path_factory.mktemp("adapters") / f"rank-{rank}.safetensors")
        save_file(tensors, paths[-1])
    return paths


def difference(one: Any, other: Any) -> int:
    """The largest between two pictures, of 255."""
    return int(np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max())


def test_a_batch_of_seeds_gives_the_pictures_that_each_seed_gives_alone(studio: Studio):
    told: list[tuple[int, int]] = []
    together = list(studio.draw(DrawRequest(**SMALL, seed=7, count=5), lambda done, total: told.append((done, total))))
    assert [picture.seed for picture in together] == [7, 8, 9, 10, 11]
    assert told == [(4, 10), (8, 10), (9, 10), (10, 10)], "four at once, and the last alone"
    for picture in together:
        (alone,) = studio.draw(DrawRequest(**SMALL, seed=picture.seed))
        assert difference(picture.image, alone.image) <= 2
    assert difference(together[0].image, together[1].image) > 50


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")  # several are meant
def test_adapters_are_switched_and_rescaled_as_diffusers_does_it(studio: Studio, files: list[Path]):
    one, two = (AdapterChoice(str(path), strength) for path, strength in zip(files, (1.0, 0.5), strict=True))
    pipeline = Studio().prepare(DrawRequest(**SMALL))[0]
    for index, path in enumerate(files):
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=f"plain_{index}")
    seen: list[Drawn] = []
    for choices in ((one,), (two,), (one, two), (AdapterChoice(one.path, -1.0),)):
        base, adapted = studio.draw(DrawRequest(**SMALL, adapters=choices, compare=True))
        assert (base.adapted, adapted.adapted) == (False, True)
        names = [f"plain_{files.index(Path(choice.path))}" for choice in choices]
        pipeline.set_adapters(names, [choice.strength for choice in choices])
        options = {"num_inference_steps": 2, "guidance_scale": 5.0, "width": 64, "height": 64}
        (expected,) = draw(pipeline, {"prompt": SMALL["prompt"]}, [0], **options)
        assert difference(adapted.image, expected) <= 2 < difference(adapted.image, base.image)
        seen += [base, adapted]
    assert all(difference(base.image, seen[0].image) == 0 for base in seen[::2]), "the base alone is left as it was"


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Memory for two pictures at once; the sizes of the batches that were tried."""
    tried: list[int] = []

    def limited(pipeline: Any, prompt: Any, seeds: Any, **options: Any) -> Any:
        tried.append(len(seeds))
        if len(seeds) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return draw(pipeline, prompt, seeds, **options)

    monkeypatch.setattr(generate, "draw", limited)
    return tried


def test_where_memory_is_short_fewer_are_drawn_at_once(little_memory: list[int]):
    studio, told = Studio(), list[int]()
    pictures = list(studio.draw(DrawRequest(**SMALL, count=6), lambda done, _: told.append(done)))
    assert [picture.seed for picture in pictures] == [0, 1, 2, 3, 4, 5]
    assert little_memory == [4, 2, 2, 2], "what did not fit once is not tried again"
    assert told == [2, 4, 6, 8, 10, 12]


def test_an_error_that_fewer_pictures_do_not_cure_is_told(monkeypatch: pytest.MonkeyPatch):
    def broken(*_args: Any, **_options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(generate, "draw", broken)
    with pytest.raises(torch.OutOfMemoryError):
        list(Studio().draw(DrawRequest(**SMALL, count=4)))


def test_long_prompts_are_read_to_their_end_and_endless_ones_refused():
    pictures = {}
    for thing in ("cat", "whale"):
        for words, where in (("red " * 40, "prompt"), ("blue " * 70, "negative")):
            said = {"prompt": "a 3d icon", where: words + thing}
            request = DrawRequest(**said, device="cpu", steps=2, guidance=3.0)  # type: ignore[arg-type]
            (drawn,) = Studio().draw(request)
            pictures[where, thing] = np.asarray(drawn.image, dtype=np.int16)
    for where in ("prompt", "negative"):
        assert np.abs(pictures[where, "cat"] - pictures[where, "whale"]).max() > 2
    with pytest.raises(UserError, match="negative prompt has 300 tokens; at most 240 are read"):
        list(Studio().draw(DrawRequest("a cat", negative="cat " * 300, device="cpu", steps=1)))
