"""What was measured, as the page draws it; and jobs that no page owns."""

from __future__ import annotations

import html
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from lowrank_diffusion import evaluations, presets, runs
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.evaluations import Curve, Flatness, LayerSpectrum, PictureRow, Pictures, Spectra, TextRow, Texts
from lowrank_diffusion.runs import Run
from ui import understand, understood
from ui.engine import Engine
from ui.measure_worker import MeasureWorker
from ui.measure_worker import Spectra as SpectraJob
from ui.measuring import Measuring

COMMON: dict[str, Any] = {"command": "python -m x '<b>'", "made": 1.0}


@pytest.fixture
def run(home: Path) -> Run:
    return runs.create(presets.build(), "cats")


def charts(text: str) -> list[dict[str, Any]]:
    return [json.loads(html.unescape(data)) for data in re.findall(r'data-plot="([^"]*)"', text)]


def picture(step: int | None, likeness: float, words: float | None, best: bool = False, prompt: str = "") -> PictureRow:
    return PictureRow(step=step, best=best, prompt=prompt, references=likeness, words=words)


def test_identity_against_prompt_is_a_curve_over_checkpoints(run: Run):
    rows = (picture(None, 0.4, 0.33), picture(50, 0.6, 0.31, best=True), picture(100, 0.7, 0.25))
    rows += (picture(None, 0.4, 0.3, prompt="a <cat>"), picture(None, 0.4, 0.3, prompt="b"))
    evaluations.write(run, Pictures(**COMMON, encoder="embedded", count=4, references=7, rows=rows))
    text = understood.html_of(run)
    (chart,) = charts(text)
    points = chart["series"][0]["points"]
    assert [(p["x"], p["y"], p["best"]) for p in points] == [(0.4, 0.33, False), (0.6, 0.31, True), (0.7, 0.25, False)]
    assert (chart["x"], chart["y"]) == ("to the pictures (cosine)", "to the prompt (cosine)")
    assert "step 50: pictures 0.600, prompt 0.310" in chart["label"]
    assert "step 50, of the lowest validation loss, has 0.600 and 0.310, the base 0.400 and 0.330." in text
    assert "<cat>" not in text and "a &lt;cat&gt;" in text and "x &#x27;&lt;b&gt;&#x27;" in text


def test_an_encoder_that_does_not_read_gives_likeness_by_step(run: Run):
    rows = (picture(None, 0.4, None), picture(50, 0.6, None))
    evaluations.write(run, Pictures(**COMMON, encoder="dino", count=4, references=7, rows=rows))
    (chart,) = charts(understood.html_of(run))
    assert [(p["x"], p["y"]) for p in chart["series"][0]["points"]] == [(0, 0.4), (50, 0.6)]


def test_texts_by_step(run: Run):
    rows = [TextRow(step=None, best=False, perplexity=9.0, exact_match=0.0, answered=4)]
    rows += [TextRow(step=30, best=True, perplexity=2.0, exact_match=0.75, answered=4)]
    evaluations.write(run, Texts(**COMMON, examples=8, rows=tuple(rows)))
    text = understood.html_of(run)
    perplexity, match = charts(text)
    assert [p["y"] for p in perplexity["series"][0]["points"]] == [9.0, 2.0]
    assert [p["y"] for p in match["series"][0]["points"]] == [0.0, 75.0]
    assert "75.0% of 4" in text and "On 8 rows that were held out" in text


FLAT = Flatness(
    **COMMON, sigmas=(0.0, 0.1), draws=2, examples=5, held_out=True, layers=9,
    curves=(
        Curve(run="", title="base", losses=((0.2,), (0.21, 0.23))),
        Curve(run="r", title="mine", losses=((0.1,), (None, 0.2))),
    ),
)  # fmt: skip


def test_flatness_has_means_spreads_and_rises(run: Run):
    evaluations.write(run, FLAT)
    text = understood.html_of(run)
    loss, rise = charts(text)
    base, mine = (one["points"] for one in loss["series"])
    assert [p["y"] for p in base] == pytest.approx([0.2, 0.22]) and base[1]["spread"] == pytest.approx(
        0.02**2 / 2**0.5 * 50
    )
    assert [p["x"] for p in mine] == [0.0], "a loss that is none is left out"
    assert rise["series"][0]["points"][1]["y"] == pytest.approx(10)
    assert "Rise at sigma 0.1: base +10.0 %." in text


def layer(path: str, block: str, kind: str, norm: float, base: float | None) -> LayerSpectrum:
    values = (norm, norm / 2)
    return LayerSpectrum(
        path=path, block=block, kind=kind, rank=2, values=values, effective=1.9, stable=1.25, norm=norm, base=base
    )


def test_spectra_and_where_the_update_sits(run: Run):
    layers = (layer("a", "down 0", "to_k", 3.0, 10.0), layer("b", "down 0", "to_q", 4.0, 10.0))
    layers += (layer("c", "mid", "to_q", 1.0, 10.0),)
    evaluations.write(run, Spectra(**COMMON, step=None, layers=layers))
    text = understood.html_of(run)
    ranks, values = charts(text)
    assert [one["name"] for one in ranks["series"]] == ["effective rank", "stable rank"]
    assert [p["y"] for p in values["series"][0]["points"]] == [1.0, 0.5]
    heads = re.findall(r"<th>([^<]*)</th>", text.partition('class="heat"')[2])
    assert heads == ["", "to_q", "to_k", "all"]
    assert 'title="down 0, to_q: 40.00 %, 1 layer" style="--share:1.000"' in text
    assert f'title="down 0: {100 * 5 / 200**0.5:.2f} %, 2 layers"' in text
    assert "largest relative to the weights in the block down 0, and of the kinds of layers in to_k." in text


def test_without_the_base_sizes_are_absolute(run: Run):
    evaluations.write(run, Spectra(**COMMON, step=3, layers=(layer("a", "mid", "to_q", 3.0, None),)))
    text = understood.html_of(run)
    assert "Where the update sits (|ΔW|)" in text and "mid, to_q: 3, 1 layer" in text


def test_an_update_that_is_zero_or_empty_is_drawn_too(run: Run):
    evaluations.write(run, Spectra(**COMMON, step=3, layers=(layer("a", "mid", "to_q", 0.0, 0.0),)))
    assert "Where the update sits" in understood.html_of(run)
    evaluations.write(run, Spectra(**COMMON, step=3, layers=()))
    assert "No layer is changed." in understood.html_of(run)


def test_numbers_that_no_chart_can_show_cost_their_own_part_only(run: Run):
    evaluations.write(run, Spectra(**COMMON, step=3, layers=(layer("a", "mid", "to_q", 1e200, 1e-200),)))
    huge = Curve(run="", title="b", losses=((1e308,), (1e308, 1e308)))
    evaluations.write(run, FLAT.model_copy(update={"curves": (huge,)}))
    rows = (picture(None, 0.4, 0.33), picture(50, 0.6, 0.31))
    evaluations.write(run, Pictures(**COMMON, encoder="embedded", count=4, references=7, rows=rows))
    text = understood.html_of(run)
    assert text.count("cannot be shown") == 2 and 'data-kind="pictures"' in text
    assert "cannot be shown" in understand.beside_each_other([run])


def test_ticked_runs_are_shown_as_measured_together_or_else_each(run: Run, home: Path):
    time.sleep(0.01)
    other = runs.create(presets.build(), "dogs")
    assert understand.beside_each_other([run, other]) == ""
    evaluations.write(run, FLAT)
    assert understand.beside_each_other([run, other]).count("data-kind") == 1
    evaluations.write(other, FLAT)
    assert "<h5>cats</h5>" in understand.beside_each_other([run, other])
    both = tuple(Curve(run=one.name, title=one.title, losses=((0.1,), (0.2, 0.2))) for one in (run, other))
    evaluations.write(other, FLAT.model_copy(update={"curves": both}))
    together = understand.beside_each_other([run, other])
    assert together.count("data-kind") == 1 and "<h5>cats" not in together


def test_a_job_that_cannot_be_done_says_why_and_only_one_is_at_work(run: Run):
    engine = Engine(MeasureWorker)
    measuring = Measuring(engine)
    try:
        measuring.start(run, "spectra", SpectraJob(run.path))
        with pytest.raises(UserError, match=r"spectra of cats is being measured\. Wait for it, or cancel it"):
            measuring.start(run, "flatness", SpectraJob(run.path))
        while measuring.live(run):
            time.sleep(0.05)
        words, well = measuring.ended(run)
        assert not well and "has no adapter files yet" in words
    finally:
        engine.close()
