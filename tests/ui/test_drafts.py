"""What is typed is kept, by whatever file or page it comes back."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lowrank_diffusion.errors import UserError
from ui import drafts, studio
from ui.keeper import Keeper
from ui.toolkit import gr

KEY, OTHER = "a" * 32, "b" * 32


def test_a_draft_comes_back_part_by_part_and_two_pages_have_two(home: Path) -> None:
    drafts.write(KEY, {"image": {"name": "mine"}})
    drafts.write(KEY, {"chat": {"seed": 5}})
    drafts.write(OTHER, {"image": {"name": "other"}})
    assert drafts.read(KEY) == {"image": {"name": "mine"}, "chat": {"seed": 5}}
    assert drafts.read(OTHER) == {"image": {"name": "other"}}


@pytest.mark.parametrize(
    "key", ["", None, 5, "../" + KEY, KEY.upper(), KEY + "/x", "a" * 31, KEY + "\n", ["a"], "\0" * 32]
)
def test_what_is_no_key_reads_and_writes_nothing(home: Path, key: Any) -> None:
    drafts.write(key, {"image": {"name": "x"}})
    assert drafts.read(key) == {}
    assert not drafts.folder().exists()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[1]", b"null", b'{"image": 5}', b"[" * 100_000, b'{"a": 1e999}', b" " * 5_000_000]
)
def test_a_broken_draft_costs_only_itself(home: Path, content: bytes) -> None:
    drafts.folder().mkdir(parents=True)
    (drafts.folder() / f"{KEY}.json").write_bytes(content)
    assert drafts.read(KEY) == {}
    drafts.write(KEY, {"image": {"name": "new"}})
    assert drafts.read(KEY) == {"image": {"name": "new"}}


def test_a_folder_in_a_drafts_place_is_said(home: Path) -> None:
    (drafts.folder() / f"{KEY}.json").mkdir(parents=True)
    with pytest.raises(UserError, match="not kept"):
        drafts.write(KEY, {"image": {"name": "new"}})


def test_number_and_size_are_bounded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafts, "MOST", 3)
    keys = [f"{number:032x}" for number in range(6)]
    for key in keys:
        drafts.write(key, {"image": {"name": key}})
    assert len(list(drafts.folder().iterdir())) == 3
    assert drafts.read(keys[-1]) and not drafts.read(keys[0])
    with pytest.raises(UserError, match="too long"):
        drafts.write(KEY, {"image": {"name": "x" * (drafts.LARGEST + 1)}})


@pytest.mark.parametrize(
    ("part", "good", "bad"),
    [
        (lambda: gr.Textbox(), ["", "é\n\U0001f600"], [None, 5, ["a"], {"a": 1}, "\ud800", "x" * 2_000_000]),
        (lambda: gr.Number(), [1, 2.5, None], ["1", True, float("nan"), float("inf"), 2**70, [1]]),
        (lambda: gr.Slider(0, 2), [0, 1.5], [-1, 3, None, "1", True]),
        (lambda: gr.Checkbox(), [True], [1, "true", None]),
        (lambda: gr.Dropdown(["a", "b"]), ["a"], ["c", None, 1, ["a"]]),
        (lambda: gr.Dropdown(["a"], allow_custom_value=True), ["a", "c"], [None, 1]),
    ],
)  # fmt: skip
def test_a_field_shows_only_what_it_could_have_held(part: Any, good: list[Any], bad: list[Any]) -> None:
    field = part()
    assert [value for value in good if not drafts.fits(field, value)] == []
    assert [value for value in bad if drafts.fits(field, value)] == []


@pytest.fixture(scope="module")
def keeper() -> Keeper:
    demo = studio.build()
    for event in demo.fns.values():
        owner = getattr(getattr(event.fn, "__wrapped__", None), "__self__", None)
        if isinstance(owner, Keeper):
            return owner
    raise AssertionError("the page keeps nothing")


def opened(keeper: Keeper, own: str = "", last: str = "", fresh: str = OTHER) -> dict[Any, Any]:
    event: Any = SimpleNamespace(own=own, last=last, fresh=fresh)
    return keeper.open(event)


def test_every_tab_is_kept_and_shown_again(home: Path, keeper: Keeper) -> None:
    assert set(keeper.groups) == {"image", "text", "generate", "chat"}
    image = keeper.groups["image"]
    for name in ("preset", "name", "pictures", "data.subject", "data.trigger", "sample.prompts", "train.steps"):
        assert name in image.kept
    draft = {
        "image": {"name": "my robot", "train.steps": 7, "preset": "emoji-subject"},
        "generate": {"prompt": "a fox", "seed": 5, "adapter-0": "run:gone", "strength-0": 0.5},
        "chat": {"message": "hello", "adapter": "gone"},
        "text": {"name": "orders", "file": ""},
    }
    drafts.write(KEY, draft)
    updates = opened(keeper, own=KEY)
    assert updates[keeper.key] == KEY and "kept" in updates[keeper.note]
    assert updates[image.kept["name"]] == "my robot" and updates[image.kept["train.steps"]] == 7
    generate, chat = keeper.groups["generate"], keeper.groups["chat"]
    assert updates[generate.kept["prompt"]] == "a fox" and updates[generate.kept["strength-0"]] == 0.5
    assert updates[generate.kept["adapter-0"]]["value"] == ""
    assert updates[chat.kept["message"]] == "hello" and updates[chat.kept["adapter"]]["value"] == ""


def test_a_new_tab_starts_from_a_copy_of_the_last(home: Path, keeper: Keeper) -> None:
    drafts.write(KEY, {"image": {"name": "mine"}})
    updates = opened(keeper, last=KEY)
    assert updates[keeper.key] == OTHER and updates[keeper.groups["image"].kept["name"]] == "mine"
    assert drafts.read(OTHER) == drafts.read(KEY)


@pytest.mark.parametrize("draft", [
    {"image": {"name": 5, "train.steps": "x", "pictures": "x", "preset": "no", "filled": 7, "sample.prompts": None}},
    {"image": {"pictures": [{"path": "/etc/passwd", "name": "", "caption": "", "thumb": "", "note": ""}]}},
    {"text": {"file": "/etc/passwd"}}, {"text": {"file": ["a"]}}, {"text": {"file": "\0"}},
    {"text": {"file": "x" * 5000}},
    {"generate": {"adapter-0": "file:/etc/passwd", "count": []}}, {"chat": {"adapter": 5}}, {"elsewhere": {"x": 1}},
])  # fmt: skip
def test_a_strangers_draft_opens_the_page_all_the_same(home: Path, keeper: Keeper, draft: Any) -> None:
    drafts.folder().mkdir(parents=True)
    (drafts.folder() / f"{KEY}.json").write_text(json.dumps(draft))
    updates = opened(keeper, own=KEY)
    assert updates[keeper.key] == KEY
    assert "/etc/passwd" not in [value for value in updates.values() if isinstance(value, str)]
    assert updates.get(keeper.groups["image"].kept["pictures"], []) == []


def test_a_page_that_says_nonsense_keeps_nothing(home: Path, keeper: Keeper) -> None:
    event: Any = SimpleNamespace(own=5, last=["x"], fresh="../x")
    assert keeper.open(event)[keeper.key] == ""
