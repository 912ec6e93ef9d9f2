"""The table of adapter kinds: its rows are the values of ``adapter.kind``, and nothing else branches on them."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest
from peft.tuners.lokr.layer import factorization

from lowrank_diffusion import presets
from lowrank_diffusion.adapters.kind import Kind, Placed
from lowrank_diffusion.adapters.kinds import KINDS
from lowrank_diffusion.adapters.lokr import split
from lowrank_diffusion.config import AdapterConfig, ConfigError, fields
from lowrank_diffusion.paths import PROJECT
from tests.adapter_kinds import EXAMPLES, adapter
from trainers import fingerprint
from ui.form import LABELS

PACKAGE = PROJECT / "lowrank_diffusion" / "adapters"


def test_rows_are_the_values_of_the_setting_and_the_kinds_of_the_package():
    assert get_args(AdapterConfig.model_fields["kind"].annotation) == tuple(KINDS)
    assert all(name == kind.name for name, kind in KINDS.items())
    found = set()
    for path in PACKAGE.glob("*.py"):
        values = vars(import_module(f"lowrank_diffusion.adapters.{path.stem}")).values()
        found |= {value for value in values if Kind in getattr(value, "__mro__", ())}
    assert found - {Kind, Placed} == {type(kind) for kind in KINDS.values()}, "a file without its row"


def test_every_setting_of_a_kind_is_declared_and_belongs_to_one():
    owned = [f"adapter.{field}" for kind in KINDS.values() for field in kind.fields]
    assert len(owned) == len(set(owned)) and set(owned) <= fields().keys()
    assert set(owned) <= set(fingerprint.MEANINGLESS), "a checkpoint means nothing with another"
    assert set(owned) <= LABELS.keys()
    described = fields()["adapter.kind"].description or ""
    assert all(kind.title in described for kind in KINDS.values())


@pytest.mark.parametrize("name", KINDS)
def test_settings_of_other_kinds_are_refused_by_name(name: str):
    others = {field: other for other in KINDS.values() if other.name != name for field in other.fields}
    with pytest.raises(ConfigError) as caught:
        presets.build({}, {"adapter.kind": name} | {f"adapter.{field}": 8 for field in others})
    assert {problem.key for problem in caught.value.problems} == {f"adapter.{field}" for field in others}
    for problem in caught.value.problems:
        other = others[problem.key.removeprefix("adapter.")]
        assert problem.rule == f"belongs to {other.title}, got 8."
        assert problem.hint.endswith(f", or adapter.kind={other.name}.")


def test_words_tell_the_settings_of_a_kind():
    said = {name: (cfg := adapter(settings)).method.words(cfg) for name, settings in EXAMPLES.items()}
    assert said["lora"] == "LoRA r4" and said["gralora"] == "GraLoRA r4 k2" and said["hybrid"] == "GraLoRA r4 k2+3"
    assert said["lokr"] == "LoKr r3 f3" and said["lokr-square"] == "LoKr r1"


PARTS = "|".join(part for kind in KINDS.values() for part in kind.parts)
NAMES = re.compile(rf"""["'](?:{"|".join(KINDS)})["']|\b(?:{PARTS}|gralora_k|hybrid_r|decompose_factor)\b""")
EXCEPTIONS = {
    "lowrank_diffusion/image/export.py": "plain LoRA is the form that diffusers reads",
    "lowrank_diffusion/text/export.py": "plain LoRA is a form that others read",
    "lowrank_diffusion/image/apply.py": "what was read from a file acts as plain LoRA",
    "lowrank_diffusion/image/adapter_files.py": "the formats of files",
    "lowrank_diffusion/image/families/strangers.py": "the formats of files",
    "lowrank_diffusion/image/foreign.py": "the formats of files",
    "lowrank_diffusion/image/peft_config.py": "the formats of files",
}


def test_nothing_outside_the_package_names_a_kind_or_its_tensors():
    found = {}
    for folder in ("lowrank_diffusion", "trainers", "ui"):
        for path in (path for path in (PROJECT / folder).rglob("*.py") if PACKAGE not in path.parents):
            if names := NAMES.findall(path.read_text(encoding="utf-8")):
                found[str(Path(path).relative_to(PROJECT))] = names
    assert found.keys() == EXCEPTIONS.keys(), found


@pytest.mark.parametrize("factor", [None, 1, 2, 3, 4, 7, 8, 16, 100, 2048])
def test_a_side_is_split_as_peft_splits_it(factor: int | None):
    for side in [*range(1, 200), 640, 768, 1152, 1280, 2048, 5120, 10240, 65537]:
        assert split(side, factor) == factorization(side, factor or -1), side


@pytest.mark.parametrize(
    ("settings", "sides", "says"),
    [
        ({"rank": 16}, (640, 640), "below half the longer side of w2, got 16; x is 640 x 640, its w2 32 x 32 (1 such "
         "layers). Allowed here: up to 15. With an adapter.factor, such as 4, w2 is larger."),
        ({"rank": 16, "factor": 40}, (1280, 1280), "Allowed here: up to 15. With a smaller adapter.factor w2 is"),
        ({"rank": 1}, (4, 4), "No rank is allowed here."),
        ({"rank": 2, "factor": 1}, (4, 4), "Allowed here: up to 1."),
    ],
)  # fmt: skip
def test_a_rank_that_leaves_lokrs_second_matrix_whole_is_refused(settings: Any, sides: tuple[int, int], says: str):
    cfg = AdapterConfig(kind="lokr", **settings)
    (problem,) = cfg.method.check_sides(cfg, {"x": sides, "wide": (4096, 4096 * cfg.rank)})
    assert problem.key == "rank" and says in str(problem)
    assert not list(cfg.method.check_sides(cfg, {"wide": (4096, 4096 * cfg.rank)}))


def test_lokr_has_no_dropout():
    with pytest.raises(ConfigError, match=r"adapter\.dropout: must be 0 with adapter\.kind=lokr.* got 0\.1"):
        presets.build({}, {"adapter.kind": "lokr", "adapter.dropout": 0.1})
