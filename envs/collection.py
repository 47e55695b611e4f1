"""Running prompts through live workers and keeping what came back, one row an answer.

Rows are appended to a journal beside the result as they come; the Parquet file appears in one piece at the end. A
journal left by an interrupted run is taken up again: only what failed or is missing is asked.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TextIO

from envs.prompts import Question
from envs.tasks import grade
from upstream.chat import Exchange, ask
from upstream.client import Client
from upstream.errors import UpstreamError
from upstream.types import Header, Timeouts
from upstream.vllm import VllmClient


class CollectionError(RuntimeError):
    """A collection cannot begin. Says why, and what would help."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server (root URL, without ``/v1``) and the model to ask it for."""

    url: str
    model: str


@dataclass(frozen=True, slots=True)
class Settings:
    """How each prompt is asked. ``samples`` answers of each model; ``seed`` + sample is sent as the request's seed."""

    samples: int = 1
    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    chat: bool = True
    concurrency: int = 8
    """Requests in flight at each target."""
    timeout_s: float = 600.0
    headers: tuple[Header, ...] = ()

    def fingerprint(self) -> dict[str, Any]:
        """What decides the answers, and so whether a journal may be continued."""
        names = ("max_tokens", "temperature", "seed", "chat")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Row:
    """One answer, or one failure (then ``error`` says what). Times are seconds from sending the request."""

    prompt_id: str
    prompt: str
    family: str | None
    level: int | None
    wording: str | None
    model: str
    """As asked for."""
    answered_by: str | None
    """As the answer says; behind a gateway, the pool's model."""
    target: str
    sample: int
    answer: str
    finish_reason: str | None
    prompt_tokens: int | None
    output_tokens: int | None
    ttft_s: float | None
    e2e_s: float
    correct: bool | None
    """``None`` where the answer cannot be checked."""
    status: int
    error: str | None

    @property
    def key(self) -> tuple[str, str, int]:
        """What identifies a row: prompt, model, sample."""
        return self.prompt_id, self.model, self.sample


Done = Callable[[Row], None]


async def targets_of(urls: Sequence[str], models: Sequence[str], headers: tuple[Header, ...] = ()) -> list[Target]:
    """Pair each server with the models to ask it for: those of ``models`` that it has, or the only one it has.

    Raises:
        CollectionError: a server cannot be reached, or which model to ask for is not clear.
    """
    async with Client() as client:
        found = [target for url in urls for target in await _of_server(client, url.rstrip("/"), models, headers)]
    missing = [model for model in models if model not in {target.model for target in found}]
    if missing:
        raise CollectionError(f"no target serves {', '.join(missing)}")
    return found


async def _of_server(client: Client, url: str, models: Sequence[str], headers: tuple[Header, ...]) -> list[Target]:
    try:
        served = [card.id for card in await VllmClient(client, url).models()]
    except (UpstreamError, ValueError) as error:
        raise CollectionError(f"{url} does not list its models: {error}") from error
    if not models and len(served) != 1:
        raise CollectionError(f"{url} serves {', '.join(served) or 'no model'}; choose with --model")
    return [Target(url, model) for model in (models or served) if model in served]


async def collect(
    questions: Sequence[Question], targets: Sequence[Target], settings: Settings, journal: Journal, done: Done
) -> None:
    """Ask every model every question ``samples`` times; each row goes to the journal, then to ``done``.

    Servers of the same model share its questions. Cancelling leaves what has come so far in the journal.
    """
    async with Client() as client, asyncio.TaskGroup() as group:
        for model in dict.fromkeys(target.model for target in targets):
            work = _work(questions, model, settings, journal)
            for target in (target for target in targets if target.model == model):
                for _ in range(settings.concurrency):
                    group.create_task(_worker(client, target, work, settings, journal, done))


def _work(
    questions: Sequence[Question], model: str, settings: Settings, journal: Journal
) -> Iterator[tuple[Question, int]]:
    pairs = ((question, sample) for sample in range(settings.samples) for question in questions)
    return ((question, sample) for question, sample in pairs if (question.id, model, sample) not in journal.finished)


async def _worker(
    client: Client,
    target: Target,
    work: Iterator[tuple[Question, int]],
    settings: Settings,
    journal: Journal,
    done: Done,
) -> None:
    for question, sample in work:
        row = await _one(client, target, question, sample, settings)
        journal.append(row)
        done(row)


async def _one(client: Client, target: Target, question: Question, sample: int, settings: Settings) -> Row:
    body: dict[str, Any] = {
        "model": target.model,
        "max_tokens": settings.max_tokens,
        "temperature": settings.temperature,
        "seed": settings.seed + sample,
    }
    path = "chat/completions" if settings.chat else "completions"
    body |= {"messages": question.chat} if settings.chat else {"prompt": question.prompt}
    timeouts = Timeouts(first_byte=settings.timeout_s, idle=settings.timeout_s, total=settings.timeout_s)
    url = f"{target.url}/v1/{path}"
    exchange = await ask(client, url, body, headers=settings.headers, timeouts=timeouts)
    return _row(target, question, sample, exchange)


def _row(target: Target, question: Question, sample: int, exchange: Exchange) -> Row:
    task = question.task
    checkable = task is not None and exchange.error is None
    return Row(
        prompt_id=question.id,
        prompt=question.prompt,
        family=task.family if task else None,
        level=task.level if task else None,
        wording=task.wording if task else None,
        model=target.model,
        answered_by=exchange.model,
        target=target.url,
        sample=sample,
        answer=exchange.text,
        finish_reason=exchange.finish_reason,
        prompt_tokens=exchange.prompt_tokens,
        output_tokens=exchange.output_tokens,
        ttft_s=exchange.ttft,
        e2e_s=exchange.e2e,
        correct=grade(task, exchange.text) if task is not None and checkable else None,
        status=exchange.status,
        error=exchange.error,
    )


class Journal:
    """Rows as JSON lines, flushed one by one. Its first line says what was asked, so that only the same is resumed."""

    def __init__(self, path: Path, fingerprint: Mapping[str, Any]) -> None:
        """Open, or continue, the journal at ``path``.

        Raises:
            CollectionError: it was begun with another fingerprint.
        """
        self.path = path
        self._rows = {row.key: row for row in self._read(dict(fingerprint)) if row.error is None}
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.new")
        self._file: TextIO = fresh.open("w", encoding="utf-8")
        self._write(dict(fingerprint))
        for row in self._rows.values():
            self._write(asdict(row))
        fresh.replace(path)

    @property
    def finished(self) -> Mapping[tuple[str, str, int], Row]:
        """Rows that need not be asked for again."""
        return self._rows

    @property
    def rows(self) -> list[Row]:
        """Every row so far, failures included."""
        return list(self._rows.values())

    def append(self, row: Row) -> None:
        """Keep a row, on disk too."""
        self._rows[row.key] = row
        self._write(asdict(row))

    def close(self, *, discard: bool) -> None:
        """Close the file, and delete it when its rows are safe elsewhere."""
        self._file.close()
        if discard:
            self.path.unlink()

    def _write(self, entry: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def _read(self, fingerprint: dict[str, Any]) -> list[Row]:
        if not self.path.exists():
            return []
        head, *lines = self.path.read_text(encoding="utf-8").splitlines() or ["{}"]
        if lines and json.loads(head) != fingerprint:
            raise CollectionError(f"{self.path} was begun with other settings ({head}); give --fresh to begin anew")
        names = {field.name for field in fields(Row)}
        entries = (entry for line in lines if (entry := _entry(line)) is not None and entry.keys() == names)
        return [Row(**entry) for entry in entries]


def _entry(line: str) -> dict[str, Any] | None:
    """A line of the journal; ``None`` for the last one of a run that was killed while writing it."""
    try:
        entry: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return None
    return entry


def write_parquet(rows: Sequence[Row], path: Path, settings: Mapping[str, Any]) -> None:
    """Write all rows in one piece; ``settings`` go into the file's metadata under ``headway``."""
    import pyarrow
    import pyarrow.parquet

    ordered = sorted(rows, key=lambda row: row.key)
    columns = {name: [getattr(row, name) for row in ordered] for name in _schema()}
    schema = pyarrow.schema([pyarrow.field(name, pyarrow.type_for_alias(kind)) for name, kind in _schema().items()])
    table = pyarrow.table(columns, schema=schema.with_metadata({"headway": json.dumps(dict(settings), default=str)}))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    pyarrow.parquet.write_table(table, partial, compression="zstd")
    partial.replace(path)


def read_parquet(path: Path) -> tuple[list[Row], Mapping[str, Any]]:
    """Rows and settings as :func:`write_parquet` wrote them.

    Raises:
        CollectionError: no such file, or not one that headway collected.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise CollectionError(f"{path} cannot be read: {error}") from error
    missing = [name for name in _schema() if name not in table.column_names]
    settings = (table.schema.metadata or {}).get(b"headway")
    if missing or settings is None:
        why = f"it has no column {', '.join(missing)}" if missing else "it does not say how it was asked"
        raise CollectionError(f"{path} is not what headway collect writes: {why}")
    return [Row(**entry) for entry in table.select(list(_schema())).to_pylist()], json.loads(settings)


def _schema() -> dict[str, str]:
    kinds = {"level": "int32", "sample": "int32", "status": "int32", "prompt_tokens": "int32", "output_tokens": "int32"}
    kinds |= {"ttft_s": "double", "e2e_s": "double", "correct": "bool"}
    return {field.name: kinds.get(field.name, "string") for field in fields(Row)}
