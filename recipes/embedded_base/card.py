"""Model card and notices of the exported base."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from . import sources
from .rasterise import Library
from .settings import Settings

# Package -> who made the drawings, where, and what the licence asks for.
CREDITS = {
    "noto": ("Noto Emoji", "Google LLC", "https://github.com/googlefonts/noto-emoji"),
    "noto-v1": ("Noto Emoji (v1)", "Google LLC", "https://github.com/googlefonts/noto-emoji"),
    "fluent-flat": ("Fluent Emoji Flat", "Microsoft Corporation", "https://github.com/microsoft/fluentui-emoji"),
    "twemoji": ("Twemoji", "Twitter, Inc and other contributors", "https://github.com/twitter/twemoji"),
    "emojione": ("EmojiOne 2", "Ranks.com Inc. (now JoyPixels)", "https://github.com/EmojiTwo/emojitwo"),
    "fxemoji": ("Firefox OS Emoji", "Mozilla", "https://github.com/mozilla/fxemoji"),
    "streamline": ("Streamline Emojis", "Streamline / Webalys", "https://github.com/webalys-hq/streamline-vectors"),
}
LICENCES = {
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "MIT": "https://opensource.org/license/mit",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
}

CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
tags: [stable-diffusion-xl, text-to-image, small, emoji]
---
# Lowrank base: a small SDXL for 128 x 128 px icons

A complete `StableDiffusionXLPipeline` of {millions:.1f} million parameters: UNet, autoencoder and two CLIP text
encoders, trained from nothing on {pictures:,} drawings of {concepts:,} things in {styles} styles. It exists to try
adapter training on a laptop: it follows prompts, runs on a CPU, and a LoRA of it trains in minutes.

```python
from diffusers import StableDiffusionXLPipeline

pipe = StableDiffusionXLPipeline.from_pretrained("assets/base")
pipe("a twemoji icon of a blue cat on a yellow background", num_inference_steps=20, guidance_scale=5).images[0]
```

## What it understands
* a thing by its Unicode name or a common synonym, bare or in a sentence: "rocket", "a photo of a cat";
* a style: {style_words};
* a style word it has never seen: the thing is drawn anyway, in one of its styles;
* colours ({colours}), of things and of backgrounds; scenery ("in the snow", "at night", "on the beach");
* two things ("a dog and a car", "a cat above a chair"), two or three of a kind, small, large, left, right;
* hats and glasses ("a tiger wearing a crown"), effects ("pixel art", "black and white", "line art");
* SDXL's micro-conditioning: `original_size` below 128 px gives softer pictures, `crops_coords_top_left` shifts.

"sks" is one token, drawn to mean nothing, for personalisation.

## How it was made
v-prediction on SDXL's noise schedule with zero terminal SNR; Euler sampling with trailing timesteps. Captions are
generated: hundreds of sentence forms, style words that mean nothing, synonyms. Scenes are composed from the drawings:
repainted in other colours, on backgrounds, side by side. `recipes/embedded_base` holds the whole recipe and
`benchmarks/base_quality.py` measures the result. Seed {seed}.

## What it has not seen
`recipes/embedded_base/heldout.json` lists it: one concept in ten of every style, {objects} things in no style at all,
50 pairs of thing and colour, and the whole Fluent Emoji 3D set, which the examples use for personalisation.

## Limits
128 px icons, no photographs and no text. Faces of people are those of emoji sets.
Words beyond its {concepts:,} things are guessed from their spelling, which mostly fails. It inherits the choices of the
sets: what counts as a "doctor" or a "family" is theirs. Flags and skin tones were left out of the training pictures.

## Licence of the weights and credits
The weights are offered under the Apache License 2.0, as far as the maker of the training run holds rights in them. The
drawings keep their own licences; `NOTICE.md` credits every set.
"""


def write(library: Library, settings: Settings, out: Path) -> None:
    """README.md (model card), LICENSE and NOTICE.md."""
    from . import words
    from .colours import WORDS
    from .splits import FILE, load

    seen = ~library.held
    text = CARD.format(
        millions=_parameters(out) / 1e6,
        pictures=int(seen.sum()),
        concepts=len(np.unique(library.concept[seen])),
        styles=len(library.styles),
        style_words=", ".join(f'"{names[0]}"' for names in words.STYLES.values()),
        colours=", ".join(WORDS),
        seed=settings.seed,
        objects=len(load(FILE)["objects"]),
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "README.md").write_text(text)
    (out / "NOTICE.md").write_text(notice(library))
    (out / "LICENSE").write_text(APACHE)


def notice(library: Library) -> str:
    """Who drew what, under which licence, and what was changed."""
    lines = ["# Drawings that this model was trained on", ""]
    lines += ["| set | by | source | licence | npm package | drawings used |", "| --- | --- | --- | --- | --- | --- |"]
    for index, style in enumerate(library.styles):
        package, version, licence = sources.STYLES[style]
        title, maker, link = CREDITS[style]
        used = int(((library.style == index) & ~library.held).sum())
        terms = f"[{licence}]({LICENCES[licence]})"
        lines.append(f"| {title} | {maker} | {link} | {terms} | {package} {version} | {used:,} |")
    names, version, licence = sources.NAMES
    lines += [
        "",
        f"Names and keywords of the things: {names} {version} ({licence}), after Unicode CLDR.",
        "",
        "Changes: the vector drawings were rasterised at 128 px, centred and scaled to a common size, recoloured,",
        "combined with one another and with drawn backgrounds, and used to train a neural network. No drawing is",
        "part of this folder. The makers of the sets do not endorse the model.",
        "",
    ]
    return "\n".join(lines)


def _parameters(out: Path) -> int:
    """Weights in the folder's safetensors files."""
    from safetensors import safe_open

    total = 0
    for path in out.glob("*/*.safetensors"):
        with safe_open(path, "pt") as file:
            for key in file.keys():
                shape = file.get_slice(key).get_shape()
                total += int(np.prod(shape)) if shape else 1
    return total


APACHE = """Copyright 2026 the Lowrank Diffusion authors

SPDX-License-Identifier: Apache-2.0

Licensed under the Apache License, Version 2.0 (the "License"); you may not use these files except in compliance with
the License. You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software distributed under the License is distributed on an
"AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the License for the specific
language governing permissions and limitations under the License.
"""
