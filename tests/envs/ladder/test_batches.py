"""Batches: the same whatever the workers, taken up anywhere, and only answers are learned."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from envs.ladder.batches import IGNORED, LONGEST, Stream, batches, encoder
from envs.ladder.vocabulary import END, SPECIAL
from envs.tasks import task_at

ORDER = Stream(seed=3, tokens=8192, noise=0.0)


@pytest.fixture(scope="module")
def group() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(batch.tokens, batch.targets) for batch in ORDER.group(0)]


def test_no_batch_is_larger_than_allowed_and_little_is_padding(
    group: list[tuple[torch.Tensor, torch.Tensor]],
) -> None:
    assert all(tokens.numel() <= ORDER.tokens for tokens, _ in group)
    assert all(tokens.shape[1] <= LONGEST for tokens, _ in group)
    padding = sum(int((tokens == 0).sum()) for tokens, _ in group) / sum(tokens.numel() for tokens, _ in group)
    assert padding < 0.25


def test_the_targets_are_the_answers_shifted_by_one(group: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    task = task_at(3, 0)
    prompt, answer = encoder().prompt(task.prompt), encoder().answer(task.worked)
    row = torch.tensor((prompt + answer)[:-1], dtype=torch.int16)
    rows = [
        (tokens[i], targets[i])
        for tokens, targets in group
        for i in range(len(tokens))
        if tokens.shape[1] >= len(row) and torch.equal(tokens[i, : len(row)], row)
    ]
    assert len(rows) == 1
    targets = rows[0][1].tolist()
    assert targets[: len(prompt) - 1] == [IGNORED] * (len(prompt) - 1)
    assert targets[len(prompt) - 1 : len(row)] == answer
    assert answer[-1] == SPECIAL.index(END)
    assert set(targets[len(row) :]) <= {IGNORED}


def test_a_group_is_a_function_of_its_number(group: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    again = ORDER.group(0)
    assert all(torch.equal(batch.tokens, tokens) for batch, (tokens, _) in zip(again, group, strict=True))
    assert not torch.equal(ORDER.group(1)[0].tokens, again[0].tokens)


def test_a_run_can_be_taken_up_at_any_batch() -> None:
    first = list(islice(batches(ORDER), 8))
    place = first[4][0]
    later = list(islice(batches(ORDER, place + 1), 3))
    assert [p for p, _ in later] == [p for p, _ in first[5:]]
    assert all(torch.equal(a.tokens, b.tokens) for (_, a), (_, b) in zip(later, first[5:], strict=True))


def test_workers_do_not_change_the_order() -> None:
    alone = list(islice(batches(ORDER), 4))
    helped = list(islice(batches(ORDER, workers=2), 4))
    assert [place for place, _ in helped] == [place for place, _ in alone]
    assert all(torch.equal(a.targets, b.targets) for (_, a), (_, b) in zip(alone, helped, strict=True))
