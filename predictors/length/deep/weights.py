"""A Llama checkpoint's layers, out of a GGUF file, in the form that ``deep``'s encoders take."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from predictors.length.deep.gguf import Floats, Gguf, GgufError

HEADS, KEYS, WIDTH = 9, 3, 64
"""Query heads, key and value heads, and their size, in SmolLM2-135M."""
_WANTED: Mapping[str, float] = {
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KEYS,
    "llama.rope.dimension_count": WIDTH,
    "llama.rope.freq_base": 100_000.0,
}


def layers_of(file: Gguf, count: int) -> list[dict[str, Floats]]:
    """The first ``count`` layers: ``norm_in``, ``norm_mid`` (576,), ``qkv`` (960, 576), ``out`` (576, 576),
    ``gate_up`` (3072, 576) and ``down`` (576, 1536).

    Raises:
        GgufError: the file is of another shape than SmolLM2-135M, or has fewer layers.
    """
    for key, value in _WANTED.items():
        if file.metadata.get(key) != value:
            raise GgufError(f"{key} is {file.metadata.get(key)}; deep reads SmolLM2-135M, where it is {value}")
    return [_layer(file, f"blk.{i}.") for i in range(count)]


def _layer(file: Gguf, prefix: str) -> dict[str, Floats]:
    def part(name: str) -> Floats:
        return file.tensor(f"{prefix}{name}.weight")

    query, key = in_halves(part("attn_q"), HEADS), in_halves(part("attn_k"), KEYS)
    return {
        "norm_in": part("attn_norm"),
        "qkv": np.concatenate([query, key, part("attn_v")]),
        "out": part("attn_output"),
        "norm_mid": part("ffn_norm"),
        "gate_up": np.concatenate([part("ffn_gate"), part("ffn_up")]),
        "down": part("ffn_down"),
    }


def in_halves(matrix: Floats, heads: int) -> NDArray[np.float32]:
    """GGUF stores the pairs that the rotary embedding turns side by side; here they are a half of a head apart."""
    rows, columns = matrix.shape
    return matrix.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
