"""What a preset asks the person: its captions and prompts have blanks for what the pictures show and for its word.

``a photo of {word} {subject}`` becomes ``a photo of sks robot`` with ``data.word=sks`` and ``data.subject=robot``. What
a preset answers itself is true of its own example only, so with other pictures the answers must be given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .config import Config
from .declare import Problem
from .paths import PROJECT

ANSWERS = {"subject": "data.subject", "word": "data.word"}
"""The setting that fills a blank."""
FILLED = ("data.prompt", "data.trigger", "prior.prompt", "sample.prompts")
"""The settings that may have blanks."""
_HINTS = {
    "data.subject": "Say what the pictures show, for example data.subject=robot.",
    "data.word": "Choose the word that will mean it: a rare one for a subject, as data.word=sks, or a style's name.",
}
_LONGEST = 1000
"""Characters of a text that is compared with a preset's, and of an answer that is filled in."""
_BLANK = re.compile(r"(?P<an>\b[Aa] )?\{(?P<name>subject|word)\}")


def merged(preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The dotted settings of a preset with those that a person gave over them, and the blanks filled."""
    values = {**preset, **given}
    if "data.instance" in given and not _same(given["data.instance"], preset.get("data.instance")):
        values = {key: value for key, value in values.items() if key in given or key not in ANSWERS.values()}
        values = _read_from(preset.get("data.prompt"), given.get("data.prompt")) | values
    answers = {name: str(values.get(key) or "").strip() for name, key in ANSWERS.items()}
    return values | {key: _filled(values[key], answers) for key in FILLED if key in values}


def problems(config: Config) -> list[Problem]:
    """The blanks that are still there: nothing may be learnt or drawn from them."""
    values = config.dotted()
    problems = []
    for name, key in ANSWERS.items():
        asking = [field for field in FILLED if f"{{{name}}}" in str(values[field])]
        if asking:
            rule = f"is {'not used' if values[key] else 'empty'}, and {', '.join(asking)} still have a {{{name}}}."
            problems.append(Problem(key, rule, _HINTS[key]))
    return problems


def _same(given: Any, own: Any) -> bool:
    try:
        place = Path(str(given)).expanduser()
        return bool(given) and bool(own) and (PROJECT / place).resolve() == (PROJECT / str(own)).resolve()
    except (OSError, ValueError, RuntimeError):
        return False


def _read_from(template: Any, prompt: Any) -> dict[str, Any]:
    """The answers that a caption holds which has the form of the preset's: 'a photo of zwx dog' says both."""
    if not (isinstance(template, str) and isinstance(prompt, str)) or max(len(template), len(prompt)) > _LONGEST:
        return {}
    pattern = re.escape(template)
    for name, form in (("word", r"\S+"), ("subject", ".+")):
        blank = re.escape(f"{{{name}}}")
        pattern = pattern.replace(blank, f"(?P<{name}>{form})", 1).replace(blank, f"(?P={name})")
    match = re.fullmatch(pattern.replace(r"\ ", r"\s+"), prompt.strip())
    return {ANSWERS[name]: value for name, value in match.groupdict().items()} if match else {}


def _filled(value: Any, answers: Mapping[str, str]) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_filled(item, answers) for item in value)
    return _BLANK.sub(lambda match: _answer(match, answers), value) if isinstance(value, str) else value


def _answer(match: re.Match[str], answers: Mapping[str, str]) -> str:
    """The blank's answer, 'a' before it as it must be; the blank itself while there is none."""
    article, answer = match["an"] or "", answers[match["name"]]
    if not answer or len(answer) > _LONGEST:  # which is refused for its length
        return match[0]
    return (article.replace(" ", "n ") if answer[0].lower() in "aeiou" else article) + answer
