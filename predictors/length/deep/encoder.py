"""The first layers of a small language model, reading prompts: ONNX, int8, on the CPU.

A folder that :mod:`predictors.length.deep.build` wrote holds ``encoder.onnx``, ``tokenizer.json`` and ``encoder.json``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from predictors.length.deep.text import Ids, Reader

GRAPH: Final = "encoder.onnx"
TOKENIZER: Final = "tokenizer.json"
ABOUT: Final = "encoder.json"
_PADDED: Final = 4096
"""Padded tokens that are read at once."""


class EncoderError(ValueError):
    """An encoder's folder cannot be used: what is wrong, and what would be right."""


class Encoder:
    """Features of prompts: the last token's state after the exit layer, then the mean over all tokens. Thread-safe."""

    def __init__(self, session: onnxruntime.InferenceSession, reader: Reader, digest: str) -> None:
        """``digest`` identifies graph and tokenizer: heads fit the features of one encoder only."""
        self._session, self._reader, self.digest = session, reader, digest
        self.width = int(session.get_outputs()[0].shape[1])

    @classmethod
    def load(cls, folder: Path, threads: int = 1) -> Encoder:
        """From a folder, to run on so many threads.

        Raises:
            EncoderError: a file is missing, or is not what its name says.
        """
        try:
            about = json.loads((folder / ABOUT).read_text())
            files = {name: (folder / name).read_bytes() for name in (GRAPH, TOKENIZER)}
            digest = hashlib.sha256(b"".join(files[name] for name in sorted(files))).hexdigest()
            if about["sha256"] != digest:
                raise EncoderError(f"{folder} holds other files than {ABOUT} names; build the encoder again")
            tokenizer = Tokenizer.from_str(files[TOKENIZER].decode())
            reader = Reader(tokenizer, about["before"], about["after"], about["ends"])
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
            session = onnxruntime.InferenceSession(files[GRAPH], options, providers=["CPUExecutionProvider"])
        except EncoderError:
            raise
        except Exception as error:  # tokenizers and onnxruntime raise plain exceptions of their own
            raise EncoderError(
                f"no encoder can be loaded from {folder}: {error}; write one with predictors.length.deep.build"
            ) from error
        return cls(session, reader, digest)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Features (n, width), float32. What a text gives depends on its batch by rounding alone."""
        ids = self._reader.read(texts)
        features = np.empty((len(texts), self.width), dtype=np.float32)
        for rows in _batches(ids):
            lengths = np.array([len(ids[i]) for i in rows], dtype=np.int64)
            padded = np.zeros((len(rows), int(lengths.max())), dtype=np.int64)
            for row, i in zip(padded, rows, strict=True):
                row[: len(ids[i])] = ids[i]
            features[rows] = self._session.run(None, {"ids": padded, "lengths": lengths})[0]
        return features


def _batches(ids: Sequence[Ids]) -> Iterator[list[int]]:
    """Rows of like length, of at most about ``_PADDED`` padded tokens together."""
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    at = 0
    while at < len(order):
        count = max(1, _PADDED // len(ids[order[at]]))
        yield order[at : at + count]
        at += count
