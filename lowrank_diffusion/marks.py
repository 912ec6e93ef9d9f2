"""Fields of a row, a turn or a picture's row that say whether it is to be learnt, whatever they are called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_LEARN = re.compile(
    r"(train|learn|trainable|use|used|include|included|keep|kept|enabled|selected|approved|accepted|valid|is_valid|"
    r"good|is_good|desirable|is_desirable|label|loss|compute_loss|weight|loss_weight|sample_weight|training_weight|"
    r"train_on_turn|train_on|should_train|is_correct|correct|chosen|is_chosen|preferred|is_preferred|kto_tag|kto_label|"
    r"feedback|thumbs_up|liked|positive|is_positive|helpful|is_helpful|success|passed)"
)
"""Fields that say no with false or 0."""
_LEAVE_OUT = re.compile(
    r"(ignore|ignored|skip|skipped|exclude|excluded|mask|masked|is_masked|rejected|is_rejected|discard|discarded|drop|"
    r"dropped|delete|deleted|disabled|hidden|bad|is_bad|no_train|do_not_train|dont_train|no_loss|undesirable|"
    r"thumbs_down|disliked|failed)"
)
"""Fields that say no with true or 1."""
_WEIGHTS = ("weight", "loss_weight", "sample_weight", "training_weight")
_PARTS = re.compile(r"(train_detail|loss_mask|label_mask|assistant_masks?|segments_mask|weights)")
"""Fields that mark parts of a text, which is not supported."""
_NESTED = ("metadata", "meta", "extra", "extra_info", "info", "annotation", "annotations")
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


_LONGEST = 200
"""Characters of a name as it is listed; a field or file may be called anything."""


class Marks:
    """What the fields of one object say about learning it."""

    def __init__(self, item: Mapping[Any, Any], *, classes: bool = False):
        """Read the marks of ``item`` and of an object of additional facts inside of it.

        ``classes``: an integer ``label`` is the number of a class, as in data sets for classifiers, and says nothing.
        """
        self.names: set[str] = set()
        """Fields that were understood."""
        self.left_out: list[str] = []
        """Fields that say that it is not to be learnt, with their values."""
        self.wanted: list[str] = []
        """Fields that say that it is."""
        self.problems: list[str] = []
        """Fields that say something other than yes or no, as ends of sentences."""
        for field, value in item.items():
            self._read(str(field), str(field), value, classes)
            if str(field).lower() in _NESTED and isinstance(value, Mapping):
                for inner, deeper in value.items():
                    self._read(f"{field}.{inner}", str(inner), deeper, classes)

    def _read(self, place: str, field: str, value: Any, classes: bool) -> None:
        name = re.sub(r"[\s-]+", "_", field.strip().lower())
        if _PARTS.fullmatch(name) and value:
            self.problems.append(f"the field {place} marks parts of a text, which is not supported. Remove the row.")
            return
        positive = _LEARN.fullmatch(name) is not None
        if not positive and not _LEAVE_OUT.fullmatch(name):
            return
        word = classes and isinstance(value, str) and value.strip().lower() in ("true", "false")  # as tables hold it
        labels = isinstance(value, bool) or word
        if value is None or (classes and name == "label" and not labels):
            return
        verdict = _yes_or_no(value)
        if name == "label" and not labels:
            self.problems.append(
                f"the field {place} must be true (learn it) or false (leave it out), got {value!r:.60}."
            )
            return
        if verdict is None:
            if name in _WEIGHTS:
                self.problems.append(
                    f"the field {place} must be 0 or 1 (nothing is learnt in part), got {value!r:.60}."
                )
            return
        self.names.add(field)
        (self.wanted if verdict == positive else self.left_out).append(f"{place}: {str(value).lower()}")


def _yes_or_no(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    return _WORDS.get(value.strip().lower()) if isinstance(value, str) else None


def listed(names: Iterable[object], most: int = 5) -> str:
    """The first of many names, and how many more there are."""
    every = [text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…" for text in map(str, names)]
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
