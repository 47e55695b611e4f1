"""A tokenizer without a vocabulary: stable everywhere, reversible, and about four characters a token in English.

A token is at most six bytes of UTF-8: up to five ASCII letters or three digits, with the one space before them if
there is one; else a single character. Its id is those bytes, read as a big-endian number behind a leading 1, which
stays below 2^53, so that it survives JSON in any language. Ids of different texts differ; decoding needs no table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

_PIECE = re.compile(r" ?(?:[A-Za-z]{1,5}|[0-9]{1,3})|.", re.DOTALL)
_MOST_BYTES: Final = 6
PER_MESSAGE: Final = 4
"""Tokens a chat template adds around each message."""
PER_CHAT: Final = 3
"""Tokens a chat template adds to prompt the answer."""


def pieces(text: str) -> list[str]:
    """The text cut into tokens; joined they give it back."""
    return _PIECE.findall(text)


def count(text: str) -> int:
    """How many tokens a text has."""
    return len(_PIECE.findall(text))


def count_chat(contents: Iterable[str]) -> int:
    """How many tokens a chat of messages with these contents has, the template's included."""
    return PER_CHAT + sum(PER_MESSAGE + count(content) for content in contents)


def encode(text: str) -> list[int]:
    """A text's token ids. A lone surrogate, which no valid JSON text holds, becomes ``?``."""
    return [int.from_bytes(b"\x01" + piece.encode("utf-8", "replace")) for piece in pieces(text)]


def decode(ids: Sequence[int]) -> str:
    """The text of token ids.

    Raises:
        ValueError: a number that is no token's id.
    """
    return b"".join(map(_bytes_of, ids)).decode("utf-8", "replace")


def _bytes_of(token: int) -> bytes:
    raw = token.to_bytes(_MOST_BYTES + 2).lstrip(b"\x00") if 0 <= token < 1 << 8 * (_MOST_BYTES + 1) else b""
    if len(raw) < 2 or raw[0] != 1:
        raise ValueError(f"token id {token} is out of vocabulary")
    return raw[1:]
