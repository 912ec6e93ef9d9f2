"""The recipe of the embedded base runs from drawings to a loadable pipeline, resumes exactly, and keeps its promises.

Tiny networks and a few hand-made drawings; no package is downloaded.
    pytest tests/integration/test_embedded_base.py
"""

import json
import random
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from recipes.embedded_base import __main__ as command
from recipes.embedded_base import (
    base,
    captions,
    colours,
    measure,
    nets,
    polish,
    pool,
    rasterise,
    render,
    scenes,
    settings,
    sources,
    splits,
    tokenizer,
    words,
)
from recipes.embedded_base.fit import Run
from recipes.embedded_base.pool import Pool
from recipes.embedded_base.settings import SIDE
from recipes.embedded_base.towers import TextTower

pytestmark = pytest.mark.slow

NAMES = ["cat", "dog", "rocket", "red apple", "house", "tree", "car", "fish", "bird", "cup", "chair", "ball"]
CODES = [f"1f4{i:02x}" for i in range(len(NAMES))]


def disc(colour, radius):
    """A drawing: one disc with a dark rim."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    far = np.hypot(y, x)
    picture = np.zeros((SIDE, SIDE, 4), np.uint8)
    picture[far < radius] = (20, 20, 20, 255)
    picture[far < radius - 4] = (*colour, 255)
    return picture


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A work folder as `prepare` leaves it, but with drawn discs instead of emoji."""
    folder = tmp_path_factory.mktemp("pretrain")
    styles = list(sources.STYLES)
    rows = [(c, s) for c in range(len(NAMES)) for s in range(len(styles))]
    palette = list(colours.COLOURS.values())
    pixels = np.stack([disc(palette[(c + s) % len(palette)], 25 + 4 * s + c) for c, s in rows])
    pictures = folder / "pictures"
    pictures.mkdir()
    np.save(pictures / "pixels.npy", pixels)
    held = {
        "objects": [CODES[-1]],
        "pairs": {style: [CODES[k]] for k, style in enumerate(styles)},
        "colours": [[CODES[3], "blue"]],
        "templates": splits.TEMPLATES,
        "neutral_templates": splits.NEUTRAL_TEMPLATES,
        "style_words": splits.STYLE_WORDS,
        "sets": [],
    }
    (folder / "heldout.json").write_text(json.dumps(held))
    np.savez(
        pictures / "table.npz",
        concept=np.array([r[0] for r in rows], np.int32),
        style=np.array([r[1] for r in rows], np.int32),
        main=np.array([colours.main_colour(p) for p in pixels], np.float32),
        held=splits.mask(held, [(CODES[c], styles[s]) for c, s in rows]),
    )
    concepts = [
        {"code": code, "names": [name, f"{name} thing"], "tags": ["toy"], "group": 3, "subgroup": 0}
        for code, name in zip(CODES, NAMES, strict=True)
    ]
    (pictures / "names.json").write_text(json.dumps({"concepts": concepts, "styles": styles}))
    return folder


@pytest.fixture(scope="module")
def made(work):
    """All stages of a smoke run."""
    out = work / "out"
    command.main(["all", "--smoke", "--work", str(work), "--out", str(out), "--workers", "1", "--device", "cpu"])
    return out


def test_the_exported_folder_loads_and_draws(made):
    from diffusers import StableDiffusionXLPipeline

    pipe = StableDiffusionXLPipeline.from_pretrained(made)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a cat", num_inference_steps=2, guidance_scale=5).images[0]
    assert image.size == (SIDE, SIDE)
    assert {p.dtype for p in pipe.text_encoder.parameters()} == {torch.float32}, "the float16 trap of configs"
    assert pipe.tokenizer.tokenize("sks") == ["sks</w>"]
    assert (made / "README.md").exists() and "CC-BY-4.0" in (made / "NOTICE.md").read_text()
    difference = pipe.scheduler.alphas_cumprod - base.signal(torch.device("cpu"))
    assert difference.abs().max() < 1e-5, "training and sampling must share one noise schedule"


def test_the_encoder_reads_pictures_and_texts(made, work):
    encoder = made.with_name(made.name + "-encoder")
    eye = measure.Eye(encoder, torch.device("cpu"))
    library = rasterise.load(work / "pictures")
    from PIL import Image

    seen = eye.embed([Image.fromarray(p) for p in rasterise.on_white(library.pixels[:3])])
    told = eye.read(["a cat", "a dog"])
    assert seen.shape == (3, eye.concepts.shape[1]) and told.shape[1] == seen.shape[1]
    assert eye.concepts.shape[0] == len(NAMES)


def test_text_towers_equal_those_of_transformers():
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    from recipes.embedded_base.judge import text_config

    reference = CLIPTextModelWithProjection(CLIPTextConfig(**text_config(100, 64, 3, 48))).eval()
    tower = TextTower(100, 64, 3, 32, 48)
    state = reference.state_dict()
    tower.load_state_dict({k if k.startswith("text_") else f"text_model.{k}": v for k, v in state.items()})
    ids = torch.full((2, 32), 99)
    ids[0, :5], ids[1, :8] = torch.randint(0, 97, (5,)), torch.randint(0, 97, (8,))
    right = reference(ids, output_hidden_states=True)
    states, pooled = tower(ids)
    torch.testing.assert_close(states, right.hidden_states[-2], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(pooled, right.text_embeds, atol=1e-5, rtol=1e-4)


def test_a_stopped_run_continues_to_the_same_weights(tmp_path):
    recipe = settings.smoke()
    recipe = replace(recipe, base=replace(recipe.base, steps=4, batch=4))
    draw = torch.Generator().manual_seed(1)
    latents = Pool(
        torch.randn(8, 4, 16, 16, generator=draw).half(),
        torch.randint(0, recipe.sizes.vocabulary, (8, 2, 32), generator=draw).short(),
        torch.full((8, 6), 128.0),
    )
    latents.ids[..., -1] = recipe.sizes.vocabulary - 1
    whole = Run(tmp_path / "whole", torch.device("cpu"), seed=3)
    assert base.train(latents, recipe, whole)
    halted = Run(tmp_path / "parts", torch.device("cpu"), seed=3, seconds=0.0)
    while not base.train(latents, recipe, halted):
        pass
    one, two = base.finish(recipe, whole.folder), base.finish(recipe, halted.folder)
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, two.state_dict()[name]), name


def test_scenes_never_show_what_is_held_out(work):
    library = rasterise.load(work / "pictures")
    held = splits.load(work / "heldout.json")
    plan = scenes.Planner(library, held).chunk(0, 0, 600, 1)
    shown = plan["picture"]
    assert not library.held[shown[shown >= 0]].any()
    blue = colours.WORDS.index("blue")
    apples = np.isin(shown, np.flatnonzero(library.concept == 3)) & (plan["colour"] == blue)
    assert not apples.any()
    again = scenes.Planner(library, held).chunk(0, 0, 600, 1)
    assert again["captions"] == plan["captions"] and np.array_equal(again["box"], plan["box"])


def test_captions_never_use_the_words_kept_for_evaluation():
    held = splits.load()
    kept = {"artwork", "depicting", "clipart", "please", "version", *splits.STYLE_WORDS}
    thing = captions.Thing({"names": ["cat"], "tags": [], "group": 3})
    rng = random.Random(0)
    told = [captions.tell(captions.Story("noto", thing), rng) for _ in range(4000)]
    fillers = [w for w in polish.FILLERS if not set(w.split()) & {w for t in held["templates"] for w in t.split()}]
    for text in [*told, *words.UNKNOWN, *fillers]:
        assert not kept & set(re.findall(r"[a-z0-9-]+", text)), text


def test_the_committed_lists_hold_out_a_tenth():
    held = splits.load()
    assert len(held["colours"]) == 50 and len(held["objects"]) == 24
    assert set(held["pairs"]) == set(sources.STYLES)
    assert held["sets"] == ["@lobehub/fluent-emoji-3d"]


def test_repainting_gives_the_colour_asked_for_and_keeps_the_rim():
    picture = disc((220, 40, 50), 50)
    main = torch.tensor([colours.main_colour(picture)])
    rgb = torch.from_numpy(picture[..., :3]).permute(2, 0, 1)[None].float() / 255
    for index, word in enumerate(colours.MEASURED):
        new = colours.recolour(rgb, main, colours.table(torch.device("cpu"))[index : index + 1])
        centre, rim = new[0, :, 64, 64] * 255, new[0, :, 64, 16] * 255
        assert (centre - torch.tensor(colours.COLOURS[word])).abs().max() < 3, word
        assert rim.max() < 30


def test_micro_conditioning_describes_the_crop(work):
    library = rasterise.load(work / "pictures")
    plan = scenes.empty(2)
    plan["picture"][:, 0] = 0
    plan["crop"][1] = (2.0, 128.0, 0.0)
    drawn = render.Renderer(library, plan, torch.device("cpu"))(torch.arange(2))
    halved = torch.nn.functional.avg_pool2d(drawn[1], 2)
    assert (halved - drawn[0][:, :64, 64:]).abs().mean() < 0.01, "zoom 2 from left 128, top 0: the upper right quarter"
    assert pool.micro(plan)[1].tolist() == [SIDE, SIDE, 0, 128, SIDE, SIDE], "height, width, top, left, height, width"


def test_polish_pairs_align_token_by_token(work, made):
    library, reader = rasterise.load(work / "pictures"), tokenizer.load(work / "tokenizer")
    planner = scenes.Planner(library, splits.load(work / "heldout.json"))
    data = polish.pairs(planner, settings.smoke(), reader, {"cat"}, 40)
    end = reader.token_to_id(tokenizer.END)
    assert torch.equal((data.student == end).sum(1), (data.teacher == end).sum(1))
    assert not torch.equal(data.student, data.teacher)


def test_fillers_have_the_size_asked_for_and_no_word_kept_for_evaluation(work, made):
    reader, banned = tokenizer.load(work / "tokenizer"), {"please", "cat"}
    rewriter = polish.Rewriter(reader, banned, 0)
    for size in range(1, 12):
        for _ in range(50):
            text = rewriter.filler(size)
            assert rewriter.size(text) == size and not banned & set(text.split())


def test_averages_forget_where_they_began():
    layer = torch.nn.Linear(2, 2)
    average = nets.Average(layer, 0.999)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    for step in range(60):
        average.at(step)
        average.update()
    assert (average.shadow[0] - 1).abs().max() < 1e-3


def test_svg_is_framed_to_one_size():
    pytest.importorskip("resvg_py")
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><rect x="1" y="3" width="8" height="4"/></svg>'
    alpha = rasterise.render(svg)[..., 3] > 128
    across, down = np.flatnonzero(alpha.any(0)), np.flatnonzero(alpha.any(1))
    assert abs(len(across) - rasterise.FILL * SIDE) <= 2
    assert abs((down[0] + down[-1]) / 2 - SIDE / 2) <= 1
