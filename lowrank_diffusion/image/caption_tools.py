"""Changes to many captions at once; each is a function of a list of captions to as many, in the same order.

A caption of tags is a list of them with commas in between, as taggers write them. Two tags are the same whatever their
case and blanks. All captions come back as one line each.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ..errors import UserError
from ..targets import unsound
from .captions import one_line

LONGEST_EXPRESSION = 500
TIME_LIMIT = 5.0
"""Seconds for a regular expression in all captions: one that is slow by malice or mistake is given up."""


class Changed(NamedTuple):
    """What a change makes of captions."""

    captions: list[str]
    changed: int
    """How many of them are other ones now."""


Change = Callable[[Sequence[str]], Changed]


def each(captions: Sequence[str], change: Callable[[str], str]) -> Changed:
    """One change to each caption, and how many it makes another one of; white space alone is no difference."""
    before = [one_line(caption) for caption in captions]
    after = [one_line(change(caption)) for caption in before]
    return Changed(after, sum(one != other for one, other in zip(before, after, strict=True)))


def only_empty(captions: Sequence[str], change: Change) -> Changed:
    """A change to the empty captions alone."""
    places = [place for place, caption in enumerate(captions) if not caption.strip()]
    result = change([""] * len(places))
    after = [one_line(caption) for caption in captions]
    for place, caption in zip(places, result.captions, strict=True):
        after[place] = caption
    return Changed(after, result.changed)


def put(captions: Sequence[str], text: str) -> Changed:
    """The same text as every caption; with :func:`only_empty` where there is none yet."""
    return each(captions, lambda _: text)


def prefix(captions: Sequence[str], text: str) -> Changed:
    """A text in front of captions that do not begin with it, with a blank in between."""
    text = one_line(text)
    alone = text.rstrip(" ,;")

    def change(caption: str) -> str:
        if caption in ("", alone):
            return alone
        return caption if caption.startswith(text) else f"{text} {caption}"

    return each(captions, change)


def suffix(captions: Sequence[str], text: str) -> Changed:
    """A text behind captions that do not end in it, with a blank in between unless it begins with a comma or stop."""
    text = one_line(text)
    blank = "" if text[:1] in ",.;:!?" else " "
    alone = text.lstrip(" ,.;:!?")

    def change(caption: str) -> str:
        if caption in ("", alone):
            return alone
        return caption if caption.endswith(text) else f"{caption}{blank}{text}"

    return each(captions, change)


def replace(
    captions: Sequence[str],
    find: str,
    by: str,
    *,
    regex: bool = False,
    whole_words: bool = False,
    ignore_case: bool = False,
) -> Changed:  # fmt: skip
    """Every place of a text replaced by another.

    Args:
        captions: Those to look in.
        find: A text as it stands; with ``regex`` a regular expression of Python.
        by: As it stands, too; with ``regex`` ``\\1`` means its first group.
        regex: See above.
        whole_words: Only where no letter or digit stands before or behind it.
        ignore_case: Whether ``Dog`` is found as ``dog``.

    Raises:
        UserError: there is nothing to find, or the expression is wrong, or takes forever.
    """
    if not find:
        raise UserError("find: is empty. Give the text that is to be replaced.")
    if not regex:
        pattern = re.escape(find)
        expression = re.compile(_bounded(pattern, whole_words), re.IGNORECASE if ignore_case else 0)
        return each(captions, lambda caption: expression.sub(lambda _: by, caption))
    if len(find) > LONGEST_EXPRESSION:
        raise UserError(f"find: an expression may have {LONGEST_EXPRESSION} characters, got {len(find)}.")
    if problem := unsound(find):
        raise UserError(f"find: {find[:80]!r} {problem}.")
    lines = [one_line(caption) for caption in captions]
    after = _elsewhere(_bounded(find, whole_words), by, lines, ignore_case)
    made = dict(zip(lines, after, strict=True))
    return each(lines, lambda caption: made[caption])


def _bounded(pattern: str, whole_words: bool) -> str:
    return rf"(?<!\w)(?:{pattern})(?!\w)" if whole_words else pattern


_WORK = """
import json, re, sys
pattern, by, captions, flags = json.load(sys.stdin)
try:
    expression = re.compile(pattern, flags)
    json.dump([expression.sub(by, caption) for caption in captions], sys.stdout)
except (re.error, IndexError) as error:
    json.dump(str(error), sys.stdout)
"""


def _elsewhere(pattern: str, by: str, captions: list[str], ignore_case: bool) -> list[str]:
    """In a process of its own: nothing else can end an expression that takes too long. Raises UserError."""
    work = json.dumps([pattern, by, captions, int(re.IGNORECASE) if ignore_case else 0])
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _WORK], input=work, capture_output=True, text=True, timeout=TIME_LIMIT
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"find: {pattern[:80]!r} takes too long in these captions. Make it simpler.") from None
    after = json.loads(done.stdout) if done.returncode == 0 else "it could not be tried"
    if isinstance(after, str):
        raise UserError(f"find: {pattern[:80]!r} with {by[:80]!r} in its place does not work: {after}.")
    return after


def add_trigger(captions: Sequence[str], trigger: str) -> Changed:
    """The trigger as the first tag of captions that do not have it as a word of its own, whatever its case."""
    trigger = one_line(trigger)
    if not trigger:
        raise UserError("The trigger is empty. Give the word that is to stand in every caption.")
    there = re.compile(_bounded(re.escape(trigger), whole_words=True), re.IGNORECASE)
    return each(captions, lambda c: c if there.search(c) else ", ".join(filter(None, (trigger, c))))


def tags_of(caption: str) -> list[str]:
    """The tags of a caption, in their order."""
    return [tag for tag in map(one_line, caption.split(",")) if tag]


def tag_counts(captions: Iterable[str]) -> list[tuple[str, int]]:
    """In how many captions each tag stands, the most frequent first, of equals by name; as it is written first."""
    spelt: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for caption in captions:
        tags = tags_of(caption)
        for tag in tags:
            spelt.setdefault(tag.casefold(), tag)
        counts.update({tag.casefold() for tag in tags})
    return [(spelt[key], count) for key, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def unique_tags(captions: Sequence[str]) -> Changed:
    """Without tags that a caption has twice; the first stays."""

    def once(tags: list[str]) -> list[str]:
        first: dict[str, str] = {}
        for tag in tags:
            first.setdefault(tag.casefold(), tag)
        return list(first.values())

    return _tagwise(captions, once)


def remove_tags(captions: Sequence[str], tags: Iterable[str]) -> Changed:
    """Without these tags."""
    gone = {one_line(tag).casefold() for tag in tags}
    return _tagwise(captions, lambda there: [tag for tag in there if tag.casefold() not in gone])


def keep_tags(captions: Sequence[str], most: int) -> Changed:
    """Only the first ``most`` tags of each. Raises UserError."""
    if most < 1:
        raise UserError(f"Of a caption at least one tag has to be kept, got {most}.")
    return _tagwise(captions, lambda tags: tags[:most])


def sort_tags(captions: Sequence[str], keep_first: int = 0) -> Changed:
    """Tags by name; the first ``keep_first``, such as a trigger, stay where they are. Raises UserError."""
    if keep_first < 0:
        raise UserError(f"So many first tags cannot stay where they are: {keep_first}.")
    return _tagwise(captions, lambda tags: tags[:keep_first] + sorted(tags[keep_first:], key=str.casefold))


def _tagwise(captions: Sequence[str], change: Callable[[list[str]], list[str]]) -> Changed:
    """A change to the list of tags of each caption; one that changes nothing leaves a caption's commas alone."""

    def changed(caption: str) -> str:
        tags = tags_of(caption)
        after = change(tags)
        return caption if after == tags else ", ".join(after)

    return each(captions, changed)
