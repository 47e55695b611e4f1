"""ServeGen's client pools as a workload: many clients, each with its own bursts and lengths, that change over time.

``chunk-I-trace.csv``, no header: ``start`` (seconds; a window is 600 s), ``rate`` (requests/s), ``cv``, ``pattern``
(``Gamma``, ``Weibull``, or nothing: silent), and its shape and scale. ``chunk-I-dataset.json``: window start → field →
histogram ``{tokens: probability}`` as text; of multimodal clients only the text is counted. See servegen/clientpool.py.
"""

from __future__ import annotations

import ast
import heapq
import json
import math
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from envs.traces.reading import TraceError, opened, parsed
from envs.workloads import Arrival, Histogram, Lengths

_PATTERNS = ("Gamma", "Weibull")


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of a client's time: its gaps are gamma or Weibull of this shape, with mean ``1 / rate``."""

    start: float
    rate: float
    pattern: str
    shape: float

    def gap(self, rng: np.random.Generator) -> float:
        """The next gap, in units of its mean."""
        if self.pattern == "Gamma":
            return rng.gamma(self.shape, 1.0 / self.shape)
        return float(rng.weibull(self.shape)) / math.gamma(1.0 + 1.0 / self.shape)


def is_pool(folder: Path) -> bool:
    """Whether a folder is a client pool."""
    return folder.is_dir() and any(folder.glob("chunk-*-trace.csv"))


def read_clients(folder: Path, seed: int = 0) -> Iterator[Arrival]:
    """The requests of all clients in order of time, up to the end of the last window. Tenants are ``client-I``.

    Each client has its own stream of the seed. Rates are the measured ones; scale the result to another.
    """
    files = {int(file.name.split("-")[1]): file for file in folder.glob("chunk-*-trace.csv")}
    if not files:
        raise TraceError(f"{folder}: no chunk-*-trace.csv; a client pool of ServeGen has one for each client")
    streams = (_client(number, file, seed) for number, file in sorted(files.items()))
    return heapq.merge(*streams, key=lambda arrival: arrival.at)


def _client(number: int, file: Path, seed: int) -> Iterator[Arrival]:
    windows = _windows(file)
    ends = [*(window.start for window in windows[1:]), windows[-1].start + _width(windows)]
    clock, content = np.random.SeedSequence((seed, number)).spawn(2)
    gaps, sizes = np.random.default_rng(clock), _Sizes(file.with_name(f"chunk-{number}-dataset.json"), content)
    due = 0.0
    for window, end in zip(windows, ends, strict=True):
        if window.rate <= 0 or not sizes.turn_to(window.start):
            continue
        due = due or window.gap(gaps) * gaps.random()
        room = window.rate * (end - window.start)
        while due < room:
            yield Arrival(window.start + due / window.rate, lengths=sizes.draw(), tenant=f"client-{number}")
            due += window.gap(gaps)
        due -= room


class _Sizes:
    """A client's lengths over time. Its histograms are parsed when their window comes."""

    def __init__(self, file: Path, seed: np.random.SeedSequence) -> None:
        self._file = file
        self._prompts, self._outputs = (np.random.default_rng(s) for s in seed.spawn(2))
        with opened(file) as text, self._understood():
            fields: dict[str, dict[str, str]] = json.load(text)
            told = {float(start): one for start, one in fields.items() if _told(one)}
        self._starts, self._told = sorted(told), told
        self._place = -1
        self._draws: tuple[Iterator[int], Iterator[int]] | None = None

    def turn_to(self, at: float) -> bool:
        """Draw from the last histograms that began by a time from now on; whether there are any."""
        place = bisect_right(self._starts, at) - 1
        if place >= 0 and place != self._place:
            with self._understood():
                fields = self._told[self._starts[place]]
                prompt = fields["input_tokens"] if "input_tokens" in fields else fields["text_tokens"]
                output = _histogram(fields["output_tokens"])
                self._draws = _histogram(prompt).draws(self._prompts), output.draws(self._outputs)
        self._place = place
        return place >= 0

    def draw(self) -> Lengths:
        """A prompt and an answer, independent of each other."""
        if self._draws is None:
            raise ValueError("turn to a window first")
        prompt, output = self._draws
        return Lengths(next(prompt), next(output))

    @contextmanager
    def _understood(self) -> Iterator[None]:
        try:
            yield
        except (KeyError, TypeError, ValueError, SyntaxError, AttributeError) as error:
            raise TraceError(f"{self._file}: not a dataset of a ServeGen client: {error!r}") from error


def _windows(file: Path) -> list[Window]:
    with opened(file) as lines:
        windows = [parsed(file, number, line, _window) for number, line in enumerate(lines, 1) if line.strip()]
    if not windows:
        raise TraceError(f"{file}: no windows in it")
    return windows


def _window(line: str) -> Window:
    start, rate, _, pattern, shape, _ = line.strip().split(",")
    if not pattern:
        return Window(float(start), 0.0, "", 0.0)
    if pattern not in _PATTERNS or not float(shape) > 0:
        raise ValueError(f"the pattern is {pattern} of shape {shape}, not {' or '.join(_PATTERNS)} of one above 0")
    return Window(float(start), float(rate), pattern, float(shape))


def _width(windows: list[Window]) -> float:
    return windows[1].start - windows[0].start if len(windows) > 1 else 600.0


def _told(fields: dict[str, str]) -> bool:
    return all(text.strip() != "{}" for text in fields.values())


def _histogram(text: str) -> Histogram:
    weights = {int(tokens): float(weight) for tokens, weight in ast.literal_eval(text).items() if int(tokens) > 0}
    return Histogram(tuple(weights), tuple(weights.values()))
