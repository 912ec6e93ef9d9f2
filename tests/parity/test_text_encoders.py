"""Adapted text encoders: what they say against diffusers' own encode_prompt, and who learns."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lowrank_diffusion import plan, presets, runs
from lowrank_diffusion.config import Config, ConfigError
from lowrank_diffusion.image import text_encoders
from lowrank_diffusion.image.apply import load_adapter
from lowrank_diffusion.image.export import compress_file
from lowrank_diffusion.image.families import FAMILIES, clip
from lowrank_diffusion.image.generate import Studio
from lowrank_diffusion.image.request import AdapterChoice, DrawRequest
from lowrank_diffusion.paths import ASSETS, EMBEDDED_BASE, EXAMPLES
from trainers.dreambooth import DreamBooth
from trainers.fast import FastStep
from trainers.step import Step

CPU = torch.device("cpu")
SDXL = FAMILIES["sdxl"]
NETWORK = SDXL.network()
SAMPLE = {
    "data__resolution": 128,
    "sample__prompts": ("a 3d icon of a whale",),
    "sample__steps": 4,
    "sample__guidance": 2.5,
}
PROMPTS = ["a 3d icon of a cat", "", "word " * 60]


@pytest.fixture(scope="module", autouse=True)
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home for all these tests: what is cached of the pictures is the same in each."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOWRANK_HOME", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def home(shared_home: Path) -> Path:
    return shared_home


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline.from_pretrained(EMBEDDED_BASE)


def spoken(pipe: StableDiffusionXLPipeline, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """What diffusers makes of prompts."""
    with torch.no_grad():
        tokens, _, pooled, _ = pipe.encode_prompt(prompts, device=CPU, do_classifier_free_guidance=False)
    return tokens, pooled


@pytest.mark.parametrize("end", [None, 2])
def test_read_says_what_encode_prompt_says(end: int | None):
    """With the end of text as the embedded base's configuration has it, and as SDXL's own has it, wrongly."""
    pipe = StableDiffusionXLPipeline.from_pretrained(EMBEDDED_BASE)
    if end is not None:
        for encoder in (pipe.text_encoder, pipe.text_encoder_2):
            encoder.config.eos_token_id = end
            clip.inner(encoder).eos_token_id = end
    ids = clip.tokenise([pipe.tokenizer, pipe.tokenizer_2], PROMPTS)
    with torch.no_grad():
        found = NETWORK.read([pipe.text_encoder, pipe.text_encoder_2], torch.stack([ids[prompt] for prompt in PROMPTS]))
    for mine, theirs in zip(found.tensors, spoken(pipe, PROMPTS), strict=True):
        assert mine.shape == theirs.shape and (mine - theirs).abs().max() < 1e-5


def reference_chunks(tokenizer: Any, prompt: str, chunks: int) -> list[list[int]]:
    """A prompt in chunks, written out: each begins and ends by itself, and is filled up as a short text is."""
    room = tokenizer.model_max_length - 2
    words = tokenizer(prompt, add_special_tokens=False).input_ids[: chunks * room]
    begin, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    found = []
    for start in range(0, chunks * room, room):
        inside = words[start : start + room]
        found.append([begin, *inside, end] + [pad] * (room - len(inside)))
    return found


@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"])
@pytest.mark.parametrize("count", [5, 30, 31, 60, 75, 200])
def test_long_prompts_are_read_in_chunks(pipeline: StableDiffusionXLPipeline, count: int, pad: str):
    """Against the formula, with the filling of SDXL's first encoder and of its second."""
    prompt = " ".join(f"cat{'s' * (n % 2)}" for n in range(count))
    tokenizer = copy.deepcopy(pipeline.tokenizer_2)
    tokenizer.pad_token = pad
    ids = clip.tokenise([tokenizer] * 2, [prompt], 3)[prompt]
    expected = torch.tensor(reference_chunks(tokenizer, prompt, 3))
    assert ids.shape == (2, 3, 32) and torch.equal(ids[0], expected)
    encoders = [pipeline.text_encoder, pipeline.text_encoder_2]
    with torch.no_grad():
        tokens, pooled = NETWORK.read(encoders, ids[None]).tensors
        parts = [encoder(expected, output_hidden_states=True) for encoder in encoders]
    states = torch.cat([part.hidden_states[-2] for part in parts], dim=-1)
    joined = torch.cat([states[0, :1], *(state[1:-1] for state in states), states[-1, -1:]])
    assert tokens.shape == (1, 3 * 30 + 2, states.shape[-1])
    assert (tokens[0] - joined).abs().max() < 1e-5
    assert (pooled[0] - parts[1].text_embeds[0]).abs().max() < 1e-5


def test_one_chunk_of_several_is_what_is_read_without_chunks(pipeline: StableDiffusionXLPipeline):
    encoders = [pipeline.text_encoder, pipeline.text_encoder_2]
    ids = clip.tokenise([pipeline.tokenizer, pipeline.tokenizer_2], PROMPTS)
    with torch.no_grad():
        plain, in_one = (
            NETWORK.read(encoders, torch.stack([change(ids[prompt]) for prompt in PROMPTS])).tensors
            for change in (lambda said: said, lambda said: said[:, None])
        )
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(plain, in_one, strict=True))


@pytest.mark.parametrize("name", SDXL.encoders)
def test_layers_of_real_sdxl_are_there_but_for_the_block_that_is_not_read(name: str):
    kind = CLIPTextModel if name == "text_encoder" else CLIPTextModelWithProjection
    with init_empty_weights():
        encoder = kind(CLIPTextConfig.from_pretrained(ASSETS / "sdxl" / name))
    linears = {path for path, module in encoder.named_modules() if isinstance(module, torch.nn.Linear)}
    chosen = set(text_encoders.targets(SDXL, name, encoder, "attention+mlp"))
    left = {path for path in linears - chosen if path != "text_projection"}
    assert chosen <= linears and len(left) == (6 if name == "text_encoder" else 0)
    assert all(".layers.11." in path for path in left)
    assert SDXL.encoder_layers("text_encoder", 12, "attention")[-1] == "encoder.layers.10.self_attn.out_proj"


def config(**settings: Any) -> Config:
    wanted = {"adapter.text_encoders": "attention", "train.steps": 16, "validation.holdout": 2, "flat.sigma": 0.1}
    wanted |= {"optimizer.lr": 1e-3, "optimizer.text_encoder_lr": 5e-4, "sample.prompts": (), "train.device": "cpu"}
    wanted |= {"data.instance": str(EXAMPLES / "subject-cat"), "data.resolution": 64, "train.batch": 2}
    wanted |= {key.replace("__", "."): value for key, value in settings.items()}
    return presets.build(presets.find_preset("emoji-style").values, wanted)


def begin(folder: Path, kind: type[Step] = Step, **settings: Any) -> Step:
    cfg = config(**settings)
    run = runs.create(cfg, "words", folder)
    task = DreamBooth(run, run.config(), CPU, torch.float32, lambda *_: None)
    if kind is FastStep:
        return FastStep(task, cfg, CPU, torch.float32, plan.forced(cfg, "compiled"))
    return Step(task, cfg, CPU, torch.float32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Step, list[Path]]:
    """A run of six steps and its files."""
    folder = tmp_path_factory.mktemp("words")
    state = begin(folder, adapter__text_encoders="attention+mlp", data__caption_dropout=0.3, **SAMPLE)
    for step in range(6):
        state(step)
    with state.evaluating():
        return state, state.task.export(folder / "files", 6, None)


def words(state: Step, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the task's own encoders make of prompts now."""
    task: Any = state.task
    said = task.data.embeddings(prompts, lambda *_: None)
    with state.evaluating():
        return task._read(torch.stack([said[prompt].ids for prompt in prompts])).tensors


@pytest.mark.slow
def test_every_layer_learns_and_the_base_does_not(trained: tuple[Step, list[Path]], pipeline: Any):
    state, _ = trained
    ours = [name for name in state.parameters if name.startswith(("text_encoder.", "text_encoder_2."))]
    count = sum(
        len(text_encoders.targets(SDXL, name, getattr(pipeline, name), "attention+mlp")) for name in SDXL.encoders
    )
    assert len(ours) == 2 * count  # A and B
    encoder: Any = state.task.model.text_encoder_2
    assert all(parameter.abs().max() > 0 for parameter in state.parameters.values()), "no B is zero any more"
    own = {name: value for name, value in encoder.state_dict().items() if "lora_" not in name}
    before = pipeline.text_encoder_2.state_dict()
    assert all(torch.equal(value, before[name.replace(".base_layer", "")]) for name, value in own.items())
    assert [group["share"] for group in state.optimizer.param_groups] == [1.0, 0.5]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["diffusers", "kohya", "compressed"])
def test_files_make_a_pipeline_say_what_the_training_process_says(
    trained: tuple[Step, list[Path]], form: str, tmp_path: Path
):
    state, files = trained
    file = files[form == "kohya"]
    if form == "compressed":  # to the rank that it has
        file = compress_file(files[0], tmp_path, 32)[0]
    pipe = StableDiffusionXLPipeline.from_pretrained(EMBEDDED_BASE)
    before = spoken(pipe, PROMPTS)
    load_adapter(pipe, file, "mine")
    assert set(pipe.get_list_adapters()) == {"unet", *SDXL.encoders}
    for mine, theirs, plain in zip(words(state, PROMPTS), spoken(pipe, PROMPTS), before, strict=True):
        assert (mine - theirs).abs().max() < 1e-4 < 1e-2 < (mine - plain).abs().max()
    pipe.disable_lora()
    assert all(torch.equal(a, b) for a, b in zip(before, spoken(pipe, PROMPTS), strict=True))


@pytest.mark.slow
def test_samples_show_what_the_studio_draws(trained: tuple[Step, list[Path]]):
    """Of all linear layers: pipelines look at some of those that are stood in for."""
    state, files = trained
    with state.evaluating():
        ((prompt, path),) = state.task.sample(6)
    request = DrawRequest(prompt, adapters=(AdapterChoice(str(files[0])),), device="cpu", steps=4, guidance=2.5)
    (drawn,) = Studio().draw(request)
    ours, theirs = (np.asarray(image, dtype=np.int16) for image in (Image.open(path), drawn.image))
    assert np.abs(ours - theirs).max() <= 1 and ours.std() > 10


@pytest.mark.slow
def test_peft_loads_each_model_from_its_folder(trained: tuple[Step, list[Path]]):
    import peft

    state, files = trained
    pipe = StableDiffusionXLPipeline.from_pretrained(EMBEDDED_BASE)
    pipe.unet = peft.PeftModel.from_pretrained(pipe.unet, str(files[2]))
    for name in SDXL.encoders:
        peft.PeftModel.from_pretrained(getattr(pipe, name), str(files[2] / name))  # in place
    for mine, theirs in zip(words(state, PROMPTS), spoken(pipe, PROMPTS), strict=True):
        assert (mine - theirs).abs().max() < 1e-5


@pytest.mark.slow
def test_fast_steps_equal_eager_ones(tmp_path: Path):
    eager, fast = (begin(tmp_path / kind.__name__, kind, data__caption_dropout=0.3) for kind in (Step, FastStep))
    for step in range(4):
        one, other = eager(step), fast(step)
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)
    for one, other in zip(eager.parameters.values(), fast.parameters.values(), strict=True):
        assert (one - other).abs().max() < 2e-4


@pytest.mark.slow
def test_adapted_encoders_begin_as_frozen_ones(tmp_path: Path):
    """Before the first step, cached embeddings and captions that go through adapted encoders are the same thing."""
    kinds = {"none": None, "attention": 5e-4}
    states = [
        begin(tmp_path / kind, adapter__text_encoders=kind, optimizer__text_encoder_lr=lr) for kind, lr in kinds.items()
    ]
    losses = []
    for state in states:
        with state.evaluating():
            losses.append(state.task.validate())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert states[0](0).loss == pytest.approx(states[1](0).loss, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"optimizer.text_encoder_lr": 1e-4},
            "optimizer.text_encoder_lr: means nothing with adapter.text_encoders=none",
        ),
        (
            {"adapter.text_encoders": "attention", "optimizer.name": "prodigy", "optimizer.text_encoder_lr": 0.5},
            "optimizer.text_encoder_lr: must be empty with Prodigy, got 0.5",
        ),
        ({"task": "text", "adapter.text_encoders": "attention"}, "adapter.text_encoders: means nothing with task=text"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=re.escape(words)):
        presets.build({}, settings)
