"""The members of the ladder: what they are called, how big they are, and where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from controller.store import shipped_models

HEAD_SIZE: Final = 64
"""The least that vLLM serves both on a CPU and on a GPU."""
CONTEXT: Final = 2048
"""Tokens of prompt and answer together."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama: ``layers`` blocks of ``hidden`` units, with ``intermediate`` units in each block's gated network."""

    name: str
    layers: int
    hidden: int
    intermediate: int

    @property
    def heads(self) -> int:
        """Attention heads, each with its own keys and values."""
        return self.hidden // HEAD_SIZE


LADDER: Final = (
    Shape("small", layers=2, hidden=128, intermediate=384),
    Shape("medium", layers=6, hidden=192, intermediate=384),
    Shape("large", layers=16, hidden=256, intermediate=576),
)
"""From the quickest to the best."""
NAMES: Final = tuple(shape.name for shape in LADDER)


def shape_of(name: str) -> Shape:
    """The member of that name.

    Raises:
        ValueError: there is none; says which there are.
    """
    for shape in LADDER:
        if shape.name == name:
            return shape
    raise ValueError(f"no model {name!r} in the ladder; there are {', '.join(NAMES)}")


def shipped(name: str) -> Path:
    """The folder of a shipped member, for ``--model`` of vLLM.

    Raises:
        FileNotFoundError: this installation does not have it.
    """
    folder = (shipped_models() or Path("models")) / "ladder" / shape_of(name).name
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"no checkpoint in {folder}; headway train ladder --out {folder.parents[1]} makes it")
    return folder
