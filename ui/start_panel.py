"""The picture that drawing starts from, and the mask that is painted on it or dropped."""

from __future__ import annotations

import base64
import binascii
import hashlib
import html
import io
from pathlib import Path
from typing import Any

from PIL import Image

from lowrank_diffusion.errors import UserError, of_disk
from lowrank_diffusion.image.pictures import open_picture
from lowrank_diffusion.image.request import LIMITS, DrawRequest

from . import draw_form, safe
from .form import message_html
from .toolkit import gr, static_text, uploads_folder

LARGEST_MASK = 8_000_000
"""Characters of a mask as the page sends it; one of 1024 × 1024 px has some ten thousand."""
EMPTY = {"src": "", "mask": ""}


class StartPanel:
    """Fields of the Generate tab; made inside a ``gr.Blocks``."""

    def __init__(self) -> None:
        with gr.Accordion("Start picture and mask", open=False, elem_id="start-panel") as self.panel:
            with gr.Row():
                self.file = gr.File(
                    label="Start picture: drop one here", file_types=["image"], height=84, elem_id="start-file",
                    elem_classes=["drop", "slim"],
                )  # fmt: skip
                self.mask_file = gr.File(
                    label="Mask: drop one, or paint below", file_types=["image"], height=84, elem_id="mask-file",
                    elem_classes=["drop", "slim"],
                )  # fmt: skip
            self.painter = gr.HTML(
                EMPTY, html_template="<div></div>", js_on_load=static_text("mask.js"), elem_id="painter",
                apply_default_css=False,
            )  # fmt: skip
            low, high = LIMITS["change"]
            self.change = gr.Slider(
                low, high, DrawRequest.change, step=0.01, label="Change", elem_id="change",
                info="How much of the start picture is drawn anew (strength of denoising); 1 leaves nothing of it.",
            )  # fmt: skip
            self.note = gr.HTML(elem_id="start-note", apply_default_css=False)
        # Outside: what is in a closed accordion is not on the page, and would not be told.
        self.start, self.mask = (_text(name) for name in ("start-kept", "mask-kept"))

    @property
    def kept(self) -> dict[str, Any]:
        """What outlives the page."""
        return {"start": self.start, "mask": self.mask, "change": self.change}

    @property
    def outputs(self) -> list[Any]:
        """What its handlers change."""
        return [self.file, self.mask_file, self.painter, self.note, self.start, self.mask, self.panel]

    def connect(self, quiet: dict[str, Any]) -> None:
        """Bind the events."""
        self.file.upload(self.take, self.file, self.outputs, **quiet)
        self.mask_file.upload(self.take_mask, [self.mask_file, self.start], self.outputs, **quiet)
        self.painter.painted(self.painted, self.start, self.outputs, **quiet)

    def take(self, path: str) -> dict[Any, Any]:
        """A picture was dropped. Raises UserError for one that cannot be read."""
        return {self.file: None} | self.show(path)

    def show(self, path: str, mask: str = "") -> dict[Any, Any]:
        """Start from this picture, with this mask. Raises UserError."""
        picture = draw_form.picture(path)
        width, height = open_picture(picture).size
        words = f"Starts from {picture.name}, {width} × {height} px. Paint over what alone is to be drawn anew."
        value = {"src": _address(picture), "mask": _address(draw_form.picture(mask)) if mask else ""}
        shown = {self.painter: value, self.note: message_html(words), self.panel: gr.update(open=True)}
        return shown | {self.start: str(picture), self.mask: mask}

    def nothing(self) -> dict[Any, Any]:
        """Start from noise again."""
        return {self.painter: EMPTY, self.note: "", self.start: "", self.mask: ""}

    def take_mask(self, path: str, start: str) -> dict[Any, Any]:
        """A mask was dropped. Raises UserError."""
        if not start:
            raise UserError("Drop the start picture first: the mask has its size.")
        mask = open_picture(draw_form.picture(path), "#000000")
        size = open_picture(draw_form.picture(start)).size
        if mask.size != size:
            raise UserError(f"The mask must have the start picture's size, {size[0]} × {size[1]} px, not {mask.size}.")
        updates = self.show(start, str(_written(mask.convert("L"))))
        updates[self.painter] = EMPTY | updates[self.painter]
        return updates | {self.mask_file: None}

    def painted(self, start: str, event: gr.EventData) -> dict[Any, Any]:
        """A stroke of the brush has ended, or the picture was taken away. Raises UserError."""
        if getattr(event, "remove", False) or not start:
            return self.nothing()
        text = str(getattr(event, "mask", "") or "")
        if not text:
            return {self.mask: ""}
        size = open_picture(draw_form.picture(start)).size
        return {self.mask: str(_written(decoded(text).resize(size, Image.Resampling.NEAREST)))}

    def restore(self, values: dict[str, Any]) -> dict[Any, Any]:
        """Show again what was kept, if it is still there."""
        start, mask = (values.get(name) for name in ("start", "mask"))
        try:
            return self.show(start, mask if isinstance(mask, str) else "") if isinstance(start, str) and start else {}
        except UserError:
            return {}


def _text(name: str) -> gr.HTML:
    """Holds a text that is kept and not shown."""
    return gr.HTML(
        "", html_template="<div></div>", js_on_load=static_text("kept.js"), elem_id=name, apply_default_css=False
    )


def _address(path: Path) -> str:
    return f"{html.unescape(safe.url(path))}?{path.stat().st_mtime_ns}"


def decoded(text: str) -> Image.Image:
    """The mask that a page has sent as the address of a PNG, in grey. Raises UserError for anything else."""
    head, _, body = text.partition(",")
    try:
        if head != "data:image/png;base64" or len(text) > LARGEST_MASK:
            raise ValueError
        content = base64.b64decode(body, validate=True)
    except (ValueError, binascii.Error):
        raise UserError("What was painted did not arrive whole. Paint it again.") from None
    return open_picture(_kept(content), "#000000").convert("L")


def _kept(content: bytes) -> Path:
    """A file of the uploads with this content. Raises UserError for a full disk."""
    path = uploads_folder() / "masks" / f"{hashlib.sha256(content).hexdigest()[:24]}.png"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written. {of_disk(error)}") from None
    return path


def _written(mask: Image.Image) -> Path:
    content = io.BytesIO()
    mask.save(content, "png")
    return _kept(content.getvalue())
