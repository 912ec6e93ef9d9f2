"""npm packages -> one compact file: which concepts exist, what they are called, and their SVG in every style.

Only this stage needs a network or npm. Its result (about 6 MB) is all that the later stages read.
"""

from __future__ import annotations

import json
import lzma
import re
import subprocess
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import Any

# Style -> npm package, version, licence. Sets under share-alike or proprietary terms are left out on purpose.
STYLES: dict[str, tuple[str, str, str]] = {
    "noto": ("@iconify-json/noto", "1.2.9", "Apache-2.0"),
    "noto-v1": ("@iconify-json/noto-v1", "1.2.5", "Apache-2.0"),
    "fluent-flat": ("@iconify-json/fluent-emoji-flat", "1.2.6", "MIT"),
    "twemoji": ("@iconify-json/twemoji", "1.2.5", "CC-BY-4.0"),
    "emojione": ("@iconify-json/emojione", "1.2.3", "CC-BY-4.0"),
    "fxemoji": ("@iconify-json/fxemoji", "1.2.2", "Apache-2.0"),
    "streamline": ("@iconify-json/streamline-emojis", "1.2.4", "CC-BY-4.0"),
}
NAMES = ("emojibase-data", "17.0.0", "MIT")
SHORTCODES = ("emojibase", "joypixels", "github", "iamcal", "cldr")
SKIPPED_GROUPS = (None, 2)  # regional letters; skin and hair components
COUNTRY_FLAGS = (98, 99)  # subgroups


def fetch(folder: Path) -> None:
    """`npm pack` every package that is not in the folder yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for package, version, _ in [*STYLES.values(), NAMES]:
        if not archive(folder, package, version).exists():
            command = ["npm", "pack", "--silent", f"{package}@{version}"]
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def archive(folder: Path, package: str, version: str) -> Path:
    """Name of the file that `npm pack` writes for a package."""
    return folder / f"{package.lstrip('@').replace('/', '-')}-{version}.tgz"


def gather(packages: Path, out: Path, limit: int | None = None) -> dict[str, Any]:
    """Read the packages, match their pictures to concepts and write `sources.json.xz`."""
    with tarfile.open(archive(packages, *NAMES[:2])) as tar:
        entries = {_code(e["hexcode"]): e for e in _json(tar, "en/data.json") if _wanted(e)}
        shortcodes = [_json(tar, f"en/shortcodes/{name}.json") for name in SHORTCODES]
    names = _names(entries, shortcodes)
    by_name: dict[str, str] = {}
    for code in names:
        by_name.setdefault(_squash(entries[code]["label"]), code)
    icons, drawings = {}, {}
    for style, (package, version, _) in STYLES.items():
        with tarfile.open(archive(packages, package, version)) as tar:
            icons[style], chars = _json(tar, "icons.json"), _json(tar, "chars.json")
        for chars_code, name in chars.items():
            if _code(chars_code) in entries:
                by_name.setdefault(_squash(name), _code(chars_code))
    for code, spoken in names.items():
        for name in spoken:
            by_name.setdefault(_squash(name), code)
    for style, icon_set in icons.items():
        drawings[style] = _drawings(icon_set, by_name)
    counts: dict[str, int] = defaultdict(int)
    for found in drawings.values():
        for code in found:
            counts[code] += 1
    kept = sorted((c for c in entries if counts[c]), key=lambda c: entries[c]["order"])
    kept = kept[:: max(1, len(kept) // limit)][:limit] if limit else kept
    concepts = [_concept(code, entries[code], names[code]) for code in kept]
    svg = {style: {c: found[c] for c in kept if c in found} for style, found in drawings.items()}
    result = {"concepts": concepts, "svg": svg}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(lzma.compress(json.dumps(result).encode(), preset=6))
    return result


def load(path: Path) -> dict[str, Any]:
    """What `gather` wrote: {"concepts": [...], "svg": {style: {code: svg text}}}."""
    return json.loads(lzma.decompress(path.read_bytes()))


def _json(tar: tarfile.TarFile, name: str) -> Any:
    member = tar.extractfile(f"package/{name}")
    if member is None:
        raise FileNotFoundError(f"{tar.name}: package/{name} is missing; fetch the pinned version again")
    return json.loads(member.read())


def _wanted(entry: dict[str, Any]) -> bool:
    if "facing right" in entry["label"]:  # mirrored copies of other concepts
        return False
    return entry.get("group") not in SKIPPED_GROUPS and entry.get("subgroup") not in COUNTRY_FLAGS


def _code(text: str) -> str:
    """Code points in lower case without the variation selector: one key for every set's spelling."""
    return "-".join(part for part in text.lower().split("-") if part != "fe0f")


def _squash(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("&", "and"))


def _spoken(name: str) -> str:
    """Make a label or shortcode readable: lower case words, no punctuation."""
    words = re.sub(r"[_\-:]+", " ", name.lower().replace("’", "").replace("&", "and"))
    return re.sub(r"\s+", " ", re.sub(r"[^\w\s!?#*+.']", "", words)).strip()


def _names(entries: dict[str, Any], shortcodes: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Names per concept, label first; a name that is another concept's label or is shared is dropped."""
    labels = {_spoken(e["label"]) for e in entries.values()}
    found: dict[str, list[str]] = {code: [_spoken(e["label"])] for code, e in entries.items()}
    pairs = [(_code(hexcode), value) for table in shortcodes for hexcode, value in table.items()]
    for code, value in pairs:
        for text in map(_spoken, [value] if isinstance(value, str) else value):
            good = re.fullmatch(r"[a-z]{3,}( [a-z]+){0,3}", text) and text not in labels
            if code in found and good and text not in found[code]:
                found[code].append(text)
    owners: dict[str, int] = defaultdict(int)
    for spoken in found.values():
        for name in spoken:
            owners[name] += 1
    return {code: [s[0]] + [n for n in s[1:] if owners[n] == 1] for code, s in found.items()}


def _drawings(icon_set: dict[str, Any], by_name: dict[str, str]) -> dict[str, str]:
    """Concept -> SVG text. "fox-face-2" also counts as "fox face" and "fox": sets number their variants."""
    found: dict[str, str] = {}
    for suffix in ("", r"-[123]$", r"(-face)?(-[123])?$", r"-?(sign|symbol)$"):
        for name, icon in icon_set["icons"].items():
            code = by_name.get(_squash(re.sub(suffix, "", name) if suffix else name))
            if code and code not in found and "skin-tone" not in name:
                found[code] = _svg(icon, icon_set)
    return found


def _svg(icon: dict[str, Any], icon_set: dict[str, Any]) -> str:
    width = icon.get("width", icon_set.get("width", 16))
    height = icon.get("height", icon_set.get("height", 16))
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} viewBox="{box}" width="{width}" height="{height}">{icon["body"]}</svg>'


def _concept(code: str, entry: dict[str, Any], names: list[str]) -> dict[str, Any]:
    tags = [_spoken(t) for t in entry.get("tags", []) if re.fullmatch(r"[a-z]{3,}", _spoken(t))]
    return {
        "code": code,
        "names": names,
        "tags": [t for t in tags if t not in names[0].split()],
        "group": entry["group"],
        "subgroup": entry["subgroup"],
    }
