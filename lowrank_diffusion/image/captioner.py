"""Captions from a model that looks at pictures: BLIP, GIT, Florence-2, or any that is asked in a chat.

Any image-to-text model that transformers itself knows; code that comes with a model is never run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from .. import devices
from ..errors import UserError
from ..loading import explained, no_progress_bar
from . import pretrained
from .captions import one_line
from .pictures import open_picture

QUESTIONS = {"florence2": "<MORE_DETAILED_CAPTION>"}
"""What models are asked that need a question of their own."""
QUESTION = "Describe this picture in one sentence."
"""And what those are asked that chat."""
_WANTED = pretrained.Wanted(
    "--model",
    frozenset(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES),
    "Give the folder or hub id of an image-to-text model such as Salesforce/blip-image-captioning-base.",
)


class Captioner:
    """A model that captions pictures, loaded once.

    Args:
        model: Its folder or hub id.
        device: Where it works.
        dtype: In which precision.

    Raises:
        ModelError: There is no such model, it is of another kind, or it cannot be loaded.
    """

    def __init__(self, model: str, device: torch.device, dtype: torch.dtype = torch.float32):
        folder = pretrained.find(model, _WANTED)
        self.kind, self.device, self.dtype = pretrained.kind(folder, model, _WANTED), device, dtype
        here: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        with explained(model, _WANTED.key, "Download it again, or take another one."), no_progress_bar():
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **here
            )
            network, info = loaded
            if missing := sorted(info["missing_keys"]):
                raise ValueError(f"{len(missing)} weights are missing: {', '.join(missing[:3])}")
            self._processor: Any = AutoProcessor.from_pretrained(folder, **here)
        self._model: Any = network.to(device).eval()
        self.chats = bool(getattr(self._processor, "chat_template", None))
        """Whether it is asked in a chat."""

    def caption(
        self,
        paths: Sequence[Path],
        prompt: str = "",
        *,
        tokens: int = 100,
        progress: Callable[[int, int], None] = lambda done, total: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[Path, str]]:
        """A caption of each picture as soon as it is there.

        The likeliest one, which is the same every time.

        Args:
            paths: The pictures.
            prompt: What a chatting model is asked; with BLIP and GIT how captions begin ("a photo of"). Empty: what
                suits the model.
            tokens: Most tokens of a caption.
            progress: Called with pictures done and all of them.
            cancelled: Asked before each picture; nothing more comes once it says yes.

        Raises:
            DataError: A picture cannot be read.
            UserError: The model does not take the prompt, or memory is not enough.
        """
        question = prompt or QUESTIONS.get(self.kind, QUESTION if self.chats else "")
        for number, path in enumerate(paths):
            if cancelled():
                return
            caption = self._captioned(open_picture(path), question, tokens)
            progress(number + 1, len(paths))
            yield path, caption

    @torch.no_grad()
    def _captioned(self, picture: Image.Image, question: str, tokens: int) -> str:
        try:
            inputs = self._inputs(picture, question)
            made = self._model.generate(**inputs, max_new_tokens=tokens, do_sample=False, num_beams=1)
        except (RuntimeError, MemoryError) as error:
            if not devices.is_out_of_memory(error):
                raise
            devices.release(self.device)
            raise UserError(f"{_WANTED.key}: not enough memory on {self.device}. Take --device cpu, or less.") from None
        except (ValueError, IndexError, KeyError) as error:
            line = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise UserError(f"{_WANTED.key}: does not take the prompt {question[:80]!r} ({line}).") from None
        ids = made[0]
        if self.chats:  # the answer follows what was asked
            ids = ids[inputs["input_ids"].shape[1] :]
        return one_line(self._processor.decode(ids, skip_special_tokens=True))

    def _inputs(self, picture: Image.Image, question: str) -> dict[str, Tensor]:
        """What the model is given: a batch of one."""
        if self.chats:
            content = [{"type": "image"}, {"type": "text", "text": question}]
            talk = [{"role": "user", "content": content}]
            question = self._processor.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
        text = {"text": question} if question else {}
        inputs = dict(self._processor(images=picture, **text, return_tensors="pt"))
        if self.kind in ("blip", "git"):
            inputs.pop("token_type_ids", None)
        if self.kind == "git" and question:  # a caption is to go on from there, so no end stands behind it
            inputs |= {name: inputs[name][:, :-1] for name in ("input_ids", "attention_mask")}
        return {name: self._moved(tensor) for name, tensor in inputs.items()}

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)

    def release(self) -> None:
        """Forget the model and give its memory back."""
        self._model = None
        devices.release(self.device)
