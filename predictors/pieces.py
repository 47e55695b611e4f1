"""Token ids of a text, word by word, with the words' ids remembered: the tokenizer's own ids, several times faster.

WordLlama's tokenizer (byte-pair merges without a pre-tokenizer, after Llama 2) treats a text as one long word. But a
token never spans two characters that are neighbours in no merge. So a text may be cut between a character and a space
after it, and between letters and ASCII punctuation or digits, and each piece has the ids that it has in the whole.
Whether a tokenizer allows that is read from its merges; where it does not, nothing here is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, Final

from tokenizers import Tokenizer

__all__ = ["LONGEST", "REMEMBERED", "Pieces"]

_SPACE: Final = "▁"
_FINE: Final = re.compile(" *[^\x00-@\\[-`{-\x7f]+|\n| *[0-9]| *[^\nA-Za-z0-9 \x80-\U0010ffff]+| +")
"""Letters (all that is not ASCII counts as one), a line's end, a digit, punctuation; each with the spaces before it."""
_COARSE: Final = re.compile(" +[^ ]*|[^ ]+")
_NORMALISER: Final = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": _SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
    ],
}
REMEMBERED: Final = 65_536
"""Most pieces that are remembered."""
LONGEST: Final = 40
"""Characters of a piece worth remembering."""


class Pieces:
    """Remembers at most 65,536 pieces. Safe to share between threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        document = json.loads(tokenizer.to_str())
        self.merges = _merges(document["model"])
        """Neighbours that are merged, the earliest first."""
        across = set(_across("".join(pair) for pair in self.merges))
        self.usable = _cuttable(document, across)
        """Whether texts may be cut at all."""
        self.vocabulary_ids: Mapping[str, int] = document["model"]["vocab"] if self.usable else {}
        """All tokens, with U+2581 for a space and ``<0x0A>`` for a byte."""
        self._tokenize = tokenizer.model.tokenize
        special = [_SPACE, *(token["content"] for token in document["added_tokens"])]
        self._whole = re.compile("|".join(map(re.escape, special)))
        self.openings = frozenset(token[0] for token in special)
        """Characters without which a text is not :meth:`whole`."""
        self.glued = frozenset(_glued(across))
        """Characters that may be in one token with punctuation: texts that have one are cut at spaces only."""
        self._coarse = re.compile(f"[{''.join(re.escape(character) for character in sorted(self.glued))}]|(?!)")
        self._known: dict[str, list[int]] = {}

    def whole(self, text: str) -> bool:
        """Whether a text has special tokens in it, so that it must not be cut."""
        return self._whole.search(text) is not None

    def ids(self, text: str) -> list[int] | None:
        """What ``encode(text, add_special_tokens=False).ids`` gives; ``None`` where only that itself can tell."""
        if not self.usable or self.whole(text):
            return None
        if not text:
            return []
        known = self._known
        fine = text.isascii() or not self._coarse.search(text)
        found: list[int] = []
        for piece in (_FINE if fine else _COARSE).findall(f" {text}"):
            ids = known.get(piece)
            found += self._learn(piece) if ids is None else ids
        return found

    def _learn(self, piece: str) -> list[int]:
        ids = self._ids(piece.replace(" ", _SPACE))
        if len(piece) <= LONGEST:
            if len(self._known) >= REMEMBERED:
                self._known = {}
            self._known[piece] = ids
        return ids

    def _ids(self, normalised: str) -> list[int]:
        return [token.id for token in self._tokenize(normalised)]


def _merges(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model.get("merges", ()))
    return [(left, right) for left, right in pairs]


def _cuttable(document: Mapping[str, Any], across: Iterable[tuple[str, str]]) -> bool:
    """Whether texts may be cut where :data:`_FINE` cuts them, but for characters that are glued to punctuation."""
    model = document["model"]
    plain = (
        document["pre_tokenizer"] is None
        and document["normalizer"] == _NORMALISER
        and model["type"] == "BPE"
        and model["byte_fallback"]
        and not model["dropout"]
        and not model["ignore_merges"]
        and not any(model[name] for name in ("continuing_subword_prefix", "end_of_word_suffix"))
    )
    return plain and not any(right == _SPACE or (left.isascii() and right.isascii()) for left, right in across)


def _glued(across: Iterable[tuple[str, str]]) -> set[str]:
    """Characters beyond ASCII that some merge joins with ASCII punctuation."""
    return {character for pair in across for character in pair if not character.isascii()} - {_SPACE}


def _across(merged: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Neighbours in a merge between which :data:`_FINE` cuts."""
    for text in merged:
        inner = text.lstrip(_SPACE)
        for left, right in pairwise(inner):
            kind = _kind(left)
            if right == _SPACE or kind != _kind(right) or kind in "\n0":
                yield left, right


def _kind(character: str) -> str:
    if character == "\n":
        return "\n"
    if not character.isascii() or character.isalpha():
        return "a"
    return "0" if character.isdigit() else "."
