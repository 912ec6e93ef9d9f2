"""A folder of pictures and all that is said of each: caption, repeats, weight, frame and mask, and what is wrong.

Captions come from the first of these that a folder has: a table (see :mod:`.captions`), a NAME.txt beside a picture,
one prompt for all. Sub-folders are read where a table names their pictures, or where they are numbered as kohya's
scripts have them (see :mod:`.numbered`). What is left out is named: other sub-folders, and files that are not pictures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..config import DataConfig
from ..marks import listed
from . import captions, listing, masks, numbered
from .bounds import LARGEST_ASPECT, SMALLEST_SIDE
from .columns import MOST_REPEATS, PLAIN, Frame, Use
from .listing import Listing
from .pictures import (
    READABLE,
    SUFFIXES,
    DataError,
    check_picture,
    content_key,
    open_picture,
    thumbnail,
    transparent,
)
from .writing import write_set

__all__ = [
    "SUFFIXES",
    "DataError",
    "Picture",
    "check_picture",
    "content_key",
    "open_picture",
    "scan",
    "survey",
    "thumbnail",
    "write_set",
]


@dataclass(frozen=True)
class Picture:
    """A picture that was decoded to its last row, with its caption and how it is learnt."""

    path: Path
    caption: str
    width: int
    """Pixels, after EXIF rotation."""
    height: int
    """Pixels, after EXIF rotation."""
    repeats: int = 1
    """Times an epoch sees it, at least 1."""
    weight: float = 1.0
    """Factor of its loss, above 0."""
    frame: Frame | None = None
    """The part that is learnt, in fractions of the upright picture; None: all of it."""
    mask: Path | None = None
    """See :attr:`.columns.Use.mask`."""

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """(left, top, right, bottom) of the frame, whole pixels of the upright picture; None: all of it."""
        if self.frame is None:
            return None
        left, top, right, bottom = self.frame
        return (
            round(left * self.width), round(top * self.height), round(right * self.width), round(bottom * self.height),
        )  # fmt: skip

    @property
    def seen(self) -> tuple[int, int]:
        """(width, height) of what is learnt: of the frame, or of the whole picture, pixels."""
        left, top, right, bottom = self.box or (0, 0, self.width, self.height)
        return right - left, bottom - top


@dataclass(frozen=True)
class Survey:
    """A folder of pictures: what is learnt of it, and what is not."""

    pictures: list[Picture]
    notes: list[str]
    """For a person: what is left out, and what stands in for what is missing."""


def uncaptioned(folder: Path) -> Survey:
    """As :func:`survey` of a set that is still worked on: pictures may have no caption yet. Raises DataError."""
    return _surveyed(folder, _Common("", "nothing", needed=False), alpha_mask=False)


def scan(folder: Path, prompt: str = "") -> list[Picture]:
    """The pictures of a folder, sorted by name, each with its caption and how it is learnt.

    ``prompt`` is the caption of a picture without one of its own.

    Raises:
        DataError: with every problem of the folder, its pictures and its captions.
    """
    return survey(folder, prompt).pictures


def of_run(data: DataConfig) -> Survey:
    """What a run with these settings learns from. Raises DataError."""
    return survey(Path(data.instance), data.prompt, data.alpha_mask)


def survey(folder: Path, prompt: str = "", alpha_mask: bool = False) -> Survey:
    """The pictures of a folder as :func:`scan` returns them, and notes on what is left out.

    ``alpha_mask``: the alpha channel of a transparent picture that has no mask file is its mask.

    Raises:
        DataError: with every problem of the folder, its pictures, their captions and their masks.
    """
    result = _surveyed(folder, _Common(captions.one_line(prompt), "data.prompt"), alpha_mask)
    if alpha_mask and not any(picture.mask == picture.path for picture in result.pictures):
        result.notes.append("data.alpha_mask=true masks nothing: no picture without a mask file is transparent.")
    return result


def _surveyed(folder: Path, common: _Common, alpha_mask: bool) -> Survey:
    files = listing.read(folder)
    layout = numbered.folders(files)
    return _of_numbered(files, layout, common, alpha_mask) if layout else _of_folder(files, common, alpha_mask)


@dataclass(frozen=True)
class _Common:
    """The caption of pictures without one of their own."""

    caption: str
    source: str
    """Where it comes from, for people."""
    needed: bool = True
    """Whether a picture without any caption is a problem."""


def _of_numbered(files: Listing, layout: list[numbered.Numbered], common: _Common, alpha_mask: bool) -> Survey:
    """The pictures of numbered sub-folders. Raises DataError."""
    problems = [f"{path}: {reason}" for path, reason in files.not_read]
    pictures: list[Picture] = []
    notes: list[str] = []
    for part in layout:
        words = captions.one_line(part.words)
        stand_in = _Common(words, "the folder's name") if words else common
        try:
            if part.problem:
                raise DataError([part.problem])
            inside = _of_folder(part.files, stand_in, alpha_mask)
            notes += _numbered_notes(part, inside)
            pictures += [replace(picture, repeats=picture.repeats * part.repeats) for picture in inside.pictures]
        except DataError as error:
            problems += error.problems
    problems += [
        f"{picture.path}: its folder's number and its row make {picture.repeats} repeats; at most {MOST_REPEATS}."
        for picture in pictures
        if picture.repeats > MOST_REPEATS
    ]
    if problems:
        raise DataError(problems)
    files.pictures = [picture.path for picture in pictures]
    files.others += [*files.texts, *files.masks]
    return Survey(pictures, [*notes, *files.notes(left_out=set(files.folders) - {part.path for part in layout})])


def _numbered_notes(part: numbered.Numbered, inside: Survey) -> list[str]:
    """What is learnt of a numbered folder, and what its own notes are."""
    words = captions.one_line(part.words)
    named = sum(picture.caption == words for picture in inside.pictures)
    caption = f", {named} of them captioned {words!r}" if words and named else ""
    times = "once" if part.repeats == 1 else f"{part.repeats} times"
    count = len(inside.pictures)
    line = f"{part.path.name}: an epoch sees its {count} picture{'s' if count > 1 else ''} {times}{caption}."
    return [line, *(f"{part.path.name}: {note}" for note in inside.notes)]


def _of_folder(files: Listing, common: _Common, alpha_mask: bool) -> Survey:
    """The pictures of one folder, and of others that its table names. Raises DataError."""
    problems = [f"{path}: {reason}" for path, reason in files.not_read]
    given = _captions(files, common)
    every = _with_named(files, given)
    of, mask_problems = _masks(files, given, every)
    files.pictures = [path for path in every if path not in given.excluded]
    if not files.pictures:
        raise DataError([*([] if given.problems else [_no_pictures(files)]), *problems, *given.problems])
    problems += given.problems + mask_problems
    pictures = []
    for path in files.pictures:
        use = given.uses.get(path, PLAIN)
        try:
            mask = of.get(path) or (path if alpha_mask and transparent(path) else None)
            caption = given.by_picture.get(path) or common.caption
            pictures.append(checked(path, caption, replace(use, mask=mask)))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return Survey(pictures, [*files.notes(), *numbered.passed_over(files), *given.notes(), *_empty(given, common)])


def checked(path: Path, caption: str = "", use: Use = PLAIN, size: tuple[int, int] | None = None) -> Picture:
    """A picture that can be learnt as it is said to be. Raises DataError: it is broken, or its frame or mask is.

    ``size``: what :func:`.pictures.check_picture` said of it before, so that it is not decoded again.
    """
    width, height = size or check_picture(path)
    picture = Picture(path, caption, width, height, use.repeats, use.weight, use.frame, use.mask)
    across, down = picture.seen
    if use.frame and (min(across, down) < SMALLEST_SIDE or max(across, down) > LARGEST_ASPECT * min(across, down)):
        rule = f"has a frame of {across} x {down} px"
        limits = f"at least {SMALLEST_SIDE} px a side, and one side at most {LARGEST_ASPECT} times the other"
        raise DataError([f"{path}: {rule}. It needs {limits}."])
    if use.mask:
        masks.check(path, (width, height), use.mask)
    return picture


def _masks(files: Listing, given: captions.Captions, pictures: list[Path]) -> tuple[dict[Path, Path], list[str]]:
    """The mask file of each picture that has one, and what is wrong with the masks."""
    named = {path: use.mask for path, use in given.uses.items() if use.mask}
    # What the table names as a mask is one, whatever it is called.
    beside, problems = masks.owners([path for path in files.masks if path not in named.values()], pictures)
    for picture, mask in named.items():
        if picture in beside:
            both = f"{mask.name}, as the table says, and {beside[picture].name}"
            problems.append(f"{picture}: has two masks, {both}. Keep one of them.")
        if mask != picture and mask in given.by_picture:
            problems.append(f"{mask}: is named as a picture and as the mask of {picture.name}. Remove one of the two.")
    files.masks = [*beside.values(), *named.values()]
    return beside | named, problems


def _empty(given: captions.Captions, common: _Common) -> list[str]:
    """Pictures whose own caption is empty get the common one, which is to be seen."""
    empty = [path.name for path, caption in given.by_picture.items() if not caption and common.needed]
    what = f"{len(empty)} captions are empty, and {common.source} stands in for them"
    return [f"{what}: {listed(empty)}."] if empty else []


def _with_named(files: Listing, given: captions.Captions) -> list[Path]:
    """The folder's own pictures, and those of its sub-folders that its table names, but for masks."""
    named = [path for path in (*given.by_picture, *given.excluded) if path.parent != files.folder]
    masked = {use.mask for use in given.uses.values() if use.mask} - given.by_picture.keys()
    return sorted({*files.pictures, *named} - masked, key=lambda path: str(path.relative_to(files.folder)))


def _no_pictures(files: Listing) -> str:
    if files.folders:
        count = "a sub-folder" if len(files.folders) == 1 else f"{len(files.folders)} sub-folders"
        hint = f"Only numbered ones (10_words) are read: give one of them, or put pictures ({READABLE}) here."
        return f"{files.folder}: has no pictures of its own, only {count}. {hint}"
    return f"{files.folder}: has no pictures. Put some there: {READABLE}."


def _captions(files: Listing, common: _Common) -> captions.Captions:
    """Captions by picture from the folder's own files, and all that is wrong with them."""
    if len(files.tables) > 1:
        names = " and ".join(table.name for table in files.tables)
        return captions.Captions(problems=[f"{files.folder}: has several caption tables, {names}. Keep one of them."])
    all_needed = common.needed and not common.caption
    if not files.tables:
        given = captions.from_texts(files.texts, files.pictures)
        given.problems += _uncaptioned(files, given.by_picture) if files.pictures and all_needed else []
        return given
    table = files.tables[0]
    given = captions.from_table(table, files.pictures)
    if files.texts:
        texts = f"{files.texts[0].name}{' and others' if len(files.texts) > 1 else ''}"
        hint = f"Remove {table.name} to use the .txt files, or the .txt files to use the table."
        given.problems.append(f"{files.folder}: has captions both in {table.name} and in .txt files ({texts}). {hint}")
    if not given.problems and all_needed:  # rows that could not be read would all show up here again
        given.problems = [
            f"{path}: has no caption in {table.name}. Add a row for it, or give one prompt for all such pictures."
            for path in _with_named(files, given)
            if not given.by_picture.get(path) and path not in given.excluded
        ]
    return given


def _uncaptioned(files: Listing, by_picture: dict[Path, str]) -> list[str]:
    if not files.texts:
        hint = "Put a .txt of the same name beside each picture, add a metadata.csv, or give one prompt for all."
        return [f"{files.folder}: none of its pictures has a caption. {hint}"]
    refused = {text.stem for text in files.texts} - {name for path in by_picture for name in (path.stem, path.name)}
    return [
        f"{path}: has no caption. Write one into {path.stem}.txt, or give one prompt for all such pictures."
        for path in files.pictures
        if not by_picture.get(path) and not {path.stem, path.name} & refused  # those are problems already
    ]
