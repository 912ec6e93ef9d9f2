"""Training in aspect-ratio buckets on the embedded base, and the memory that preparing it takes."""

from __future__ import annotations

import gc
from collections import Counter
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from lowrank_diffusion import events, runs, seeds, supervisor
from lowrank_diffusion.config import BaseModelConfig, DataConfig
from lowrank_diffusion.image import crops, model
from lowrank_diffusion.image.data import scan
from lowrank_diffusion.image.model import Base
from lowrank_diffusion.runs import Run
from trainers.dreambooth import DreamBooth

from .conftest import command, make_run, train, wait, wait_for_step

CPU = torch.device("cpu")
SHAPES = [(120, 72), (200, 110), (90, 60), (70, 120), (100, 160), (64, 64), (99, 101)]
SIZES = [(80, 48)] * 3 + [(48, 80)] * 2 + [(64, 64)] * 2
BUCKETS = {"data__buckets": True, "data__bucket_step": 16, "data__resolution": 64, "data__prompt": "a thing"}
PRIOR = {"prior__weight": 0.5, "prior__prompt": "a photo of a dog", "prior__count": 3, "prior__steps": 1}


def fill(folder: Path, shapes: list[tuple[int, int]]) -> Path:
    """Pictures of these (width, height), each its own."""
    folder.mkdir()
    for number, (width, height) in enumerate(shapes):
        picture = Image.linear_gradient("L").resize((width, height)).convert("RGB")
        picture.paste((40 * number, 200, 255 - 30 * number), (0, 0, width // 2, height // 3))
        picture.save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("set") / "pictures", SHAPES)


def prepare(root: Path, progress: object = lambda *_: None, **settings: object) -> DreamBooth:
    run = make_run("task", root, **settings)
    return DreamBooth(run, run.config(), CPU, torch.float32, progress)  # type: ignore[arg-type]


def test_a_batch_is_of_one_size_with_its_class_pictures_and_true_time_ids(pictures: Path, tmp_path: Path):
    said: list[str] = []
    task = prepare(
        tmp_path, lambda name, *_: said.append(name), data__instance=str(pictures), train__batch=2, train__accumulate=2,
        **BUCKETS, **PRIOR,
    )  # fmt: skip
    assert "Buckets: 48x80: 2, 64x64: 2, 80x48: 3" in said
    assert [picture[0].size for picture in task.data.instances] == SIZES
    for (width, height), (across, down), (example,) in zip(SHAPES, SIZES, task.data.instances, strict=True):
        assert example.framing[:2] == (height, width) and example.framing[4:] == (down, across)
        assert example.mean.shape == example.std.shape == (4, down // 8, across // 8)
    assert set(task.data.classes) == set(SIZES) and all(len(found) == 3 for found in task.data.classes.values())
    seen: Counter[tuple[int, int]] = Counter()
    for step in range(4):
        for micro in range(2):
            batch = task.batch(step, micro)
            assert batch.latents.shape[0] == 4 and batch.weights.tolist() == [1, 1, 0.5, 0.5] and batch.count == 2
            (target,) = {(int(ids[5]), int(ids[4])) for ids in batch.framing}
            assert batch.latents.shape[2:] == (target[1] // 8, target[0] // 8)
            assert {tuple(map(int, ids[:2])) for ids in batch.framing[2:]} == {(64, 64)}  # the base draws squares
            assert task.loss(batch)[0].isfinite().all()
            again = task.batch(step, micro)
            assert torch.equal(batch.latents, again.latents) and torch.equal(batch.framing, again.framing)
            seen[target] += 1
    assert seen == {(80, 48): 4, (48, 80): 2, (64, 64): 2}  # two epochs of four batches


def test_every_held_out_picture_is_seen_in_its_own_bucket(pictures: Path, tmp_path: Path):
    task = prepare(tmp_path, data__instance=str(pictures), validation__holdout=4, **BUCKETS)
    trained, held_out = ([p[0].size for p in found] for found in (task.data.instances, task.data.held_out))
    assert sorted(trained + held_out) == sorted(SIZES) and len(set(held_out)) > 1
    task.model.eval()
    with torch.no_grad():
        loss = task.validate()
        assert loss is not None and 0 < loss < 100 and task.validate() == loss


def test_without_buckets_pictures_come_square_by_shuffled_epochs_as_ever(pictures: Path, tmp_path: Path):
    settings = {"data__resolution": 64, "data__prompt": "a thing", "data__crop": "random", "data__crops": 2} | PRIOR
    task = prepare(tmp_path, data__instance=str(pictures), train__batch=3, seed=5, **settings)
    assert (
        {example.size for picture in task.data.instances for example in picture} == {(64, 64)} == set(task.data.classes)
    )
    for step in range(6):
        expected = []
        for found, name in ((task.data.instances, "instance"), (task.data.classes[64, 64], "class")):
            for place in range(3 * step, 3 * step + 3):
                epoch, index = divmod(place, len(found))
                order = torch.randperm(len(found), generator=seeds.generator(5, epoch, f"order {name}"))
                expected.append(found[int(order[index])][seeds.number(5, place, f"crop of {name}") % 2])
        generator = seeds.generator(5, step, "noise 0")
        vae_noise, noise = (torch.randn(6, 4, 8, 8, generator=generator) for _ in range(2))
        batch = task.batch(step, 0)
        latents = torch.stack([e.mean for e in expected]) + torch.stack([e.std for e in expected]) * vae_noise
        assert torch.equal(batch.latents, latents) and torch.equal(batch.noise, noise)
        assert batch.framing.tolist() == [list(e.framing) for e in expected]


def test_four_steps_from_the_command_line(pictures: Path, tmp_path: Path, shared_cache: Path):
    instance = fill(tmp_path / "two", SHAPES[:5])
    done = command(
        "train", "presets/smoke.yaml", "--name", "shapes", f"data.instance={instance}", "data.prompt=a thing",
        "data.resolution=64", "data.buckets=true", "data.bucket_step=16", "train.batch=2", "train.steps=4",
        "adapter.rank=4", "sample.prompts=[a thing]", "sample.steps=1", "validation.holdout=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    run = runs.find("shapes", shared_cache / "runs")
    records, _ = events.tail(run.events_path)
    assert any(isinstance(r.event, events.Stage) and r.event.name.startswith("Buckets: 48x80: ") for r in records)
    status = run.status()
    assert status.state == "finished" and [step for step, _ in status.losses] == [1, 2, 3, 4]
    assert status.validation and all(path.exists() for path in run.files())
    with Image.open(run.path / status.samples[-1][2]) as sample:
        assert sample.size == (64, 64)


def test_buckets_that_cannot_be_are_refused_in_words(pictures: Path):
    done = command(
        "train", "presets/smoke.yaml", "--name", "none", f"data.instance={pictures}", "data.prompt=a thing",
        "data.resolution=64", "data.buckets=true",
    )  # fmt: skip
    assert done.returncode == 1
    assert "data.bucket_step: must leave more than the square at 64 px" in done.stdout + done.stderr


def same_end(one: Run, other: Run) -> bool:
    left, right = (load_file(run.checkpoints[-1] / "state.safetensors") for run in (one, other))
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_a_stopped_run_in_buckets_ends_where_an_undisturbed_one_does(pictures: Path, tmp_path: Path):
    settings = BUCKETS | PRIOR | {
        "data__instance": str(pictures), "data__flip": True, "train__batch": 2, "train__steps": 14, "save__every": 100,
        "flat__sigma": 0.05,
    }  # fmt: skip
    whole = train("same", tmp_path / "a", **settings)
    run = make_run("same", tmp_path / "b", **settings)
    supervisor.start(run)
    wait_for_step(run, 4)
    supervisor.stop(run)
    status = wait(run)
    assert status.state == "stopped" and 4 <= status.step < 14
    supervisor.start(run)
    assert wait(run, ("finished", "failed")).state == "finished"
    assert run.status().losses == whole.status().losses and len(whole.status().losses) == 14
    assert same_end(whole, run)


def test_text_encoders_and_vae_are_gone_when_the_unet_comes(pictures: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("LOWRANK_HOME", str(tmp_path / "home"))  # nothing is cached: all of them are needed
    kinds = (AutoencoderKL, CLIPTextModel, CLIPTextModelWithProjection)
    gc.collect()
    before = {id(item) for item in gc.get_objects() if type(item) in kinds}
    alive: dict[str, set[type]] = {}

    def look(stage: str, done: int, total: int) -> None:
        if total - done <= 1:
            alive[stage] = {type(item) for item in gc.get_objects() if type(item) in kinds and id(item) not in before}

    task = prepare(tmp_path, look, data__instance=str(pictures), **BUCKETS, **PRIOR)
    assert alive["Drawing class pictures"] == set(kinds)
    assert alive["Reading captions"] == set(kinds[1:])
    assert alive["Encoding pictures"] == {AutoencoderKL}
    assert alive["Loading the model"] == set() and task.data.instances
    look("ready", 1, 1)
    assert alive["ready"] == set()


class TestMemory:
    """The VAE on a device on which the whole of a large picture does not fit."""

    LIMIT = model.TILE

    @pytest.fixture
    def large(self, tmp_path: Path) -> list[crops.Crop]:
        found = scan(fill(tmp_path / "large", [(700, 640), (640, 900)]), "x")
        return [crop for picture in crops.fit(found, [(704, 640), (640, 896)], DataConfig(), 0) for crop in picture]

    def encoded(self, large: list[crops.Crop], home: Path, monkeypatch: pytest.MonkeyPatch, fail: object = None):
        """Latents and what was said; ``fail(width)`` may raise in the VAE."""
        monkeypatch.setenv("LOWRANK_HOME", str(home))
        load, said = Base.part, []

        def part(base: Base, name: str, dtype: torch.dtype | None = None):
            vae = load(base, name, dtype)
            assert vae.dtype == torch.float32
            if fail:
                vae.encoder.register_forward_pre_hook(lambda _, args: fail(max(args[0].shape[2:])))  # type: ignore[operator]
            return vae

        with monkeypatch.context() as patch:
            patch.setattr(Base, "part", part)
            base = Base.of(BaseModelConfig(), CPU, torch.float16)  # the run's precision is not the VAE's
            return model.encode(base, large, DataConfig(), lambda *what: said.append(what)), said

    def test_it_goes_on_in_tiles_and_says_so(self, large, tmp_path: Path, monkeypatch):
        attempts = []

        def full(width: int) -> None:
            attempts.append(width)
            if width > self.LIMIT:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        whole, plain = self.encoded(large, tmp_path / "a", monkeypatch)
        tiled, said = self.encoded(large, tmp_path / "b", monkeypatch, full)
        assert plain == [("Encoding pictures", 1, 2), ("Encoding pictures", 2, 2)]
        assert [name for name, *_ in said] == ["Encoding pictures in tiles (they do not fit in memory whole)"] * 2
        assert [width for width in attempts if width > self.LIMIT] == [704]  # tried whole once, not for each picture
        for one, other in zip(whole, tiled, strict=True):
            for name in ("mean", "std"):
                assert one[name].dtype == torch.float32 and one[name].shape == other[name].shape
            error = (one["mean"] - other["mean"]).square().mean() / one["mean"].var()
            assert 0 < error < 0.05

    @pytest.mark.parametrize(
        ("error", "tries"),
        [
            (torch.OutOfMemoryError("CUDA out of memory."), 2),  # tiles do not fit either
            (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), 2),
            (RuntimeError("CUDA error: an illegal memory access was encountered"), 1),
        ],
    )
    def test_what_tiles_do_not_cure_is_raised(self, large, tmp_path: Path, monkeypatch, error: Exception, tries: int):
        seen = []

        def broken(width: int) -> None:
            seen.append(width)
            raise error

        with pytest.raises(type(error), match=str(error)):
            self.encoded(large, tmp_path, monkeypatch, broken)
        assert len(seen) == tries
