"""The command ``datasets``: saved sets of pictures."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from . import datasets, terminal
from .cli_text import DEVICES, PRECISIONS
from .errors import UserError
from .image import caption_tools, flags, sets
from .image.caption_tools import Change, Changed
from .marks import listed
from .paths import expanded
from .terminal import plain


def add_datasets(sub: argparse.ArgumentParser) -> None:
    """Its own commands; without one it is :func:`list_sets`."""
    commands = sub.add_subparsers(metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=command.__doc__, description=command.__doc__)
        one.set_defaults(command=command)
        one.add_argument("name", help="of the set" if name == "save" else "of the set, or set:NAME@3 for a version")
        return one

    save = add("save", _save)
    save.add_argument("sources", nargs="+", metavar="FOLDER_OR_ZIP", help="also pictures, or set:NAME")
    save.add_argument(
        "--repeats", type=int, default=1, help="so often an epoch sees each picture, times its own number"
    )
    save.add_argument("--add", action="store_true", help="to what the set has, instead of in its place")
    show = add("show", _show)
    show.add_argument("--tags", action="store_true", help="only how often each tag stands in captions")
    show.add_argument("--resolution", type=int, metavar="PX", help="name pictures that are too small for it")
    add_edit(add("edit", _edit))
    add_caption(add("caption", _caption))
    add("export", _export).add_argument("--out", type=expanded, required=True, metavar="FILE.zip")
    add("rename", _rename).add_argument("new", help="name")
    delete = add("delete", _delete)
    delete.add_argument("--force", action="store_true", help="also where an unfinished run learns from it")


def chosen(text: str) -> tuple[str, int]:
    """Name and version that ``NAME``, ``NAME@3`` or ``set:NAME@3`` means. Raises DataError."""
    reference = text if datasets.is_reference(text) else f"{datasets.PREFIX}{text}"
    folder = datasets.located(reference)
    return folder.parent.name, int(folder.name)


def list_sets(_options: argparse.Namespace) -> int:
    """List the saved sets of pictures, or save, show and change one."""
    for saved in datasets.all_sets():
        facts = sets.facts(saved)
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(facts.made))
        count = f"{facts.pictures} picture{'' if facts.pictures == 1 else 's'}"
        size = sets.size_in_words(facts.size)
        print(plain(f"{saved.name:30} version {facts.version:<4} {made}  {count:14} {size}"))
    return terminal.DONE


def _save(options: argparse.Namespace) -> int:
    """Save folders, zip files or pictures as a set, or as the next version of one."""
    datasets.check_name(options.name)
    sources = [text if datasets.is_reference(text) else expanded(text) for text in options.sources]
    with sets.gathered(sources, options.repeats) as survey:
        tell(survey.notes)
        before = sets.read(options.name) if options.add else []
        done(sets.save(options.name, [*before, *survey.pictures]))
    return terminal.DONE


def tell(notes: list[str]) -> None:
    """Notes for the person, apart from what the command answers."""
    for note in notes:
        print(plain(f"note: {note}"), file=sys.stderr, flush=True)


def done(saved: datasets.SavedSet) -> None:
    """Say what was saved and how to train with it."""
    facts = sets.facts(saved)
    count = f"{facts.pictures} picture{'' if facts.pictures == 1 else 's'}"
    print(plain(f"{saved.name}: version {facts.version}, {count}. Train with data.instance=set:{saved.name}"))


def _show(options: argparse.Namespace) -> int:
    """List the pictures of a set with their captions and how they are learnt."""
    name, version = chosen(options.name)
    folder = datasets.version_folder(name, version)
    if options.tags:
        for tag, count in caption_tools.tag_counts(picture.caption for picture in sets.read(name, version)):
            print(plain(f"{count:6} {tag}"))
        return terminal.DONE
    print(plain(f"{name}, version {version}: {folder}"))
    pictures = sets.read(name, version)
    sizes = [(options.resolution, options.resolution)] * len(pictures) if options.resolution else None
    raised = flags.flags(pictures, sizes)
    for picture in pictures:
        facts = [f"{picture.width} x {picture.height}"]
        facts += [f"{picture.repeats} repeats"] if picture.repeats != 1 else []
        facts += [f"weight {picture.weight:g}"] if picture.weight != 1 else []
        facts += ["frame " + " ".join(f"{side:.3g}" for side in picture.frame)] if picture.frame else []
        mask = "of its alpha" if picture.mask == picture.path else picture.mask and picture.mask.name
        facts += [f"mask {mask}"] if mask else []
        print(plain(f"{picture.path.name:30} {', '.join(facts)}\n    {picture.caption or '(no caption)'}"))
        for flag in (flag for flag in raised if flag.picture == picture.path):
            print(plain(f"    ! {flag.what} {flag.advice}"))
    return terminal.DONE


def add_edit(sub: argparse.ArgumentParser) -> None:
    """Options of ``edit``, in the order in which they are done."""
    sub.add_argument("--caption", metavar="TEXT", help="the caption of every picture")
    sub.add_argument("--find", metavar="TEXT", help="what --replace replaces")
    sub.add_argument("--replace", metavar="TEXT", help="what is put in its place")
    sub.add_argument("--regex", action="store_true", help="--find is a regular expression")
    sub.add_argument("--whole-words", action="store_true", help="--find means whole words only")
    sub.add_argument("--ignore-case", action="store_true", help="--find means capital letters too")
    sub.add_argument("--remove-tag", action="append", default=[], metavar="TAG", help="may be repeated")
    sub.add_argument("--unique-tags", action="store_true", help="no tag twice in a caption")
    sub.add_argument("--keep-tags", type=int, metavar="N", help="only the first N tags of each")
    sub.add_argument("--sort-tags", type=int, metavar="N", help="tags by name, but for the first N")
    sub.add_argument("--prefix", metavar="TEXT", help="in front of captions that do not begin with it")
    sub.add_argument("--suffix", metavar="TEXT", help="behind captions that do not end in it")
    sub.add_argument("--trigger", metavar="WORD", help="as the first tag of captions that do not have it")
    sub.add_argument("--only-empty", action="store_true", help="all this only where there is no caption yet")


def changes(options: argparse.Namespace) -> list[tuple[str, Change]]:
    """What the options of ``edit`` ask for, by their names. Raises UserError."""
    if (options.find is None) != (options.replace is None):
        raise UserError("--find and --replace: give both, --replace= for nothing in its place.")
    how = {"regex": options.regex, "whole_words": options.whole_words, "ignore_case": options.ignore_case}
    if any(how.values()) and options.find is None:
        raise UserError("--regex, --whole-words and --ignore-case say how --find is meant, which is not given.")
    tools = caption_tools
    every: list[tuple[str, bool, Change]] = [
        ("caption", options.caption is not None, lambda c: tools.put(c, options.caption)),
        ("find", options.find is not None, lambda c: tools.replace(c, options.find, options.replace, **how)),
        ("remove-tag", bool(options.remove_tag), lambda c: tools.remove_tags(c, options.remove_tag)),
        ("unique-tags", options.unique_tags, tools.unique_tags),
        ("keep-tags", options.keep_tags is not None, lambda c: tools.keep_tags(c, options.keep_tags)),
        ("sort-tags", options.sort_tags is not None, lambda c: tools.sort_tags(c, options.sort_tags)),
        ("prefix", options.prefix is not None, lambda c: tools.prefix(c, options.prefix)),
        ("suffix", options.suffix is not None, lambda c: tools.suffix(c, options.suffix)),
        ("trigger", options.trigger is not None, lambda c: tools.add_trigger(c, options.trigger)),
    ]
    asked = [(name, change) for name, given, change in every if given]
    if not asked:
        raise UserError("edit: say what to change, such as --prefix 'sks, ' or --find cat --replace dog.")
    return asked


def changed(captions: list[str], asked: list[tuple[str, Change]], only_empty: bool) -> tuple[Changed, dict[str, int]]:
    """All changes, one after the other, and how many captions each has changed; ``only_empty``: of those empty now."""
    counts: dict[str, int] = {}

    def everything(some: Sequence[str]) -> Changed:
        before = after = caption_tools.each(some, lambda caption: caption).captions
        for name, change in asked:
            after, counts[name] = change(after)
        return Changed(after, sum(one != other for one, other in zip(before, after, strict=True)))

    return (caption_tools.only_empty(captions, everything) if only_empty else everything(captions)), counts


def _edit(options: argparse.Namespace) -> int:
    """Change captions of a set, as its next version."""
    name, version = chosen(options.name)
    asked = changes(options)
    pictures = sets.read(name, version)
    result, counts = changed([picture.caption for picture in pictures], asked, options.only_empty)
    for option, count in counts.items():
        print(f"--{option}: {count} of {len(pictures)} captions changed")
    if not result.changed:
        print(plain(f"{name}: nothing has changed, so no version is made."))
        return terminal.DONE
    edited = [replace(p, caption=caption) for p, caption in zip(pictures, result.captions, strict=True)]
    done(sets.save(name, edited))
    return terminal.DONE


def add_caption(sub: argparse.ArgumentParser) -> None:
    """Options of ``caption``."""
    sub.add_argument("--model", required=True, help="folder or hub id of an image-to-text model, such as BLIP or GIT")
    sub.add_argument(
        "--prompt", default="", help="what it is asked, or how captions begin (default: as suits the model)"
    )
    sub.add_argument("--only-empty", action="store_true", help="only pictures without a caption")
    sub.add_argument("--prefix", default="", metavar="TEXT", help="put in front of the captions it writes")
    sub.add_argument("--tokens", type=int, default=100, help="most tokens of a caption")
    sub.add_argument("--device", default="auto", choices=DEVICES)
    sub.add_argument("--precision", default="auto", choices=PRECISIONS)


def _caption(options: argparse.Namespace) -> int:
    """Caption the pictures of a set by a model, as its next version; Ctrl-C keeps what is done."""
    name, version = chosen(options.name)
    if options.tokens < 1:
        raise UserError(f"--tokens: must be at least 1, got {options.tokens}.")
    pictures = sets.read(name, version)
    paths = [picture.path for picture in pictures if not (options.only_empty and picture.caption)]
    if not paths:
        print(plain(f"{name}: every picture has a caption, so no version is made."))
        return terminal.DONE
    written: dict[Path, str] = {}
    code = terminal.DONE
    try:
        _write_captions(options, paths, written)
    except KeyboardInterrupt:
        code = terminal.INTERRUPTED
    if not written:
        return code
    texts = (
        caption_tools.prefix(list(written.values()), options.prefix).captions if options.prefix else written.values()
    )
    by_path = dict(zip(written, texts, strict=True))
    if empty := [path.name for path, text in by_path.items() if not text]:
        tell([f"The model says nothing of {listed(empty)}."])
    done(sets.save(name, [replace(p, caption=by_path.get(p.path, p.caption)) for p in pictures]))
    print(f"{len(by_path)} of {len(paths)} captions written")
    return code


def _write_captions(options: argparse.Namespace, paths: Sequence[Path], written: dict[Path, str]) -> None:
    """Fill ``written`` picture by picture, so that an interruption loses none."""
    from . import devices
    from .image.captioner import Captioner  # torch

    device = devices.pick(options.device)
    captioner = Captioner(options.model, device, devices.dtype(options.precision, device))
    with terminal.tqdm(total=len(paths), unit="picture", disable=not sys.stderr.isatty()) as bar:
        for path, text in captioner.caption(paths, options.prompt, tokens=options.tokens):
            written[path] = text
            bar.update()


def _export(options: argparse.Namespace) -> int:
    """Make a zip file of a set that other programs read too."""
    name, version = chosen(options.name)
    print(sets.export(name, options.out, version))
    return terminal.DONE


def _rename(options: argparse.Namespace) -> int:
    """Give a set another name."""
    sets.check_unused(options.name, "rename")
    datasets.rename(options.name, options.new)
    return terminal.DONE


def _delete(options: argparse.Namespace) -> int:
    """Delete a set with all its versions."""
    if not options.force:
        sets.check_unused(options.name, "delete", ", or give --force")
    datasets.delete(options.name)
    return terminal.DONE
