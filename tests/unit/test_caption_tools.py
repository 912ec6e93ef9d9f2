"""Changes to many captions at once, and how many each changes."""

from __future__ import annotations

import time

import pytest

from lowrank_diffusion.errors import UserError
from lowrank_diffusion.image import caption_tools as tools


def test_prefix_and_suffix():
    captions = ["a dog", "sks, a cat", "", "  a   cow "]
    assert tools.prefix(captions, "sks,") == (["sks, a dog", "sks, a cat", "sks", "sks, a cow"], 3)
    assert tools.prefix(["dog"], " a photo  of ") == (["a photo of dog"], 1)
    assert tools.suffix(captions, ", outdoors") == (
        ["a dog, outdoors", "sks, a cat, outdoors", "outdoors", "a cow, outdoors"], 4,
    )  # fmt: skip
    assert tools.suffix(["a dog"], "on grass") == (["a dog on grass"], 1)
    for change in (tools.prefix, tools.suffix):
        for text in ("very nice", "sks,", ", nice"):
            once = change(captions, text)
            assert change(once.captions, text) == (once.captions, 0), "twice is as once"


def test_white_space_alone_is_no_change():
    assert tools.suffix([" a  dog\n"], "dog") == (["a dog"], 0)


def test_only_where_there_is_none():
    captions = ["a dog", " ", ""]
    assert tools.only_empty(captions, lambda c: tools.put(c, "a pet")) == (["a dog", "a pet", "a pet"], 2)
    assert tools.only_empty(["a"], lambda c: tools.put(c, "b")) == (["a"], 0)
    assert tools.put(captions, "x") == (["x"] * 3, 3)


def test_replacing_a_text_as_it_stands():
    captions = ["a cat (red)", "concatenate cats", "Cat"]
    assert tools.replace(captions, "cat", "dog") == (["a dog (red)", "condogenate dogs", "Cat"], 2)
    assert tools.replace(captions, "cat", "dog", whole_words=True) == (["a dog (red)", "concatenate cats", "Cat"], 1)
    assert tools.replace(captions, "cat", "dog", whole_words=True, ignore_case=True).changed == 2
    assert tools.replace(captions, "(red)", r"\1", whole_words=True) == ([r"a cat \1", *captions[1:]], 1)
    assert tools.replace(["a, b"], ", b", "") == (["a"], 1)


def test_replacing_by_expression():
    captions = ["a cat, 3 dogs", "12 cats", "a cat, 3 dogs"]
    assert tools.replace(captions, r"(\d+) (\w+)", r"\2 x\1", regex=True) == (
        ["a cat, dogs x3", "cats x12", "a cat, dogs x3"], 3,
    )  # fmt: skip
    assert tools.replace(captions, "CAT|dog", "pet", regex=True, whole_words=True, ignore_case=True) == (
        ["a pet, 3 dogs", "12 cats", "a pet, 3 dogs"], 2,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("find", "by", "rule"),
    [
        ("", "x", "find: is empty"),
        ("(", "x", "is not a regular expression"),
        ("(a+)+$", "x", "could take forever"),
        ("a", r"\7", "does not work: invalid group reference"),
        ("a" * 501, "x", "may have 500 characters, got 501"),
    ],
)
def test_an_expression_that_cannot_be_used(find: str, by: str, rule: str):
    with pytest.raises(UserError, match=rule):
        tools.replace(["a" * 40], find, by, regex=True)


def test_an_expression_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tools, "TIME_LIMIT", 0.5)
    begin = time.monotonic()
    with pytest.raises(UserError, match="takes too long in these captions"):
        tools.replace(["a" * 4000], ".*.*.*.*b", "x", regex=True)
    assert time.monotonic() - begin < 30


def test_a_trigger_where_it_is_missing():
    captions = ["a photo of sks dog", "a SKS", "asks for it", ""]
    assert tools.add_trigger(captions, "sks") == (["a photo of sks dog", "a SKS", "sks, asks for it", "sks"], 2)
    with pytest.raises(UserError, match="The trigger is empty"):
        tools.add_trigger(captions, " ")


def test_tags():
    captions = ["Dog, red  ball,dog, a lawn", "dog,", "", "a sentence. Of two"]
    assert tools.tag_counts(captions) == [
        ("Dog", 2), ("a lawn", 1), ("a sentence. Of two", 1), ("red ball", 1),
    ]  # fmt: skip
    assert tools.unique_tags(captions) == (["Dog, red ball, a lawn", "dog,", "", "a sentence. Of two"], 1)
    assert tools.remove_tags(captions, ["DOG", "x"]) == (["red ball, a lawn", "", "", "a sentence. Of two"], 2)
    assert tools.keep_tags(captions, 2) == (["Dog, red ball", "dog,", "", "a sentence. Of two"], 1)
    assert tools.sort_tags(["sks, b, C, a", "sks"], keep_first=1) == (["sks, a, b, C", "sks"], 1)
    with pytest.raises(UserError, match="at least one tag"):
        tools.keep_tags(captions, 0)
    with pytest.raises(UserError, match="cannot stay"):
        tools.sort_tags(captions, -1)
