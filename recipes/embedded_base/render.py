"""Plans -> pictures, on any device. Shapes: B scenes, H = W = SIDE px; values in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from . import backgrounds, colours
from .colours import LUMA
from .rasterise import Library
from .scenes import EFFECTS
from .settings import LAYERS, SIDE

ARRAYS = ("picture", "box", "colour", "background", "effect", "crop", "size")


class Renderer:
    """Keeps the library, the backgrounds and a plan on the device and draws any rows of the plan."""

    def __init__(self, library: Library, plan: dict[str, Any], device: torch.device) -> None:
        self.pixels = torch.from_numpy(np.array(library.pixels)).to(device)
        self.main = torch.from_numpy(library.main).to(device)
        self.bank = torch.from_numpy(backgrounds.bank()).to(device).permute(0, 3, 1, 2).contiguous()
        self.targets = colours.table(device)
        self.plan = {k: torch.from_numpy(plan[k]).to(device) for k in ARRAYS}

    @torch.no_grad()
    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """(B,) row numbers -> (B, 3, H, W)."""
        plan = {k: v[rows] for k, v in self.plan.items()}
        canvas = self.bank[plan["background"].long()].float() / 255
        for k in range(LAYERS):
            picture = plan["picture"][:, k]
            used = (picture >= 0).nonzero()[:, 0]
            if len(used):
                rgba = self._layer(picture[used].long(), plan["colour"][used, k].long())
                rgba = place(rgba, plan["box"][used, k])
                under = canvas[used]
                canvas[used] = under * (1 - rgba[:, 3:]) + rgba[:, :3]
        canvas = apply_effects(canvas, plan["effect"])
        return reduce_detail(crop(canvas, plan["crop"]), plan["size"]).clamp(0, 1)

    def _layer(self, picture: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
        """(B, 4, H, W) with the colour premultiplied by alpha."""
        rgba = self.pixels[picture].permute(0, 3, 1, 2).float() / 255
        rgb, alpha = rgba[:, :3], rgba[:, 3:]
        painted = (colour >= 0).nonzero()[:, 0]
        if len(painted):
            main, target = self.main[picture[painted]], self.targets[colour[painted]]
            rgb[painted] = colours.recolour(rgb[painted], main, target)
        return torch.cat([rgb * alpha, alpha], 1)


def place(rgba: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
    """Shrink and move: a point p of the picture lands on scale * p + centre. box (B, 3) = scale, x, y."""
    if bool((box == box.new_tensor([1.0, 0.0, 0.0])).all()):
        return rgba
    scale = box[:, 0]
    theta = torch.zeros(len(rgba), 2, 3, device=rgba.device)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / scale
    theta[:, :, 2] = -box[:, 1:] / scale[:, None]
    # Bilinear sampling skips pixels below half size: halve those pictures first.
    half = F.interpolate(F.avg_pool2d(rgba, 2), scale_factor=2, mode="bilinear", align_corners=False)
    source = torch.where((scale < 0.6).view(-1, 1, 1, 1), half, rgba)
    grid = F.affine_grid(theta, list(rgba.shape), align_corners=False)
    return F.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def crop(canvas: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """boxes (B, 3) = zoom, left, top: enlarge by zoom, then cut SIDE px from (left, top)."""
    rows = (boxes[:, 0] > 1).nonzero()[:, 0]
    if not len(rows):
        return canvas
    zoom, start = boxes[rows, 0], boxes[rows, 1:]
    theta = torch.zeros(len(rows), 2, 3, device=canvas.device)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / zoom
    theta[:, :, 2] = (2 * start / SIDE + 1) / zoom[:, None] - 1
    grid = F.affine_grid(theta, [len(rows), 3, SIDE, SIDE], align_corners=False)
    canvas[rows] = F.grid_sample(canvas[rows], grid, padding_mode="border", align_corners=False)
    return canvas


def reduce_detail(canvas: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Show each picture as if it had been `size` px wide and was enlarged."""
    for px in (32, 48, 64, 80, 96, 112):
        rows = (size == px).nonzero()[:, 0]
        if len(rows):
            small = F.interpolate(canvas[rows], size=px, mode="bilinear", antialias=True)
            canvas[rows] = F.interpolate(small, size=SIDE, mode="bicubic")
    return canvas


def apply_effects(canvas: torch.Tensor, effect: torch.Tensor) -> torch.Tensor:
    """Picture-wide styles made by arithmetic; they teach that a style word is about the whole picture."""
    for index, name in enumerate(EFFECTS):
        rows = (effect == index).nonzero()[:, 0]
        if len(rows):
            canvas[rows] = DRAWN[name](canvas[rows])
    return canvas


def _grey(rgb: torch.Tensor) -> torch.Tensor:
    return (rgb * rgb.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True).expand_as(rgb)


def _sepia(rgb: torch.Tensor) -> torch.Tensor:
    return _grey(rgb) * rgb.new_tensor([1.0, 0.86, 0.66]).view(1, 3, 1, 1) + 0.04


def _pixel(rgb: torch.Tensor) -> torch.Tensor:
    return F.interpolate(F.avg_pool2d(rgb, 6, 6, ceil_mode=True), size=SIDE, mode="nearest")


def _lines(rgb: torch.Tensor) -> torch.Tensor:
    smooth = F.avg_pool2d(F.pad(rgb, (1, 1, 1, 1), mode="replicate"), 3, 1)
    across = (smooth - smooth.roll(1, 3)).abs().amax(1, keepdim=True)
    down = (smooth - smooth.roll(1, 2)).abs().amax(1, keepdim=True)
    return (1 - 4 * torch.maximum(across, down)).clamp(0.1, 1).expand_as(rgb)


def _solid(rgb: torch.Tensor) -> torch.Tensor:
    """1 where the drawing is, small white holes closed: (B, 1, H, W)."""
    mask = (rgb.amin(1, keepdim=True) < 0.97).float()
    return -F.max_pool2d(-F.max_pool2d(mask, 5, 1, 2), 5, 1, 2)


def _silhouette(rgb: torch.Tensor) -> torch.Tensor:
    return (1 - 0.92 * _solid(rgb)).expand_as(rgb)


def _shadow(rgb: torch.Tensor) -> torch.Tensor:
    solid = _solid(rgb)
    cast = F.avg_pool2d(F.pad(solid.roll((7, 5), (2, 3)), (4, 4, 4, 4)), 9, 1)
    return torch.where(solid > 0, rgb, 1 - 0.45 * cast)


def _sticker(rgb: torch.Tensor) -> torch.Tensor:
    """A white rim on grey."""
    solid = _solid(rgb)
    border = F.max_pool2d(solid, 9, 1, 4)
    return torch.where(solid > 0, rgb, torch.where(border > 0, 1.0, 0.62).expand_as(rgb))


DRAWN: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "grey": _grey,
    "pixel": _pixel,
    "sepia": _sepia,
    "lines": _lines,
    "negative": lambda rgb: 1 - rgb,
    "shadow": _shadow,
    "silhouette": _silhouette,
    "sticker": _sticker,
}
