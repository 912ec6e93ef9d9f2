"""Rows as tokens: which of them are learnt, token by token, on the templates of real models."""

from __future__ import annotations

import pytest
import torch

from lowrank_diffusion.config import BaseModelConfig
from lowrank_diffusion.errors import DataError
from lowrank_diffusion.text.encode import (
    encode,
    encode_all,
    end_of_turn,
    pad_id,
    pieces,
    prompt,
    tokenizer_problems,
    use_template,
)
from lowrank_diffusion.text.model import Base
from lowrank_diffusion.text.rows import Message, Row

from . import chat_templates

LONG = 10**9


@pytest.fixture
def smollm2(converted_bases):
    """The tokenizer of the embedded base."""
    return Base.of(BaseModelConfig(), torch.device("cpu"), torch.float32).tokenizer()


def row(*contents: str, system: str = "") -> Row:
    """Turns of user and assistant by turns."""
    turns = [Message(("user", "assistant")[index % 2], content) for index, content in enumerate(contents)]
    return Row(1, (Message("system", system), *turns) if system else tuple(turns))


def assert_learnt(tokenizer, example: Row, *parts: tuple[str, bool]) -> None:
    """The ids are those of the parts one after another; only those of parts marked True are learnt."""
    ids, learn = [], []
    for text, learnt in parts:
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += tokens
        learn += [learnt] * len(tokens)
    encoded = encode(example, tokenizer, "assistant", LONG)
    assert tokenizer.convert_ids_to_tokens(encoded.ids) == tokenizer.convert_ids_to_tokens(ids)
    assert list(encoded.ids) == ids
    assert list(encoded.learn) == learn
    assert encoded.cut == 0


TALK = ("Hello there!", "Hi.\nHow are you? é🙂", "user\nassistant", " Hi. ")
"""Words that are also role names, line breaks, characters of several tokens, white space at both ends."""


@pytest.mark.slow
def test_smollm2(smollm2):
    default = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    assert_learnt(
        smollm2,
        row(*TALK),
        (f"{default}<|im_start|>user\nHello there!<|im_end|>\n<|im_start|>assistant\n", False),
        ("Hi.\nHow are you? é🙂<|im_end|>", True),
        ("\n<|im_start|>user\nuser\nassistant<|im_end|>\n<|im_start|>assistant\n", False),
        (" Hi. <|im_end|>", True),
        ("\n", False),
    )
    assert tokenizer_problems(smollm2, "auto") == []
    assert smollm2.convert_ids_to_tokens([end_of_turn(smollm2), pad_id(smollm2)]) == ["<|im_end|>"] * 2


@pytest.mark.parametrize("trim_offsets", [True, False])
def test_qwen_3(trim_offsets):
    """What the model says begins where the prompt ends: the thoughts of the last answer are its own words."""
    tokenizer = chat_templates.chatml(chat_templates.QWEN3, trim_offsets=trim_offsets)
    talk = ("Hello there!", "<think>\na cat\n</think>\n\nHi.", "user\nassistant", "Hi. 🙂\n\n")
    first = "<|im_start|>system\nsat.<|im_end|>\n<|im_start|>user\nHello there!<|im_end|>\n<|im_start|>assistant\n"
    assert_learnt(
        tokenizer,
        row(*talk, system="sat."),
        (first, False),
        ("Hi.<|im_end|>", True),
        ("\n<|im_start|>user\nuser\nassistant<|im_end|>\n<|im_start|>assistant\n", False),
        ("<think>\n\n</think>\n\nHi. 🙂\n\n<|im_end|>", True),
        ("\n", False),
    )
    assert_learnt(
        tokenizer,
        row(*talk[:2], system="sat."),
        (first, False),
        ("<think>\na cat\n</think>\n\nHi.<|im_end|>", True),
        ("\n", False),
    )


def test_llama_3():
    tokenizer = chat_templates.llama3()
    head = "<|start_header_id|>{}<|end_header_id|>\n\n".format
    assert_learnt(
        tokenizer,
        row("Hello there!", "Hi.\n\n  the cat ", "user", "\n100 cats.\n"),
        (f"<|begin_of_text|>{head('user')}Hello there!<|eot_id|>{head('assistant')}", False),
        ("Hi.\n\n  the cat<|eot_id|>", True),
        (f"{head('user')}user<|eot_id|>{head('assistant')}", False),
        ("100 cats.<|eot_id|>", True),
    )
    assert tokenizer.pad_token_id is None
    assert pad_id(tokenizer) == end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids("<|eot_id|>")


def test_white_space_that_belongs_to_the_answer_is_learnt():
    """Llama 2's prompt ends before a space, and another one stands before the closing token."""
    tokenizer = chat_templates.llama2()
    assert_learnt(
        tokenizer,
        row("Hi", "the cat", "Hi", "dog"),
        ("<s>[INST] Hi [/INST]", False),
        (" the cat </s>", True),
        ("<s>[INST] Hi [/INST]", False),
        (" dog </s>", True),
    )


@pytest.mark.parametrize("make", [chat_templates.bare, chat_templates.llama3])
def test_the_plain_template(make):
    """For a base without one; it begins with the base's own first token, where it has one."""
    tokenizer = make()
    use_template(tokenizer, "plain")
    begin, end = tokenizer.bos_token or "", tokenizer.eos_token
    assert tokenizer_problems(tokenizer, "plain") == []
    assert_learnt(
        tokenizer,
        row("Hi", "the cat", "user", "dog.", system="sat"),
        (f"{begin}sat\n\n### User:\nHi\n\n### Assistant:\n", False),
        (f"the cat{end}", True),
        ("\n\n### User:\nuser\n\n### Assistant:\n", False),
        (f"dog.{end}", True),
        ("\n\n", False),
    )


@pytest.mark.parametrize("make", [chat_templates.chatml, chat_templates.llama3, chat_templates.llama2])
def test_in_use_the_model_sees_what_it_saw_before_its_words(make):
    tokenizer, example = make(), row("Hello there!", "Hi.", "user", "the dog")
    encoded = encode(example, tokenizer, "assistant", LONG)
    for index in (1, 3):
        asked = prompt(example.messages[:index], tokenizer)
        assert encoded.ids[: len(asked)] == asked
        assert encoded.learn[len(asked)] and not encoded.learn[len(asked) - 1]


def test_everything_can_be_learnt_but_the_first_token():
    tokenizer = chat_templates.chatml()
    encoded = encode(row("Hi", "the cat"), tokenizer, "all", LONG)
    assert encoded.ids == encode(row("Hi", "the cat"), tokenizer, "assistant", LONG).ids
    assert encoded.learn == (False,) + (True,) * (len(encoded.ids) - 1)


def test_what_is_too_long_is_cut_at_its_end_and_counted():
    tokenizer = chat_templates.chatml()
    whole = encode(row("Hi", "the cat"), tokenizer, "assistant", LONG)
    cut = encode(row("Hi", "the cat"), tokenizer, "assistant", len(whole.ids) - 3)
    assert (cut.ids, cut.learn, cut.cut) == (whole.ids[:-3], whole.learn[:-3], 3)


def test_plain_text_goes_on_in_the_next_piece_and_loses_no_target():
    tokenizer = chat_templates.llama3()
    text = Row(1, text="the cat sat on the mat. " * 5)
    whole = encode(text, tokenizer, "assistant", LONG)
    assert whole.ids[0] == tokenizer.bos_token_id and whole.ids[-1] == tokenizer.eos_token_id
    for length in (2, 7, len(whole.ids) - 1, len(whole.ids)):
        parts = pieces(text, tokenizer, "assistant", length)
        assert all(len(part.ids) <= length and part.cut == 0 for part in parts)
        targets = [token for part in parts for token, learn in zip(part.ids, part.learn, strict=True) if learn]
        assert (parts[0].ids[0], *targets) == whole.ids


def test_rows_that_are_too_long_are_listed_or_cut(tmp_path):
    tokenizer, file = chat_templates.chatml(), tmp_path / "a.jsonl"
    short, long = row("Hi", "Hi."), row("Hi", "the cat sat on the mat. " * 9)
    length = len(encode(short, tokenizer, "assistant", LONG).ids)
    tokens = len(encode(long, tokenizer, "assistant", LONG).ids)
    rows = [short, Row(4, long.messages), Row(6, row("the cat sat on the mat. " * 9, "Hi.").messages)]
    assert len(encode_all(rows, tokenizer, "assistant", LONG, "refuse", file)) == 3
    with pytest.raises(DataError) as refused:
        encode_all(rows[:2], tokenizer, "assistant", length, "refuse", file)
    assert refused.value.problems == [
        f"{file}: rows longer than text.length={length} in line 4 ({tokens} tokens). Set text.length={tokens} or more, "
        "shorten them, or set text.overlong=cut to learn from their beginning."
    ]
    assert [part.cut for part in encode_all(rows[:2], tokenizer, "assistant", length, "cut", file)] == [
        0,
        tokens - length,
    ]
    with pytest.raises(DataError) as refused:
        encode_all(rows, tokenizer, "assistant", length, "cut", file)
    assert refused.value.problems == [f"{file}, line 6: leaves nothing to learn in its first {length} tokens."]


def test_rows_that_the_template_cannot_take(tmp_path):
    tokenizer, file = chat_templates.llama2(), tmp_path / "a.jsonl"
    rows = [Row(3, row("Hi", "Hi.", system="x").messages), Row(5, row("Hi", "Hi.</s> dog").messages), row("Hi", "Hi.")]
    with pytest.raises(DataError) as refused:
        encode_all(rows, tokenizer, "assistant", 512, "refuse", file)
    system, control = refused.value.problems
    assert system.startswith(f"{file}, line 3: the base's chat template refuses the conversation: Only user and")
    rule = "holds '</s>', a control token of this base, where only words may stand."
    assert control == f"{file}, line 5: message 2 (assistant) {rule} Give messages without any template."


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "text.template: the base has no chat template of its own. Set text.template=plain"),
        ("{% for message in messages %}{{ message['role'] }}{% endfor %}", "does not show message 2 (assistant) just"),
        ("{% for m in messages %}{{ m['content'] + m['content'] }}{% endfor %}", "does not show message 2 (assistant)"),
        (
            "{% for m in messages %}{{ m['content'] ~ (m['content'] | length) }}{% endfor %}",
            "changes what stands around",
        ),
        ("{% for m in messages %}{{ m['content'] + '\n' }}{% endfor %}", "no token closes an assistant's turn"),
        ("{{ messages[9]['content'] }}", "refuses the conversation"),
    ],
)
def test_templates_of_no_use(template, message):
    tokenizer = chat_templates.chatml()
    tokenizer.chat_template = template
    (problem,) = tokenizer_problems(tokenizer, "auto")
    assert problem.key == "text.template" and message in str(problem)


def test_a_tokenizer_without_an_end():
    tokenizer = chat_templates.chatml()
    tokenizer.eos_token = None
    (problem,) = tokenizer_problems(tokenizer, "auto")
    assert str(problem).startswith("base.path: its tokenizer names no end-of-text token.")


@pytest.mark.parametrize("loss_on", ["assistant", "all"])
def test_an_answer_that_is_only_to_be_seen_is_no_target(loss_on):
    tokenizer = chat_templates.chatml(chat_templates.QWEN3, trim_offsets=True)
    talk = row("Hello there!", "Hi.", "a cat", "sat.")
    seen = Row(1, (*talk.messages[:1], Message("assistant", "Hi.", learn=False), *talk.messages[2:]))
    whole, part = (encode(example, tokenizer, loss_on, LONG) for example in (talk, seen))
    assert part.ids == whole.ids
    lost = [token for token, a, b in zip(whole.ids, whole.learn, part.learn, strict=True) if a and not b]
    assert "Hi" in tokenizer.decode(lost) and "sat" not in tokenizer.decode(lost)
    assert not any(b and not a for a, b in zip(whole.learn, part.learn, strict=True))
    assert any(part.learn)
