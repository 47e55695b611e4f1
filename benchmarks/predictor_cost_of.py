"""One predictor's cost, measured in a process of its own: see :mod:`benchmarks.predictor_cost`."""

from __future__ import annotations

import json
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from predictors.length.data import LengthData
    from predictors.types import Prompt

__all__ = ["BATCH", "PREDICTORS", "Cost", "Sources", "chunks", "measure", "shipped"]

PREDICTORS: Final = ("length_prompt", "lexical", "embedding", "fast", "history", "remaining", "deep")
BATCH: Final = 32
_WARM: Final = 64
_FEW: Final = 40
_DEADLINE_S: Final = 120.0
_EVENTS: Final = 48
_EXPECTED: Final = 300.0

Call = Callable[[Sequence[Any]], object]
"""Predicts all that it is given."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What is asked, and where what is not shipped is found."""

    texts: tuple[str, ...]
    data: Path | None
    encoder: Path | None
    head: Path | None


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds by the clock and of the processor for one, and for one of a batch; prompts a second in batches;
    seconds to load, and megabytes by which the process grew for it. A predictor that runs elsewhere has no processor's
    time here, and is as large there."""

    us_p50: float
    us_p99: float
    cpu_us_p50: float | None
    cpu_us_p99: float | None
    batch_us_p50: float
    batch_us_p99: float
    batch_cpu_us_p50: float | None
    per_s: float
    load_s: float
    memory_mb: float


def measure(name: str, sources: Sources) -> Cost:
    """Load one of :data:`PREDICTORS`, and ask it.

    Raises:
        ValueError, OSError, RuntimeError: it cannot be loaded, or what it needs is not there.
    """
    fits = name in ("lexical", "history") or (name == "deep" and sources.head is None)
    data = _answers(sources) if fits else None
    loading = _Loading()
    one, many, items = _load(name, sources, data, loading)
    load_s, memory = loading.so_far()
    one(items[:1])  # compiled, where it has to be
    for i in range(min(_WARM, len(items) // 8)):
        one(items[i : i + 1])
    many(items[:BATCH])
    singles = _times(one, [items[i : i + 1] for i in range(len(items))])
    batches = _times(many, [items[i : i + BATCH] for i in range(0, len(items) - BATCH + 1, BATCH)]) / BATCH
    (p50, cpu50), (p99, cpu99) = np.quantile(singles, (0.5, 0.99), axis=0).tolist()
    (b50, bcpu50), (b99, _) = np.quantile(batches, (0.5, 0.99), axis=0).tolist()
    here = name != "deep"
    return Cost(
        p50, p99, cpu50 if here else None, cpu99 if here else None, b50, b99, bcpu50 if here else None,
        1e6 / float(batches[:, 0].mean()), load_s, memory,
    )  # fmt: skip


class _Loading:
    """Seconds and megabytes since it was begun; begun anew where what does not count came first."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self._memory, self._started = _grown_mb(), time.perf_counter()

    def so_far(self) -> tuple[float, float]:
        return time.perf_counter() - self._started, _grown_mb() - self._memory


def _times(call: Call, asked: Sequence[Sequence[Any]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Microseconds of each (n, 2): by the clock, and of the processor."""
    found = np.empty((len(asked), 2))
    for i, items in enumerate(asked):
        cpu, clock = time.thread_time(), time.perf_counter()
        call(items)
        found[i] = time.perf_counter() - clock, time.thread_time() - cpu
    return 1e6 * found


def _grown_mb() -> float:
    """The most memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


def _answers(sources: Sources) -> LengthData:
    """Of these kinds none ships: they are fitted to the arena's answers first, which counts for neither figure."""
    from predictors.length.data import read_arena

    if sources.data is None:
        raise ValueError("it is fitted to the arena's answers first; name their folder with --data or HEADWAY_DATA")
    return read_arena(sources.data)


def _load(name: str, sources: Sources, data: LengthData | None, loading: _Loading) -> tuple[Call, Call, Sequence[Any]]:
    from predictors.types import Prompt

    prompts = [Prompt(text) for text in sources.texts]
    if name == "length_prompt":
        return (lambda asked: [len(prompt.text) for prompt in asked],) * 2 + (prompts,)
    if name == "embedding":
        return _embedding(prompts)
    if name == "fast":
        return _fast(prompts)
    if name == "lexical" and data is not None:
        return _lexical(prompts, data, loading)
    if name == "history" and data is not None:
        return _history(prompts, data, loading)
    if name == "remaining":
        return _remaining(sources)
    if name == "deep" and sources.encoder is not None:
        with tempfile.TemporaryDirectory() as folder:
            head = sources.head or _head(sources.encoder, data, Path(folder))
            return _deep(prompts, sources.encoder, head, loading)
    raise ValueError(f"there is nothing to load for {name!r}")


def _embedding(prompts: Sequence[Prompt]) -> tuple[Call, Call, Sequence[Any]]:
    from predictors.embedding import Embedder

    embedder = Embedder()
    return (
        lambda asked: embedder.embed_one(asked[0].text),
        lambda asked: embedder.embed([prompt.text for prompt in asked]),
        prompts,
    )


def shipped(name: str) -> Path:
    """Folder of an artifact that came with headway."""
    from controller.store.artifacts import ArtifactStore, shipped_models

    return ArtifactStore(shipped_models(), None).resolve(name)


def _fast(prompts: Sequence[Prompt]) -> tuple[Call, Call, Sequence[Any]]:
    from predictors.embedding import Embedder
    from predictors.length.model import FastLength

    embedder, model = Embedder(), FastLength.load(shipped("length/fast"))
    return (
        lambda asked: model.predict_one(asked[0], embedder.embed_one(asked[0].text)),
        lambda asked: model.predict(asked, embedder.embed([prompt.text for prompt in asked])),
        prompts,
    )


def _lexical(prompts: Sequence[Prompt], data: LengthData, loading: _Loading) -> tuple[Call, Call, Sequence[Any]]:
    from predictors.length.lexical import LexicalLength
    from predictors.length.lexical_train import LexicalRanker

    fitted = LexicalRanker().fit(data, np.zeros((len(data), 0), dtype=np.float32))
    files = fitted.export()
    loading.begin()
    model = LexicalLength.from_files(files)
    return lambda asked: model.predict_one(asked[0]), model.predict, prompts


def _history(prompts: Sequence[Prompt], data: LengthData, loading: _Loading) -> tuple[Call, Call, Sequence[Any]]:
    """Full: 10,000 answers."""
    from predictors.embedding import Embedder
    from predictors.length.history import HistoryLength

    embedder, filled = Embedder(), HistoryLength()
    embeddings = embedder.embed([prompt.text for prompt in data.prompts])
    rows, columns = np.nonzero(~np.isnan(data.tokens))
    for i in np.random.default_rng(0).choice(len(rows), filled.capacity).tolist():
        row, column = int(rows[i]), int(columns[i])
        filled.observe(embeddings[row], data.models[column], float(data.tokens[row, column]))
    files = filled.export()
    loading.begin()
    embedder, model = Embedder(), HistoryLength.from_files(files)
    return (
        lambda asked: model.predict_one(asked[0], embedder.embed_one(asked[0].text)),
        lambda asked: model.predict(asked, embedder.embed([prompt.text for prompt in asked])),
        prompts,
    )


def _remaining(sources: Sources) -> tuple[Call, Call, Sequence[Any]]:
    """Looks at streams of real answers where the data are at hand, else of the prompts' texts."""
    from gateway.events import shown
    from predictors.length.remaining.model import RemainingLength, Track

    model = RemainingLength.load(shipped("length/remaining"))
    texts: Sequence[str] = sources.texts
    if sources.data is not None:
        from predictors.length.remaining.data import read_answers

        texts = [text for text in read_answers(sources.data).texts if len(text) > 400]
    looks: list[tuple[int, bytes, int]] = []
    tracks: dict[int, Track] = {}
    for i in np.random.default_rng(0).permutation(len(texts)).tolist():
        events = chunks(texts[i])
        for total in range(_EVENTS, len(events), _EVENTS):
            looks.append((i, b"".join(events[total - _EVENTS : total]), total))
        if len(looks) >= len(sources.texts):
            break

    def look(asked: Sequence[tuple[int, bytes, int]]) -> None:
        for i, events, total in asked:
            if total == _EVENTS:
                tracks[i] = model.begin(0.5, _EXPECTED, None, _EVENTS)
            tracks[i].feed(shown(events), total)

    return look, look, looks[: len(sources.texts)]


def _head(encoder: Path, data: LengthData | None, folder: Path) -> Path:
    """A head that has learned from a few prompts: what it costs does not depend on how good it is."""
    from predictors.length.deep.encoder import Encoder
    from predictors.length.deep.ranker import DeepRanker

    if data is None:
        raise ValueError("a head is fitted to the arena's answers first")
    read, few = Encoder.load(encoder), data.take(np.arange(_FEW))
    fitted = DeepRanker(encoder=read.digest).fit(few, read.embed([prompt.text for prompt in few.prompts]))
    for name, content in fitted.export().items():
        (folder / name).write_bytes(content)
    return folder


def _deep(prompts: Sequence[Prompt], encoder: Path, head: Path, loading: _Loading) -> tuple[Call, Call, Sequence[Any]]:
    from predictors.length.deep.process import DeepProcess

    loading.begin()
    process = DeepProcess(encoder, head)

    def ask(asked: Sequence[Prompt]) -> object:
        scores = process.predict(asked, _DEADLINE_S)
        if scores is None:
            raise RuntimeError(f"deep did not answer within {_DEADLINE_S:g} s")
        return scores

    ask(prompts[:1])  # it has been loaded
    return ask, ask, prompts[:64]


def chunks(text: str) -> list[bytes]:
    """A stream of chat chunks as vLLM writes them, of about four characters each."""
    of = {"id": "chatcmpl-8f2a", "object": "chat.completion.chunk", "created": 1765000000, "model": "m"}
    found = []
    for i in range(0, len(text), 4):
        choice = {"index": 0, "delta": {"content": text[i : i + 4]}, "logprobs": None, "finish_reason": None}
        found.append(b"data: %b\n\n" % json.dumps({**of, "choices": [choice]}, separators=(",", ":")).encode())
    return found
