"""What is written about the environments' spaces is what they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import envs.best_effort
import envs.order
import envs.route
import envs.scale
from controller.observation import Codec
from envs.registration import BEST_EFFORT, ENVIRONMENTS, ORDER, ROUTE, SCALE

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "environments.md"
SECTIONS = ("Description", "Action space", "Observation space", "Rewards", "Starting state", "Episode end", "Arguments",
            "Version history")  # fmt: skip
Row = tuple[str, float, float]
_CODEC = Codec(1)
FEATURES: dict[str, list[Row]] = {
    BEST_EFFORT: [
        (name.removeprefix("pool0."), float(low), float(high))
        for name, low, high in zip(_CODEC.names, _CODEC.low, _CODEC.high, strict=True)
    ],
    SCALE: [(name, 0.0, top) for name, top in (*envs.scale.POOL_FEATURES, *envs.scale.SHARED_FEATURES)],
    ORDER: list(envs.order.FEATURES),
    ROUTE: [*envs.route.SHARED_FEATURES, *envs.route.MODEL_FEATURES],
}
DOCSTRINGS = {
    BEST_EFFORT: envs.best_effort.__doc__,
    SCALE: envs.scale.__doc__,
    ORDER: envs.order.__doc__,
    ROUTE: envs.route.__doc__,
}


def section(name: str) -> str:
    """The document's part about one environment."""
    return DOCUMENT.read_text(encoding="utf-8").partition(f"\n## {name}\n")[2].partition("\n## ")[0]


def number(text: str) -> float:
    """A number as tables write it."""
    return float(text.strip().replace("−", "-").replace("10⁴", "10000"))


@pytest.mark.parametrize("name", list(ENVIRONMENTS))
def test_the_document_has_every_part(name: str) -> None:
    text = section(name)
    for part in SECTIONS:
        assert f"**{part}" in text, part


@pytest.mark.parametrize("name", list(ENVIRONMENTS))
def test_the_tables_of_the_document_are_right(name: str) -> None:
    rows = re.findall(r"^\|[^|]*\| `(\w+)` \|[^|]*\|[^|]*\|([^|]*)\|([^|]*)\|$", section(name), flags=re.MULTILINE)
    assert [(found, number(low), number(high)) for found, low, high in rows] == FEATURES[name]


@pytest.mark.parametrize("name", list(ENVIRONMENTS))
def test_the_tables_of_the_modules_are_right(name: str) -> None:
    text = DOCSTRINGS[name] or ""
    for part in SECTIONS:
        assert f"**{part}" in text, part
    rows = re.findall(r"^\S+ +``(\w+)`` .* (−?\d+) +(\d\S*)$", text, flags=re.MULTILINE)
    assert [(found, number(low), number(high)) for found, low, high in rows] == FEATURES[name]
