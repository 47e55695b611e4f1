"""``deep`` in a process of its own, so that reading a prompt never holds up whoever asks.

Prompts go to the process as JSON and scores come back as JSON, over a pipe; nothing is pickled after the start. The
caller gives a deadline; after it, or when the process has died, the answer is ``None`` and the caller falls back.
"""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np

from predictors.artifact import ArtifactSchema
from predictors.length.deep.encoder import Encoder
from predictors.length.deep.model import HEAD_FILE, TABLES_FILE, DeepLength
from predictors.length.model import LengthScores
from predictors.types import Prompt

_FIELDS: Final = ("rank", "tokens", "in_distribution", "high", "tail")
BATCH: Final = 32
"""Prompts a batch at most; a caller gathers them for at most :data:`GATHER_S` seconds."""
GATHER_S: Final = 0.003


def load(encoder: Path, head: Path, threads: int = 1) -> tuple[Encoder, DeepLength]:
    """An encoder and the head for it.

    Raises:
        EncoderError, ArtifactSchema: one of them cannot be used, or they do not belong together.
    """
    read = Encoder.load(encoder, threads)
    try:
        files = {name: (head / name).read_bytes() for name in (HEAD_FILE, TABLES_FILE)}
    except OSError as error:
        raise ArtifactSchema(f"{head} holds no head for deep: {error}") from error
    model = DeepLength.from_files(files)
    if model.encoder != read.digest or model.head.weights.size != read.width:
        raise ArtifactSchema(f"the head in {head} was fitted on another encoder than {encoder}")
    return read, model


class DeepProcess:
    """One worker process. Calls from several threads wait for each other, within their own deadlines."""

    def __init__(self, encoder: Path, head: Path, threads: int = 1, least_pause_s: float = 1.0) -> None:
        """``least_pause_s`` is the least time from one start of the process to the next.

        Raises:
            EncoderError, ArtifactSchema: as :func:`load`.
        """
        load(encoder, head, threads)  # here, where the error can be read, and once
        self._arguments = (str(encoder), str(head), threads)
        self._pause, self._started = least_pause_s, -float("inf")
        self._context = multiprocessing.get_context("spawn")
        self._turn = threading.Lock()
        self._closed = False
        self.starts = 0
        """How often a process was started; more than once means that one died."""
        self._begin()

    def predict(self, prompts: Sequence[Prompt], deadline_s: float) -> LengthScores | None:
        """Scores, or ``None`` after ``deadline_s`` seconds, or where there is no process to ask.

        A late answer is dropped when the next is waited for. A process that died is started again, not waited for.

        Raises:
            ValueError: there are more than :data:`BATCH` prompts.
        """
        if len(prompts) > BATCH:
            raise ValueError(f"{len(prompts)} prompts are more than a batch; give at most {BATCH}")
        until = time.monotonic() + deadline_s
        if self._closed or not self._turn.acquire(timeout=max(deadline_s, 0.0)):
            return None
        try:
            return self._ask(prompts, until)
        except (OSError, EOFError):
            self._begin()
            return None
        finally:
            self._turn.release()

    def _ask(self, prompts: Sequence[Prompt], until: float) -> LengthScores | None:
        if not self._process.is_alive():
            self._begin()
            return None
        if self._answered < self._asked and self._answer(until) is None:
            return None  # still loading, or at work on a batch that nobody waits for
        asked = [{"text": prompt.text, "max_tokens": prompt.max_tokens, "turns": prompt.turns} for prompt in prompts]
        self._pipe.send_bytes(json.dumps({"id": self._asked + 1, "prompts": asked}).encode())
        self._asked += 1
        answer = self._answer(until)
        if answer is None:
            return None
        rows = [np.asarray(answer[name], dtype=bool if name == "in_distribution" else float) for name in _FIELDS]
        return LengthScores(*rows)

    def _answer(self, until: float) -> dict[str, Any] | None:
        """The answer to what was asked last; the process answers in turn."""
        if not self._pipe.poll(max(0.0, until - time.monotonic())):
            return None
        answer: dict[str, Any] = json.loads(self._pipe.recv_bytes())
        self._answered = answer["id"]
        return answer

    def _begin(self) -> None:
        """Start a process, unless one was started a moment ago."""
        if time.monotonic() - self._started < self._pause or self._closed:
            return
        if self.starts:
            self._stop()
        self._started = time.monotonic()
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()
        self._asked, self._answered, self.starts = 0, -1, self.starts + 1

    def _stop(self) -> None:
        self._pipe.close()
        self._process.terminate()
        self._process.join(timeout=2.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def close(self) -> None:
        """End the process; what is asked afterwards is answered ``None``."""
        with self._turn:
            if not self._closed:
                self._closed = True
                self._stop()


def _serve(pipe: Connection, encoder: str, head: str, threads: int) -> None:
    read, model = load(Path(encoder), Path(head), threads)
    pipe.send_bytes(b'{"id": 0}')
    while True:
        try:
            asked = json.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        prompts = [Prompt(**prompt) for prompt in asked["prompts"]]
        scores = model.predict(prompts, read.embed([prompt.text for prompt in prompts]))
        answer = {name: getattr(scores, name).tolist() for name in _FIELDS}
        try:
            pipe.send_bytes(json.dumps({"id": asked["id"], **answer}).encode())
        except (BrokenPipeError, OSError):
            return
