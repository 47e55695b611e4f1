"""The predictor of what remains that ships, as a user without any data folder has it."""

from __future__ import annotations

import time

import numpy as np
import pytest

from controller.store import ArtifactStore, shipped_models
from predictors.artifact import verify
from predictors.length.remaining.model import SCHEMA, RemainingLength, Track

FOLDER = ArtifactStore(shipped_models(), None).resolve("length/remaining")
LIST = (
    "Here are {count} ways to sleep better:\n\n1. **Keep a schedule**: Go to bed and get up at the same time every "
    "day, even at the weekend.\n2. **Dim the lights**: Bright light late in the evening tells the body to stay awake.\n"
    "3. **Avoid caffeine**: Its effect lasts for hours, so have the last cup at noon.\n"
)
CLOSING = (
    "\nIn conclusion, good sleep comes from good habits. I hope this helps! Let me know if you have any questions."
)


@pytest.fixture(scope="module")
def shipped() -> RemainingLength:
    return RemainingLength.load(FOLDER)


def follow(track: Track, text: str) -> float:
    """Expected tokens left after ``text``, four characters a token."""
    for start in range(0, len(text), 4):
        track.feed(text[start : start + 4], start // 4 + 1)
    return track.latest.expected


def test_it_is_whole_small_and_says_what_it_learned_from() -> None:
    manifest = verify(FOLDER)
    assert manifest.features == SCHEMA
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 1_000_000
    assert "card.md" in manifest.files
    assert all(source.licence.startswith("Apache-2.0") for source in manifest.data)
    assert len(manifest.held_out["arena"]["groups"]) >= 30
    tau = manifest.metrics["tau_b_128"]
    assert tau is not None
    assert 0.0 < tau.lo <= tau.value <= tau.hi < 1.0


def test_a_long_list_has_more_left_than_one_that_is_done(shipped: RemainingLength) -> None:
    long = follow(shipped.begin(0.5, every=8), LIST.format(count="15"))
    done = follow(shipped.begin(0.5, every=8), LIST.format(count="three") + CLOSING)
    assert done < 0.7 * long


def test_a_closing_phrase_ends_it(shipped: RemainingLength) -> None:
    text = "The train is late because of the snow on the line. " * 8
    assert follow(shipped.begin(0.5, every=8), text + CLOSING) < 0.7 * follow(shipped.begin(0.5, every=8), text * 2)


def test_a_prompt_with_long_answers_has_more_left_at_first(shipped: RemainingLength) -> None:
    expected = [shipped.begin(rank).latest.expected for rank in (0.1, 0.5, 0.9)]
    assert expected == sorted(expected)
    assert expected[2] > 1.3 * expected[0]


def test_an_update_of_a_long_stream_is_cheap(shipped: RemainingLength) -> None:
    """Measured at 0.1 ms; the bound has room for slow and busy machines."""
    track = shipped.begin(0.5, 2000.0, every=40)
    text = (LIST.format(count="20") + "Some more prose, which goes on for a while; " * 20) * 4
    times = []
    for tokens in range(1, 2001):
        begun = time.perf_counter()
        if track.feed(text[4 * (tokens - 1) : 4 * tokens], tokens) is not None:
            times.append(time.perf_counter() - begun)
    assert len(times) == 50
    assert np.median(times) < 2e-3
