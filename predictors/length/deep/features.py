"""Features of many prompts, read once and kept: ``group`` (n,), the prompts' content hashes, and ``features`` (n, d).

python -m predictors.length.deep.features --data DIR --encoder FOLDER --out FILE
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from predictors.length.data import LengthDataError, content_hash, read_arena
from predictors.length.deep.encoder import Encoder

_AT_ONCE = 64


def features_of(texts: Sequence[str], encoder: Encoder, kept: Path) -> NDArray[np.float32]:
    """Features (n, d) of texts, from the file where it has them; the others are read and added to it.

    Raises:
        LengthDataError: the file is another encoder's, or none of these.
    """
    groups = [content_hash(text) for text in texts]
    known = dict(_read(kept, encoder.digest)) if kept.exists() else {}
    missing = [i for i, group in enumerate(groups) if group not in known]
    for at in range(0, len(missing), _AT_ONCE):
        part = missing[at : at + _AT_ONCE]
        known.update(zip([groups[i] for i in part], encoder.embed([texts[i] for i in part]), strict=True))
    if missing:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with kept.open("wb") as file:
            names, rows = np.array(list(known)), np.stack(list(known.values()))
            np.savez_compressed(file, group=names, features=rows, encoder=np.array(encoder.digest))
    return np.stack([known[group] for group in groups]) if groups else np.empty((0, encoder.width), np.float32)


def _read(path: Path, digest: str) -> list[tuple[str, NDArray[np.float32]]]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            groups, features, encoder = stored["group"], stored["features"], str(stored["encoder"])
    except (OSError, KeyError, ValueError, BadZipFile) as error:
        raise LengthDataError(f"{path} holds no features: {error}; give another file, or remove it") from error
    if encoder != digest:
        raise LengthDataError(f"{path} holds another encoder's features; give another file, or remove it")
    return list(zip(groups.tolist(), features.astype(np.float32), strict=True))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    texts = [prompt.text for prompt in read_arena(asked.data).prompts]
    features_of(texts, Encoder.load(asked.encoder, asked.threads), asked.out)


if __name__ == "__main__":
    main()
