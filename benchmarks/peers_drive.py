"""The load generator of ``benchmarks.peers``: several processes that ask a workload's conversations of one URL.

A turn is asked at its recorded time, or when the answer before it has ended, whichever is later, and timed from then:
what the generator is late by counts. A failed turn does not end its conversation, whose later turns carry recorded
answers.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Final

from benchmarks.asking import ask, ending_after
from benchmarks.peers_workload import Session, Workload, read
from cli.bench.gateway_wrk import LoadError
from upstream.client import Client
from upstream.types import Header

_STARTING_S: Final = 0.5
"""From when all processes have read the workload to its time 0."""
_PATIENCE_S: Final = 120.0
"""For processes to start."""


@dataclass(frozen=True, slots=True)
class Target:
    """Who is asked, and how. ``own_answers``: the model ends its answers itself, and their lengths are not set."""

    url: str
    model: str
    own_answers: bool = False
    chat: bool = True
    patience_s: float = 900.0


@dataclass(frozen=True, slots=True)
class Told:
    """What became of a request, in seconds from ``at``, when it was due; failed ones have an ``error``."""

    system: str
    level: str
    run: str
    tenant: str
    session: str
    turn: int
    at: float
    ttft: float
    e2e: float
    prompt_tokens: int
    output_tokens: int
    recorded_tokens: int
    status: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One process's part: every ``parts``-th session from the ``part``-th. ``run`` salts the system prompts too."""

    path: Path
    part: int
    parts: int
    target: Target
    system: str
    run: str


def drive(path: Path, target: Target, system: str, run: str, processes: int) -> list[Told]:
    """Ask all of a workload's requests; what became of each, in order of when it was due.

    Raises:
        LoadError: a process of the generator ended before it had told.
    """
    context = get_context("spawn")
    together = context.Barrier(processes)
    told: list[Told] = []
    started = []
    for part in range(processes):
        ours, theirs = context.Pipe(duplex=False)
        task = Task(path, part, processes, target, system, run)
        process = context.Process(target=_part, args=(task, together, theirs), daemon=True)
        process.start()
        theirs.close()
        started.append((process, ours))
    for process, ours in started:
        try:
            told += ours.recv()
        except EOFError as error:
            raise LoadError("a process of the load generator ended; what it said is above") from error
        process.join()
    return sorted(told, key=lambda one: one.at)


def _part(task: Task, together: Barrier, sender: Connection) -> None:
    workload = read(task.path)
    together.wait(_PATIENCE_S)
    sender.send(asyncio.run(_conversations(workload, task)))


async def _conversations(workload: Workload, task: Task) -> list[Told]:
    start = time.monotonic() + _STARTING_S
    async with Client(idle_per_origin=4096) as client:
        sessions = workload.sessions[task.part :: task.parts]
        rows = await asyncio.gather(*(_conversation(client, workload, one, task, start) for one in sessions))
    return [one for each in rows for one in each]


async def _conversation(client: Client, workload: Workload, session: Session, task: Task, start: float) -> list[Told]:
    ended, rows = start, []
    for number, turn in enumerate(session.turns):
        if turn.at < 0:
            continue
        due = max(start + turn.at, ended)
        body = _body(workload, session, number, task)
        await asyncio.sleep(due - time.monotonic())
        target = task.target
        url = f"{target.url}/v1/{'chat/completions' if target.chat else 'completions'}"
        answer = await ask(client, url, _headers(session, task.run), body, target.patience_s)
        ended = answer.ended
        rows.append(
            Told(
                task.system,
                workload.shape.name,
                task.run,
                session.tenant,
                session.name,
                number,
                due - start,
                answer.first - due,
                answer.ended - due,
                answer.prompt_tokens,
                answer.output_tokens,
                turn.question.output_tokens,
                answer.status,
                answer.error,
            )
        )
    return rows


def _body(workload: Workload, session: Session, number: int, task: Task) -> bytes:
    messages = workload.messages(session, number, task.run)
    body: dict[str, Any] = {
        "model": task.target.model,
        "max_tokens": workload.shape.max_tokens,
        "temperature": 1.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if task.target.chat:
        body["messages"] = messages
    else:
        body["prompt"] = "\n\n".join(f"{one['role']}: {one['content']}" for one in messages) + "\n\nassistant:"
    if not task.target.own_answers:
        body |= ending_after(session.turns[number].question.output_tokens)
    return json.dumps(body).encode()


def _headers(session: Session, run: str) -> list[Header]:
    """Whose request it is, and of which conversation; routers that know neither pass them on."""
    return [
        (b"content-type", b"application/json"),
        (b"x-headway-tenant", session.tenant.encode()),
        (b"x-headway-session", f"{run}-{session.name}".encode()),
    ]
