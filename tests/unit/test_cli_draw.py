"""What `generate` asks of the studio: a run brings its base, and the steps and guidance of its samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lowrank_diffusion import cli_text, paths, presets, runs
from lowrank_diffusion.cli import parse
from lowrank_diffusion.cli_draw import request_of, requests_of
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.image import parameters
from lowrank_diffusion.image.request import DrawRequest
from lowrank_diffusion.image.source import resolve


@pytest.fixture
def a_run(home: Path) -> runs.Run:
    settings = {"base.path": "someone/sdxl", "base.variant": "fp16", "base.quantize": "nf4", "sample.steps": 30}
    run = runs.create(presets.build(settings | {"sample.guidance": 2}), "mine")
    for name in ("mine-diffusers.safetensors", "mine-comfyui-forge.safetensors", "mine-peft"):
        (run.path / name).touch()
    return run


def asked(*words: str) -> DrawRequest:
    return request_of(parse(["generate", "a cat", *words]))


def test_a_run_is_drawn_as_its_samples_were(a_run: runs.Run):
    request = asked("--adapter", "mine@0.5")
    assert (request.base.path, request.base.variant, request.base.quantize) == ("someone/sdxl", "fp16", "none")
    assert (request.steps, request.guidance) == (30, 2.0)
    mine = str(a_run.path / "mine-diffusers.safetensors")
    assert [(item.path, item.strength) for item in request.adapters] == [(mine, 0.5)]


def test_what_is_said_goes_before_what_the_run_has(a_run: runs.Run):
    request = asked("--adapter", "mine", "--base", "embedded", "--steps", "8", "--guidance", "0")
    assert (request.base.path, request.base.variant) == ("embedded", None)
    assert (request.steps, request.guidance) == (8, 0.0)


def test_a_checkpoint_of_a_run_is_named_behind_a_colon(a_run: runs.Run, tmp_path: Path):
    folder = a_run.checkpoint(40)
    folder.mkdir(parents=True)
    for name in ("state.safetensors", "mine-diffusers.safetensors", "mine-comfyui-forge.safetensors", "mine-peft"):
        (folder / name).touch()
    for name in ("mine:40", f"{a_run.path}:40@1"):
        (choice,) = asked("--adapter", name).adapters
        assert Path(choice.path).parent == folder
    assert asked("--adapter", "mine:40@0.5").steps == 30
    assert [adapter.step for adapter in a_run.adapters()] == [None, 40]
    with pytest.raises(UserError, match=r"--adapter mine:7@2: .*no adapter files yet of step 7. Kept steps: 40"):
        asked("--adapter", "mine:7@2")
    colon = tmp_path / "mine:40.safetensors"
    colon.touch()
    assert asked("--adapter", str(colon)).adapters[0].path == str(colon), "a file's name may hold a colon"


def test_a_picture_brings_what_it_was_drawn_from(a_run: runs.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    first = asked("--adapter", "mine@0.5", "--seed", "7", "--sampler", "UniPC", "--negative", "ugly", "--width", "96")
    parameters.save(Image.new("RGB", (96, 64)), tmp_path / "own.png", first, 7, True, "UniPC")
    again = request_of(parse(["generate", "--like", str(tmp_path / "own.png"), "--seed", "8", "--base", "embedded"]))
    assert again == replace(first, seed=8, base=DrawRequest("").base)
    with pytest.raises(UserError, match="prompt: give one"):
        requests_of(parse(["generate"]))
    information = PngInfo()
    information.add_text("parameters", "a dog <lora:mine:0.3>\nSteps: 9, Sampler: Restart, CFG scale: 3, Seed: 4")
    Image.new("RGB", (8, 8)).save(tmp_path / "a1111.png", pnginfo=information)
    foreign = request_of(parse(["generate", "--like", str(tmp_path / "a1111.png")]))
    assert (foreign.prompt, foreign.steps, foreign.adapters[0].strength) == ("a dog", 9, 0.3)
    assert "The sampler Restart is not here" in capsys.readouterr().err


def test_without_a_run_the_defaults_are_those_of_a_request(home: Path, tmp_path: Path):
    (tmp_path / "file.safetensors").touch()
    for request in (asked(), asked("--adapter", str(tmp_path / "file.safetensors"))):
        assert (request.base, request.steps, request.guidance) == (DrawRequest("").base, 20, 5.0)


@pytest.mark.parametrize("kind", ["generate", "export", "evaluate"])
def test_paths_that_no_shell_has_expanded_are_in_the_persons_folder(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """``--out=~/x`` and quotes come as they stand."""
    monkeypatch.setenv("HOME", str(tmp_path))
    options = parse(
        [kind, "x", "--out=~/pictures", *(["--references=~/mine", "--data=~/rows"] if kind == "evaluate" else [])]
    )
    assert options.out == tmp_path / "pictures"
    if kind == "evaluate":
        assert (options.references, options.data) == (tmp_path / "mine", tmp_path / "rows")


def test_presets_runs_and_adapters_are_found_in_the_persons_folder(
    a_run: runs.Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("train: {steps: 7}")
    (tmp_path / "x.safetensors").touch()
    own = a_run.path.rename(tmp_path / a_run.name)
    assert presets.find_preset("~/mine.yaml").values == {"train": {"steps": 7}}
    assert runs.find(f"~/{a_run.name}").path == own
    assert asked("--adapter", "~/x.safetensors@0.5").adapters[0].path == str(tmp_path / "x.safetensors")
    assert asked("--adapter", f"~/{a_run.name}").adapters[0].path == str(own / "mine-diffusers.safetensors")
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "adapter_config.json").write_text("{}")
    chosen = cli_text._chosen(parse(["ask", "x", "--adapter", "~/peft", "--base", "embedded"]))
    assert chosen.folder == tmp_path / "peft"


@pytest.mark.parametrize("name", ["x" * 5000, "/" + "y" * 300, "~" * 300, "a/" * 3000, "a\0b", "\udcff"])
def test_what_is_no_path_is_no_traceback(name: str, home: Path):
    with pytest.raises(UserError, match="There is no run"):
        runs.find(name)
    with pytest.raises(UserError, match="There is no run"):
        asked("--adapter", name)
    with pytest.raises(UserError, match=r"base\.path"):
        resolve(asked("--base", name).base)
    with pytest.raises(UserError, match=r"base\.path|There is no run"):
        resolve(cli_text._chosen(parse(["ask", "x", "--base", name])).base)


@pytest.mark.parametrize("name", ["~nobody-of-this-name/x", "~nobody-of-this-name"])
def test_a_user_who_does_not_exist_is_no_path(name: str, home: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match="there is no file or preset"):
        presets.find_preset(name)
    with pytest.raises(UserError, match="There is no run"):
        asked("--adapter", name)
    monkeypatch.setenv("LOWRANK_HOME", name)
    assert paths.home() == Path(name).resolve()
