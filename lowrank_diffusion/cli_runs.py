"""The commands that look after runs: the queue, what is asked of a run at work, and what is said of any."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace

from . import about, comparing, files, presets, repeat, requests, run_queue, runs, supervisor, terminal
from .errors import UserError
from .runs import Run

Add = Callable[[str, Callable[[argparse.Namespace], int]], argparse.ArgumentParser]


def add(add: Add) -> None:
    """All of them."""
    add("watch", _watch).add_argument("run")
    add("list", _list).add_argument("--tag", help="only runs with this tag")
    _add_requests(add)
    queue = add("queue", _queue)
    queue.add_argument("action", nargs="?", choices=list(ACTIONS), help="(default: show it)")
    queue.add_argument("run", nargs="?")
    said = add("about", _about)
    said.add_argument("run")
    said.add_argument("--name", help="what it is to be called; its files keep their names")
    said.add_argument("--notes")
    said.add_argument("--tag", action="append", help="may be repeated; in place of those it has")
    again = add("again", _again)
    again.add_argument("run")
    again.add_argument("settings", nargs="*", metavar="key=value", help="changed; for example optimizer.lr=5e-5")
    longer = add("longer", _longer)
    longer.add_argument("run")
    longer.add_argument("steps", type=int)
    longer.add_argument("settings", nargs="*", metavar="key=value", help="changed as well")
    for sub in (again, longer):
        sub.add_argument("--name", help="name of the new run")
        sub.add_argument("--queue", action="store_true", help="put it into the queue and return")
    add("compare", _compare).add_argument("runs", nargs="+", metavar="run")
    delete = add("delete", _delete)
    delete.add_argument("run")
    delete.add_argument("--yes", action="store_true", help="do not ask")


def _add_requests(add: Add) -> None:
    sample = add("sample", _sample)
    sample.add_argument("run")
    sample.add_argument("prompts", nargs="*", metavar="prompt", help="in place of the run's own")
    for name, command in (("pause", _pause), ("continue", _continue), ("save", _save)):
        add(name, command).add_argument("run")
    stop = add("stop", _stop)
    stop.add_argument("run")
    stop.add_argument("--kill-after", type=float, metavar="SECONDS", help="end the process if it does not stop by then")


def _watch(options: argparse.Namespace) -> int:
    """Show the progress of a run; Ctrl-C leaves it running."""
    return terminal.follow(runs.find(options.run), stop_on_interrupt=False)


def _list(options: argparse.Namespace) -> int:
    """List the runs, newest first."""
    for run in runs.all_runs():
        if options.tag and options.tag not in run.about.tags:
            continue
        status = run.status()
        loss = f"{status.losses[-1][1]:.4f}" if status.losses else "-"
        line = f"{run.name:50} {status.state:12} step {status.step}/{status.steps or '-'} loss {loss}"
        own = f"  {run.title}" if run.title != run.stem else ""
        print(terminal.plain(line + own))
    return terminal.DONE


def _sample(options: argparse.Namespace) -> int:
    """Ask a running run for samples now."""
    requests.sample_now(runs.find(options.run), options.prompts)
    return terminal.DONE


def _pause(options: argparse.Namespace) -> int:
    """Let a run wait after its current step, its model in memory."""
    requests.pause(runs.find(options.run))
    return terminal.DONE


def _continue(options: argparse.Namespace) -> int:
    """End a pause."""
    requests.go_on(runs.find(options.run))
    return terminal.DONE


def _save(options: argparse.Namespace) -> int:
    """Ask a running run for a checkpoint and its adapter's files now."""
    requests.save_now(runs.find(options.run))
    return terminal.DONE


def _stop(options: argparse.Namespace) -> int:
    """Ask a run to save and stop."""
    run = runs.find(options.run)
    supervisor.stop(run, options.kill_after)
    print(f"{run.name} saves and stops.")
    return terminal.DONE


ACTIONS: dict[str, Callable[[Run], object]] = {
    "add": run_queue.submit,
    "up": lambda run: run_queue.move(run, -1),
    "down": lambda run: run_queue.move(run, 1),
    "hold": run_queue.hold,
    "release": lambda run: run_queue.hold(run, False),
    "remove": run_queue.remove,
    "pause": lambda _: run_queue.pause(),
    "continue": lambda _: run_queue.pause(paused=False),
}
"""What can be done with the queue; the last two are about all of it."""
_OF_ALL = ("pause", "continue")


def _queue(options: argparse.Namespace) -> int:
    """Show the queue and start what can be started, or change it."""
    action = options.action
    if (action is None or action in _OF_ALL) != (options.run is None):
        raise UserError(f"queue {action or ''}: " + ("takes no run." if options.run else "needs a run."))
    if action:
        ACTIONS[action](runs.find(options.run) if options.run else Run(runs.runs_folder()))
    for run in run_queue.advance():
        print(f"{run.name} was started.")
    if run_queue.state().paused:
        print("The queue is paused: nothing more is started. Go on with: queue continue")
    for number, (run, entry) in enumerate(run_queue.entries(), 1):
        held = f"held{': ' + entry.reason if entry.reason else ''}" if entry.held else ""
        print(terminal.plain(f"{number:3} {run.name:50} {held}".rstrip()))
    return terminal.DONE


def _about(options: argparse.Namespace) -> int:
    """Show or change what is said of a run: its name, notes and tags."""
    run = runs.find(options.run)
    said = run.about
    given = {"title": options.name, "notes": options.notes, "tags": options.tag and tuple(options.tag)}
    if changed := {key: value for key, value in given.items() if value is not None}:
        said = replace(said, **changed)
        about.write(run.path, about.checked(said.title, said.notes, said.tags))
    said = run.about
    print(terminal.plain(f"{run.title}\ntags: {', '.join(said.tags) or 'none'}\n{said.notes}".rstrip()))
    return terminal.DONE


def _again(options: argparse.Namespace) -> int:
    """Train once more with the settings and the data of a run, some settings changed."""
    changes = presets.parse_overrides(options.settings)
    return _begun(repeat.again(runs.find(options.run), changes, options.name or ""), options.queue)


def _longer(options: argparse.Namespace) -> int:
    """Train on from the adapter that a run has reached, as a new run."""
    changes = presets.parse_overrides(options.settings)
    return _begun(repeat.longer(runs.find(options.run), options.steps, changes, options.name or ""), options.queue)


def _begun(run: Run, queue: bool) -> int:
    print(f"run {run.path}", flush=True)
    if queue:
        run_queue.submit(run)
        return terminal.DONE
    supervisor.start(run)
    return terminal.follow(run, stop_on_interrupt=True)


def _compare(options: argparse.Namespace) -> int:
    """Show what is different between runs: their settings, and what they came to."""
    chosen = [runs.find(name) for name in options.runs]
    print(terminal.plain(table(comparing.rows(chosen))))
    return terminal.DONE


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows in columns of their widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(f"{c:{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _delete(options: argparse.Namespace) -> int:
    """Delete a run with all its files."""
    run = runs.find(options.run)
    size = files.megabytes(run.disk_bytes())
    if not options.yes and input(f"Delete {run.name} with all its files ({size})? [y/N] ").strip().lower() != "y":
        return terminal.FAILED
    run_queue.delete(run)
    print(f"{run.name} is deleted ({size}).")
    return terminal.DONE
