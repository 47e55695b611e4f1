"""The ladder's tokenizer: whole words of the task suite, single digits, and bytes for everything else.

A word of the suite's texts is one token; any other is spelled out in bytes, so that made-up words, whose letters
matter, look the same to the model wherever they stand. Numbers are always read digit by digit.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from envs.tasks import Task

PAD: Final = "<|pad|>"
END: Final = "<|end|>"
USER: Final = "<|user|>"
ASSISTANT: Final = "<|assistant|>"
SYSTEM: Final = "<|system|>"
SPECIAL: Final = (PAD, END, USER, ASSISTANT, SYSTEM)
"""Their places in this list are their token ids."""
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SIZE: Final = 1024
"""Rows of the embedding; those that no token uses stay as they were drawn."""

_PIECES = r"\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]|\s"
_ASCII_PIECES = re.compile(r"\d| ?[A-Za-z]+| ?[^\sA-Za-z\d]|\s")
_LETTER = re.compile("Ġ?[A-Z]|.")
"""A variable's name is read like any other capital letter."""
_QUOTED = re.compile(r"'[a-z]+'")
_LEAST_SHARE = 1 / 2500
"""A word is a token if it is in this share of the tasks; made-up words are rarer."""


class Encoder:
    """Token ids of texts in ASCII, as the tokenizer gives them, several times as fast: a piece is looked up once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def text(self, text: str) -> list[int]:
        """The ids of a text without special tokens."""
        found: list[int] = []
        for piece in _ASCII_PIECES.findall(text):
            ids = self._known.get(piece)
            if ids is None:
                ids = self._known[piece] = self._tokenizer.encode(piece, add_special_tokens=False).ids
            found += ids
        return found

    def prompt(self, prompt: str) -> list[int]:
        """A prompt as the chat template renders it: one turn of the user, and the assistant's to begin."""
        user, end, assistant = (SPECIAL.index(token) for token in (USER, END, ASSISTANT))
        return [user, *self.text(prompt), end, assistant]

    def answer(self, answer: str) -> list[int]:
        """An answer with the token that ends it."""
        return [*self.text(answer), SPECIAL.index(END)]


def build(tasks: Iterable[Task]) -> Tokenizer:
    """The tokenizer for these tasks' prompts and answers; the same tasks give the same one.

    Raises:
        ValueError: they use more words than :data:`SIZE` leaves room for.
    """
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    counts: Counter[str] = Counter()
    seen = 0
    for task in tasks:
        text = _QUOTED.sub("''", f"{task.prompt}\n{task.worked}")
        counts.update({piece for piece, _ in splitter.pre_tokenize_str(text)})
        seen += 1
    least = seen * _LEAST_SHARE
    words = sorted(piece for piece, count in counts.items() if count >= least and not _LETTER.fullmatch(piece))
    places = dict.fromkeys([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *words])
    if len(places) > SIZE:
        raise ValueError(f"{len(places)} tokens do not fit into {SIZE}")
    vocabulary = {piece: index for index, piece in enumerate(places)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer
