"""From a prompt to the token ids that ``deep`` reads: a chat's opening up to where the answer would begin."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits
from tokenizers.pre_tokenizers import Sequence as InTurn

Ids = NDArray[np.int64]
ENDS: Final = 320
"""Of a long prompt, so many tokens are read from its start, and so many from its end."""
_CHARACTERS: Final = 16 * ENDS
"""Of a longer text's start and end, so many characters are tokenised."""
BEFORE: Final = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\n"
)
"""The checkpoint's own default opening; without it the frozen features rank worse."""
AFTER: Final = "<|im_end|>\n<|im_start|>assistant\n"
_CONTROL: Final = 3
"""The type GGUF gives to tokens like ``<|im_start|>``."""


def tokenizer_of(metadata: Mapping[str, Any]) -> Tokenizer:
    """The byte-level BPE tokenizer of a GGUF file of the ``smollm`` kind.

    Raises:
        ValueError: the file's tokenizer is of another kind.
    """
    kind = (metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise ValueError(f"the file's tokenizer is {kind}; deep reads byte-level BPE of the kind ('gpt2', 'smollm')")
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = InTurn([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = ByteLevelDecoder()
    types = metadata["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return tokenizer


class Reader:
    """Turns prompts into token ids. Safe to share between threads."""

    def __init__(self, tokenizer: Tokenizer, before: str = BEFORE, after: str = AFTER, ends: int = ENDS) -> None:
        """``before`` and ``after`` may name special tokens; the prompt's own text may not act as one."""
        self._plain = Tokenizer.from_str(_without_special(tokenizer))
        self._ends = ends
        self._before = tokenizer.encode(before, add_special_tokens=False).ids
        self._after = tokenizer.encode(after, add_special_tokens=False).ids
        if not self._after:
            raise ValueError("deep reads the state of the last token, so something must stand after the prompt")

    def read(self, texts: Sequence[str]) -> list[Ids]:
        """Token ids of each text, at most ``2 * ends`` of its own beside those before and after it."""
        return [np.array([*self._before, *self._own(text), *self._after], dtype=np.int64) for text in texts]

    def _own(self, text: str) -> list[int]:
        text = text.encode("utf-8", "replace").decode()
        if len(text) <= 2 * _CHARACTERS:
            ids = self._plain.encode(text, add_special_tokens=False).ids
            return ids if len(ids) <= 2 * self._ends else ids[: self._ends] + ids[-self._ends :]
        first, last = (
            self._plain.encode(part, add_special_tokens=False).ids for part in (text[:_CHARACTERS], text[-_CHARACTERS:])
        )
        return first[: self._ends] + last[-self._ends :]


def _without_special(tokenizer: Tokenizer) -> str:
    described = json.loads(tokenizer.to_str())
    described["added_tokens"] = []
    return json.dumps(described)
