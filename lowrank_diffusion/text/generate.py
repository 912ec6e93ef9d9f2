"""Answers of a language model, with and without an adapter, token by token."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import adapters, devices
from ..config import Config
from ..errors import UserError
from . import metrics
from .dataset import Dataset
from .encode import end_of_turn, pad_id, prompt
from .model import Base
from .request import AnswerLength, Settings
from .rows import Message


@torch.no_grad()
def stream(
    model: Any, tokenizer: Any, messages: Sequence[Message], settings: Settings
) -> Generator[str, None, AnswerLength]:
    """The model's answer to a conversation, in pieces of text as they come; what it returns is its length.

    The same seed gives the same draws on every device.

    Raises:
        UserError: the conversation leaves no room for an answer in the base's context.
        DataError: the chat template refuses the conversation.
    """
    asked = prompt(messages, tokenizer)
    room = _room(model, len(asked))
    stops = {end_of_turn(tokenizer), tokenizer.eos_token_id}
    generator = torch.Generator().manual_seed(settings.seed)
    ids, cache, tokens, given, ended = torch.tensor([asked], device=model.device), dict[str, Any](), [], "", False
    for _ in range(min(settings.max_tokens, room)):
        out = model(input_ids=ids, use_cache=True, logits_to_keep=1, **cache)
        token = choose(out.logits[0, -1], settings, generator)
        name = "cache" if "cache" in out else "past_key_values"  # as older transformers call it
        cache = {name: out[name]}
        ended = token in stops
        if ended:
            break
        tokens.append(token)
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # a character may take several tokens
            yield text[len(given) :]
            given = text
        ids = torch.tensor([[token]], device=model.device)
    yield tokenizer.decode(tokens, skip_special_tokens=True)[len(given) :]
    return AnswerLength(len(tokens), not ended)


def _room(model: Any, used: int) -> int:
    """How many tokens an answer may have. Raises UserError."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**31
    if used >= context:
        raise UserError(f"The conversation has {used} tokens, and the base's context {context}. Begin a new one.")
    return context - used


def choose(logits: Tensor, settings: Settings, generator: torch.Generator) -> int:
    """The next token out of its logits (V,): the likeliest, or drawn from the smallest set of mass ``top_p``."""
    if settings.temperature == 0:
        return int(logits.argmax())
    wanted, order = torch.softmax(logits.float().cpu() / settings.temperature, dim=0).sort(descending=True, stable=True)
    before = wanted.cumsum(0) - wanted  # nucleus sampling, arXiv 1904.09751; the likeliest is always in
    return int(order[torch.multinomial(wanted * (before < settings.top_p), 1, generator=generator)])


class TextGenerator:
    """A base model that stays loaded, and the adapter it may answer with.

    Raises, when the model is first needed, what :class:`Base` raises.
    """

    def __init__(self, base: Base, template: str = "auto"):
        self.base, self.tokenizer = base, base.tokenizer(template)
        self._model: Any = None  # a PeftModel while there is an adapter
        self._adapter: tuple[Path, int] | None = None

    def load(self, folder: Path | None) -> None:
        """Take the adapter of a PEFT folder, in place of any other; None: none.

        Raises:
            AdapterError: it cannot be read, or is for another base.
        """
        if self._model is None:
            self._model = self.base.model()
        wanted = (folder.resolve(), _changed(folder)) if folder else None
        if wanted == self._adapter:
            return
        if self._adapter is not None:
            self._model, self._adapter = adapters.unload(self._model), None
        if wanted is not None:
            try:
                self._model = adapters.load(self._model, wanted[0])
            except BaseException:  # half an adapter may be on it
                self._model = None
                raise
            self._adapter = wanted

    def stream(
        self, messages: Sequence[Message], settings: Settings, adapted: bool = True
    ) -> Generator[str, None, AnswerLength]:
        """:func:`stream` with the loaded adapter, or without."""
        if self._model is None:
            self._model = self.base.model()
        with nullcontext() if adapted else adapters.disabled(self._model):
            return (yield from stream(self._model, self.tokenizer, messages, settings))

    def measure(self, data: Dataset, cfg: Config, rows: int | None, max_tokens: int) -> metrics.Measures:
        """Perplexity, and of conversations the share of exact answers and the speed, with what is loaded."""
        if self._model is None:
            self._model = self.base.model()
        tokens = cfg.train.batch * cfg.text.length
        loss = metrics.token_loss(self._model, data.held_out, pad_id(self.tokenizer), tokens)
        perplexity, asked = metrics.perplexity(loss), metrics.answerable(data.held_out_rows)[:rows]
        if not asked:
            return metrics.Measures(perplexity)
        answers = metrics.answer(self._model, self.tokenizer, asked, max_tokens)
        return metrics.Measures(perplexity, answers.exact_match, len(asked), answers.tokens_per_second)

    def release(self) -> None:
        """Forget the model and give its memory back."""
        self._model = self._adapter = None
        devices.release(self.base.device)


def _changed(folder: Path) -> int:
    path = folder / "adapter_model.safetensors"
    return path.stat().st_mtime_ns if path.is_file() else 0
