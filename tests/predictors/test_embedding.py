from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors import embedding
from predictors.compiled import AVAILABLE
from predictors.embedding import EDGE_CHARS, Embedder, EmbeddingUnavailable, excerpt

TEXTS = ["Write a poem.", "What is 2 + 2?", "Схема метро", "说明", "a" * 5000, "```py\nx = 1\n```", " ", "\ud800 lone"]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder()


def test_rows_have_unit_length_and_an_empty_text_has_none(embedder: Embedder) -> None:
    rows = embedder.embed([*TEXTS, ""])
    assert rows.shape == (len(TEXTS) + 1, 256)
    assert rows.dtype == np.float32
    assert np.linalg.norm(rows[:-1], axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-5)
    assert not rows[-1].any()
    assert embedder.embed([]).shape == (0, 256)


def test_it_agrees_with_wordllama_itself(embedder: Embedder) -> None:
    """In a process of its own: importing wordllama configures the root logger."""
    script = """
import sys, wordllama, numpy as np
from pathlib import Path
from wordllama import WordLlama
from predictors.embedding import Embedder
texts = ["Write a poem about rivers.", "What is 2 + 2?", "Схема метро", "def f(x): return x"]
model = WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
theirs = np.vstack([model.embed(text, norm=True) for text in texts])
sys.exit(0 if np.allclose(Embedder().embed(texts), theirs, atol=1e-6) else 1)
"""
    root = Path(embedding.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", script], cwd=root, check=False).returncode == 0


def test_a_row_does_not_depend_on_its_neighbours(embedder: Embedder) -> None:
    together = embedder.embed(TEXTS)
    for text, row in zip(TEXTS, together, strict=True):
        assert np.array_equal(embedder.embed([text])[0], row)


def test_threads_may_share_it(embedder: Embedder) -> None:
    alone = embedder.embed(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        for rows in pool.map(lambda _: embedder.embed(TEXTS), range(16)):
            assert np.array_equal(rows, alone)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=1200) | st.text(st.sampled_from("the cat 12.\n<s>\u2581(\u00e9\u65e5"), max_size=200))
def test_the_compiled_pass_gives_numpys_bits(embedder: Embedder, text: str) -> None:
    fast = embedder.embed_one(text)
    ids = embedder._tokenizer.encode(embedding._encodable(excerpt(text)), add_special_tokens=False).ids
    rows = embedder._table[ids].astype(np.float32)
    mean = rows.mean(axis=0) if ids else np.zeros(256, np.float32)
    assert np.array_equal(fast, mean / np.float32(max(np.sqrt(mean.dot(mean)), 1e-12)))
    assert np.array_equal(embedder._mean_of(embedding._encodable(excerpt(text))), mean)


def test_all_numbers_in_half_precision_are_read() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    halves = bits.view(np.float16)
    finite = np.isfinite(halves)
    read = [embedding._single(half) for half in bits[finite]]
    assert np.array_equal(np.array(read, np.float32), halves[finite].astype(np.float32))


@pytest.mark.skipif(not AVAILABLE, reason="without numba the other path is all there is")
def test_what_is_remembered_begins_again_when_it_is_full(embedder: Embedder) -> None:
    assert embedder._known is not None
    before = embedder.embed_one("blorptastic fnordlings")
    held = embedder._known.remembered.held
    held[0] = len(embedder._known.remembered.entries)
    assert np.array_equal(embedder.embed_one("blorptastic fnordlings"), before)
    assert embedder._known.remembered.held is held
    assert np.linalg.norm(embedder.embed_one("snarkified wibblers")) == pytest.approx(1.0, abs=1e-5)
    assert embedder._known.remembered.held is not held


def test_related_texts_are_nearer(embedder: Embedder) -> None:
    python, java, cake = embedder.embed(
        ["fix my Python function", "debug this Java method", "recipe for a sponge cake"]
    )
    assert python @ java > python @ cake


@settings(max_examples=50)
@given(st.text(max_size=3000))
def test_an_excerpt_keeps_both_ends_and_is_short(text: str) -> None:
    cut = excerpt(text)
    assert len(cut) <= 2 * EDGE_CHARS + 1
    assert text.startswith(cut[:EDGE_CHARS])
    assert text.endswith(cut[-EDGE_CHARS:])
    assert cut == text or len(text) > 2 * EDGE_CHARS


def test_loading_neither_imports_wordllama_nor_configures_logging() -> None:
    script = (
        "import logging, sys; from predictors.embedding import Embedder; Embedder().embed(['x']);"
        "sys.exit(('wordllama' in sys.modules) + 2 * bool(logging.getLogger().handlers))"
    )
    root = Path(embedding.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", script], cwd=root, check=False).returncode == 0


def test_a_missing_package_or_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(embedding, "find_spec", lambda name: None)
    with pytest.raises(EmbeddingUnavailable, match="pip install"):
        Embedder()
    empty = ModuleSpec("wordllama", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(embedding, "find_spec", lambda name: empty)
    with pytest.raises(EmbeddingUnavailable, match="l2_supercat"):
        Embedder()
