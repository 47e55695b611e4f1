"""Prompt embeddings: WordLlama's 256-dimensional token averages, from the files inside its package.

The two files are read directly. Importing ``wordllama`` would configure the process's root logger and pull in an HTTP
client, and its own loader may go to the network; none of that belongs in a server. A test holds both loaders equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from predictors.compiled import AVAILABLE, compiled
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

    Construction reads 16 MB and takes about 0.3 s. A row does not depend on the other rows of its call, bit for bit.
    """

    def __init__(self) -> None:
        home = _package_folder()
        self._table: NDArray[np.float32] = load_file(home / _WEIGHTS)["embedding.weight"].astype(np.float32)
        self._tokenizer = Tokenizer.from_file(str(home / _TOKENIZER))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._pieces = Pieces(self._tokenizer)
        self.embed(["compiles the kernel"])

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Rows (n, 256) of unit length, of the :func:`excerpt` of each text; zeros for a text without a token."""
        rows = np.zeros((len(texts), DIMENSIONS), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            ids = self._ids(_encodable(excerpt(text)))
            if ids:
                mean = self._mean(ids)
                np.divide(mean, max(float(np.sqrt(mean.dot(mean))), 1e-12), out=row)
        return rows

    def _ids(self, text: str) -> list[int]:
        ids = self._pieces.ids(text)
        if ids is None:
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _mean(self, ids: list[int]) -> NDArray[np.float32]:
        if not AVAILABLE:
            mean: NDArray[np.float32] = self._table[ids].mean(axis=0)
            return mean
        return _mean_of_rows(self._table, np.array(ids))


@compiled
def _mean_of_rows(table: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """``table[rows].mean(axis=0)``, bit for bit: summed row after row."""
    mean = np.zeros(table.shape[1], dtype=np.float32)
    for row in rows:
        for column in range(table.shape[1]):
            mean[column] += table[row, column]
    count = np.float32(len(rows))
    for column in range(table.shape[1]):
        mean[column] /= count
    return mean


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
