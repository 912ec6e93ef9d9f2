"""The process that holds a language model: it shows rows as the model sees them, and answers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lowrank_diffusion.config import BaseModelConfig, TextConfig
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.processes import importing_libraries
from lowrank_diffusion.text import rows
from lowrank_diffusion.text.request import AnswerLength, Settings
from lowrank_diffusion.text.rows import Message, Row

from . import tokens
from .process import Cancelled, Finished, Partial
from .tokens import Counts, RowTokens

if TYPE_CHECKING:
    from lowrank_diffusion.text.encode import Encoded
    from lowrank_diffusion.text.generate import TextGenerator

MOST_COUNTED = 20_000
"""Rows; the figures of a longer file are those of its beginning, which the tab says."""
EVERYTHING = 10**9


@dataclass(frozen=True)
class Tokenise:
    """Show rows ``first`` to ``first + count - 1`` of a file, and count all."""

    path: Path
    base: BaseModelConfig
    text: TextConfig
    first: int
    count: int


@dataclass(frozen=True)
class Counting(Partial):
    """Rows counted of all; total 0 while the tokenizer loads."""

    done: int
    total: int


@dataclass(frozen=True)
class Tokenised(Finished):
    """The rows asked for."""

    counts: Counts
    rows: tuple[RowTokens, ...]


@dataclass(frozen=True)
class Side:
    """One of the conversations that are held at once."""

    adapted: bool
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Chat:
    """Answer the last message of every side."""

    base: BaseModelConfig
    template: str
    adapter: Path | None
    sides: tuple[Side, ...]
    settings: Settings


@dataclass(frozen=True)
class Saying(Partial):
    """What every side has said so far; None: has not begun."""

    texts: tuple[str | None, ...]


@dataclass(frozen=True)
class Reply:
    """One side's answer."""

    text: str
    tokens: int
    cut: bool
    seconds: float


@dataclass(frozen=True)
class Answered(Finished):
    """All sides' answers."""

    replies: tuple[Reply, ...]


class LanguageWorker:
    """Does both kinds of jobs with one base, which stays loaded."""

    name: ClassVar[str] = "speak"
    died: ClassVar[str] = (
        "The language process was ended from outside, most likely because memory ran out. "
        "Take a smaller base or fewer tokens, or stop a running training, and try again."
    )
    out_of_memory: ClassVar[str] = "Out of memory. Take a smaller base or fewer tokens, or stop what else is running."
    failed: ClassVar[str] = "The language process failed"

    def __init__(self) -> None:
        self._tokenizer: tuple[Any, Any] | None = None
        self._encoded: tuple[Any, list[Row], list[Encoded | str]] | None = None
        self._generator: tuple[Any, TextGenerator] | None = None

    def warm(self, wanted: Callable[[], bool]) -> None:
        """Nothing: which base is wanted is not known."""

    def forget(self) -> None:
        """Let go of everything loaded."""
        if self._generator is not None:
            self._generator[1].release()
        self._generator = self._encoded = self._tokenizer = None

    def do(self, job: Tokenise | Chat, send: Callable[[Partial], None], cancelled: Callable[[], bool]) -> Finished:
        """One job. Raises Cancelled and UserError."""
        if isinstance(job, Tokenise):
            return self._tokenise(job, send, cancelled)
        return self._chat(job, send, cancelled)

    def _tokenise(self, job: Tokenise, send: Callable[[Partial], None], cancelled: Callable[[], bool]) -> Tokenised:
        if self._tokenizer is None:
            send(Counting(0, 0))
        tokenizer = self._loaded_tokenizer(job.base, job.text.template)
        stat = job.path.stat()
        key = (job.path, stat.st_mtime_ns, stat.st_size, job.base, job.text.template, job.text.loss_on)
        if self._encoded is None or self._encoded[0] != key:
            all_rows = rows.read(job.path)
            encoded = list(_encoded(all_rows[:MOST_COUNTED], tokenizer, job.text, send, cancelled))
            self._encoded = (key, all_rows, encoded)
        _, all_rows, encoded = self._encoded
        last = min(job.first + job.count, len(encoded))
        page = [
            tokens.row_tokens(n, all_rows[n], encoded[n], tokenizer, job.text.length) for n in range(job.first, last)
        ]
        return Tokenised(tokens.counts(all_rows, encoded, job.text), tuple(page))

    def _loaded_tokenizer(self, base: BaseModelConfig, template: str) -> Any:
        with importing_libraries():
            from lowrank_diffusion.text.model import Base  # torch and transformers: seconds

        if self._tokenizer is None or self._tokenizer[0] != (base, template):
            loaded = Base.of(base, *_where()).tokenizer(template)
            self._tokenizer = ((base, template), loaded)
        return self._tokenizer[1]

    def _chat(self, job: Chat, send: Callable[[Partial], None], cancelled: Callable[[], bool]) -> Answered:
        texts: list[str | None] = [None] * len(job.sides)
        send(Saying(tuple(texts)))
        generator = self._loaded_generator(job)
        replies = []
        for index, side in enumerate(job.sides):

            def tell(text: str, index: int = index) -> None:
                texts[index] = text
                send(Saying(tuple(texts)))
                if cancelled():
                    raise Cancelled

            began = time.monotonic()
            with contextlib.closing(generator.stream(side.messages, job.settings, side.adapted)) as pieces:
                text, length = _followed(pieces, tell)
            replies.append(Reply(text, length.tokens, length.cut, time.monotonic() - began))
        return Answered(tuple(replies))

    def _loaded_generator(self, job: Chat) -> TextGenerator:
        with importing_libraries():
            from lowrank_diffusion.text.generate import TextGenerator
            from lowrank_diffusion.text.model import Base

        if self._generator is None or self._generator[0] != (job.base, job.template):
            if self._generator is not None:
                self._generator[1].release()
                self._generator = None
            generator = TextGenerator(Base.of(job.base, *_where()), job.template)
            self._generator = ((job.base, job.template), generator)
        self._generator[1].load(job.adapter)
        return self._generator[1]


def _followed(pieces: Generator[str, None, AnswerLength], tell: Callable[[str], None]) -> tuple[str, AnswerLength]:
    """An answer to its end; ``tell`` gets all there is of it after each piece."""
    text = ""
    tell(text)
    while True:
        try:
            text += next(pieces)
        except StopIteration as end:
            return text, end.value
        tell(text)


def _where() -> tuple[Any, Any]:
    """Device and precision."""
    from lowrank_diffusion import devices

    device = devices.pick("auto")
    return device, devices.dtype("auto", device)


def _encoded(
    all_rows: list[Row],
    tokenizer: Any,
    text: TextConfig,
    send: Callable[[Partial], None],
    cancelled: Callable[[], bool],
) -> Iterator[Encoded | str]:
    """Every row as tokens, none cut yet, or why it cannot be."""
    from lowrank_diffusion.text.encode import encode

    for number, row in enumerate(all_rows):
        if number % 50 == 0:
            send(Counting(number, len(all_rows)))
            if cancelled():
                raise Cancelled
        try:
            yield encode(row, tokenizer, text.loss_on, EVERYTHING)
        except UserError as error:
            yield str(error)
