"""Small tokenizers with the chat templates that real families of models have."""

from __future__ import annotations

import functools

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful AI assistant.<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""As SmolLM2 has it: a system message of its own where there is none."""

LLAMA3 = (
    "{% for message in messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    " + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
"""As Llama 3 has it: the words are trimmed."""

QWEN3 = (
    "{% set last = namespace(index=0) %}"
    "{% for message in messages %}{% if message.role == 'user' %}"
    "{% set last.index = loop.index0 %}{% endif %}{% endfor %}"
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}"
    "{% set content = message.content.split('</think>')[-1].lstrip('\\n') %}"
    "{% set thoughts = '' %}"
    "{% if '</think>' in message.content %}"
    "{% set thoughts = message.content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}{% endif %}"
    "{% if loop.index0 > last.index and (loop.last or thoughts) %}"
    "{{ '<|im_start|>assistant\\n<think>\\n' + thoughts + '\\n</think>\\n\\n' + content }}"
    "{% else %}{{ '<|im_start|>assistant\\n' + content }}{% endif %}{{ '<|im_end|>\\n' }}"
    "{% else %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""As Qwen 3 has it: an earlier answer loses its thoughts, the last one has them even where they are empty."""

LLAMA2 = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
"""As Llama 2 has it: no role names, white space before the closing token, no system messages."""

WORDS = [
    "the cat sat on the mat and the dog sat on the log. " * 3,
    "user\n\nassistant\n\nsystem\n\nHello there! Hi.\n\n",
]


@functools.cache
def trained() -> str:
    """A byte-level BPE of a few merges, as JSON."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(WORDS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer.to_str()


def chatml(template: str = CHATML, *, trim_offsets: bool = True) -> PreTrainedTokenizerFast:
    """GPT-2's splitting; <|im_start|> begins, <|im_end|> ends a turn; Qwen's <think> is a word, not a control token."""
    tokenizer = Tokenizer.from_str(trained())
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=False)])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    return _wrapped(tokenizer, template, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def llama3() -> PreTrainedTokenizerFast:
    """Llama 3's splitting, offsets without white space, a begin token before each text, no token to fill up with."""
    tokenizer = Tokenizer.from_str(trained())
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"])
    splits = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(splits, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    begin = ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single=f"{begin[0]} $A", special_tokens=[begin]),
        ]
    )
    return _wrapped(tokenizer, LLAMA3, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")


def llama2() -> PreTrainedTokenizerFast:
    """Spaces are parts of words, as SentencePiece has them; the closing token is the end-of-text token."""
    tokenizer = Tokenizer.from_str(trained())
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return _wrapped(tokenizer, LLAMA2, bos_token="<s>", eos_token="</s>")


def bare() -> PreTrainedTokenizerFast:
    """A base that was never taught to chat."""
    tokenizer = Tokenizer.from_str(trained())
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return _wrapped(tokenizer, None, eos_token="<|endoftext|>")


def _wrapped(tokenizer: Tokenizer, template: str | None, **special: str) -> PreTrainedTokenizerFast:
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    wrapped.chat_template = template
    return wrapped
