"""What an adapter's file says of itself: the fields that other programs show, and every setting of its run.

modelspec 1.0.1 (Stability's), and the ``ss_`` fields of kohya's scripts, which A1111, Forge, CivitAI and the managers
of ComfyUI show. All values are texts; what is not known is left out, never made up. No path of the person's machine.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import datasets, hashes
from .config import Config


@dataclass(frozen=True)
class Pictures:
    """What pictures an adapter has seen."""

    captions: Sequence[str]
    """Of each picture that is trained on."""
    classes: int = 0
    """Class pictures."""
    folder: str = ""
    """The last name of where the pictures were."""
    class_folder: str = ""
    sizes: Sequence[tuple[int, int]] = ()
    """(width, height) in which each was seen, pixels."""
    repeats: Sequence[int] = ()
    """How often an epoch saw each; empty: once."""

    @property
    def epoch(self) -> list[int]:
        """How often an epoch saw each."""
        return list(self.repeats) or [1] * len(self.captions)


@dataclass(frozen=True)
class Facts:
    """What an adapter file says about where it comes from."""

    name: str
    config: Config
    base: str
    """Name of the base, for people."""
    prediction: str
    pictures: Pictures
    resolution: int
    step: int
    loss: float | None = None
    started: float = 0.0
    """Seconds since 1970 of the first step; 0 if there was none."""
    run: str = ""
    """Name of the run, which no other has."""
    precision: str = "float32"
    """Type of the frozen base."""
    base_file: Path | None = None
    """The base if it is one file: other programs find it by its hashes, which a folder does not have."""


def common_metadata(facts: Facts, rank: int) -> dict[str, str]:
    """All fields of a picture adapter whose largest plain rank is ``rank``, but those that name its base's family."""
    fields: dict[str, object] = _modelspec(facts) | _training(facts) | _data(facts) | _base(facts)
    fields |= {
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": rank,
        "ss_network_args": json.dumps({}),
        "lowrank_diffusion.settings": json.dumps(_settings(facts.config), ensure_ascii=False),
        "lowrank_diffusion.step": facts.step,
        "lowrank_diffusion.loss": facts.loss,
    }
    return {key: str(value) for key, value in fields.items() if value != ""}


def _modelspec(facts: Facts) -> dict[str, object]:
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": facts.name,
        "modelspec.resolution": f"{facts.resolution}x{facts.resolution}",
        "modelspec.prediction_type": "v" if facts.prediction == "v_prediction" else "epsilon",
        "modelspec.date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "modelspec.trigger_phrase": facts.config.data.trigger,
        "modelspec.usage_hint": facts.config.data.prompt if facts.config.export.captions else "",
    }


def _training(facts: Facts) -> dict[str, object]:
    """How it was trained, in kohya's words."""
    cfg = facts.config
    window = cfg.train.batch * cfg.train.accumulate * cfg.train.gpus
    examples = sum(facts.pictures.epoch)
    batches = -(-examples // cfg.train.batch)
    epoch = max(1, -(-examples // window))
    now, started = time.time(), facts.started
    texts = cfg.adapter.text_encoders != "none"
    return {
        "ss_session_id": int(hashlib.sha256(facts.run.encode()).hexdigest()[:8], 16) if facts.run else "",
        "ss_training_started_at": started or "",
        "ss_training_finished_at": now if started else "",
        "ss_output_name": facts.name,
        "ss_learning_rate": cfg.optimizer.lr,
        "ss_unet_lr": cfg.optimizer.lr,
        "ss_text_encoder_lr": cfg.optimizer.lr_of_text_encoders if texts else "",
        "ss_optimizer": cfg.optimizer.name,
        "ss_lr_scheduler": cfg.optimizer.schedule,
        "ss_lr_warmup_steps": cfg.optimizer.warmup,
        "ss_steps": facts.step,
        "ss_max_train_steps": cfg.train.steps,
        "ss_epoch": -(-facts.step // epoch),
        "ss_num_epochs": -(-cfg.train.steps // epoch),
        "ss_num_batches_per_epoch": batches,
        "ss_batch_size_per_device": cfg.train.batch,
        "ss_total_batch_size": window,
        "ss_gradient_accumulation_steps": cfg.train.accumulate,
        "ss_gradient_checkpointing": cfg.train.checkpointing,
        "ss_max_grad_norm": cfg.train.clip,
        "ss_mixed_precision": {"bfloat16": "bf16", "float16": "fp16"}.get(facts.precision, "no"),
        "ss_full_fp16": False,
        "ss_seed": cfg.seed,
        "ss_min_snr_gamma": cfg.loss.min_snr or None,
        "ss_noise_offset": cfg.loss.noise_offset or None,
        "ss_prior_loss_weight": cfg.prior.weight or None,
        "ss_network_dropout": cfg.adapter.dropout or None,
        "ss_caption_dropout_rate": cfg.data.caption_dropout,
        "ss_cache_latents": True,
        "ss_lowram": False,
    }


def _data(facts: Facts) -> dict[str, object]:
    """What it was trained on. With ``export.captions=false`` no word of the captions."""
    cfg, seen = facts.config, facts.pictures
    folder, epoch = seen.folder or "pictures", Counter(seen.epoch)
    # A folder of kohya's has one number of repeats: pictures with another one are as in another folder.
    folders = {folder if len(epoch) == 1 else f"{number}_{folder}": (number, epoch[number]) for number in sorted(epoch)}
    dirs = {name: {"n_repeats": number, "img_count": count} for name, (number, count) in folders.items()}
    words = Counter(tag for caption in seen.captions if (tags := caption.split(",")) for tag in map(_tag, tags) if tag)
    sizes = Counter(seen.sizes)
    buckets = {str(i): {"resolution": list(size), "count": sizes[size]} for i, size in enumerate(sorted(sizes))}
    regular = {seen.class_folder or "class": {"n_repeats": 1, "img_count": seen.classes}} if seen.classes else {}
    return {
        "ss_num_train_images": sum(seen.epoch),
        "ss_num_reg_images": seen.classes,
        "ss_dataset_dirs": json.dumps(dirs or {folder: {"n_repeats": 1, "img_count": 0}}, ensure_ascii=False),
        "ss_reg_dataset_dirs": json.dumps(regular, ensure_ascii=False),
        "ss_tag_frequency": json.dumps({folder: dict(words)}, ensure_ascii=False) if cfg.export.captions else "{}",
        "ss_resolution": f"({facts.resolution}, {facts.resolution})",
        "ss_enable_bucket": cfg.data.buckets,
        "ss_bucket_info": json.dumps({"buckets": buckets}) if cfg.data.buckets else "",
        "ss_flip_aug": cfg.data.flip,
        "ss_random_crop": cfg.data.crop == "random",
        "ss_color_aug": False,
        "ss_shuffle_caption": False,
        "ss_max_token_length": 75 * cfg.data.caption_chunks if cfg.data.caption_chunks > 1 else None,
    }


def _tag(text: str) -> str:
    """As A1111 counts them: without case, and with single spaces."""
    return " ".join(text.lower().split())


def _base(facts: Facts) -> dict[str, object]:
    v = facts.prediction == "v_prediction"
    return {
        "ss_sd_model_name": facts.base,
        "ss_sd_model_hash": hashes.legacy(facts.base_file) if facts.base_file else "",
        "ss_new_sd_model_hash": hashes.whole(facts.base_file) if facts.base_file else "",
        "ss_clip_skip": None,
        **({"ss_v_parameterization": True} if v else {}),
    }


CAPTIONS = ("data.prompt", "sample.prompts", "prior.prompt", "sample.negative")
"""Settings that say what the pictures show."""


def _settings(cfg: Config) -> dict[str, Any]:
    """Every setting, for a file that is passed on."""
    values = shareable(cfg.dotted())
    return values if cfg.export.captions else {key: value for key, value in values.items() if key not in CAPTIONS}


def shareable(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings for files that people pass on: of a path on this machine only the last name is kept."""
    return {key: _last_name(value) for key, value in settings.items()}


def _last_name(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_last_name(item) for item in value]
    local = isinstance(value, str) and (value.startswith(("/", "~", "./", "../", "\\")) or value[1:3] in (":\\", ":/"))
    if not local:
        return value
    if saved := datasets.reference(Path(value)):
        return saved
    rest, _, last = value.replace("\\", "/").rstrip("/").rpartition("/")
    return "" if rest.lower().endswith(("/home", "/users")) else last  # a home folder is called as its owner
