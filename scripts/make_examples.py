"""Write the picture sets that ship with the project, from the npm package @lobehub/fluent-emoji-3d (MIT).

    npm pack @lobehub/fluent-emoji-3d@1.1.0
    tar xf lobehub-fluent-emoji-3d-1.1.0.tgz
    python scripts/make_examples.py package

The argument is the unpacked package; nothing is downloaded. Its pictures are 256 x 256 WebP with transparency, named
by code point. What is written, each set replacing the one before it:

- assets/examples/style-3d-icons: pictures of different objects in one style, with captions, to learn the style from;
- assets/examples/subject-cat: one character with different faces, to learn the character from;
- benchmarks/heldout: pictures of other objects in the same style, to measure what was learnt;
- assets/examples/LICENSE.md and benchmarks/heldout/LICENSE.md: where they come from and what may be done with them.

To change the captions, edit STYLE_CAPTION or SUBJECT_CAPTION and run the script again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import unicodedata
from pathlib import Path

from PIL import Image

PROJECT = Path(__file__).resolve().parents[1]
STYLE_FOLDER = PROJECT / "assets" / "examples" / "style-3d-icons"
SUBJECT_FOLDER = PROJECT / "assets" / "examples" / "subject-cat"
HELDOUT_FOLDER = PROJECT / "benchmarks" / "heldout"

STYLE_CAPTION = "a 3d icon of {thing}"
SUBJECT_CAPTION = "a photo of sks cat"

STYLE_SIDE = 256
HELDOUT_SIDE = 128

STYLE = (
    "🍓 🍔 🧁 "  # food
    "🐧 🐢 🐙 🦊 "  # animals, one of them a face
    "🚀 🚒 ⛵ "  # vehicles
    "🔨 🔑 💡 ⏰ 🎸 "  # tools and things
    "🏰 🏠 "  # buildings
    "🌵 🌻 🍄"  # nature
).split()

# Nothing here looks like a picture of the style set in another colour or with a detail more, and there are no cats,
# people, flags, signs or letters.
HELDOUT = (
    "🍌 🍍 🍇 🍉 🍑 🍐 🍋 🍒 🥝 🥑 🥕 🌽 🍆 🥦 🍕 🌭 🌮 🍟 🍩 🍪 🍦 🍭 🥨 🥐 🧀 🥚 🍿 ☕ "
    "🐘 🐌 🐝 🦋 🦀 🐳 🐬 🦈 🦉 🦆 🦩 🐍 🦎 🐰 🐻 🐷 🐸 🦁 🐮 🐵 "
    "🚗 🚌 🚜 🚁 🚲 🛸 ✈ 🛴 "
    "🔧 ✂ ✏ 📕 🔦 🔋 🔭 🔬 📷 📺 💻 🎧 🔔 🔒 🧲 💼 💣 ⌛ ☂ 🎈 🎁 🏆 👑 💎 👓 🎩 👟 👕 🧹 🪑 🧭 🎲 ⚽ 🏀 🎺 🥁 ⚓ "
    "🌲 🌴 🌷 🌹 🍀 🌋 ⛄"
).split()

FACES = {
    "😺": "smiling",
    "😸": "grinning",
    "😹": "crying with laughter",
    "😻": "with heart eyes",
    "😼": "smirking",
    "😿": "crying",
    "😾": "angry",
}
USUAL_FACES = ("smiling", "grinning")
"""Not worth a word in a caption. What a caption names is no part of the subject; with every face named, the subject
would have none, and a picture for a prompt without one would show whichever face is easiest to draw."""

# Where the name in the Unicode table is dated, too general or a formula: CLDR's short name or the everyday word.
PLAIN_NAMES = {
    "⏰": "alarm clock",
    "🏰": "castle",
    "🏠": "house",
    "💡": "light bulb",
    "🦊": "fox",
    "🥝": "kiwi fruit",
    "🌽": "ear of corn",
    "🍆": "eggplant",
    "🍕": "pizza",
    "🍦": "soft ice cream",
    "☕": "hot beverage",
    "🐳": "whale",
    "🐻": "bear",
    "🐸": "frog",
    "🦁": "lion",
    "🚗": "car",
    "🛴": "kick scooter",
    "✂": "scissors",
    "🔦": "flashlight",
    "💻": "laptop",
    "🎧": "headphones",
    "⌛": "hourglass",
    "🎁": "wrapped gift",
    "👓": "glasses",
    "👟": "running shoe",
    "🏀": "basketball",
    "🥁": "drum",
    "⛄": "snowman",
}
WITHOUT_ARTICLE = {"grapes", "cherries", "broccoli", "french fries", "popcorn", "scissors", "headphones", "glasses"}

LICENSE = """# Where these pictures come from

The pictures in {folders} are taken from
[@lobehub/fluent-emoji-3d](https://www.npmjs.com/package/@lobehub/fluent-emoji-3d) 1.1.0, LobeHub's packaging of
Microsoft's [Fluent Emoji](https://github.com/microsoft/fluentui-emoji) in the 3D style. Changes: laid over white
at {side} x {side} pixels, renamed, captions added. `scripts/make_examples.py` makes them again.

Both are under the MIT licence:

> MIT License
>
> Copyright (c) Microsoft Corporation.
> Copyright (c) 2023 LobeHub
>
> Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
> documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
> rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to
> permit persons to whom the Software is furnished to do so, subject to the following conditions:
>
> The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
> Software.
>
> THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
> WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
> COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
> OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def name_of(emoji: str) -> str:
    """What a person would call the object, in lower case."""
    return PLAIN_NAMES.get(emoji) or unicodedata.name(emoji).lower()


def with_article(name: str) -> str:
    """``an elephant``, ``a bee``, ``grapes``."""
    if name in WITHOUT_ARTICLE:
        return name
    return f"{'an' if name[0] in 'aeiou' or name == 'hourglass' else 'a'} {name}"


def picture(package: Path, emoji: str, side: int) -> Image.Image:
    """The emoji's picture on white, RGB, ``side`` pixels square."""
    codes = f"{ord(emoji):04x}"
    found = [path for path in (package / "assets" / f"{codes}{end}.webp" for end in ("", "-fe0f")) if path.exists()]
    if not found:
        sys.exit(
            f"{package / 'assets' / codes}.webp: does not exist. Give the unpacked package @lobehub/fluent-emoji-3d."
        )
    with Image.open(found[0]) as image:
        layered = image.convert("RGBA")
    canvas = Image.new("RGB", layered.size, "white")
    canvas.paste(layered, mask=layered.getchannel("A"))
    return canvas if canvas.size == (side, side) else canvas.resize((side, side), Image.Resampling.LANCZOS)


def file_stem(name: str) -> str:
    return name.replace(" ", "-")


def empty(folder: Path) -> Path:
    """The folder, new: nothing of an earlier choice stays."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def subject_caption(face: str) -> str:
    return SUBJECT_CAPTION if face in USUAL_FACES else f"{SUBJECT_CAPTION}, {face}"


def write_captioned(folder: Path, package: Path, captions: dict[str, tuple[str, str]]) -> None:
    """PNG and text for each emoji; ``captions`` maps it to (name, caption)."""
    empty(folder)
    for emoji, (name, caption) in captions.items():
        stem = file_stem(name)
        picture(package, emoji, STYLE_SIDE).save(folder / f"{stem}.png", optimize=True)
        (folder / f"{stem}.txt").write_text(caption + "\n", encoding="utf-8")


def write_heldout(folder: Path, package: Path) -> None:
    """A JPEG for each emoji, colours at full resolution (half the size of lossless), and one table of captions."""
    empty(folder)
    rows = []
    for emoji in HELDOUT:
        name = name_of(emoji)
        file_name = f"{file_stem(name)}.jpg"
        picture(package, emoji, HELDOUT_SIDE).save(folder / file_name, quality=92, subsampling=0, optimize=True)
        rows.append({"file_name": file_name, "text": STYLE_CAPTION.format(thing=with_article(name))})
    lines = [json.dumps(row, ensure_ascii=False) for row in sorted(rows, key=lambda row: row["file_name"])]
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="the unpacked npm package (the folder that has assets/ in it)")
    package = parser.parse_args().package
    style = {emoji: name_of(emoji) for emoji in STYLE}
    captions = {e: (name, STYLE_CAPTION.format(thing=with_article(name))) for e, name in style.items()}
    write_captioned(STYLE_FOLDER, package, captions)
    write_captioned(SUBJECT_FOLDER, package, {e: (f"cat-{face}", subject_caption(face)) for e, face in FACES.items()})
    write_heldout(HELDOUT_FOLDER, package)
    sets = f"`{STYLE_FOLDER.name}` and `{SUBJECT_FOLDER.name}`"
    (STYLE_FOLDER.parent / "LICENSE.md").write_text(LICENSE.format(folders=sets, side=STYLE_SIDE), encoding="utf-8")
    (HELDOUT_FOLDER / "LICENSE.md").write_text(
        LICENSE.format(folders="this folder", side=HELDOUT_SIDE), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
