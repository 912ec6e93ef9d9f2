"""Documents that cannot rot: what they name is there, and what they repeat is what the code says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from lowrank_diffusion.paths import PROJECT
from scripts import map as project_map

PAGES = [PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    PROJECT.glob("docs/*.md")
)
TEXTS = {path.relative_to(PROJECT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}


def test_the_map_is_that_of_the_tree():
    assert TEXTS["docs/map.md"] == project_map.text(), "run python -m scripts.map"


def test_a_sentence_is_the_first_of_a_docstring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(project_map, "PROJECT", tmp_path)
    (tmp_path / "a.py").write_text('"""Reads :mod:`.config` and\n``x``. No torch."""')
    assert project_map.sentence(Path("a.py")) == "Reads `config` and `x`."
    (tmp_path / "a.py").write_text("x = 1")
    with pytest.raises(ValueError, match="begin it with a docstring"):
        project_map.sentence(Path("a.py"))


def test_readme_names_every_folder_of_the_product():
    tree = TEXTS["README.md"].partition("## Map")[2].partition("```\n")[2].partition("```")[0]
    named = set(re.findall(r"^ *(\w+)/", tree, re.MULTILINE))
    hidden = {"build", "cache", "datasets", "runs", "drafts", "pictures"}  # what runs leave behind
    there = {path.name for path in PROJECT.iterdir() if path.is_dir() and path.name[0].isalpha()} - hidden
    there |= {path.name for path in (PROJECT / "lowrank_diffusion").iterdir() if (path / "__init__.py").is_file()}
    assert {name for name in there if not name.endswith(".egg-info")} == named


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page: str):
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXTS[page]) if "://" not in link]
    assert [link for link in links if not ((PROJECT / page).parent / link).exists()] == []


@pytest.mark.parametrize("page", [page for page in TEXTS if page != "docs/map.md"])
def test_lines_are_not_too_long_to_read(page: str):
    assert [line for line in TEXTS[page].splitlines() if len(line) > 120] == []


def test_every_recipe_ends_in_tests_that_exist():
    recipes = re.split(r"^## ", TEXTS["docs/recipes.md"], flags=re.MULTILINE)[1:]
    assert len(recipes) == 6
    for recipe in recipes:
        tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", recipe.partition("Fails if you forgot:")[2])
        assert tests, recipe
        for file, name in tests:
            tree = ast.parse((PROJECT / file).read_text(encoding="utf-8"))
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"


def test_troubleshooting_quotes_what_the_code_says():
    sources = (path for place in ("lowrank_diffusion", "trainers", "ui") for path in (PROJECT / place).rglob("*.py"))
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    quoted = re.findall(r"^\* `([^`]+)`: (.*)", TEXTS["docs/troubleshooting.md"], re.MULTILINE)
    assert len(quoted) > 12
    parts = [
        part for message, rest in quoted if "diffusers prints" not in rest for part in message.split("...") if part
    ]
    assert [part for part in parts if part not in code] == []
