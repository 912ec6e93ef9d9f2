"""Samplers with the embedded base, and drawing that starts from a picture, against diffusers' own pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from lowrank_diffusion.errors import UserError
from lowrank_diffusion.image import replay, samplers, start
from lowrank_diffusion.image.generate import Studio
from lowrank_diffusion.image.model import latents_of
from lowrank_diffusion.image.preview import SMALLER, Preview
from lowrank_diffusion.image.replay import Replay
from lowrank_diffusion.image.request import DrawRequest
from lowrank_diffusion.paths import ASSETS, EXAMPLES

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {"prompt": "an emoji of a fox", "steps": 4, "width": 64, "height": 64, "device": "cpu"}
BASES = ("base", "sd1", "sd2", "sdxl")


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio()


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=int)


def drawn(studio: Studio, **options: Any) -> np.ndarray:
    (picture,) = studio.draw(DrawRequest(**SMALL | options))
    return pixels(picture.image)


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_every_sampler_draws_the_embedded_base_and_repeats_it(studio: Studio, name: str):
    first = drawn(studio, sampler=name)
    assert studio.sampler == name
    assert np.array_equal(first, drawn(studio, sampler=name))
    assert first.std() > 5, "it is a picture"


def test_the_bases_own_is_what_it_was_and_samplers_differ(studio: Studio):
    own = drawn(studio)
    pictures = {name: drawn(studio, sampler=name) for name in samplers.SAMPLERS}
    assert np.array_equal(drawn(studio), own), "no sampler stays behind"
    assert np.array_equal(pictures["Euler"], own), "which is the embedded base's own"
    assert len({picture.tobytes() for picture in pictures.values()}) == len(pictures)


@pytest.mark.parametrize("base", BASES)
def test_a_sampler_keeps_the_noise_that_a_base_has_learnt(base: str):
    config = json.loads((ASSETS / base / "scheduler" / "scheduler_config.json").read_text())
    own = getattr(diffusers, config["_class_name"]).from_config(config)
    for name in samplers.SAMPLERS:
        scheduler = samplers.made(name, own)
        assert scheduler.config.prediction_type == config["prediction_type"]
        # of the last step zero terminal SNR leaves nothing, for which some have a tiny number
        assert torch.allclose(scheduler.alphas_cumprod, own.alphas_cumprod, atol=1e-6)
        assert bool(scheduler.config.get("rescale_betas_zero_snr")) == bool(config.get("rescale_betas_zero_snr"))
        assert not scheduler.config.get("clip_sample")
        assert samplers.title(type(scheduler).__name__, scheduler.config) == name


@pytest.fixture(scope="module")
def cat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("start") / "cat.png"
    source = next(file for file in sorted((EXAMPLES / "subject-cat").iterdir()) if file.suffix != ".txt")
    Image.open(source).convert("RGB").resize((100, 67)).save(path)
    return path


@pytest.fixture
def mask(cat: Path, tmp_path: Path) -> Path:
    path, image = tmp_path / "mask.png", Image.new("L", (100, 67))
    image.paste(255, (30, 20, 70, 55))
    image.save(path)
    return path


def test_a_start_picture_is_changed_as_much_as_is_asked(studio: Studio, cat: Path):
    options = {"start": str(cat), "width": None, "height": None, "steps": 10}
    begun = pixels(start.read(DrawRequest(**SMALL | options)).picture)  # type: ignore[union-attr]
    far = [np.abs(drawn(studio, **options, change=change) - begun).mean() for change in (0.1, 0.5, 1.0)]
    assert far[0] < far[1] < far[2]
    assert studio.note == "The start picture, 100 × 67 px, is cropped to 96 × 64 px (multiples of 8)."
    assert drawn(studio, **options | {"width": 144}).shape == (96, 144, 3)
    said: list[tuple[int, int]] = []
    list(studio.draw(DrawRequest(**SMALL | options, change=0.5), lambda *counts: said.append(counts)))
    assert said == [(number, 5) for number in range(1, 6)]


def test_it_is_what_diffusers_draws_from_the_same_latents(studio: Studio, cat: Path, mask: Path):
    request = DrawRequest(**SMALL | {"width": None, "height": None}, start=str(cat), change=0.6)
    pipeline, _ = studio.prepare(request)
    begun = start.read(request)
    assert begun is not None
    plain = diffusers.StableDiffusionXLImg2ImgPipeline(**pipeline.components, add_watermarker=False)
    plain.set_progress_bar_config(disable=True)
    expected = plain(
        SMALL["prompt"], image=latents_of(pipeline, begun.picture), strength=0.6, num_inference_steps=4,
        guidance_scale=5.0, generator=torch.Generator().manual_seed(0),
    ).images[0]  # fmt: skip
    (picture,) = studio.draw(request)
    assert np.abs(pixels(picture.image) - pixels(expected)).max() <= 2


@pytest.mark.parametrize("change", [0.5, 1.0])
def test_outside_of_the_mask_not_one_bit_changes(studio: Studio, cat: Path, mask: Path, change: float):
    request = DrawRequest(**SMALL | {"width": None, "height": None}, start=str(cat), mask=str(mask), change=change)
    begun = start.read(request)
    assert begun is not None and begun.mask is not None
    outside = np.asarray(begun.mask) == 0
    for picture in studio.draw(request):
        assert np.array_equal(pixels(picture.image)[outside], pixels(begun.picture)[outside])
        assert np.abs(pixels(picture.image)[~outside] - pixels(begun.picture)[~outside]).mean() > 3
    cells = begun.cells()
    assert cells is not None and ((np.asarray(cells) > 0) >= (np.asarray(begun.mask) > 0)).all()


@pytest.mark.parametrize("name", ["", *samplers.SAMPLERS])
def test_every_call_of_the_denoiser_can_be_captured(
    studio: Studio, cat: Path, mask: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    """A CUDA graph takes tensors alone; with every sampler, and with all three pipelines."""
    seen: list[bool] = []
    call = Replay._call

    def watched(self: Replay, ordinary: Any, args: Any, named: Any) -> Any:
        seen.append(replay._inputs(args, named) is not None)
        return call(self, ordinary, args, named)

    monkeypatch.setattr(Replay, "_call", watched)
    small = SMALL | {"steps": 2, "sampler": name}
    drawn(studio, **small)
    drawn(studio, **small, start=str(cat))
    drawn(studio, **small, start=str(cat), mask=str(mask), change=1.0)
    assert len(seen) >= 5 and all(seen)


def test_what_cannot_be_started_from_is_named(studio: Studio, cat: Path, tmp_path: Path):
    other, tiny = tmp_path / "other.png", tmp_path / "tiny.png"
    Image.new("L", (50, 67)).save(other)
    Image.new("RGB", (20, 20)).save(tiny)
    small = SMALL | {"width": None, "height": None}
    with pytest.raises(UserError, match=r"mask: must have the size of the start picture, 100 × 67 px; it has 50 × 67"):
        list(studio.draw(DrawRequest(**small, start=str(cat), mask=str(other))))
    Image.new("L", (100, 67)).save(other)
    with pytest.raises(UserError, match="nothing of it is white"):
        list(studio.draw(DrawRequest(**small, start=str(cat), mask=str(other))))
    with pytest.raises(UserError, match="from 64 to 4096 px can be"):
        list(studio.draw(DrawRequest(**small, start=str(tiny))))
    with pytest.raises(UserError, match=r"gone\.png"):
        list(studio.draw(DrawRequest(**small, start=str(tmp_path / "gone.png"))))


def test_a_preview_is_a_quarter_of_the_picture_and_rests_between(studio: Studio):
    shown: list[Image.Image] = []
    pipeline, _ = studio.prepare(DrawRequest(**SMALL))
    preview = Preview(pipeline, shown.append)
    latents = torch.randn(2, 4, 16, 16) * 10
    preview.step(latents)
    assert shown == [], "the first moment shows noise"
    preview._last -= 1
    preview.step(latents)
    preview.step(latents)
    assert [image.size for image in shown] == [(128 // SMALLER, 128 // SMALLER)], "the next has to wait"
    assert preview._cost > 0
