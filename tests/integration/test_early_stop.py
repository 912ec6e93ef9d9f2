"""A run that ends for want of a lower validation loss does so at the same step, also after a stop on the way."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from lowrank_diffusion import supervisor
from lowrank_diffusion.runs import Run

from .conftest import make_run, train, wait, wait_for_step

WORSE = {
    "train__steps": 60, "train__patience": 2, "optimizer__lr": 0.1, "validation__holdout": 2, "validation__every": 3,
    "save__every": 4, "save__keep": 1,
}  # fmt: skip


def tensors(run: Run, step: int | None = None) -> dict[str, torch.Tensor]:
    return load_file(run.adapter(step).loaded)


def test_it_ends_early_with_its_best_adapter_kept_and_repeats_after_a_stop(tmp_path: Path):
    whole = train("same", tmp_path / "whole", **WORSE)
    status = whole.status()
    assert status.lowest is not None
    step, _ = status.lowest
    assert status.state == "finished" and status.step == step + 6 < status.steps == 60
    assert any(note.startswith("Ended early: 2 validations") for note in status.notes)
    assert whole.adapter().step is None and whole.adapter("best").step == step
    last, best = tensors(whole), tensors(whole, step)
    assert any(not torch.equal(last[name], best[name]) for name in last)

    stopped = make_run("same", tmp_path / "stopped", **WORSE)
    supervisor.start(stopped)
    wait_for_step(stopped, step + 1)
    supervisor.stop(stopped)
    assert wait(stopped).state == "stopped"
    supervisor.start(stopped)
    assert wait(stopped, ("finished", "failed")).state == "finished"
    assert stopped.status().validation == status.validation and stopped.status().step == status.step
    for mine, its in ((tensors(stopped), last), (tensors(stopped, step), best)):
        assert all(torch.equal(mine[name], its[name]) for name in its)
