"""The command ``datasets``: saved sets of pictures."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from . import datasets, runs, terminal
from .errors import UserError
from .image import sets
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
    add("show", _show)
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
    print(plain(f"{name}, version {version}: {folder}"))
    for picture in sets.read(name, version):
        facts = [f"{picture.width} x {picture.height}"]
        facts += [f"{picture.repeats} repeats"] if picture.repeats != 1 else []
        facts += [f"weight {picture.weight:g}"] if picture.weight != 1 else []
        facts += ["frame " + " ".join(f"{side:.3g}" for side in picture.frame)] if picture.frame else []
        facts += [f"mask {picture.mask.name}"] if picture.mask else []
        print(plain(f"{picture.path.name:30} {', '.join(facts)}\n    {picture.caption or '(no caption)'}"))
    return terminal.DONE


def _export(options: argparse.Namespace) -> int:
    """Make a zip file of a set that other programs read too."""
    name, version = chosen(options.name)
    print(sets.export(name, options.out, version))
    return terminal.DONE


def _rename(options: argparse.Namespace) -> int:
    """Give a set another name."""
    _check_unused(options.name, "rename")
    datasets.rename(options.name, options.new)
    return terminal.DONE


def _delete(options: argparse.Namespace) -> int:
    """Delete a set with all its versions."""
    if not options.force:
        _check_unused(options.name, "delete")
    datasets.delete(options.name)
    return terminal.DONE


def _check_unused(name: str, verb: str) -> None:
    """Raises UserError where a run would not find its pictures when it goes on."""
    if users := runs_of(name):
        advice = f"Let them end, or delete them first{', or give --force' if verb == 'delete' else ''}."
        raise UserError(f"{name}: cannot {verb} it while unfinished runs learn from it: {', '.join(users)}. {advice}")


def runs_of(name: str) -> list[str]:
    """The names of unfinished runs that learn from a set."""
    folder = datasets.datasets_folder() / datasets.find(name).name
    users = []
    for run in runs.all_runs():
        try:
            data = run.config().data
        except UserError:  # a run that cannot go on needs nothing
            continue
        if Path(data.instance).is_relative_to(folder) and run.status().state != "finished":
            users.append(run.name)
    return users
