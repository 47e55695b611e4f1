"""Small artifacts on disk."""

from __future__ import annotations

from pathlib import Path

from predictors.artifact import DataSource, write
from predictors.types import Interval


def put(
    models: Path, ref: str, version: int, content: bytes = b"weights", *, overwrite: bool = False, flat: bool = False
) -> Path:
    """Write ``ref`` in this version below a folder of models; returns its own folder. ``flat`` is without a number."""
    kind, name = ref.split("/")
    folder = models / kind / name / ("" if flat else str(version))
    write(
        folder,
        kind=kind,
        name=name,
        version=version,
        features=("words",),
        data=(DataSource("made up", "CC0-1.0", "0" * 64, 3),),
        metrics={"tau_b": Interval(0.3, 0.2, 0.4), "rows": None},
        files={"weights.txt": content, "card.md": b"# A card\n"},
        created="2025-01-01T00:00:00Z",
        overwrite=overwrite,
    )
    return folder
