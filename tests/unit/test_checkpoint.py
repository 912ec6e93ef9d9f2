"""Checkpoints: what is wrong with one is seen before it is believed, and what is not as it was is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lowrank_diffusion import adapters, presets, seeds
from lowrank_diffusion.config import Config
from lowrank_diffusion.runs import STATE, Run
from trainers import checkpoint, fingerprint
from trainers.checkpoint import CheckpointError
from trainers.step import Diverged, Step

CPU = torch.device("cpu")


class Small:
    """A task that takes no time."""

    def __init__(self, cfg: Config, rows: dict[str, str], base: int = 1):
        torch.manual_seed(base)
        self.model: nn.Module = nn.Sequential()
        self.model.add_module("to_q", nn.Linear(8, 8))
        self.layers = adapters.attach(self.model, cfg.adapter, cfg.seed)
        self.rows = rows

    def content(self) -> dict[str, Any]:
        return {"pictures": self.rows, "class pictures": {}, "encoded": "".join(self.rows.values())}

    def batch(self, step: int, micro: int) -> Tensor:
        return torch.randn(4, 8, generator=seeds.generator(0, step, f"data {micro}"))

    def loss(self, batch: Tensor) -> tuple[Tensor, float]:
        return (self.model(batch) - 1).square().mean(dim=1), 4.0


PICTURES = {"a.png": "1", "b.png": "2"}


def settings(**changed: Any) -> Config:
    values: dict[str, Any] = {"train.steps": 9, "optimizer.lr": 0.05, "adapter.rank": 2, "adapter.targets": ["to_q"]}
    values |= {"train.ema": 0.5, "adapter.kind": "lora"}
    return presets.build({}, values | {key.replace("__", "."): value for key, value in changed.items()})


def begin(cfg: Config | None = None, rows: dict[str, str] = PICTURES, base: int = 1) -> Step:
    cfg = cfg or settings()
    task: Any = Small(cfg, rows, base)
    return Step(task, cfg, CPU, torch.float32)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """With checkpoints after 2, 4 and 6 of 9 steps."""
    run, state = Run(tmp_path / "run"), begin()
    run.path.mkdir()
    for step in range(6):
        state(step)
        if step % 2:
            checkpoint.save(run, state)
    return run


@pytest.fixture
def newest(run: Run) -> Path:
    return run.checkpoints[-1] / STATE


def restored(run: Run, state: Step) -> tuple[int, list[str]]:
    notes: list[str] = []
    return checkpoint.restore(run, state, notes.append), notes


def ended(state: Step) -> dict[str, Tensor]:
    for step in range(state.done, 9):
        state(step)
    return {name: parameter.detach().clone() for name, parameter in state.parameters.items()} | state.averaged


def rewrite(path: Path, change: Callable[[dict[str, Tensor], dict[str, Any]], None], digest: bool = True) -> None:
    """A file whose digest fits what ``change`` made of its tensors and facts: made so, not damaged."""
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["state"])
    tensors = load_file(path)
    change(tensors, facts)
    text = json.dumps(facts)
    save_file(tensors, path, {"state": text} | ({"digest": checkpoint.digest(tensors, text)} if digest else {}))


def flip(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 4
    path.write_bytes(bytes(data))


LEARNT = "adapter.to_q.lora_B.default.weight"
DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "no file": lambda path: (path.unlink(), path.mkdir()),
    "a bit of the header's length": lambda path: flip(path, 0.0),
    "a bit of a weight": lambda path: flip(path, 0.9),
    "a bit at the end": lambda path: flip(path, 1.0),
    "another's": lambda path: shutil.copyfile(path.parent.parent / "step-000002" / STATE, path),
    "not a number": lambda path: rewrite(path, lambda tensors, _: tensors[LEARNT].fill_(torch.nan)),
    "infinite moments": lambda path: rewrite(path, lambda tensors, _: tensors["optimizer.0.exp_avg"].fill_(torch.inf)),
    "a step of text": lambda path: rewrite(path, lambda _, facts: facts.update(step="6")),
    "no step": lambda path: rewrite(path, lambda _, facts: facts.pop("step")),
    "a negative step": lambda path: rewrite(path, lambda _, facts: facts.update(step=-6)),
    "groups of text": lambda path: rewrite(path, lambda _, facts: facts.update(groups="all")),
    "a rate that is no number": lambda path: rewrite(path, lambda _, facts: facts["groups"][0].update(lr=float("nan"))),
    "no table": lambda path: rewrite(path, lambda _, facts: facts.update(plain=[1])),
    "no fingerprint": lambda path: rewrite(path, lambda _, facts: facts.update(fingerprint=3)),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_costs_itself_only(run: Run, newest: Path, damage: str):
    undisturbed = ended(begin())
    DAMAGES[damage](newest)
    state = begin()
    start, notes = restored(run, state)
    assert start == state.done == 4
    assert len(notes) == 1 and notes[0].startswith(f"{newest}: ") and notes[0].endswith("goes on from step 4.")
    assert run.checkpoints == [newest.parents[1] / f"step-{step:06d}" for step in (2, 4)]
    assert newest.with_name(f"{STATE}.damaged").exists(), "kept for whoever wants to look at it"
    assert all(torch.equal(value, undisturbed[name]) for name, value in ended(state).items())
    assert restored(run, begin()) == (4, [])


@pytest.mark.parametrize("place", [index / 40 for index in range(41)])
def test_one_flipped_bit_anywhere_changes_nothing(run: Run, newest: Path, place: float):
    """Either it is seen, or it was in a place that says nothing."""
    undisturbed = ended(begin())
    flip(newest, place)
    state = begin()
    restored(run, state)
    assert all(torch.equal(value, undisturbed[name]) for name, value in ended(state).items())


def test_where_all_are_damaged_it_begins_anew(run: Run):
    for folder in run.checkpoints:
        (folder / STATE).write_bytes(b"")
    start, notes = restored(run, begin())
    assert start == 0 and len(notes) == 3 and notes[-1].endswith("goes on from the beginning.")


def test_pruning_keeps_what_is_sound(run: Run, newest: Path):
    newest.write_bytes(b"")
    state = begin()
    restored(run, state)
    state(4)
    checkpoint.save(run, state)
    checkpoint.prune(run, 1)
    assert [path.name for path in run.checkpoints] == ["step-000005"]


def test_what_is_no_number_is_not_saved(run: Run):
    state = begin()
    state(0)
    next(iter(state.parameters.values())).data[0] = torch.nan
    with pytest.raises(Diverged):
        checkpoint.save(run, state)
    assert [path.name for path in run.checkpoints] == ["step-000002", "step-000004", "step-000006"]


def test_an_older_checkpoint_without_digest_and_fingerprint_is_read(run: Run, newest: Path):
    rewrite(newest, lambda _, facts: facts.pop("fingerprint"), digest=False)
    assert restored(run, begin()) == (6, [])


UNDISTURBED = "Resumed from step 6, but not to the bits of an undisturbed run: "


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ({"a.png": "1", "b.png": "changed"}, "picture b.png is changed."),
        ({"a.png": "1"}, "picture b.png is gone."),
        (PICTURES | {"c.png": "3"}, "picture c.png is new."),
        ({"a.png": "3", "b.png": "3", "c.png": "3"}, "picture c.png is new; pictures a.png, b.png are changed."),
    ],
)
def test_other_pictures_are_named(run: Run, rows: dict[str, str], told: str):
    assert restored(run, begin(rows=rows)) == (6, [UNDISTURBED + told])


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("optimizer__lr", 0.01, "optimizer.lr was 0.05 and is 0.01"),
        ("train__steps", 20, "train.steps was 9 and is 20"),
        ("data__flip", True, "data.flip was False and is True"),
        ("seed", 5, "seed was 0 and is 5"),
    ],
)
def test_other_settings_are_named(run: Run, key: str, value: Any, told: str):
    assert restored(run, begin(settings(**{key: value}))) == (6, [f"{UNDISTURBED}{told}."])


@pytest.mark.parametrize("key", ["sample__every", "save__keep", "validation__every"])
def test_settings_that_no_bit_depends_on_are_not_spoken_of(run: Run, key: str):
    assert restored(run, begin(settings(**{key: 7}))) == (6, [])


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"optimizer__name": "adafactor"}, "optimizer.name: is adafactor now, and the checkpoint was made with adamw"),
        ({"optimizer__name": "prodigy"}, "Set optimizer.name=adamw, or start a new run."),
        ({"adapter__rank": 4}, "adapter.rank: is 4 now, and the checkpoint was made with 2"),
        ({"adapter__alpha": 8}, "adapter.alpha: is 8.0 now"),
        ({"adapter__kind": "gralora"}, "adapter.kind: is gralora now"),
    ],
)
def test_settings_that_make_it_meaningless_are_refused(run: Run, changed: dict[str, Any], told: str):
    with pytest.raises(CheckpointError) as caught:
        restored(run, begin(settings(**changed)))
    assert told in str(caught.value) and len(run.checkpoints) == 3


def test_settings_of_earlier_releases_mean_what_they_meant(run: Run, newest: Path):
    """Those of adapter kinds that were not chosen were kept and had no effect; one setting had another name."""

    def age(_: Any, facts: dict[str, Any]) -> None:
        kept = facts["fingerprint"]["settings"]
        kept |= {"adapter.k": 4, "adapter.hybrid_rank": 2, "train.step": "eager"}
        kept.pop("train.execution")

    rewrite(newest, age, digest=False)
    note = f"{UNDISTURBED}train.execution was eager and is auto."
    assert settings().adapter.kind == "lora" and restored(run, begin()) == (6, [note])


def test_another_base_is_refused(run: Run):
    with pytest.raises(CheckpointError, match=r"base\.path: the model is another one"):
        restored(run, begin(base=2))


def test_an_optimizer_that_cannot_take_an_old_checkpoints_state_is_said(run: Run, newest: Path):
    """One without a fingerprint, as older versions wrote them."""
    rewrite(newest, lambda _, facts: facts.pop("fingerprint"), digest=False)
    rewrite(newest, lambda _, facts: facts["groups"].append({}), digest=False)
    with pytest.raises(CheckpointError, match=r"does not fit optimizer\.name=adamw"):
        restored(run, begin())


def test_the_samples_of_a_large_layer_lie_in_it():
    """Of an embedding of thirty million numbers too, where float32 has no room for their places."""
    model = nn.Linear(1, 28_311_552, bias=False).requires_grad_(False)
    assert fingerprint._base(model) == fingerprint._base(model)
    with torch.no_grad():
        model.weight[-1] += 1
    assert fingerprint._base(model) != fingerprint._base(nn.Linear(1, 1).requires_grad_(False))
