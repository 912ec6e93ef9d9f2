"""The shape of the project: who may import whom, what must stay light, and what a file may hold."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lowrank_diffusion
from lowrank_diffusion.paths import PROJECT

PACKAGES = ("lowrank_diffusion", "trainers", "ui")
HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "numpy")

CONTRIBUTING = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
LAYERS = CONTRIBUTING.partition("```layers\n")[2].partition("```")[0].splitlines()
"""From top to bottom: a module imports from its own layer and from those above it. What is not named itself is in the
layer of its folder: of ``adapters``, the settings and the kinds; the package itself only passes on."""

LIGHT_TEXT = ("encode", "gguf_file", "request", "rows", "source")
"""The same of ``text``."""

LIGHT_IMAGE = (
    "adapted",
    "adapter_files",
    "archives",
    "bounds",
    "caption_tools",
    "captions",
    "columns",
    "crops",
    "data",
    "families",
    "flags",
    "folders",
    "grid",
    "headers",
    "items",
    "kept",
    "listing",
    "masks",
    "memory",
    "notes",
    "numbered",
    "parameters",
    "peft_config",
    "pictures",
    "png_texts",
    "request",
    "sets",
    "samplers",
    "sheet",
    "source",
    "start",
    "weights",
    "words",
    "writing",
)
"""The modules of ``image`` that work without torch; the app and the command line read pictures and models with them."""


def sources(package: str) -> list[Path]:
    return sorted(path for path in (PROJECT / package).rglob("*.py") if "__pycache__" not in path.parts)


def imported(path: Path, *, module_level_only: bool = False) -> set[str]:
    """Absolute names of everything a file imports: modules, and for ``from a import b`` both 'a' and 'a.b'."""
    package = list(path.relative_to(PROJECT).parts[:-1])
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.iter_child_nodes(tree)) if module_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{name.name}" for name in node.names)}
    return found


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("lowrank_diffusion", {"lowrank_diffusion"}),
        ("trainers", {"lowrank_diffusion", "trainers"}),
        ("ui", {"lowrank_diffusion", "ui"}),
    ],
)
def test_packages_import_only_what_they_may(package: str, allowed: set[str]):
    ours = {*PACKAGES, "app", "tests", "scripts", "recipes", "benchmarks"}
    assert sources(package)
    for path in sources(package):
        assert tops(imported(path)) & ours <= allowed, path


def test_nobody_imports_trainers_it_is_started():
    """By nobody but its own files, and those that measure its parts: tests and benchmarks."""
    folders = ("lowrank_diffusion", "ui", "scripts", "recipes")
    for path in [*(path for folder in folders for path in sources(folder)), *PROJECT.glob("*.py")]:
        assert "trainers" not in tops(imported(path)), path


def test_layers_of_the_library():
    rank = {name: number for number, layer in enumerate(LAYERS) for name in layer.split()}

    def place(module: str) -> str:
        """The entry of ``LAYERS`` for a module of the library, or the empty text for anything else."""
        inside = module.removeprefix("lowrank_diffusion.").split(".")
        names = (".".join(inside[:2]), inside[0]) if module.startswith("lowrank_diffusion.") else ()
        return next((name for name in names if name in rank), "")

    seen = set()
    for path in sources("lowrank_diffusion"):
        name = place(".".join(path.relative_to(PROJECT).with_suffix("").parts))
        seen.add(name)
        for other in filter(None, map(place, imported(path))):
            assert rank[other] <= rank[name], f"{path}: {name} must not import {other}"
    assert seen == set(rank)


def test_image_and_text_never_import_each_other():
    for one, other in (("image", "text"), ("text", "image")):
        for path in sources(f"lowrank_diffusion/{one}"):
            assert not any(name.startswith(f"lowrank_diffusion.{other}") for name in imported(path)), path


def test_the_app_names_nothing_heavy_when_it_is_imported():
    for path in sources("ui"):
        assert not tops(imported(path, module_level_only=True)) & {"torch", "diffusers", "transformers", "peft"}, path


@pytest.mark.parametrize(
    "modules",
    [
        [
            "config",
            "datasets",
            "presets",
            "events",
            "runs",
            "supervisor",
            "devices",
            "seeds",
            "plan",
            "preflight",
            "terminal",
            "cli",
            "api",
        ],
        [f"image.{name}" for name in LIGHT_IMAGE],
        [f"text.{name}" for name in LIGHT_TEXT],
    ],
    ids=["core", "image", "text"],
)
def test_what_must_start_fast_imports_nothing_heavy(modules: list[str]):
    code = f"import sys, {', '.join(f'lowrank_diffusion.{name}' for name in modules)}\nprint(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    loaded = shown.stdout.split()
    assert all(f"lowrank_diffusion.{name}" in loaded for name in modules)
    assert not set(HEAVY) & set(loaded)


def test_the_training_process_can_say_that_it_starts_before_it_loads_torch():
    code = "import sys, trainers.__main__\nprint(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert not set(HEAVY) & set(shown.stdout.split())


def test_the_command_line_lists_and_refuses_without_torch(home: Path):
    """Really, not only at import: `list`, `presets`, `settings`, `memory` and a wrong setting."""
    code = (
        "import sys; from lowrank_diffusion.cli import main\n"
        "codes = [main([name]) for name in ('list', 'presets', 'settings')] + [main(['memory', 'smoke'])]\n"
        "codes += [main(['train', 'smoke', 'adapter.rnak=8']), main(['train', 'smoke', 'data.instance=/gone'])]\n"
        "print(codes, 'torch' in sys.modules, file=sys.stderr)"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert shown.stderr.strip().splitlines()[-1] == "[0, 0, 0, 0, 1, 1] False"


def test_no_file_is_longer_than_a_person_reads_at_once():
    long = {
        str(path.relative_to(PROJECT)): count
        for package in PACKAGES
        for path in sources(package)
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 300
    }
    assert long == {}


def test_no_file_speaks_of_the_machine_it_was_written_on():
    """Paths of a developer's machine mean nothing to anybody else."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    private = [b"/wor" + b"k/", b"../sha" + b"red", b"/ro" + b"ot/"]
    names = [PROJECT / name.decode() for name in listed.stdout.split(b"\0") if name]
    contents = {path: path.read_bytes() for path in names if path.is_file() and path.stat().st_size < 2_000_000}
    texts = {path: content for path, content in contents.items() if b"\0" not in content}
    assert len(texts) > 50
    assert [(str(path), word) for path, content in texts.items() for word in private if word in content] == []


VAGUE = {"found", "told"}


def test_a_name_says_what_it_holds():
    """``found`` and ``told`` say how a value came about: a reader wants to know what it is."""
    vague: dict[str, list[str]] = {}
    for path in (path for package in PACKAGES for path in sources(package)):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) | ast.Attribute(attr=name):
                    if name in VAGUE:
                        vague.setdefault(str(path.relative_to(PROJECT)), []).append(f"line {node.lineno}: {name}")
    assert vague == {}


FAMILY = re.compile(r"(?i)sdxl|\bunets?\b|text_encoder_2|StableDiffusion")


def test_only_the_folders_of_families_name_their_parts():
    """A family is added in a folder of its own; whoever names SDXL's parts elsewhere makes a second place to edit."""
    families = PROJECT / "lowrank_diffusion" / "image" / "families"
    found = [
        f"{path.relative_to(PROJECT)}:{number}: {line.strip()}"
        for package in PACKAGES
        for path in sources(package)
        if families not in path.parents
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if FAMILY.search(line)
    ]
    assert not found, "\n".join(found)


def test_the_front_door_opens_without_torch():
    code = (
        "import sys, lowrank_diffusion\n"
        "print('pydantic' in sys.modules)\n"
        "print(*(getattr(lowrank_diffusion, name).__name__ for name in lowrank_diffusion.__all__))\n"
        "print(*sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    first, names, loaded = shown.stdout.splitlines()
    assert first == "False" and names == "draw evaluate flatness grid load spectra train"
    assert not set(HEAVY) & set(loaded.split())
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        lowrank_diffusion.nothing  # noqa: B018
