"""What is told before a run starts: everything that is cut, left out, enlarged or stands in for something else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lowrank_diffusion import api, preflight, presets, runs
from lowrank_diffusion.config import Config, ConfigError
from lowrank_diffusion.image.source import resolve
from lowrank_diffusion.image.words import Reader
from lowrank_diffusion.paths import ASSETS, EXAMPLES, PROJECT

from .picture_files import noise, save


def config(folder: Path, **settings: Any) -> Config:
    values = {"data.instance": str(folder), "data.prompt": "a cat", "data.resolution": 64, "train.device": "cpu"}
    return presets.build({}, values | {key.replace("__", "."): value for key, value in settings.items()})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures of which nothing is to be said."""
    found = tmp_path / "set"
    found.mkdir()
    noise(found / "a.png", (64, 64))
    save(found / "b.png", (64, 70))
    return found


def test_nothing_is_said_of_a_run_that_uses_all_it_is_given(folder: Path):
    found = preflight.look(config(folder))
    assert (found.problems, found.notes) == ([], [])


def long(words: int) -> str:
    return " ".join(["cat"] * words)


def test_a_caption_that_is_cut_is_counted_and_shown(folder: Path):
    (folder / "a.txt").write_text(long(30) + " on a red chair")
    (folder / "b.txt").write_text(long(30))
    (note,) = preflight.notes(config(folder, data__prompt=""))
    tokens = Reader(resolve(config(folder).base), 1).cut(long(30) + " on a red chair").tokens  # type: ignore[union-attr]
    assert note == (
        f"1 of 2 captions are longer than the 30 tokens that are read, and cut: a.png ({tokens} tokens) from "
        "'on a red chair' on. data.caption_chunks=2 reads them whole."
    )
    assert preflight.notes(config(folder, data__prompt="", data__caption_chunks=2)) == []


def test_prompts_that_are_cut_are_named_by_their_settings(folder: Path):
    settings = {"sample__prompts": ("a cat", long(31)), "sample__negative": long(40), "prior__prompt": long(300)}
    found = preflight.notes(config(folder, data__prompt=long(35), prior__weight=1, **settings))
    begins = [
        "The caption that the pictures share is longer than the 30",
        "sample.prompts[1] has 31 tokens; 30 are read",
    ]
    begins += ["sample.negative has 40 tokens", "prior.prompt has 300 tokens"]
    assert [note[: len(begin)] for note, begin in zip(found, begins, strict=True)] == begins
    assert found[-1].endswith("Shorten them, or raise data.caption_chunks (8 at most).")


@pytest.mark.parametrize("encoder", ["tokenizer", "tokenizer_2"])
def test_tokens_are_counted_as_sdxls_own_tokenizers_count_them(encoder: str):
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(str(ASSETS / "sdxl"), subfolder=encoder, local_files_only=True)
    base = config(Path("x")).base.model_copy(update={"path": "owner/name"})
    reader = Reader(resolve(base), 1)
    assert reader.chunk == 75
    texts = [
        "It's 12 o'clock, isn't it?",
        "schöne Tasse, 猫の写真 🐈",
        "a,b;c--d  e\n\nf",
        "ANTIDISESTABLISHMENT " * 30,
    ]
    for text in texts:
        for repeated in (text, " ".join([text] * 9)):
            ids = tokenizer(repeated, add_special_tokens=False).input_ids
            cut = reader.cut(repeated)
            assert (cut is None) == (len(ids) <= 75)
            if cut:
                assert cut.tokens == len(ids)
                assert tokenizer(cut.lost, add_special_tokens=False).input_ids == ids[75:]


def test_pictures_that_are_enlarged_cut_doubled_or_never_seen(folder: Path):
    (folder / "c.png").write_bytes((folder / "a.png").read_bytes())
    save(folder / "d.png", (40, 64))
    save(folder / "e.png", (128, 64))
    found = preflight.notes(config(folder, train__steps=3))
    assert found == [
        "a.png, c.png are the same picture, which is learnt 2 times as much.",
        "1 of 5 pictures are enlarged, up to 1.6 times: d.png.",
        "2 of 5 pictures are cut to a square: of e.png (128 x 64 px) 50% is seen. data.buckets=true keeps their shape.",
        "2 of 5 pictures are never seen: train.steps=3 sees 3.",
    ]
    assert not any("cut" in note for note in preflight.notes(config(folder, data__buckets=True)))


def test_pictures_that_are_there_several_times_take_a_line_of_each_kind(folder: Path):
    for path in sorted((EXAMPLES / "style-3d-icons").glob("*.png"))[:4]:
        shutil.copy(path, folder / path.name)
        shutil.copy(path, folder / f"{path.stem}-copy.png")
        Image.open(path).convert("RGB").resize((200, 200)).save(folder / f"{path.stem}-again.jpg", quality=60)
    lines = [note for note in preflight.notes(config(folder)) if "so much more" in note]
    assert len(lines) == 2
    assert lines[0].startswith(
        "4 pictures are there several times, and learnt so much more: alarm-clock-copy.png = alarm"
    )
    assert "alarm-clock-again.jpg and alarm-clock-copy.png, cactus-again" in lines[1]


def test_a_trigger_and_a_prompt_that_have_no_effect(folder: Path):
    (note,) = preflight.notes(config(folder, data__trigger="sks"))
    assert "stands in none of 2 captions" in note
    assert preflight.notes(config(folder, data__trigger="SKS", data__prompt="a photo of sks cat")) == []
    for name in "ab":
        (folder / f"{name}.txt").write_text(f"a dog {name}")
    assert preflight.notes(config(folder)) == ["data.prompt is not used: every picture has a caption of its own."]


def test_class_pictures(folder: Path, tmp_path: Path):
    classes = tmp_path / "classes"
    classes.mkdir()
    save(classes / "a.png", (64, 64))
    settings = {"prior__weight": 1, "prior__prompt": "a dog", "prior__pictures": str(classes)}
    (problem,) = preflight.look(config(folder, prior__count=20, **settings)).problems
    assert problem.key == "prior.pictures" and "has 1 class pictures, and prior.count=20 asks for more" in problem.rule
    (classes / "notes.md").write_text("x")
    (classes / "b.txt").write_text("a caption of its own")
    save(classes / "b.png", (64, 64), (0, 0, 255))
    assert preflight.notes(config(folder, prior__count=1, **settings)) == [
        "Class pictures: Left out, as they are not pictures: notes.md.",
        "prior.count=1 of 2 class pictures are used, the first by name.",
        "Captions of class pictures are not used, prior.prompt is: b.png.",
    ]


def test_every_problem_comes_at_once_and_then_no_notes(tmp_path: Path):
    cfg = config(tmp_path / "gone", prior__weight=1, prior__prompt="x", prior__pictures=str(tmp_path / "none"))
    cfg = cfg.model_copy(update={"base": cfg.base.model_copy(update={"path": "/no/model"})})
    found = preflight.look(cfg)
    assert [problem.key for problem in found.problems] == ["base.path", "data.instance", "prior.pictures"]
    assert preflight.notes(cfg) == []


def test_what_pictures_and_settings_do_to_each_other_is_told_before_the_start(folder: Path):
    """Shapes that leave only the square, and more held-out pictures than there are."""
    count = len(list(folder.glob("*.png")))
    cfg = config(folder, data__buckets=True, data__resolution=128, validation__holdout=count)
    keys = [problem.key for problem in preflight.look(cfg).problems]
    assert keys == ["validation.holdout", "data.bucket_step"]


def test_more_held_out_rows_than_there_are(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "a", "completion": "b"}))
    cfg = presets.build({}, {"task": "text", "data.instance": str(path), "validation.holdout": 1})
    (problem,) = preflight.look(cfg).problems
    assert str(problem).startswith("validation.holdout: must leave some of the 1 rows to train on, got 1.")


def test_rows(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    row = {"prompt": "a", "completion": "b"}
    path.write_text("\n".join(map(json.dumps, [row, {**row, "label": False}, {**row, "id": 3}])))
    cfg = presets.build({}, {"task": "text", "data.instance": str(path), "text.held_out": str(path)})
    notes = [
        "1 of 3 rows are left out, as they ask for (label: false): 2.",
        "Fields that are not looked at: id (1 rows).",
    ]
    assert preflight.notes(cfg) == notes + [f"Held out: {note}" for note in notes]


def test_the_terminal_shows_notes_before_the_run_and_the_run_tells_them(folder: Path, home: Path):
    (folder / "readme.md").write_text("x")
    settings = [f"data.instance={folder}", "data.prompt=a cat", "train.device=cpu"]
    command = [sys.executable, "-m", "lowrank_diffusion", "train", "smoke", *settings, "--prepare", "--name", "told"]
    shown = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert "note: Left out, as they are not pictures: readme.md.\n" in shown.stderr


LAYER = r"(down|mid|up)_blocks?\.\S*\.\S+"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"adapter.k": 3},
            rf"adapter\.k: must divide both sides .* got 3; {LAYER} is \d+ x \d+ .* Allowed here: \[1\]",
        ),
        ({"adapter.kind": "lokr", "adapter.rank": 9, "adapter.k": 2}, rf"adapter\.rank: .* got 9; {LAYER} is .* up to"),
        ({"adapter.targets": ["nope"]}, r"adapter\.targets: 'nope' matches no linear layer\. Layers are called: "),
        (
            {"adapter.k": 9, "adapter.rank": 9, "adapter.targets": ["nope"], "adapter.text_encoders": "attention"},
            r"(?s)adapter\.targets: 'nope'.*adapter\.k: .*text_encoder\.encoder\.layers\.0\.self_attn\.q_proj is",
        ),
    ],
)
def test_what_the_layers_refuse_is_refused_before_there_is_a_run(settings: dict[str, Any], says: str):
    """Known from the base's configuration: nothing is encoded first."""
    given = {"adapter.kind": "gralora", "adapter.rank": 3, "adapter.k": 3, "adapter.hybrid_rank": 0} | settings
    with pytest.raises(ConfigError, match=says):
        api.prepare("smoke", given, None)
    assert runs.all_runs() == []


def test_layers_that_are_not_here_refuse_nothing():
    """Of a hub id, whose layers may be others than its family's, and of a language model."""
    cfg = presets.build({}, {"base.path": "owner/model", "adapter.rank": 3, "adapter.k": 3})
    assert preflight.base(cfg)[1] == []
    assert preflight.base(presets.build({}, {"task": "text", "adapter.rank": 3, "adapter.k": 3}))[1] == []


def test_an_old_name_is_a_note_for_whoever_gives_it():
    run, notes = api.prepare("smoke", {"train.step": "eager"}, None)
    assert notes[0] == "train.step is now called train.execution." and run.config().train.execution == "eager"


@pytest.mark.parametrize("task", ["image", "text"])
def test_the_plan_is_told_before_the_start(task: str):
    chosen = preflight.plan(presets.build({}, {"task": task, "train.device": "cpu"}))
    assert str(chosen) == "steps run eager: the device is cpu, and only CUDA captures steps"
    assert bool(chosen.units) == (task == "image")
