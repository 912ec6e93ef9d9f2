from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lowrank_diffusion import presets, runs, supervisor
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.image.data import checked
from ui.picture_set import PictureSet
from ui.train import InputsError, launch_run

Upload = Callable[..., Path]


@pytest.fixture
def values() -> dict[str, Any]:
    return presets.build(presets.find_preset("smoke").values, {"data.instance": ""}).dotted()


def given(pairs: list[tuple[Path, str]]) -> PictureSet:
    return PictureSet([checked(path, caption) for path, caption in pairs])


def problems_of(name: str, values: dict[str, Any], pairs: list[tuple[Path, str]]) -> dict[str, str]:
    with pytest.raises(InputsError) as error:
        launch_run(name, values, given(pairs))
    assert runs.all_runs() == []
    return {problem.key: str(problem) for problem in error.value.problems}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing past ``size`` bytes fails as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_run_starts_with_its_own_copy_of_the_pictures(values: dict[str, Any], upload: Upload) -> None:
    pairs = [(upload("cat.png"), "a cat"), (upload("cat.png", colour="blue"), "another cat")]
    run = launch_run("my run", values, given(pairs))
    try:
        folder = run.path / "data" / "instance"
        assert run.config().data.instance == str(folder)
        assert run.config() == presets.build(overrides=values | {"data.instance": str(folder)})
        assert len(list(folder.glob("*.png"))) == 2
        assert sorted(text.read_text().strip() for text in folder.glob("*.txt")) == ["a cat", "another cat"]
        assert run.process() is not None
    finally:
        supervisor.stop(run, kill_after=0)


def test_everything_wrong_is_said_at_once(values: dict[str, Any]) -> None:
    found = problems_of("", values | {"base.path": "/no/such/model", "train.device": "cpu"}, [])
    assert set(found) == {"Pictures", "base.path", "Run name"}
    assert "/no/such/model" in found["base.path"]


def test_settings_and_pictures_are_complained_about_together(values: dict[str, Any]) -> None:
    found = problems_of("x", values | {"adapter.rank": 16, "adapter.k": 3}, [])
    assert set(found) == {"Pictures", "adapter.k"}
    assert "Allowed: [1, 2, 4, 8, 16]" in found["adapter.k"]


def test_what_the_layers_refuse_is_said_of_its_field(values: dict[str, Any], upload: Upload) -> None:
    found = problems_of("x", values | {"adapter.rank": 3, "adapter.k": 3}, [(upload("cat.png"), "a cat")])
    assert set(found) == {"adapter.k"} and "attn1.to_q is 224 x 224" in found["adapter.k"]


def test_pictures_without_captions_need_one_for_all(values: dict[str, Any], upload: Upload) -> None:
    pairs = [(upload("cat.png"), "a cat"), (upload("dog.png"), "")]
    assert "1 of 2 pictures" in problems_of("x", values, pairs)["data.prompt"]


def test_a_folder_and_pictures_together_are_refused(values: dict[str, Any], upload: Upload) -> None:
    found = problems_of("x", values | {"data.instance": "/pictures"}, [(upload("cat.png"), "a cat")])
    assert set(found) == {"data.instance"}


@pytest.mark.parametrize(
    "name", ["\0", "a\0b", "x" * 5000, "/" + "y" * 300, "\ud800", "~nobody-of-this-name/x", "a/" * 3000]
)
@pytest.mark.parametrize("key", ["data.instance", "base.path", "base.vae", "prior.pictures"])
def test_what_is_no_path_is_said_of_its_field(values: dict[str, Any], key: str, name: str) -> None:
    changed = values | {"prior.weight": 1.0, "prior.prompt": "a cat", key: name}
    with pytest.raises(UserError) as caught:
        launch_run("x", changed, PictureSet([]))
    assert key in str(caught.value) and runs.all_runs() == []


def test_too_few_class_pictures_are_said_before_anything_starts(values: dict[str, Any], upload: Upload) -> None:
    good = upload("cat.png")
    few = {"prior.weight": 1.0, "prior.prompt": "a cat", "prior.count": 20, "prior.pictures": str(good.parent)}
    problems = problems_of("x", values | few | {"data.prompt": "a cat"}, [(good, "")])
    assert (
        list(problems) == ["prior.pictures"]
        and "has 1 class pictures, and prior.count=20" in problems["prior.pictures"]
    )


def test_a_folder_may_be_the_persons_own(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("HOME", str(home))
    (home / "mine").mkdir()
    Image.new("RGB", (64, 64)).save(home / "mine" / "a.png")
    assert PictureSet([]).problems(values | {"data.instance": "~/mine", "data.prompt": "a cat"}) == []
    (problem,) = PictureSet([]).problems(values | {"data.instance": "~/gone", "data.prompt": "a cat"})
    assert (problem.key == "data.instance" and "~/gone" in problem.rule) or str(home / "gone") in problem.rule


def test_a_folder_without_pictures_is_refused(values: dict[str, Any], home: Path) -> None:
    empty = home / "empty"
    empty.mkdir()
    assert str(empty) in problems_of("x", values | {"data.instance": str(empty)}, [])["data.instance"]


def test_a_full_disk_is_said_and_leaves_no_half_run(values: dict[str, Any], upload: Upload) -> None:
    path = upload("noise.png")
    Image.effect_noise((400, 400), 90).save(path)
    assert path.stat().st_size > 60_000
    with largest_file(30_000), pytest.raises(UserError) as error:
        launch_run("x", values, given([(path, "noise")]))
    assert "cannot be written" in str(error.value)
    assert runs.all_runs() == []
    assert list(runs.runs_folder().iterdir()) == []
