"""Prompt embeddings: WordLlama's 256-dimensional token averages, from the files inside its package.

The two files are read directly. Importing ``wordllama`` would configure the process's root logger and pull in an HTTP
client, and its own loader may go to the network; none of that belongs in a server. A test holds both loaders equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from predictors.codes import coded, unpack
from predictors.compiled import AVAILABLE, LINE, compiled, lined
from predictors.intrinsics import prefetch
from predictors.piece_table import FULL, LEFT, PieceTable, token_ids
from predictors.pieces import Pieces

DIMENSIONS: Final = 256
EMBEDDING: Final = "wordllama-l2-supercat-256/excerpt-500-500"
"""Names the embedding in a feature schema: the weights, and how the text is cut."""
EDGE_CHARS: Final = 500

_WEIGHTS = "weights/l2_supercat_256.safetensors"
_TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"


class EmbeddingUnavailable(RuntimeError):
    """The ``wordllama`` package, or a file that should be inside it, is missing."""


def excerpt(text: str) -> str:
    """The first and the last 500 characters: where a prompt says what it wants; all of a text no longer than that."""
    return text if len(text) <= 2 * EDGE_CHARS else f"{text[:EDGE_CHARS]}\n{text[-EDGE_CHARS:]}"


class Embedder:
    """Embeds texts. Safe to share between threads: all that changes after construction is which words it remembers.

    Construction reads 16 MB and takes about 0.4 s. A row does not depend on the other rows of its call, bit for bit.
    """

    def __init__(self) -> None:
        home = _package_folder()
        self._table = lined(_halves(load_file(home / _WEIGHTS)["embedding.weight"]))
        self._bits = self._table.view(np.uint16)
        self._tokenizer = Tokenizer.from_file(str(home / _TOKENIZER))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._pieces = Pieces(self._tokenizer)
        self._known = PieceTable(self._pieces) if AVAILABLE and self._pieces.usable else None
        self.embed(["compiles the kernels <s>", "compiles the kernels"])

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Rows (n, 256) of unit length, of the :func:`excerpt` of each text; zeros for a text without a token."""
        rows = np.empty((len(texts), DIMENSIONS), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[:] = self.embed_one(text)
        return rows

    def embed_one(self, text: str) -> NDArray[np.float32]:
        """The row (256,) of one text."""
        text = excerpt(text)
        mean = self._mean(text)
        length = max(math.sqrt(mean.dot(mean)), 1e-12)
        np.divide(mean, np.float32(length), out=mean)
        return mean

    def _mean(self, text: str) -> NDArray[np.float32]:
        """The mean of the tokens' rows; zeros where there is no token."""
        known = self._known
        if known is None or not known.usable:
            return self._mean_of(_encodable(text))
        mean = np.empty(DIMENSIONS, dtype=np.float32)
        found = self._read(known, text, False, mean)
        if found == LEFT and not self._pieces.whole(text):
            found = self._read(known, text, True, mean)
        if found == FULL:
            known.forget()
            found = self._read(known, text, True, mean)
        return mean if found >= 0 else self._mean_of(_encodable(text))

    def _read(self, known: PieceTable, text: str, checked: bool, mean: NDArray[np.float32]) -> int:
        now, merges = known.remembered, known.merges
        return _mean_of_text(
            coded(text, "replace"),
            text.isascii(),
            checked,
            known.classes,
            known.basis,
            now.entries,
            now.ids,
            now.held,
            merges.characters,
            merges.pairs,
            self._bits,
            mean,
        )

    def _mean_of(self, text: str) -> NDArray[np.float32]:
        ids = self._pieces.ids(text)
        if ids is None:
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        if not ids:
            return np.zeros(DIMENSIONS, dtype=np.float32)
        if not AVAILABLE:
            mean: NDArray[np.float32] = self._table[ids].astype(np.float32).mean(axis=0)
            return mean
        mean = np.empty(DIMENSIONS, dtype=np.float32)
        _mean_of_rows(self._bits, np.array(ids, dtype=np.int32), mean)
        return mean


@compiled
def _mean_of_text(
    text: bytes,
    plain: bool,
    checked: bool,
    classes: NDArray[np.uint8],
    basis: np.uint64,
    entries: NDArray[np.uint64],
    ids: NDArray[np.int32],
    held: NDArray[np.int64],
    characters: NDArray[np.int32],
    pairs: NDArray[np.uint64],
    table: NDArray[np.uint16],
    mean: NDArray[np.float32],
) -> int:
    """Fill ``mean`` (256,) and give the number of tokens, or what :func:`token_ids` gives instead."""
    if len(text) == 0:
        mean[:] = 0.0
        return 0
    codes = unpack(text, plain, 1)
    found = np.empty(len(codes) if plain else 4 * len(codes), dtype=np.int32)
    count = token_ids(codes, checked, classes, basis, entries, ids, held, characters, pairs, found)
    if count >= 0:
        _mean_of_rows(table, found[:count], mean)
    return count


@compiled
def _mean_of_rows(table: NDArray[np.uint16], rows: NDArray[np.int32], mean: NDArray[np.float32]) -> None:
    """``table[rows].mean(axis=0)`` of half precision's bits, in single precision: summed row after row, bit for bit."""
    for row in rows:
        for line in range(0, 2 * DIMENSIONS, LINE):
            prefetch(table, int(row), line)
    mean[:] = 0.0
    for row in rows:
        for column in range(DIMENSIONS):
            mean[column] += _single(table[row, column])
    count = np.float32(len(rows))
    for column in range(DIMENSIONS):
        mean[column] /= count


@compiled
def _single(half: np.uint16) -> np.float32:
    """The number of which these are the bits in half precision (IEEE 754), finite."""
    magnitude = np.uint32(half) & np.uint32(0x7FFF)
    normal = np.uint32((magnitude << np.uint32(13)) + np.uint32(112 << 23)).view(np.float32)
    tiny = np.float32(np.float32(magnitude) * np.float32(2.0**-24))
    size = normal if magnitude >= np.uint32(0x400) else tiny
    return -size if half & np.uint16(0x8000) else size


def _halves(weights: NDArray[Any]) -> NDArray[np.float16]:
    """The weights as they are stored, in half precision."""
    if weights.dtype != np.float16:
        raise EmbeddingUnavailable(f"wordllama's weights are {weights.dtype}, not float16; headway needs wordllama 0.4")
    return weights


def _encodable(text: str) -> str:
    """Replace lone surrogates, which JSON can carry and UTF-8 cannot."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _package_folder() -> Path:
    spec = find_spec("wordllama")
    if spec is None or spec.origin is None:
        raise EmbeddingUnavailable("prompt embeddings need the package 'wordllama'; try: pip install headway")
    folder = Path(spec.origin).parent
    for name in (_WEIGHTS, _TOKENIZER):
        if not (folder / name).is_file():
            raise EmbeddingUnavailable(f"{folder} has no {name}; headway needs wordllama 0.4 with its bundled weights")
    return folder
