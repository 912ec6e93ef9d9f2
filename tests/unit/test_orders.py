"""The text set that ships with the project: strict JSON, remade by its script, and held-out words never trained on."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from types import ModuleType

import pytest
import torch

from lowrank_diffusion.config import BaseModelConfig
from lowrank_diffusion.paths import EXAMPLES, PROJECT
from lowrank_diffusion.text.model import Base
from lowrank_diffusion.text.rows import Row, read

TRAIN, HELD_OUT = EXAMPLES / "llm-orders" / "train.jsonl", EXAMPLES / "llm-orders" / "held_out.jsonl"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_orders", PROJECT / "scripts" / "make_orders.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_orders"] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


def words(rows: list[Row]) -> set[str]:
    """All words of questions and answers, in lower case."""
    text = " ".join(message.content for row in rows for message in row.messages)
    return set(re.findall(r"\w+", text.lower()))


def test_the_files_are_those_that_the_script_makes(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "FOLDER", tmp_path)
    script.main()
    assert (tmp_path / "train.jsonl").read_bytes() == TRAIN.read_bytes()
    assert (tmp_path / "held_out.jsonl").read_bytes() == HELD_OUT.read_bytes()


def test_held_out_names_and_words_of_items_were_never_trained_on(script):
    trained, tested = words(read(TRAIN)), words(read(HELD_OUT))
    parts = [word for item in script.UNSEEN.items for word in item.split()]
    secret = {name.lower() for name in script.UNSEEN.names} | set(parts) | {script.plural(part) for part in parts}
    assert not secret & trained
    assert len(secret & tested) > 80


@pytest.mark.parametrize(("path", "count"), [(TRAIN, 400), (HELD_OUT, 100)])
def test_every_answer_is_strict_json_with_the_same_keys(script, path, count):
    rows = read(path)
    assert len({row.messages[1].content for row in rows}) == count
    for row in rows:
        assert [message.role for message in row.messages] == ["system", "user", "assistant"]
        assert "  " not in row.messages[1].content
        said = row.messages[2].content
        answer = json.loads(said)
        assert json.dumps(answer) == said
        assert list(answer) == ["name", "items", "note"]
        assert answer["name"] in row.messages[1].content
        assert answer["note"] is None or answer["note"] in row.messages[1].content.lower()
        assert 1 <= len(answer["items"]) <= 2
        for item in answer["items"]:
            assert list(item) == ["quantity", "size", "item"]
            assert item["quantity"] in script.NUMBERS and item["size"] in (None, *script.SIZES)


@pytest.mark.slow
def test_the_embedded_base_need_not_spell(script, converted_bases):
    """A word is cut alike where it is ordered, after a space, and where it is answered, after a quotation mark."""
    tokenizer = Base.of(BaseModelConfig(), torch.device("cpu"), torch.float32).tokenizer()

    def cut(text: str) -> list[str]:
        return [token.lstrip("Ġ") for token in tokenizer.tokenize(text)[1:]]

    for vocabulary in (script.TRAINED, script.UNSEEN):
        for word in vocabulary.names + vocabulary.items:
            assert cut(f'"{word}') == cut(f"x {word}")
    for item in script.UNSEEN.items:
        *same, last = cut(f"x {item}")
        assert cut(f"x {script.plural(item)}") in ([*same, last, "s"], [*same, f"{last}s"])


@pytest.mark.parametrize(
    ("one", "several"),
    [("oat latte", "oat lattes"), ("peach", "peaches"), ("cherry", "cherries"), ("tray", "trays"), ("dish", "dishes")],
)
def test_plurals(script, one, several):
    assert script.plural(one) == several
