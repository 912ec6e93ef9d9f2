"""Rows to learn from: what is taken in, what is refused, and how they look before and after the tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lowrank_diffusion import presets, runs, supervisor
from lowrank_diffusion.config import BaseModelConfig, TextConfig
from lowrank_diffusion.paths import EXAMPLES
from ui import row_view
from ui.engine import Engine, EngineError
from ui.language_worker import Tokenise, Tokenised
from ui.row_panel import RowFile, RowPanel, example_files, is_example
from ui.toolkit import gr
from ui.train import InputsError, TrainTab, launch_run

Upload = Callable[..., Path]
HOSTILE = '<img src=x onerror="alert(1)">'


def jsonl(*rows: Any) -> bytes:
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows).encode()


def talk(said: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]}


@pytest.fixture(scope="module")
def tab(language_engine: Engine) -> TrainTab:
    with gr.Blocks() as demo:
        tab = TrainTab(RowPanel(language_engine), language_engine.release)
        tab.connect(demo)
    return tab


@pytest.fixture
def panel(tab: TrainTab) -> RowPanel:
    assert isinstance(tab.panel, RowPanel)
    return tab.panel


def tokenised(language_engine: Engine, path: Path, base: Path, first: int = 0, **text: Any) -> Tokenised:
    job = Tokenise(path, BaseModelConfig(path=str(base)), TextConfig(**text), first, 5)
    *_, done = language_engine.run("page", job)
    assert isinstance(done, Tokenised)
    return done


def test_a_dropped_file_is_shown_at_once_as_text(panel: RowPanel, upload: Upload) -> None:
    path = upload("odd & <name> é.jsonl", jsonl(talk(HOSTILE, "no")))
    updates = panel.take({panel.drop: str(path), panel.file: "", panel.held_out: ""})
    assert updates[panel.file] == str(path)
    assert "1 row." in updates[panel.note]
    assert "&lt;name&gt;" in updates[panel.note]
    assert "&lt;img" in updates[panel.view]
    assert "<img" not in updates[panel.view]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", jsonl(talk("x", "y"), "{broken", talk("", "y"), {"messages": [{"content": "x"}]}), ["2", "3", "4"]),
        ("a.jsonl", b"", ["empty"]),
        ("a.json", b'{"not": "a list"}', ["list"]),
        ("a.txt", b"\xff\xfe\x00x", ["UTF-8"]),
        ("a.png", b"\x89PNG", [".jsonl"]),
        ("a.jsonl", jsonl({"conversations": [{}]}), ["conversations[0] lacks the field role"]),
    ],
)
def test_a_broken_file_is_refused_with_every_reason(
    panel: RowPanel, upload: Upload, name: str, content: bytes, words: list[str]
) -> None:
    path = upload(name, content)
    updates = panel.take({panel.drop: str(path), panel.file: "/uploads/before.jsonl", panel.held_out: ""})
    assert panel.file not in updates
    assert "before.jsonl stays." in updates[panel.note]
    assert "bad" in updates[panel.note]
    assert name in updates[panel.note]
    assert str(path.parent) not in updates[panel.note]
    for word in words:
        assert (f"line {word}:" if word.isdigit() else word) in updates[panel.note]


def test_a_forged_path_is_refused(panel: RowPanel, home: Path) -> None:
    secret = home / "secret.txt"
    secret.write_text("secret")
    for path in (secret, "/etc/passwd", "../../etc/passwd"):
        updates = panel.take({panel.drop: str(path), panel.file: "", panel.held_out: ""})
        assert panel.file not in updates
        assert "bad" in updates[panel.note]
        with pytest.raises(ValueError, match=r"outside|no such"):
            panel.chosen({panel.file: str(path)})


def test_the_example_brings_its_preset_and_own_rows_drop_its_held_out_file(tab: TrainTab, upload: Upload) -> None:
    panel = tab.panel
    assert isinstance(panel, RowPanel)
    (file,) = example_files()
    before = {part: "" for part in tab.kept.values()} | {tab.filled: tab.filled.value}
    updates = panel._example_taker(file)(before)
    assert updates[tab.preset] == file.parent.name == panel.first_preset
    assert is_example(updates[tab.form.widgets["text.held_out"]])
    assert updates[tab.form.widgets["data.instance"]] == ""
    own = panel.take(
        {panel.drop: str(upload("a.txt", b"hello")), panel.file: str(file), panel.held_out: updates[panel.held_out]}
    )
    assert own[panel.held_out] == ""
    assert own[tab.form.widgets["text.answers"]] == 0
    assert "Held out" in own[panel.note]
    filled = tab.fill(panel.first_preset, before | {panel.file: own[panel.file]}, replace=True)
    assert filled[panel.held_out] == ""


def test_a_run_starts_with_its_own_copy_of_the_rows(upload: Upload, tiny_language: Path) -> None:
    path = upload("my rows.JSONL", jsonl(talk("x", "y")))
    values = presets.build(overrides={"task": "text", "base.path": str(tiny_language)}).dotted()
    run = launch_run("mine", values, RowFile(path))
    try:
        copy = Path(run.config().data.instance)
        assert copy == run.path / "data" / "rows.jsonl"
        assert copy.read_bytes() == path.read_bytes()
        assert run.config().task == "text"
    finally:
        supervisor.stop(run, kill_after=0)


def test_everything_wrong_is_said_at_once(home: Path, upload: Upload) -> None:
    values = presets.build(overrides={"task": "text", "base.path": "/no/model"}).dotted()
    with pytest.raises(InputsError) as error:
        launch_run("", values | {"text.held_out": "/no/rows.jsonl", "adapter.k": 3}, RowFile(None))
    assert {problem.key for problem in error.value.problems} == {"Rows", "text.held_out", "adapter.k", "Run name"}
    with pytest.raises(InputsError) as error:
        launch_run("x", values | {"data.instance": "/rows.jsonl"}, RowFile(upload("a.txt", b"hello")))
    assert {problem.key for problem in error.value.problems} == {"data.instance", "base.path"}
    assert runs.all_runs() == []


def test_rows_are_shown_token_by_token_as_they_will_be_learnt(
    language_engine: Engine, upload: Upload, tiny_language: Path
) -> None:
    said = "é 日本 🦊\n<b>"
    path = upload(
        "a.jsonl", jsonl(talk(said, "yes"), talk("x", "y" * 60), talk("bad <|end|>", "y"), {"text": "z" * 80})
    )
    done = tokenised(language_engine, path, tiny_language, length=40)
    first, cut, bad, plain = done.rows
    assert "".join(piece.text for piece in first.pieces) == f"<|user|>{said}<|end|><|assistant|>yes<|end|>"
    assert [piece.text for piece in first.pieces if piece.kind == "learn"] == ["y", "e", "s", "<|end|>"]
    assert {piece.text for piece in first.pieces if piece.control} == {"<|user|>", "<|assistant|>", "<|end|>"}
    assert "🦊" in [piece.text for piece in first.pieces], "four tokens, one character"
    assert (cut.tokens, cut.cut, cut.learnt) == (65, 25, 36)
    assert sum(piece.kind == "cut" for piece in cut.pieces) == 25
    assert "control token" in bad.problem
    assert (plain.cut, plain.sequences) == (0, 3)
    counts = done.counts
    assert (counts.rows, counts.too_long, counts.unusable, counts.cut) == (4, (2,), (3,), 25)
    shown = row_view.tokens_html(done.rows, TextConfig(length=40))
    assert "<b>" not in shown.replace("<b>Row", "")
    assert "25 tokens too long" in shown
    assert "training refuses" in row_view.counts_html(counts, TextConfig(length=40))
    assert "are cut off" in row_view.counts_html(counts, TextConfig(length=40, overlong="cut"))


def test_what_the_figures_say_is_what_training_would_see(language_engine: Engine, tiny_language: Path) -> None:
    done = tokenised(language_engine, EXAMPLES / "llm-orders" / "train.jsonl", tiny_language, first=395, length=512)
    assert [row.row for row in done.rows] == [395, 396, 397, 398, 399]
    counts = done.counts
    assert (counts.rows, counts.counted, counts.too_long, counts.unusable) == (400, 400, (), ())
    assert counts.tokens / 512 <= counts.sequences <= counts.tokens / 512 * 1.1
    assert 0 < counts.learnt < counts.tokens


def test_a_base_that_cannot_be_used_is_said(language_engine: Engine, upload: Upload, tiny_language: Path) -> None:
    path = upload("a.jsonl", jsonl(talk("x", "y")))
    with pytest.raises(EngineError, match="/no/such/model"):
        tokenised(language_engine, path, Path("/no/such/model"))
    assert len(tokenised(language_engine, path, tiny_language).rows) == 1


@pytest.mark.parametrize(
    "name", ["\0", "x" * 5000, "x" * 5000 + ".jsonl", "\ud800.jsonl", "~nobody-of-this-name/a.jsonl"]
)
@pytest.mark.parametrize("key", ["data.instance", "text.held_out"])
def test_what_is_no_path_is_said_of_its_field(key: str, name: str) -> None:
    problems = RowFile(None).problems({key: name})
    assert key in [problem.key for problem in problems]
