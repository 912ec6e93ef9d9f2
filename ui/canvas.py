"""How drawn pictures are shown: a job with its progress, its pictures or its grid, and the strip of all jobs."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Sequence
from pathlib import Path

from lowrank_diffusion.errors import UserError
from lowrank_diffusion.image.grid import FILE, SHEET, Grid
from lowrank_diffusion.image.items import File, Item
from lowrank_diffusion.image.request import facts
from lowrank_diffusion.image.samplers import OWN

from . import live as live_words
from . import pictures, records, safe
from .form import message_html
from .jobs import Live
from .records import Record

PAGE = 12
"""Jobs of the strip that are shown at once."""
NOTHING = '<div class="nothing">Nothing is drawn yet. Describe a picture and press Draw.</div>'
INTERRUPTED = "The app ended while this was drawn. What was done is here; Continue draws the rest."
MOST_SHOWN = 400
"""Pictures of a folder that are shown."""


def bar(done: int, total: int, words: str, left: float, preview: str = "") -> str:
    """The progress bar, a moving one while the length is unknown, and what is seen of the picture at work."""
    share = done / total if total else 0.0
    rest = f" · {live_words.duration(left)} left" if left >= 1 else ""
    image = f'<img class="preview" src="{html.escape(preview)}" alt="The picture at work">' if preview else ""
    return (
        f'<div class="draw-bar">{image}<div class="bar{"" if total else " busy"}" role="progressbar" '
        f'aria-label="Drawing" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{share * 100:.0f}">'
        f'<i style="width:{share * 100:.1f}%"></i></div><span>{html.escape(words)}{rest}</span></div>'
    )


def progress_html(record: Record | None, at_work: Live | None) -> str:
    """How far a job is, or how it ended if not well."""
    if at_work is not None:
        if at_work.cancelled:
            words = "cancelling after the current step"
        elif at_work.waiting:
            words = "waiting for the pictures before these"
        else:
            words = f"step {at_work.done} of {at_work.total}" if at_work.total else "loading the model"
        return bar(at_work.done, at_work.total, words, at_work.left, at_work.preview)
    if record is None or record.state == "done":
        return ""
    if record.state == "waiting":
        return message_html(INTERRUPTED)
    return message_html(record.message, "bad" if record.state == "failed" else "info")


def pictures_html(name: str, record: Record | None) -> str:
    """The pictures of a job: its grid, pairs of base and adapted beside each other, or one after the other."""
    try:
        if record is None:
            return _loose(name) if name else NOTHING
        if record.grid:
            return _grid(record, record.grid)
    except UserError as error:
        return message_html(str(error), "bad")
    shown = record.pictures
    if not shown:
        return ""
    several = len({item.request.prompt for item in record.items}) > 1
    cards = "".join(_card(record, item, file, several) for item, file in shown[:MOST_SHOWN])
    pairs = " pairs" if len({file.adapted for _, file in shown}) == 2 else ""
    return f'<div class="drawn-pictures{pairs}">{cards}</div>'


def _card(record: Record, item: Item, file: File, several: bool) -> str:
    """One picture; of a pair each knows the other, which it can be compared with."""
    words = f"seed {file.seed} · {'adapted' if file.adapted else 'base'}"
    words = f"{item.request.prompt} · {words}" if several else words
    other = next((one.name for one in item.files if (one.seed, one.adapted) == (file.seed, not file.adapted)), "")
    pair = record.folder / other if other and (record.folder / other).is_file() else None
    return _figure(record.folder / file.name, words, pair, file.adapted)


def _figure(path: Path, words: str, pair: Path | None = None, adapted: bool = False) -> str:
    """A picture that opens large; ``words`` are its caption."""
    both = f' data-pair="{_address(pair)}" data-adapted="{int(adapted)}"' if pair else ""
    caption = html.escape(words)
    return (
        f'<figure><button type="button" class="open" data-file="{html.escape(path.name)}" data-src="{_address(path)}" '
        f'data-caption="{caption}"{both}><img src="{_address(path)}" alt="{caption}"></button>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _address(path: Path) -> str:
    return f"{safe.url(path)}?{path.stat().st_mtime_ns // 1000}"


def _loose(name: str) -> str:
    """A folder of an earlier version: its pictures, as their names say what they are."""
    folder = records.folder_of(name)
    figures = "".join(_figure(folder / file, file.removesuffix(".png")) for file in records.loose(name)[:MOST_SHOWN])
    return f'<div class="drawn-pictures">{figures}</div>' if figures else NOTHING


def _grid(record: Record, grid: Grid) -> str:
    """A table for each value of the first of three axes; cells fill while they are drawn."""
    files = {cell.place: record.folder / cell.item.files[0].name for cell in grid.cells}
    there = sum(path.is_file() for path in files.values())
    sheet = record.folder / SHEET
    link = (
        f' · <a href="{_address(sheet)}" download="{record.name}.png">one labelled picture</a>'
        if sheet.is_file()
        else ""
    )
    described = record.folder / FILE
    if described.is_file():
        link += f' · <a href="{_address(described)}" download="{record.name}.json">{FILE}</a>'
    above: list[list[int]] = [[n] for n in range(len(grid.axes[0].values))] if len(grid.axes) == 3 else [[]]
    tables = "".join(_table(grid, files, place) for place in above)
    head = f'<p class="grid-head">{there} of {len(files)} pictures{link}</p>'
    return f'{head}<div class="grids">{tables}</div>'


def _table(grid: Grid, files: dict[tuple[int, ...], Path], above: Sequence[int]) -> str:
    """The last axis goes across, the one before it down, if there are two."""
    columns, rows = grid.axes[-1], grid.axes[-2] if len(grid.axes) > 1 else None
    title = " · ".join(f"{axis.kind}: {axis.values[at]}" for axis, at in zip(grid.axes, above, strict=False))
    across = [value if rows else f"{columns.kind} {value}" for value in columns.values]
    corner = f"<th>{rows.kind} ↓ · {columns.kind} →</th>" if rows else ""
    head = corner + "".join(f'<th scope="col">{html.escape(value)}</th>' for value in across)
    body = ""
    for number, value in enumerate(rows.values if rows else ("",)):
        start = (*above, *((number,) if rows else ()))
        cells = "".join(f"<td>{_cell(grid, files, (*start, at))}</td>" for at in range(len(across)))
        side = f'<th scope="row">{html.escape(value)}</th>' if rows else ""
        body += f"<tr>{side}{cells}</tr>"
    return (
        f'<table class="grid" style="--columns:{len(across)}">'
        f"{f'<caption>{html.escape(title)}</caption>' if title else ''}"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _cell(grid: Grid, files: dict[tuple[int, ...], Path], place: tuple[int, ...]) -> str:
    words = [f"{axis.kind} {axis.values[at]}" for axis, at in zip(grid.axes, place, strict=True)]
    if not files[place].is_file():
        return '<span class="to-come"></span>'
    return _figure(files[place], " · ".join(words))


def facts_html(record: Record | None) -> str:
    """The exact settings of the pictures shown: one line for the eye, all of them below it."""
    shown = record.pictures if record else []
    if record is None or not shown:
        return ""
    request = shown[0][0].request
    adapters = ", ".join(f"{Path(item.path).stem} × {item.strength:g}" for item in request.adapters) or "none"
    seeds = sorted({file.seed for _, file in shown})
    seed = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    width, height = pictures.size(record.folder / shown[0][1].name)
    parts = {
        "seed": f"seed {seed}",
        "steps": f"{request.steps} step{'s' * (request.steps > 1)}",
        "guidance": f"guidance {request.guidance:g}",
    }
    parts["sampler"] = f"sampler {request.sampler}" if request.sampler != OWN else ""
    parts["size"] = f"{width} × {height} px"
    parts["start"] = f"{request.change:g} of {Path(request.start).name} changed" if request.start else ""
    parts["adapters"] = f"adapters: {adapters}"
    changed = {axis.kind: f"{axis.kind}: {', '.join(axis.values)}" for axis in record.axes}
    if changed.keys() & {"strength", "adapter", "checkpoint"}:
        parts.pop("adapters")
    parts |= changed | {"took": live_words.duration(record.seconds) if record.seconds else ""}
    line = " · ".join(filter(None, parts.values()))
    full = [{"file": file.name, **facts(item.request, file.seed, file.adapted)} for item, file in shown[:50]]
    text = html.escape(json.dumps(full, indent=2, ensure_ascii=False))
    return (
        f'<div class="facts"><b>{html.escape(request.prompt)}</b><br>{html.escape(line)}'
        f"<details><summary>All settings (each PNG holds its own as text metadata)</summary><pre>{text}</pre></details>"
        f"{f'<small>{html.escape(record.note)}</small><br>' if record.note else ''}"
        f"<small>Kept in <code>{html.escape(str(record.folder))}</code></small></div>"
    )


def strip_html(names: Sequence[str], page: int, chosen: str, at_work: Sequence[str]) -> str:
    """A page of the jobs, newest first, each with its first picture."""
    if not names:
        return ""
    pages = -(-len(names) // PAGE)
    page = min(max(page, 0), pages - 1)
    cards = "".join(_thumb(name, name == chosen, name in at_work) for name in names[page * PAGE :][:PAGE])
    turn = ""
    if pages > 1:
        newer = f'<button type="button" data-page="{page - 1}"{" disabled" if not page else ""}>Newer</button>'
        older = f'<button type="button" data-page="{page + 1}"{" disabled" if page + 1 == pages else ""}>Older</button>'
        turn = f'<div class="turn-pages">{newer}<span>page {page + 1} of {pages}</span>{older}</div>'
    return f'<div class="strip">{cards}</div>{turn}'


def _thumb(name: str, chosen: bool, at_work: bool) -> str:
    folder = safe.pictures_folder() / name
    first = next(iter(sorted(path for path in folder.glob("*.png") if path.name != SHEET)), None)
    try:
        image = (
            f'<img src="{safe.url(pictures.thumbnail(first))}" alt="">' if first else '<span class="to-come"></span>'
        )
    except (UserError, OSError):
        image = '<span class="to-come"></span>'
    when = _when(name)
    mark = ' aria-current="true"' if chosen else ""
    words = f"{when} · drawing" if at_work else when
    return (
        f'<button type="button" data-job="{html.escape(name)}"{mark}>{image}<span>{html.escape(words)}</span></button>'
    )


def _when(name: str) -> str:
    """Day and time from a job's name."""
    try:
        return time.strftime("%d %b %H:%M", time.strptime(name[:15], "%Y%m%d-%H%M%S"))
    except ValueError:
        return name[:20]
