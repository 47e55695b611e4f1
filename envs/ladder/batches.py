"""Tasks as batches of tokens, in an order that depends on the seed alone.

Tasks come in groups; a group is sorted by length and cut into batches of about the same number of tokens, so that
little is padding, and the batches of a group are shuffled. A group is a pure function of the seed and its number:
workers may prepare several at a time, and a run can be taken up at any batch.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from random import Random
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from envs.ladder.rewording import reworded
from envs.ladder.vocabulary import Encoder, build
from envs.tasks import Split, stream, task_at

IGNORED: Final = -100
"""Target of a position that is not learned from: the prompt and the padding."""
LONGEST: Final = 1408
"""Tokens of prompt and answer; the few tasks beyond are left out."""
_GROUP = 8192
_STEP = 32
"""Rows are padded to a multiple of this."""
_VOCABULARY_SEED, _VOCABULARY_TASKS = 1, 15_000


@cache
def tokenizer() -> Tokenizer:
    """The ladder's tokenizer, always the same one; made in some seconds."""
    return build(islice(stream(_VOCABULARY_SEED, Split.TRAIN), _VOCABULARY_TASKS))


@cache
def encoder() -> Encoder:
    """Token ids by :func:`tokenizer`."""
    return Encoder(tokenizer())


@dataclass(frozen=True, slots=True)
class Batch:
    """``tokens`` and ``targets`` (rows, length): what is read, and what is to follow each token, or :data:`IGNORED`."""

    tokens: Tensor
    targets: Tensor


_Arrays = list[tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]]
"""Tokens and targets of a group's batches."""


@dataclass(frozen=True, slots=True)
class Stream:
    """What decides the order of batches.

    ``tokens`` is the most in one batch, padding included; ``noise`` the share of prompts that are reworded (see
    :mod:`envs.ladder.rewording`); ``practice`` the share of phrasings, and of instructions, that the suite itself does
    not use (see :func:`envs.tasks.task_at`).
    """

    seed: int
    tokens: int
    noise: float
    """Share of the prompts that are reworded; see :mod:`envs.ladder.rewording`."""
    practice: float = 0.0
    """Share of phrasings and instructions that the suite itself does not use; see :func:`envs.tasks.task_at`."""

    def group(self, number: int) -> list[Batch]:
        """The batches made from one group of tasks."""
        rows = [row for index in range(number * _GROUP, (number + 1) * _GROUP) if (row := self._row(index))]
        rows.sort(key=lambda row: len(row[0]))
        batches = []
        while rows:
            length = _padded(len(rows[-1][0]))
            count = max(1, self.tokens // length)
            batches.append(_batch(rows[-count:], length))
            del rows[-count:]
        Random(f"headway-ladder/{self.seed}/group/{number}").shuffle(batches)
        return batches

    def _row(self, index: int) -> tuple[list[int], int] | None:
        """Token ids of prompt and answer, and how many are the prompt's; ``None`` if there are too many."""
        task = task_at(self.seed, index, Split.TRAIN, practice=self.practice)
        rng = Random(f"headway-ladder/{self.seed}/noise/{index}")
        prompt = reworded(task, rng) if rng.random() < self.noise else task.prompt
        asked = encoder().prompt(prompt)
        ids = asked + encoder().answer(task.worked)
        return (ids, len(asked)) if len(ids) <= LONGEST else None


def _padded(length: int) -> int:
    """The input is a token shorter than the row: the last token is only a target."""
    return -(-(length - 1) // _STEP) * _STEP


def _batch(rows: Sequence[tuple[list[int], int]], length: int) -> Batch:
    tokens: npt.NDArray[np.int16] = np.zeros((len(rows), length), dtype=np.int16)
    targets = np.full((len(rows), length), IGNORED, dtype=np.int16)
    for place, (ids, asked) in enumerate(rows):
        tokens[place, : len(ids) - 1] = ids[:-1]
        targets[place, asked - 1 : len(ids) - 1] = ids[asked:]
    return Batch(torch.from_numpy(tokens), torch.from_numpy(targets))


class _Groups(IterableDataset[_Arrays]):
    """Groups from ``first`` on; with several workers, they take turns, and the loader keeps the order."""

    def __init__(self, stream: Stream, first: int) -> None:
        self.stream = stream
        self.first = first

    def __iter__(self) -> Iterator[_Arrays]:
        worker = get_worker_info()
        offset, step = (worker.id, worker.num_workers) if worker else (0, 1)
        number = self.first + offset
        while True:
            yield [(batch.tokens.numpy(), batch.targets.numpy()) for batch in self.stream.group(number)]
            number += step


def batches(order: Stream, skip: int = 0, workers: int = 0) -> Iterator[tuple[int, Batch]]:
    """Batches in order, each with the place ``group * 2**20 + batch`` to give as ``skip`` to begin with it."""
    first, inside = divmod(skip, 2**20)
    encoder()  # made once, before the workers begin
    loader = DataLoader(
        _Groups(order, first),
        batch_size=None,
        collate_fn=_as_it_is,
        worker_init_fn=_left_alone,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        multiprocessing_context="fork" if workers else None,
    )
    for number, group in enumerate(loader, first):
        for place, (tokens, targets) in enumerate(group):
            if number > first or place >= inside:
                yield number * 2**20 + place, Batch(torch.from_numpy(tokens), torch.from_numpy(targets))


def _left_alone(_: int) -> None:
    """Ctrl-C is for the process that trains, which ends its workers when it is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _as_it_is(group: _Arrays) -> _Arrays:
    """Arrays come from the workers by value; tensors would each hold two open files until they are used."""
    return group
