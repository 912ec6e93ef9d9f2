"""Colour words: finding the main colour of a drawing, and painting it in another one.

Recolouring keeps the drawing's light and shade. With L the luminance of a pixel and m that of the main
colour, t = L / m runs along a ramp black -> target -> white, so the main surface gets exactly the target
and darker or lighter strokes stay darker or lighter. Only pixels of the main colour move: the leaf of a
blue apple stays green.

Shapes: B pictures, H x W pixels. Values in [0, 1].
"""

from __future__ import annotations

import numpy as np
import torch

# Word -> sRGB. The first eight are the ones that colour obedience is measured with.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 40, 48),
    "orange": (250, 140, 22),
    "yellow": (252, 208, 44),
    "green": (66, 168, 66),
    "blue": (44, 108, 226),
    "purple": (140, 72, 196),
    "pink": (248, 120, 176),
    "black": (44, 44, 48),
    "brown": (136, 84, 50),
    "grey": (146, 150, 156),
    "white": (240, 241, 243),
    "teal": (24, 166, 158),
    "gold": (214, 166, 48),
    "cyan": (60, 200, 236),
}
WORDS = tuple(COLOURS)
MEASURED = WORDS[:8]
LUMA = (0.299, 0.587, 0.114)
HUES = 24  # bins of the hue histogram
ACHROMATIC = 0.2  # chroma under which a pixel has no hue


def hue_and_chroma(rgb: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, 3, H, W) -> hue in [0, 1) and chroma max - min, both (B, H, W)."""
    high, low = rgb.amax(1), rgb.amin(1)
    chroma = high - low
    safe = chroma.clamp_min(1e-6)
    red, green, blue = rgb.unbind(1)
    hue = torch.where(
        high == red,
        (green - blue) / safe % 6,
        torch.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    return hue / 6, chroma


def main_colour(rgba: np.ndarray) -> tuple[float, float, float, float]:
    """(H, W, 4) bytes -> hue (-1 if the drawing is grey), chroma, luminance and share of its main colour.

    Dark strokes do not count unless there is nothing else: outlines are seldom what a colour word means.
    """
    rgb = torch.from_numpy(rgba[..., :3].astype(np.float32) / 255).permute(2, 0, 1)[None]
    hue, chroma = hue_and_chroma(rgb)
    luma = (rgb * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1)
    alpha = torch.from_numpy(rgba[..., 3] > 128)[None]
    light = alpha & ((luma > 0.22) | (chroma > 0.25))
    area = light if light.sum() > 0.2 * alpha.sum() else alpha
    if not area.any():
        return -1.0, 0.0, 0.5, 0.0
    coloured = area & (chroma > ACHROMATIC)
    counts = torch.bincount((hue[coloured] * HUES).long() % HUES, minlength=HUES).float()
    smooth = counts + 0.5 * (counts.roll(1) + counts.roll(-1))
    best = int(smooth.argmax())
    if smooth[best] > (area & ~coloured).sum():
        apart = (hue * HUES - best - 0.5 + HUES / 2) % HUES - HUES / 2
        mask = coloured & (apart.abs() < 1.5)
        value = (best + 0.5 + float(apart[mask].mean())) / HUES % 1
    else:
        mask, value = area & ~coloured, -1.0
    share = float(mask.sum() / alpha.sum())
    return value, float(chroma[mask].median()), float(luma[mask].median().clamp(0.12, 0.97)), share


def word_of(hue: float, chroma: float, luma: float) -> str | None:
    """The word that a speaker would use for a main colour, or None where two words compete."""
    if hue < 0:
        return "white" if luma > 0.88 else "black" if luma < 0.25 else "grey" if 0.35 < luma < 0.75 else None
    degrees = hue * 360
    for word, low, high in (("yellow", 43, 58), ("green", 85, 155), ("blue", 200, 245), ("purple", 262, 295)):
        if low <= degrees <= high and chroma > 0.3:
            return word
    if (degrees >= 350 or degrees <= 8) and chroma > 0.5:
        return "red"
    if 20 <= degrees <= 36 and chroma > 0.7:
        return "orange"
    return "brown" if 10 <= degrees <= 36 and luma < 0.45 and chroma < 0.6 else None


def table(device: torch.device) -> torch.Tensor:
    """(number of words, 3) target colours."""
    return torch.tensor(list(COLOURS.values()), device=device, dtype=torch.float32) / 255


def recolour(rgb: torch.Tensor, main: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Paint the main colour of each picture.

    rgb (B, 3, H, W); main (B, 4) from `main_colour`; target (B, 3). Returns (B, 3, H, W).
    """
    hue, chroma = hue_and_chroma(rgb)
    luma = (rgb * rgb.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1)
    wanted, level = main[:, 0].view(-1, 1, 1), main[:, 2].view(-1, 1, 1)
    apart = ((hue - wanted + 0.5) % 1 - 0.5).abs()
    same_hue = ((0.13 - apart) / 0.04).clamp(0, 1) * ((chroma - 0.08) / 0.12).clamp(0, 1)
    grey = ((0.26 - chroma) / 0.1).clamp(0, 1) * ((luma - 0.1) / 0.12).clamp(0, 1)
    mask = torch.where(wanted < 0, grey, same_hue)[:, None]
    ramp = (luma / level)[:, None]
    colour = target.view(-1, 3, 1, 1)
    lift = ((luma - level) / (1 - level).clamp_min(0.03)).clamp(0, 1)[:, None]
    painted = torch.where(ramp <= 1, colour * ramp, colour + (1 - colour) * lift * 0.8)
    return rgb + mask * (painted.clamp(0, 1) - rgb)
