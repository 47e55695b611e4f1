"""Prompts to run through workers: from a file, or from the task suite."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.tasks import Split, Task, content_hash, generate

Messages = tuple[Mapping[str, Any], ...]
_FORMS = ".txt (a prompt a line), .jsonl, .csv, .csv.gz or .parquet (a column 'prompt')"


class PromptError(ValueError):
    """Prompts cannot be read. Says where, and what would be right."""


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt. ``task`` is there when the answer can be checked; ``messages`` when it is a chat of several turns."""

    id: str
    prompt: str
    task: Task | None = None
    messages: Messages | None = None

    @property
    def chat(self) -> list[Mapping[str, Any]]:
        """As the messages of a chat."""
        return [{"role": "user", "content": self.prompt}] if self.messages is None else list(self.messages)


def read_questions(source: str, seed: int = 0) -> list[Question]:
    """``tasks:SPLIT:COUNT`` (of the stream of ``seed``), or the path of a file. Repeated prompts are left out.

    Raises:
        PromptError: no such file, an unknown form, or no prompt in it.
    """
    if source.startswith("tasks:"):
        return _generated(source, seed)
    path = Path(source)
    if not path.is_file():
        raise PromptError(f"{source}: no such file; give tasks:SPLIT:COUNT or a file: {_FORMS}")
    questions = {question.id: question for question in _read(path)}
    if not questions:
        raise PromptError(f"{source}: holds no prompt")
    return list(questions.values())


def _generated(source: str, seed: int) -> list[Question]:
    _, *parts = source.split(":")
    if len(parts) != 2 or parts[0] not in list(Split) or not parts[1].isdecimal() or int(parts[1]) < 1:
        raise PromptError(
            f"{source}: write tasks:SPLIT:COUNT with SPLIT one of {', '.join(Split)}, like tasks:test:200"
        )
    tasks = generate(seed, int(parts[1]), parts[0])
    return [Question(content_hash(task.prompt), task.prompt, task) for task in tasks]


def _read(path: Path) -> Iterator[Question]:
    name = path.name.removesuffix(".gz")
    try:
        if name.endswith(".txt"):
            rows: Iterator[Mapping[str, Any]] = ({"prompt": line} for line in _text(path).splitlines() if line.strip())
        elif name.endswith(".jsonl"):
            rows = (json.loads(line) for line in _text(path).splitlines() if line.strip())
        elif name.endswith(".csv"):
            rows = csv.DictReader(_text(path).splitlines(keepends=True))
        elif name.endswith(".parquet"):
            rows = iter(_parquet(path))
        else:
            raise PromptError(f"{path}: unknown kind of file; known are {_FORMS}")
        yield from (_question(path, number, row) for number, row in enumerate(rows, 1))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise PromptError(f"{path}: cannot be read: {error}") from error


def _text(path: Path) -> str:
    raw = path.read_bytes()
    return (gzip.decompress(raw) if path.name.endswith(".gz") else raw).decode("utf-8")


def _parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise PromptError(f"{path}: not a Parquet file: {error}") from error
    return rows


def _question(path: Path, number: int, row: object) -> Question:
    if not isinstance(row, Mapping):
        raise PromptError(f"{path}, row {number}: not an object with a 'prompt'")
    messages, prompt = row.get("messages"), row.get("prompt")
    if messages is not None:
        return _conversation(path, number, messages, row)
    if not isinstance(prompt, str) or not prompt.strip():
        raise PromptError(f"{path}, row {number}: no 'prompt' (there is {', '.join(map(str, row)) or 'nothing'})")
    return Question(str(row.get("prompt_id") or content_hash(prompt)), prompt)


def _conversation(path: Path, number: int, messages: object, row: Mapping[str, Any]) -> Question:
    if not isinstance(messages, Sequence) or not messages or not all(isinstance(m, Mapping) for m in messages):
        raise PromptError(f"{path}, row {number}: 'messages' must be a list of messages with role and content")
    shown = "\n".join(str(message.get("content", "")) for message in messages)
    return Question(str(row.get("prompt_id") or content_hash(shown)), shown, messages=tuple(messages))
