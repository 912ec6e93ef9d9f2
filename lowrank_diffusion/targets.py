"""Which linear layers get adapters, and which are quantised, by name alone: no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable

DENOISER_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
DENOISER_FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")
"""As diffusers calls the layers of models that remove noise."""
LM_ATTENTION = (
    "q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "qkv_proj", "Wqkv", "query_key_value", "self_attn.dense",
    "attention.dense", "self_attention.dense",
)  # fmt: skip
"""As Llama, Qwen, Mistral, Gemma, Phi, OPT, GPT-NeoX, Falcon and MPT call their projections."""
LM_MLP = ("gate_proj", "up_proj", "down_proj", "gate_up_proj", "fc1", "fc2", "dense_h_to_4h", "dense_4h_to_h")
ALL = "all-linear"
"""Every linear layer; as in PEFT, but for the one that makes the logits of a language model."""
_EVERYTHING = (*DENOISER_ATTENTION, *DENOISER_FEED_FORWARD, *LM_ATTENTION, *LM_MLP)
_NAMED = {
    "auto": (*DENOISER_ATTENTION, *LM_ATTENTION, *LM_MLP),  # no model has names of both kinds
    "attention": (*DENOISER_ATTENTION, *LM_ATTENTION),
    "attention+feed_forward": _EVERYTHING,
    "attention+mlp": _EVERYTHING,
}

SHARED = (("to_q", "to_k", "to_v"), ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of siblings that usually read the same input, in the order in which their models call them."""

UNQUANTIZED = r"(^|\.)(time_embedding|time_emb_proj|add_embedding|lm_head)(\.|$)"
"""In the paths of linear layers that ``base.quantize`` leaves as they are: what is small and feeds everything (time),
and what turns into logits. Norms, convolutions and embeddings are not linear layers, so they stay as well."""


_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?(?:P?<\w+>|<?[=!:>]|:)|[*+?]|\{\d*,?\d*\}|.", re.DOTALL)
MOST_REPEATS = MOST_BRANCHINGS = 5


def unsound(expression: str) -> str:
    """What is wrong with an expression for layers, as the beginning of a sentence; empty if nothing is."""
    try:
        re.compile(expression)
    except (re.error, OverflowError, RecursionError) as error:
        return f"is not a regular expression: {error}"
    return "could take forever, as repeated groups and very many repeats do" if endless(expression) else ""


def endless(expression: str) -> bool:
    """Whether an expression for layers is of a kind that can take longer than a life: it may be a stranger's.

    A repeated group is, such as ``(a+)+``; so are many repeats, or many groups of alternatives, one after another.
    """
    repeats, before, branching, depth = 0, "", set[tuple[int, int]](), [0]
    for number, token in enumerate(_TOKEN.findall(expression), 1):
        repeat = token in ("*", "+", "?") or (token.startswith("{") and len(token) > 1)
        if repeat and before != "repeat":  # after another one it says how greedy that is
            repeats += 1
            if before == ")" and token != "?":
                return True
        elif token.startswith("("):
            depth.append(number)
        elif token == ")" and len(depth) > 1:
            depth.pop()
        elif token == "|":
            branching.add((len(depth), depth[-1]))
        before = "repeat" if repeat else token
    return repeats > MOST_REPEATS or len(branching) > MOST_BRANCHINGS


def matching(paths: Iterable[str], targets: str | tuple[str, ...]) -> tuple[set[str], list[str]]:
    """(paths that are meant, targets that mean none of them)."""
    paths = list(paths)
    if targets == ALL:
        return set(paths), []
    if isinstance(targets, str) and targets not in _NAMED:
        meant = {path for path in paths if re.fullmatch(targets, path)}
        return meant, [] if meant else [targets]
    names = _NAMED[targets] if isinstance(targets, str) else targets
    hits = {name: _ending(paths, f".{name}") for name in names}
    meant = set().union(*hits.values())
    # A group of names is for models of several kinds: it is enough that some of it is there.
    return meant, [name for name in names if not hits[name] and (not meant or not isinstance(targets, str))]


def _ending(paths: list[str], ending: str) -> set[str]:
    """The paths that end in ".name", or are just "name"."""
    return {path for path in paths if path.endswith(ending) or path == ending[1:]}
