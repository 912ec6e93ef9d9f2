from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from lowrank_diffusion import events, plan, presets, run_queue, runs
from lowrank_diffusion.config import Config
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.forecast import Forecast
from lowrank_diffusion.runs import Run
from ui import live, run_folder, run_table, safe, summary, watching

COMING = Forecast(12, 60, 4, None, None, 0.5, "cats")
PROMPT = "a <b>bold</b> cat"


@pytest.fixture
def run(home: Path) -> Run:
    """A run that stopped, as its event log tells it."""
    run = runs.create(presets.build(overrides={"adapter.rank": 8}), "my cats")
    log = events.EventLog(run.events_path)
    log.append(events.Started(0, 10, "cpu", "float32", 1000))
    for step in range(1, 7):
        log.append(events.Stepped(step, 0.3 / step, 1e-3, 1.0, 0.5))
    log.append(events.Sampled(5, PROMPT, "samples/step-000005-0.png"))
    log.append(events.Note("A note <i>here</i>."))
    log.append(events.Memory("steps", 6 * 2**30, 13 * 2**29))
    log.append(events.Stopped(6))
    return run


def test_the_panel_shows_state_progress_and_notes_as_text(run: Run) -> None:
    text = live.status_html(run, watching.status(run))
    for part in (
        "my cats",
        "stopped",
        "step 6 of 10",
        "0.50 s/step",
        "cpu, float32",
        "6.5 GiB",
        "A note &lt;i&gt;here",
    ):
        assert part in text


def test_samples_name_their_step_and_escape_the_prompt(run: Run) -> None:
    text = live.samples_html(run, watching.status(run))
    assert "step 5" in text
    assert "<b>" not in text
    assert "gradio_api/file=" in text


def test_a_follower_reads_on_where_it_stopped(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "FRESH_SECONDS", -1.0)
    assert watching.status(run).step == 6
    log = events.EventLog(run.events_path)
    log.append(events.Started(6, 10, "cpu", "float32", 1000))
    log.append(events.Stepped(7, 0.01, 1e-3, 1.0, 0.5))
    status = watching.status(run)
    assert (status.step, len(status.losses)) == (7, 7)


def test_the_table_lists_runs_and_an_unreadable_config_does_not_break_it(run: Run) -> None:
    broken = runs.create(presets.build(), "broken")
    (broken.path / "config.yaml").write_text("adapter: [")
    text = run_table.html_of(run.name)
    assert "GraLoRA r8 k2" in text
    assert "unreadable config.yaml" in text
    assert text.count("<tr tabindex") == 2
    assert text.count("aria-selected") == 1


@pytest.mark.parametrize("name", ["../x", "/etc", "", None, "no-such-run", "a/b", "..", "x" * 300, "a\0b"])
def test_a_run_is_found_by_its_name_only(run: Run, name: str | None) -> None:
    with pytest.raises(UserError):
        safe.run(name)
    assert safe.run(run.name).path == run.path


def test_delete_removes_the_run_and_only_it(run: Run) -> None:
    other = runs.create(presets.build(), "other")
    run_queue.delete(run)
    assert [left.name for left in runs.all_runs()] == [other.name]


def test_a_run_at_work_is_not_deleted(run: Run) -> None:
    run.write_process(os.getpid(), 1)
    with pytest.raises(UserError, match="Stop it first"):
        run_queue.delete(run)
    assert run.path.is_dir()


def test_files_are_the_finished_ones_else_the_newest_checkpoints(run: Run) -> None:
    assert run_folder.files_of(run) == []
    for step in (100, 200):
        folder = run.path / "checkpoints" / f"step-{step:06d}"
        (folder / "my-cats-peft").mkdir(parents=True)
        (folder / "my-cats-peft" / "adapter_config.json").write_text("{}")
        for name in ("state", "my-cats-diffusers", "my-cats-comfyui-forge"):
            (folder / f"{name}.safetensors").touch()
    names = [Path(path).relative_to(run.path).as_posix() for path in run_folder.files_of(run)]
    assert names == [f"checkpoints/step-000200/my-cats-{name}.safetensors" for name in ("diffusers", "comfyui-forge")]
    packed = run_folder.zipped_peft(run)
    assert packed.is_relative_to(safe.downloads_folder())
    assert zipfile.ZipFile(packed).namelist() == ["my-cats-peft/adapter_config.json"]
    for name in ("my-cats.safetensors", "my-cats-kohya.safetensors"):  # as they were once called
        (run.path / name).touch()
    (run.path / "my-cats-peft").mkdir()
    old = [Path(path).name for path in run_folder.files_of(run)]
    assert old == ["my-cats.safetensors", "my-cats-kohya.safetensors"]


def test_texts_are_shown_as_samples_with_their_figures(home: Path) -> None:
    run = runs.create(presets.build(overrides={"task": "text"}), "orders")
    log = events.EventLog(run.events_path)
    log.append(events.Started(0, 10, "cpu", "float32", 1000))
    for value in (0.0, 0.84):
        log.append(events.Measured("exact match", value))
    (run.path / "samples").mkdir()
    (run.path / "samples" / "a.txt").write_text("<b>said</b>")
    for path in ("samples/a.txt", "samples/gone.txt", "../../../../etc/hostname.txt"):
        log.append(events.Sampled(0, PROMPT, path))
    log.append(events.Finished(10))
    shown = live.status_html(run, watching.status(run))
    assert "0% → 84%" in shown
    assert "Chat" in shown
    samples = live.samples_html(run, watching.status(run))
    assert "&lt;b&gt;said&lt;/b&gt;" in samples
    assert "<b>" not in samples
    assert samples.count("its file is gone") == 1, "what lies elsewhere is not spoken of"
    assert [value for _, value in live.choices("text")] == [run.name]
    assert live.choices("image") == []


def test_a_run_that_saved_nothing_does_not_speak_of_a_checkpoint(home: Path) -> None:
    run = runs.create(presets.build({}, {}), "x")
    status = runs.Status(state="interrupted", message="The process ended.")
    assert live.NOTHING_SAVED in live.status_html(run, status)
    (run.path / "checkpoints" / "step-000004").mkdir(parents=True)
    (run.path / "checkpoints" / "step-000004" / "state.safetensors").write_bytes(b"x")
    assert "newest checkpoint" in live.status_html(run, status)


def test_how_steps_will_run_stands_beside_what_is_learnt() -> None:
    cpu = plan.of(Config(), plan.Machine("cpu", "fp32"))
    told = summary.html_of("3 <pictures>", COMING, ["one & two"], cpu)
    assert "3 &lt;pictures&gt;" in told and "<li>one &amp; two</li>" in told
    assert "<p>Steps run eager: the device is cpu, and only CUDA captures steps.</p>" in told
    asked = presets.build({}, {"train.execution": "captured"})
    refused = summary.html_of("", COMING, [], plan.of(asked, plan.Machine("cpu", "fp32")))
    assert "<p>train.execution: captured cannot be had: " in refused and "<details" not in refused
