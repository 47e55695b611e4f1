"""Rows as a collection leaves them, without asking anybody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from envs.collection import Row
from envs.tasks import Task, content_hash


def row(task: Task, model: str, *, correct: bool, sample: int = 0, tokens: int = 20, cut: bool = False) -> Row:
    """An answer to a task."""
    return Row(
        prompt_id=content_hash(task.prompt),
        prompt=task.prompt,
        family=task.family,
        level=task.level,
        wording=task.wording,
        model=model,
        answered_by=model,
        target="http://127.0.0.1:1",
        sample=sample,
        answer="",
        finish_reason="length" if cut else "stop",
        prompt_tokens=10,
        output_tokens=tokens,
        ttft_s=0.1,
        e2e_s=0.5,
        correct=correct,
        status=200,
        error=None,
    )


def failure(task: Task, model: str) -> Row:
    """A request that no answer came to."""
    lost = row(task, model, correct=False)
    return replace(
        lost, correct=None, error="connection lost", output_tokens=None, ttft_s=None, status=0, finish_reason=None
    )


def rows_of(tasks: Sequence[Task], right: dict[str, Sequence[bool]]) -> list[Row]:
    """For each model, one answer a task."""
    return [
        row(task, model, correct=correct, tokens=10 + place)
        for model, marks in right.items()
        for place, (task, correct) in enumerate(zip(tasks, marks, strict=True))
    ]
