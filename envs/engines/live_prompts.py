"""What a live server is asked: prompts of a given length made of its own tokens, and the bodies around any prompt."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import orjson

from controller.prefix import BLOCK_CHARS

__all__ = ["SAMPLE", "SyntheticPrompts", "compose"]

SAMPLE: Final = (
    "A quick brown fox jumps over the lazy dog while seven wizards vex a black quartz sphinx; how many of them sang, "
    "and who counted 0 1 2 3 4 5 6 7 8 9?"
)
"""A text whose tokens stand for a server's vocabulary."""
_CHARS_PER_TOKEN: Final = 4
_USAGE: Final = {"include_usage": True, "continuous_usage_stats": True}


class SyntheticPrompts:
    """Prompts of an exact number of tokens, drawn from ``alphabet``, the ids of at least two tokens.

    The same name gives the same prompt, another name a prompt that shares nothing with it, so that no prefix cache
    helps unless it should: prompts that share the first blocks of ``prefix`` share as many ``block_tokens`` tokens.
    """

    def __init__(
        self, alphabet: Sequence[int], *, seed: int = 0, block_tokens: int = BLOCK_CHARS // _CHARS_PER_TOKEN
    ) -> None:
        self._alphabet = np.array(sorted(set(alphabet)), dtype=np.int64)
        if len(self._alphabet) < 2:
            raise ValueError(f"prompts need an alphabet of at least two tokens, not {len(self._alphabet)}")
        self._seed = seed
        self._block_tokens = block_tokens

    def tokens(self, name: str, count: int, prefix: Sequence[int] = ()) -> list[int]:
        """The prompt's ``count`` token ids."""
        blocks = [self._draw((block & (1 << 63) - 1,), self._block_tokens) for block in prefix[: self._blocks(count)]]
        rest = count - len(blocks) * self._block_tokens
        return [*(token for block in blocks for token in block), *self._draw((zlib.crc32(name.encode()), 1), rest)]

    def completion(self, name: str, count: int, output_tokens: int, prefix: Sequence[int] = ()) -> dict[str, Any]:
        """The body of a completion with exactly so many tokens in and out."""
        return {
            "prompt": self.tokens(name, count, prefix),
            "max_tokens": output_tokens,
            "ignore_eos": True,
            "temperature": 0,
        }

    def _blocks(self, count: int) -> int:
        return count // self._block_tokens

    def _draw(self, key: tuple[int, ...], count: int) -> list[int]:
        drawn = np.random.default_rng((self._seed, *key)).integers(len(self._alphabet), size=count)
        found: list[int] = self._alphabet[drawn].tolist()
        return found


def compose(body: Mapping[str, Any], model: str, priority: int | None) -> tuple[str, bytes]:
    """The path and the bytes to POST: a body with ``messages`` is a chat, any other a plain completion. It is streamed,
    with the usage in every event; ``model`` and ``priority`` are written where the body has none.

    Raises:
        TypeError: the body holds something that is not JSON.
    """
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    whole = {"model": model, **({"priority": priority} if priority else {}), **body}
    try:
        return path, orjson.dumps({**whole, "stream": True, "stream_options": _USAGE})
    except orjson.JSONEncodeError as error:
        raise TypeError(f"a request's body holds something that is not JSON: {error}") from error
