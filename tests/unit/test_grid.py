"""Axes of a grid: what a person writes, what it means, and what is refused; and the labelled picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageFont

from lowrank_diffusion import presets, runs
from lowrank_diffusion.config import ConfigError
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.image import grid, items, parameters, sheet
from lowrank_diffusion.image.request import AdapterChoice, DrawRequest, facts, from_facts

REQUEST = DrawRequest("a cat on a mat", adapters=(AdapterChoice("/a.safetensors", 0.7), AdapterChoice("/b", 0.5)))


def resolve(name: str) -> str:
    if name == "gone":
        raise UserError("there is no gone.")
    return f"/files/{name}"


def made(*axes: tuple[str, str], request: DrawRequest = REQUEST) -> grid.Grid:
    return grid.make(request, axes, resolve)


@pytest.mark.parametrize(
    ("kind", "text", "values"),
    [
        ("strength", "0.5, 1,1.5", [0.5, 1.0, 1.5]),
        ("strength", "0.2-1 x5", [0.2, 0.4, 0.6, 0.8, 1.0]),
        ("strength", "-1 - 1 x3", [-1.0, 0.0, 1.0]),
        ("guidance", ".5, 7", [0.5, 7.0]),
        ("seed", "1-4", [1, 2, 3, 4]),
        ("seed", "4-1, 9", [4, 3, 2, 1, 9]),
        ("steps", "10-50 x5", [10, 20, 30, 40, 50]),
        ("steps", "8\n12", [8, 12]),
        ("seed", "1, 1-2", [1, 2]),
    ],
)
def test_numbers(kind: str, text: str, values: list[float]):
    assert grid.numbers(kind, text) == values


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("strength", "0.2-1", "say how many"),
        ("strength", "much", "'much' is not a number"),
        ("strength", "nan", "is not a number"),
        ("strength", "11", "from -10 to 10"),
        ("seed", "1.5", "is not a whole number"),
        ("steps", "0", "from 1 to 200, got 0"),
        ("seed", "1-999999999", "is 999999999 values"),
        ("seed", "1-5 x1", "is 1 values"),
        ("guidance", " , ", "has no values"),
    ],
)
def test_numbers_that_are_not(kind: str, text: str, words: str):
    with pytest.raises(UserError, match=words):
        grid.numbers(kind, text)


def test_texts_with_commas_are_quoted():
    assert grid.texts('"a cat, red", a dog\n "x ""y"" "') == ["a cat, red", "a dog", 'x "y"']
    assert grid.texts(grid.joined(["a, b", 'c "d"', 5])) == ["a, b", 'c "d"', "5"]
    with pytest.raises(UserError, match="quotes are not in pairs"):
        grid.texts('"a, b')
    with pytest.raises(UserError, match="has 'a' twice"):
        grid.texts("a, b, a")


def test_a_grid_of_everything():
    plan = made(("words", "cat, dog"), ("strength", "0.5, 1"), ("seed", "1-2"))
    assert [cell.place for cell in plan.cells[:3]] == [(0, 0, 0), (0, 0, 1), (0, 1, 0)]
    last = plan.cells[-1].item.request
    assert (last.prompt, last.seed, last.count, last.compare) == ("a dog on a mat", 2, 1, False)
    assert last.adapters == (AdapterChoice("/a.safetensors", 1.0), AdapterChoice("/b", 0.5))
    assert plan.cells[-1].item.files == [items.File("1-1-1-2-adapted.png", 2, True)]
    strengths = [item.request.adapters[0].strength for item in plan.items]
    assert strengths == sorted(strengths), "adapters are set as seldom as can be"
    assert {item.stem for item in plan.items} == {cell.item.stem for cell in plan.cells}


def test_adapters_prompts_and_samplers():
    plan = made(("strength", "2"), ("adapter", "x@1, none"), ("sampler", "Euler, UniPC"), request=DrawRequest("a"))
    first, *_, last = plan.cells
    assert first.item.request.adapters == (AdapterChoice("/files/x@1", 2.0),)
    assert (last.item.request.adapters, last.item.request.sampler) == ((), "UniPC")
    assert last.item.files[0].name == "0-1-1-0-base.png"
    prompts = made(("prompt", '"a, b", c'))
    assert [cell.item.request.prompt for cell in prompts.cells] == ["a, b", "c"]


def test_every_problem_is_named_by_its_axis():
    with pytest.raises(ConfigError) as error:
        made(("strength", "x"), ("words", "bird, dog"), ("adapter", "gone"))
    assert [problem.key for problem in error.value.problems] == ["axis strength", "axis words", "axis adapter"]
    with pytest.raises(ConfigError, match=r"axis size: there is no such axis.*Axes: checkpoint, "):
        made(("size", "1"))
    for axes, words in (
        ([], "one to 3 are needed, got 0"),
        ([("seed", "1"), ("seed", "2")], "axis seed: is given twice"),
        ([("seed", "1-300"), ("steps", "1-2")], "make 600 pictures; at most 400"),
        ([("sampler", "Eulr")], "no sampler 'Eulr'"),
        ([("checkpoint", "all")], "needs a run as the first adapter"),
        ([("prompt", "a"), ("words", "cat")], "cannot go with axis prompt"),
    ):
        with pytest.raises(ConfigError, match=words):
            made(*axes)
    with pytest.raises(ConfigError, match="needs an adapter"):
        made(("strength", "1"), request=DrawRequest("a"))
    with pytest.raises(ConfigError, match=r"0\.05 of 10 steps is not one"):
        made(("steps", "10, 20"), request=DrawRequest("a", start="/x.png", change=0.05))


@pytest.fixture
def cats(home: Path) -> runs.Run:
    run = runs.create(presets.build(), "cats")
    for folder in (run.checkpoint(50), run.checkpoint(100), run.path):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("state.safetensors", *(f"cats{end}" for end in runs.FORMS["image"])):
            (folder / name).touch()
    return run


def test_checkpoints_of_a_run(cats: runs.Run):
    request = DrawRequest("a", adapters=(AdapterChoice(str(cats.files()[0]), 0.5),))
    plan = made(("checkpoint", "all"), request=request)
    assert plan.axes[0].values == ("50", "100", "finished")
    chosen = [cell.item.request.adapters[0] for cell in plan.cells]
    assert [Path(choice.path).parent for choice in chosen] == [cats.checkpoint(50), cats.checkpoint(100), cats.path]
    assert {choice.strength for choice in chosen} == {0.5}
    assert made(("checkpoint", "100"), request=request).axes[0].values == ("100",)
    with pytest.raises(ConfigError, match=r"cats has none of 70\. It has: all, 50, 100, finished"):
        made(("checkpoint", "50, 70"), request=request)


def painted(plan: grid.Grid, folder: Path, leave: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    for number, cell in enumerate(plan.cells[leave:]):
        (file,) = cell.item.files
        image = Image.new("RGB", (96, 64), (40 * number % 256, 90, 200))
        parameters.save(image, folder / file.name, cell.item.request, file.seed, file.adapted, "Euler")


def test_what_is_there_is_done_unless_it_is_of_something_else(tmp_path: Path):
    plan = made(("seed", "1-3"))
    painted(plan, tmp_path, leave=1)
    assert [item.done(tmp_path) for item in plan.items] == [False, True, True]
    other = made(("seed", "1-3"), request=DrawRequest("another", adapters=REQUEST.adapters))
    assert not any(item.done(tmp_path) for item in other.items)
    (tmp_path / plan.cells[1].item.files[0].name).write_bytes(b"broken")
    assert [item.done(tmp_path) for item in plan.items] == [False, False, True]


@pytest.mark.parametrize(
    "axes",
    [
        [("seed", "1-3")],
        [("strength", "0.5, 1"), ("seed", "1-3")],
        [("words", "cat, a very long word of Donaudampfschifffahrtsgesellschaft"), ("strength", "1"), ("seed", "1, 2")],
    ],
)
def test_the_sheet_has_every_cell_and_its_labels(tmp_path: Path, axes: list[tuple[str, str]]):
    plan = made(*axes)
    painted(plan, tmp_path, leave=1)
    picture = sheet.draw(plan, tmp_path)
    colours = {colour for _, colour in picture.getcolors(maxcolors=1_000_000) or []}
    wanted = {(40 * number % 256, 90, 200) for number in range(len(plan.cells) - 1)}
    assert wanted <= colours
    assert (238, 241, 244) in colours, "the cell that is missing"
    assert picture.width >= 96 * len(plan.axes[-1].values)


def test_labels_are_wrapped_and_never_cut():
    font = ImageFont.load_default(16)
    for text in (
        "a cat on a mat with a hat and a bat",
        "Donaudampfschifffahrtsgesellschaftskapitän",
        "x",
        "",
        "猫" * 30,
    ):
        lines = sheet.wrapped(text, 60, font.getlength)
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
        assert all(font.getlength(line) <= 60 for line in lines)


def test_a_request_is_read_from_what_it_says():
    request = DrawRequest("a", adapters=(AdapterChoice("/x", -0.5),), seed=5, sampler="UniPC", start="/s.png", width=64)
    assert from_facts(grid.asdict_of(request)) == request
    assert from_facts(facts(request, 5, True)) == request
    for wrong in ({"steps": 0}, {"prompt": 5}, {"adapters": [{}]}, {"base": {"path": 7}}, {"seed": "x"}):
        with pytest.raises(ValueError):
            from_facts(grid.asdict_of(request) | wrong)
