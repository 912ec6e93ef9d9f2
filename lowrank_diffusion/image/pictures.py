"""Reading one picture file safely: what is refused, and how everything else becomes 8-bit sRGB.

Only the formats in :data:`FORMATS` are ever handed to a decoder, whatever the file is called, and a file is decoded
to its last row before it counts as a picture.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageCms, ImageColor, ImageFile, PngImagePlugin, UnidentifiedImageError, features

from ..errors import DataError
from . import bounds
from .bounds import LARGEST_MEGAPIXELS

# Cameras and editors write metadata that breaks TIFF's rules; of all of it only the orientation is used.
warnings.filterwarnings("ignore", "Corrupt EXIF data|Truncated File Read", UserWarning)

SUFFIXES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".gif": "GIF",
} | ({".avif": "AVIF"} if features.check("avif") else {})
"""Endings of the files that count as pictures, with Pillow's name of each format."""

FORMATS = tuple(dict.fromkeys(SUFFIXES.values()))
READABLE = "png, jpg, jpeg, webp, bmp, tiff, gif (not animated)" + (", avif" if ".avif" in SUFFIXES else "")

_MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
_SIXTEEN_BIT_GREY = {"I;16", "I;16B", "I;16L", "I;16N"}
_MODE_NAMES = {"F": "floating-point values", "I": "32-bit or signed integers", "LAB": "CIE Lab colours"}
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_AT_ONCE = 4_000_000
"""Pixels that are turned into RGB at once."""
Transform = Callable[[str], ImageCms.ImageCmsTransform | None]
"""From the colours of a mode to sRGB."""

PngImagePlugin.MAX_TEXT_CHUNK = bounds.LARGEST_PROFILE  # whose limit it is as well


def check_picture(path: Path) -> tuple[int, int]:
    """Width and height in pixels after EXIF rotation, once the whole file was decoded. Raises DataError."""
    with _opened(path) as image:
        width, height = _decode(path, image, smallest=1)
        sideways = _orientation(image) >= 5
    return (height, width) if sideways else (width, height)


def open_picture(path: Path, background: str = "#ffffff") -> Image.Image:
    """The picture as RGB: upright by its EXIF, sRGB by its profile, transparent parts over ``background``.

    Raises:
        DataError: the file is not a picture that can be learnt from.
    """
    return _load(path, background, smallest=None)


def transparent(path: Path) -> bool:
    """Whether a picture may have transparent parts, by its header. Raises DataError."""
    with _opened(path) as image:
        return image.has_transparency_data


def alpha(path: Path) -> Image.Image:
    """How opaque each part of a picture is: 8-bit grey, upright, 255 where nothing shines through. Raises DataError."""
    with _opened(path) as image:
        _decode(path, image, smallest=None)
        orientation = _orientation(image)
        image = _eight_bit(image) if image.mode in _SIXTEEN_BIT_GREY else image
        seen = image.convert("RGBA").getchannel("A")
    return seen.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else seen


def thumbnail(path: Path, side: int) -> bytes:
    """A small JPEG that fits into a square of ``side`` pixels. Raises DataError."""
    picture = _load(path, "#ffffff", smallest=2 * side)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    content = BytesIO()
    picture.save(content, format="JPEG", quality=85)
    return content.getvalue()


def preview(path: Path, side: int) -> Image.Image:
    """A picture as RGB whose shorter side is at most ``side`` pixels, each the mean of an area. Raises DataError."""
    picture = _load(path, "#ffffff", smallest=2 * side)
    factor = side / min(picture.size)
    if factor >= 1:
        return picture
    return picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.BOX)


def content_key(path: Path) -> str:
    """SHA-256 of the file's bytes in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_suffix(path: Path) -> str:
    """The ending that fits what is in the file, ``.jpg`` for a JPEG called ``.png``. Raises DataError."""
    with _opened(path) as image:
        kind = "JPEG" if image.format == "MPO" else image.format
    return next(suffix for suffix, name in SUFFIXES.items() if name == kind)


def os_problem(path: Path, error: OSError) -> DataError:
    """A file or folder that the system does not let us read or write, in words."""
    if isinstance(error, PermissionError):
        return DataError([f"{path}: permission denied. Change its permissions, or copy it elsewhere."])
    if isinstance(error, FileNotFoundError):
        return DataError([f"{path}: does not exist. Check the path; a link may point to something that has gone."])
    return DataError([f"{path}: {error.strerror or error}. Check the disk and the path."])


def _load(path: Path, background: str, smallest: int | None) -> Image.Image:
    with _opened(path) as image:
        _decode(path, image, smallest)
        orientation = _orientation(image)
        picture = _flattened(image, background)
    return picture.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else picture


def _opened(path: Path) -> Image.Image:
    """The picture with only its header read, once that header is acceptable."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise DataError([f"{path}: is not a file. Give a picture."])
        if size == 0:
            raise DataError([f"{path}: is empty (0 bytes). Copy or export it again."])
        if size > bounds.LARGEST_FILE:
            raise DataError([f"{path}: is {size / 1e9:.1f} GB. Make it smaller."])
        image = _identified(path)
    except OSError as error:
        raise os_problem(path, error) from None
    problem = _header_problem(path, image)
    if problem:
        image.close()
        raise DataError([f"{path}: {problem}"])
    return image


def _identified(path: Path) -> Image.Image:
    limit = f"the limit is {LARGEST_MEGAPIXELS} megapixels. Make it smaller."
    try:
        with warnings.catch_warnings():  # Pillow warns below our own limit
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(bounds.without_texts(path) or path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        size = f"has {int(pixels.group()) / 1e6:.0f} megapixels" if pixels else "is far too large"
        raise DataError([f"{path}: {size}; {limit}"]) from None
    except UnidentifiedImageError:
        raise DataError([f"{path}: {_unreadable(path)}"]) from None
    except Exception as error:  # a broken header makes Pillow's plugins raise nearly anything
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError([f"{path}: is damaged ({error}). Export it again."]) from None


def _unreadable(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(12)
    if path.suffix.lower() in (".heic", ".heif") or start[4:11] in (b"ftyphei", b"ftyphev", b"ftypmif", b"ftypmsf"):
        return "is a HEIC/HEIF picture, which cannot be read. Convert it to PNG or JPEG."
    return f"is damaged, cut short, or not a picture that can be read. Save it as one of: {READABLE}."


def _header_problem(path: Path, image: Image.Image) -> str:
    """What is wrong with a picture by its header, or nothing."""
    if problem := bounds.problem(path, image):
        return problem
    if image.mode not in _MODES | _SIXTEEN_BIT_GREY:
        kind = _MODE_NAMES.get(image.mode, f"pixels of the kind {image.mode}")
        return f"holds {kind}, which have no fixed brightness. Save it with 8 or 16 bits per channel."
    frames = bounds.frames(path, image)
    if (
        frames not in ("0", "1") and image.format != "MPO"
    ):  # MPO: a phone's JPEG with a depth or gain map behind the picture
        kind = "has several pages" if image.format == "TIFF" else "is animated"
        return f"{kind} ({frames} frames). Save one of them as a picture of its own."
    return ""


def _decode(path: Path, image: Image.Image, smallest: int | None) -> tuple[int, int]:
    """Decode every row; a JPEG at reduced size where both sides may be as small as ``smallest``.

    Returns the full width and height, which are already turned upright where Pillow does so itself (TIFF).
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # other libraries set it for the whole process
    try:
        if image.format == "PNG":
            with _identified(path) as again:
                again.verify()  # loading alone does not compare the pixel data's checksums
        full = image.size
        reduced = smallest is not None and image.draft(None, (smallest, smallest)) is not None
        image.load()
        return full if reduced else image.size
    except Exception as error:  # a broken file makes Pillow's decoders raise nearly anything
        raise DataError([f"{path}: is damaged or cut short ({error}). Copy or export it again."]) from None


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1-8 of a loaded picture; 1 where there is none or the EXIF block is broken."""
    with contextlib.suppress(Exception):  # pixels are whole at this point; broken EXIF only loses the rotation
        value = image.getexif().get(_ORIENTATION, 1)
        return value if value in _TRANSPOSE else 1
    return 1


def _flattened(image: Image.Image, background: str) -> Image.Image:
    """A loaded picture as RGB, without its transparency, not yet turned."""
    profile = image.info.get("icc_profile")
    transform = functools.cache(functools.partial(_transform, profile))
    canvas = Image.new("RGB", image.size, ImageColor.getrgb(background)[:3])
    width, height = image.size
    rows = max(1, _AT_ONCE // width)
    for top in range(0, height, rows):  # in strips: the steps between need copies of their own
        strip = image.crop((0, top, width, min(top + rows, height)))
        _put(strip, canvas, top, transform)
    return canvas


def _put(strip: Image.Image, canvas: Image.Image, top: int, transform: Transform) -> None:
    """Some rows of a picture onto the canvas."""
    if strip.mode in _SIXTEEN_BIT_GREY:
        strip = _eight_bit(strip)
    if strip.has_transparency_data:
        layered = strip.convert("RGBA")
        colour = strip.getchannel("L") if strip.mode == "LA" else layered.convert("RGB")
        canvas.paste(_srgb(colour, transform), (0, top), mask=layered.getchannel("A"))
        return
    colour = strip.convert("L") if strip.mode == "1" else strip
    colour = colour.convert("RGB") if colour.mode in ("P", "RGBX", "YCbCr") else colour
    canvas.paste(_srgb(colour, transform), (0, top))


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey as L, or LA where one value stands for transparent; Pillow's own conversion clips or truncates."""
    wide = image.convert("I")
    grey = wide.point(_scale_table(), "L")
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return grey
    return Image.merge("LA", (grey, wide.point([255 * (value != transparent) for value in range(65536)], "L")))


@functools.cache
def _scale_table() -> list[int]:
    """0..65535 to 0..255, both ends kept."""
    return [round(value / 257) for value in range(65536)]


def _srgb(colour: Image.Image, transform: Transform) -> Image.Image:
    """Colours (L, RGB or CMYK) as sRGB: by the embedded profile where it fits, else by Pillow's plain formula."""
    profile_transform = transform(colour.mode)
    if profile_transform is not None:
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            converted = ImageCms.applyTransform(colour, profile_transform)
            if converted is not None:
                return converted
    return colour if colour.mode == "RGB" else colour.convert("RGB")


def _transform(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From the colours of a profile to sRGB; None where it is sRGB, or says nothing about colours of this mode."""
    if not profile:
        return None
    # A profile that is broken or meant for another kind of picture says nothing about these colours.
    with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError, ImportError):
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if "sRGB" not in ImageCms.getProfileDescription(source) or mode != "RGB":
            return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    return None
