"""What learns while it serves: the history of tenants, and the nearest logged answers."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.stats import kendalltau

from predictors.length.history import HistoryLength
from predictors.length.lexical import LexicalLength
from predictors.length.lexical_train import LexicalRanker
from predictors.length.tenant_history import TenantHistory
from predictors.types import Prompt
from tests.predictors.length import samples


@pytest.fixture
def lexical() -> LexicalLength:
    return LexicalRanker().fit(samples.data(), samples.embeddings()).model_


def test_a_tenant_with_long_answers_is_expected_to_have_more(lexical: LexicalLength) -> None:
    prompt, other = Prompt("What is 3 plus 4?"), Prompt("Show every step. What is 31 times 7?")
    before = lexical.predict_one(prompt, None, ("a", "chat"))
    for _ in range(40):
        lexical.observe(other, ("a", "chat"), 900.0)
    after = lexical.predict_one(prompt, None, ("a", "chat"))
    assert after[0] > before[0]
    assert after[1] > before[1]
    assert after[3] > before[3]
    assert lexical.predict_one(prompt, None, ("b", "chat")) == before
    assert lexical.predict_one(prompt) == before
    assert before[1] < lexical.predict_one(prompt, None, ("a", "unseen"))[1]
    limited = lexical.predict_one(Prompt(prompt.text, 6), None, ("a", "chat"))
    assert max(limited[1], limited[3], limited[4]) <= 6


def test_what_a_tenant_was_like_is_exported(lexical: LexicalLength) -> None:
    for tokens in (5.0, 70.0, 300.0):
        lexical.observe(Prompt("Why?"), ("a", "chat"), tokens)
    loaded = LexicalLength.from_files(lexical.export())
    for key in (("a", "chat"), ("a", None), ("c", None)):
        assert loaded.predict_one(Prompt("Why?"), None, key) == lexical.predict_one(Prompt("Why?"), None, key)


def test_the_compiled_and_the_plain_way_agree(lexical: LexicalLength, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, _ = samples.probes()
    fast = lexical.predict(prompts)
    monkeypatch.setattr(lexical._reader, "usable", False)
    slow = lexical.predict(prompts)
    assert fast.rank == pytest.approx(slow.rank, abs=1e-6)


def test_a_history_of_tenants_is_bounded_and_shrinks_towards_nothing() -> None:
    history = TenantHistory(capacity=4, prior=8.0)
    history.observe("once", None, 10.0, 1000.0)
    assert 0 < history.offset("once", None) < 0.2 * np.log(100.0)
    for tenant in "abcdef":
        history.observe(tenant, "r", 10.0, 20.0)
    assert len(history) == 4
    assert history.offset("once", None) == 0.0
    history.observe(None, "r", 10.0, 20.0)
    assert len(history) == 4
    for expected, tokens in ((0.0, 1.0), (1.0, -1.0), (1.0, float("nan"))):
        with pytest.raises(ValueError, match="finite"):
            history.observe("a", None, expected, tokens)
    with pytest.raises(ValueError, match="not a history"):
        TenantHistory.load(b"[]")


def near(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit embeddings on a noisy circle, and lengths that depend on where they lie."""
    rng = np.random.default_rng(seed)
    angle = 2.0 * np.pi * rng.random(count)
    found = 0.01 * rng.standard_normal((count, 256))
    found[:, :2] += np.column_stack([np.cos(angle), np.sin(angle)])
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found.astype(np.float32), np.exp(5.0 + np.cos(angle) + 0.2 * rng.standard_normal(count))


def test_it_improves_from_traffic_and_one_model_tells_of_another() -> None:
    history = HistoryLength(capacity=500, neighbours=20)
    embeddings, tokens = near(500)
    for at in range(500):
        model, scale = ("terse", 1.0) if at % 2 else ("verbose", 4.0)
        history.observe(embeddings[at], model, scale * float(tokens[at]))
    fresh, truth = near(200, seed=1)
    prompts = [Prompt("x")] * 200
    terse, verbose = (history.predict(prompts, fresh, model) for model in ("terse", "verbose"))
    assert kendalltau(terse.rank, truth).statistic > 0.5
    assert np.median(verbose.tokens / terse.tokens) == pytest.approx(4.0, rel=0.3)
    assert np.mean(np.abs(np.log(terse.tokens / truth))) < 0.6 * np.mean(np.abs(np.log(truth / np.median(truth))))
    assert terse.in_distribution.all()


def test_it_knows_nothing_at_first_and_says_so() -> None:
    history = HistoryLength(capacity=10)
    embeddings, tokens = near(30)
    found = history.predict([Prompt("x")], embeddings[:1])
    assert not found.in_distribution[0]
    assert np.isnan(found.tokens[0])
    assert found.rank[0] == 0.5
    for row, length in zip(embeddings, tokens, strict=True):
        history.observe(row, "m", float(length))
    assert len(history) == 10


def test_forgotten_answers_leave_no_trace() -> None:
    embeddings, tokens = near(60)
    long, short = HistoryLength(capacity=20), HistoryLength(capacity=20)
    for row, length in zip(embeddings, tokens, strict=True):
        long.observe(row, "m", float(length))
    for row, length in zip(embeddings[40:], tokens[40:], strict=True):
        short.observe(row, "m", float(length))
    fresh, _ = near(10, seed=2)
    one, other = (history.predict([Prompt("x")] * 10, fresh) for history in (long, short))
    assert one.rank == pytest.approx(other.rank)
    assert one.tokens == pytest.approx(other.tokens)


def test_it_goes_on_after_export() -> None:
    embeddings, tokens = near(80)
    one = HistoryLength(capacity=50)
    for row, length in zip(embeddings[:60], tokens, strict=False):
        one.observe(row, "m", float(length))
    other = HistoryLength.from_files(one.export())
    for row, length in zip(embeddings[60:], tokens[60:], strict=True):
        one.observe(row, "n", float(length))
        other.observe(row, "n", float(length))
    assert one.export() == other.export()


def test_ten_thousand_answers_take_less_than_a_millisecond() -> None:
    history = HistoryLength()
    embeddings, tokens = near(10_000)
    for row, length in zip(embeddings, tokens, strict=True):
        history.observe(row, "m", float(length))
    times = []
    for row in embeddings[:40]:
        begun = time.perf_counter()
        history.predict_one(Prompt("x"), row)
        times.append(time.perf_counter() - begun)
    assert min(times) < 0.001


def test_answers_that_cannot_be_are_refused() -> None:
    history = HistoryLength(capacity=10)
    with pytest.raises(ValueError, match="embedding"):
        history.observe(np.zeros(3, dtype=np.float32), "m", 1.0)
    with pytest.raises(ValueError, match="tokens"):
        history.observe(np.zeros(256, dtype=np.float32), "m", -1.0)
