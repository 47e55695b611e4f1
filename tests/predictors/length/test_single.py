from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.store import ArtifactStore, shipped_models
from predictors.compiled import AVAILABLE
from predictors.length import model as module
from predictors.length.model import FastLength
from predictors.types import Prompt
from tests.predictors.length import samples

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="without numba the other path is all there is")


@pytest.fixture(scope="module")
def shipped() -> FastLength:
    return FastLength.load(ArtifactStore(shipped_models(), None).resolve("length/fast"))


def test_one_prompt_at_a_time_gives_what_all_together_give(shipped: FastLength) -> None:
    prompts, embeddings = samples.probes()
    prompts = tuple(Prompt(p.text, 40 if i % 3 == 0 else p.max_tokens, 1 + i % 3) for i, p in enumerate(prompts))
    together = shipped._together(prompts, embeddings)
    alone = shipped.predict(prompts, embeddings)
    assert len(prompts) <= module._FEW
    assert alone.rank == pytest.approx(together.rank, abs=1e-12)
    assert alone.tokens == pytest.approx(together.tokens, rel=1e-12)
    assert alone.high == pytest.approx(together.high, rel=1e-12)
    assert alone.tail == pytest.approx(together.tail, rel=1e-12)
    assert np.array_equal(alone.in_distribution, together.in_distribution)
    assert [a.dtype for a in (alone.rank, alone.tokens, alone.in_distribution)] == [float, float, bool]


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=400), limit=st.none() | st.integers(1, 3000) | st.just(10**30))
def test_any_prompt_is_scored_as_before(shipped: FastLength, text: str, limit: int | None) -> None:
    prompts, embeddings = [Prompt(text, limit)], samples.embedder().embed([text])
    alone, together = shipped.predict(prompts, embeddings), shipped._together(prompts, embeddings)
    assert alone.rank[0] == pytest.approx(together.rank[0], abs=1e-12)
    assert alone.tokens[0] == pytest.approx(together.tokens[0], rel=1e-12)
    assert alone.high[0] == pytest.approx(together.high[0], rel=1e-12)
    assert alone.tail[0] == pytest.approx(together.tail[0], rel=1e-12)
    assert alone.tokens[0] <= alone.high[0] <= alone.tail[0]
    assert alone.in_distribution[0] == together.in_distribution[0]


def test_without_the_compiled_pass_nothing_changes(shipped: FastLength, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, embeddings = samples.probes()
    fast = shipped.predict(prompts, embeddings)
    monkeypatch.setattr(shipped._single, "usable", False)
    slow = shipped.predict(prompts, embeddings)
    assert shipped.predict_one(prompts[0], embeddings[0])[0] == slow.rank[0]
    assert fast.rank == pytest.approx(slow.rank, abs=1e-12)
