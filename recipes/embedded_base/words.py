"""The vocabulary of the captions: everything that varies except the names of the objects."""

from __future__ import annotations

# What people call the sets. The first name is the one that evaluation uses.
STYLES: dict[str, tuple[str, ...]] = {
    "noto": ("noto", "google noto", "noto emoji"),
    "noto-v1": ("noto classic", "noto v1", "old noto"),
    "fluent-flat": ("fluent flat", "flat fluent", "microsoft flat"),
    "twemoji": ("twemoji", "twitter emoji", "twitter"),
    "emojione": ("emojione", "emoji one", "joypixels"),
    "fxemoji": ("fxemoji", "firefox", "firefox emoji"),
    "streamline": ("streamline", "streamline outline", "outlined streamline"),
}

# Words for a picture that promise no particular style.
NOUNS = (
    "picture", "image", "icon", "emoji", "drawing", "illustration", "graphic", "photo", "photograph",
    "symbol", "sticker", "pictogram", "render", "painting", "figure", "portrait", "view", "sign", "logo",
    "design",
)  # fmt: skip

# Style words that mean nothing to this model: whatever stands here, the object must survive.
UNKNOWN = (
    "3d", "2d", "glossy", "shiny", "matte", "modern", "minimal", "minimalist", "cute", "vintage", "retro",
    "cartoon", "digital", "hand drawn", "watercolor", "oil paint", "anime", "realistic", "photorealistic",
    "isometric", "vector", "flat", "abstract", "detailed", "simple", "professional", "beautiful",
    "colorful", "bright", "soft", "rounded", "futuristic", "ancient", "comic", "children's book", "kawaii",
    "material", "plastic", "clay", "wooden", "metal", "glass", "toy", "paper", "fabric", "knitted", "lego",
    "marble", "stone", "chrome", "rubber", "cel shaded", "gradient", "pastel", "dramatic", "studio",
    "cinematic", "low poly", "high quality", "fluffy", "elegant", "fancy", "pop art", "art nouveau",
    "impressionist", "graffiti", "tattoo", "blueprint", "doodle", "sculpted", "inflated", "3d rendered",
    "octane", "blender", "unreal engine", "apple", "samsung", "facebook", "windows", "android", "web",
)  # fmt: skip
SYLLABLES = (
    "ba", "be", "bo", "ka", "ke", "ko", "da", "do", "fa", "fi", "ga", "go", "ha", "hi", "la", "li", "lo",
    "ma", "mi", "mo", "na", "ne", "no", "pa", "pi", "po", "ra", "ri", "ro", "sa", "se", "so", "ta", "ti",
    "to", "va", "vi", "za", "zu", "xo", "wi", "ju", "qua", "stre", "blo", "cla", "dra", "fro", "gri", "pla",
    "sto", "tri", "ple", "cru",
)  # fmt: skip
ENDINGS = (
    "", "", "n", "r", "st", "sh", "x", "l", "m", "nt", "ck", "ic", "ish", "al", "ed", "ian", "ist", "ive",
)  # fmt: skip
PLACEHOLDERS = ("sks", "sks", "sks", "ohwx", "zwx")  # what personalisation calls its subject

# {s} style, {n} a noun for the picture, {x} the scene.
STYLED = (
    "a {s} {n} of {x}", "{s} {n} of {x}", "the {s} {n} of {x}", "{x}, {s}", "{x}, {s} style",
    "{x}, {s} {n}", "{x} in {s} style", "{x} in the style of {s}", "{s} {x}", "{s} style {x}",
    "{n} of {x}, {s}", "{s}, {x}", "a {n} of {x} in {s} style", "a {n} of {x}, {s} style", "{x} ({s})",
    "{s}: {x}", "{x} as a {s} {n}", "{s} style {n} of {x}", "a {n} in {s} style of {x}", "{x} by {s}",
    "{n}, {s}, {x}", "{x} {s}", "{x} {s} {n}", "{x} drawn in {s} style", "in {s} style, {x}",
    "{s} {n}, {x}", "one {s} {n} of {x}", "my {s} {n} of {x}", "{x} from {s}", "a {n} of {x} from {s}",
    "a {n} of {x} made by {s}", "{s} look, {x}", "{x} with a {s} look",
)  # fmt: skip
NEUTRAL = (
    "{x}", "{x}", "{x}", "a {n} of {x}", "a {n} of {x}", "{n} of {x}", "{x} {n}", "{x}, {n}",
    "the {n} of {x}", "{n}: {x}", "a {n} showing {x}", "{x} as a {n}", "one {n} of {x}", "{n}, {x}",
    "a {n} with {x}", "here is {x}", "a good {n} of {x}", "draw {x}", "my {n} of {x}", "{x}, a {n}",
    "some {n} of {x}", "{n} with {x}",
)  # fmt: skip
ON_WHITE = (
    "a {n} of {x}, white background", "{x} on a white background", "{x}, white background", "{x} on white",
)  # fmt: skip

SMALL = ("small", "tiny", "little")
LARGE = ("large", "big", "huge", "close-up of")
PLACES = {
    (-1, 0): ("on the left", "at the left side"),
    (1, 0): ("on the right", "at the right side"),
    (0, -1): ("at the top", "in the upper part"),
    (0, 1): ("at the bottom", "in the lower part"),
    (-1, -1): ("in the top left corner",),
    (1, -1): ("in the top right corner",),
    (-1, 1): ("in the bottom left corner",),
    (1, 1): ("in the bottom right corner",),
}
# Relation of the first picture to the second -> direction in which the second lies.
BESIDE = (
    "{a} and {b}", "{a} and {b}", "{a} next to {b}", "{a} beside {b}", "{a} with {b}", "{a} left of {b}",
)  # fmt: skip
STACKED = ("{a} above {b}", "{a} over {b}", "{a} on top of {b}", "{a} on {b}")
COUNTS = {2: ("two {p}", "a pair of {p}", "2 {p}"), 3: ("three {p}", "3 {p}", "a group of {p}")}

BACKDROPS = (
    "{x} on a {c} background", "{x} on a {c} background", "{x} with a {c} background",
    "{x}, {c} background", "{x} against a {c} background", "{x} in front of a {c} background", "{x} on {c}",
    "{x} before a {c} wall",
)  # fmt: skip
PLACED = ("{x} {p}", "{x} {p}", "{x}, {p}")

# Things to wear: code point -> (words, where: fraction of the wearer's height for the centre, width share).
HATS = {
    "1f3a9": ("hat", "top hat", "black hat"),
    "1f452": ("hat", "sun hat", "straw hat"),
    "1f9e2": ("cap", "hat", "baseball cap"),
    "1f393": ("graduation cap", "mortarboard", "student cap"),
    "1f451": ("crown", "golden crown"),
    "26d1": ("helmet", "rescue helmet"),
    "1fa96": ("helmet", "military helmet"),
    "1f380": ("bow", "ribbon", "pink bow"),
    "1f3a7": ("headphones",),
}
GLASSES = {"1f453": ("glasses", "eyeglasses"), "1f576": ("sunglasses", "dark glasses")}
WEARING = ("{x} wearing {h}", "{x} with {h}", "{x} in {h}", "{x} that wears {h}", "{x} with {h} on")

EFFECTS: dict[str, tuple[str, ...]] = {
    "grey": ("black and white", "monochrome", "grayscale"),
    "pixel": ("pixel art", "8-bit", "pixelated"),
    "sepia": ("sepia", "old photo"),
    "lines": ("pencil", "line art", "outline sketch"),
    "negative": ("negative", "inverted"),
    "shadow": ("drop shadow", "floating"),
    "silhouette": ("silhouette", "shadow play"),
    "sticker": ("die cut sticker", "die-cut"),
}
