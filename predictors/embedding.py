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
    """Embeds texts. Immutable after construction, so safe to share between threads.

    Construction reads 16 MB and takes about 0.1 s. A row does not depend on the other rows of its call, bit for bit.
    """

    def __init__(self) -> None:
        home = _package_folder()
        self._table: NDArray[np.float32] = load_file(home / _WEIGHTS)["embedding.weight"].astype(np.float32)
        self._tokenizer = Tokenizer.from_file(str(home / _TOKENIZER))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Rows (n, 256) of unit length, of the :func:`excerpt` of each text; zeros for a text without a token."""
        rows = np.zeros((len(texts), DIMENSIONS), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            ids = self._tokenizer.encode(_encodable(excerpt(text)), add_special_tokens=False).ids
            if ids:
                mean = self._table[ids].mean(axis=0)
                row[:] = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return rows


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
