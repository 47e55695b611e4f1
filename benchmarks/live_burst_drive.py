"""One run of ``benchmarks.live_burst``: a gateway and its clients, each a process of its own, before one server.

Hundreds of streams are thousands of events a second: where the clients share a process with the gateway, they wait for
each other, and the order of the queue no longer shows.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np
import uvloop

from benchmarks.asking import ask, ending_after
from controller.types import Scores
from predictors.types import Prompt

FCFS: Final = "fcfs"
ORACLE: Final = "oracle"
_MOST_TOKENS: Final = 4096
_MOST_OWN_TOKENS: Final = 1024
_FIRST_SEED: Final = 1000
"""Of requests for the model's own answers: beyond those with which samples are collected."""
_STARTING_S: Final = 60.0
_LEAD_S: Final = 1.0
"""From when all clients are ready to their time 0."""
_PATIENCE_S: Final = 900.0
_HEADERS: Final = ((b"content-type", b"application/json"),)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: when it comes (s), its text, how many tokens its answer has, and what each predictor makes of it."""

    at: float
    text: str
    output_tokens: float
    """With answers of the model's own, what it is on average."""
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Told:
    """What became of it, in seconds from its arrival ``at``; ``output_tokens`` as the server counted them."""

    policy: str
    repetition: int
    index: int
    at: float
    output_tokens: int
    ttft: float
    e2e: float
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Way:
    """How the server is asked. ``temperature`` is of the model's own answers, ``None`` where their lengths are set;
    ``refs`` are artifacts, in the store of ``home``, by the policies that they serve."""

    worker: str
    model: str
    max_inflight: int
    clients: int
    temperature: float | None
    refs: Mapping[str, str]
    home: Path | None


class Table:
    """Stands where predictors stand: looks up what one of them says of a text."""

    def __init__(self, asked: Sequence[Asked], predictor: str) -> None:
        scores = np.array([_score(one, predictor) for one in asked])
        places = (np.argsort(np.argsort(scores, kind="stable")) + 0.5) / len(scores)
        lengths = np.sort([one.output_tokens for one in asked])
        tokens = np.quantile(lengths, places)
        self._known = {
            one.text: Scores(float(place), float(expected))
            for one, place, expected in zip(asked, places, tokens, strict=True)
        }

    def score(self, prompts: Sequence[Prompt]) -> list[Scores]:
        """One row a prompt."""
        return [self._known.get(prompt.text, Scores()) for prompt in prompts]


def _score(one: Asked, predictor: str) -> float:
    return float(one.output_tokens) if predictor == ORACLE else one.scores.get(predictor, 0.0)


def measure(policy: str, repetition: int, asked: Sequence[Asked], way: Way) -> list[Told]:
    """Ask all of a load through a gateway with this policy.

    Raises:
        RuntimeError: the gateway or a client ended before its time, or the gateway found no worker ready.
    """
    context = get_context("spawn")
    url_of, sender = context.Pipe(duplex=False)
    gateway = context.Process(target=_serve, args=(policy, asked, way, sender), daemon=True)
    gateway.start()
    sender.close()
    try:
        url = _received(url_of, "the gateway did not start")
        pipes = []
        for part in range(way.clients):
            ours, theirs = context.Pipe()
            arguments = (policy, repetition, asked, part, way, url, theirs)
            context.Process(target=_client, args=arguments, daemon=True).start()
            theirs.close()
            pipes.append(ours)
        for pipe in pipes:
            _received(pipe, "a client did not start")
        start = time.monotonic() + _LEAD_S
        for pipe in pipes:
            pipe.send(start)
        told: list[Told] = []
        for pipe in pipes:
            told += _received(pipe, "a client ended early", None)
    finally:
        gateway.terminate()
        gateway.join(30.0)
    return sorted(told, key=lambda one: one.index)


def _received(pipe: Connection, otherwise: str, patience_s: float | None = _STARTING_S) -> Any:
    try:
        if pipe.poll(patience_s):
            return pipe.recv()
    except EOFError:
        pass
    raise RuntimeError(f"{otherwise}; what it said is above")


def _client(
    policy: str, repetition: int, asked: Sequence[Asked], part: int, way: Way, url: str, pipe: Connection
) -> None:
    """Every ``way.clients``-th request from the ``part``-th."""
    pipe.send(None)
    start: float = pipe.recv()
    mine = [(index, asked[index]) for index in range(part, len(asked), way.clients)]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        pipe.send(runner.run(_ask_all(policy, repetition, mine, start, way, url)))


async def _ask_all(
    policy: str, repetition: int, mine: Sequence[tuple[int, Asked]], start: float, way: Way, url: str
) -> list[Told]:
    from upstream.client import Client

    set_length = way.temperature is None
    address = f"{url}/v1/{'completions' if set_length else 'chat/completions'}"
    async with Client() as client:

        async def one(index: int, request: Asked) -> Told:
            fields = _set(request) if set_length else _own(request, way.temperature, _FIRST_SEED + repetition)
            always = {"model": way.model, "stream": True, "stream_options": {"include_usage": True}}
            body = json.dumps({**always, **fields}).encode()
            due = start + request.at
            await asyncio.sleep(due - time.monotonic())
            answer = await ask(client, address, _HEADERS, body, _PATIENCE_S)
            error = answer.error or (None if answer.output_tokens else "the answer has no token")
            times = answer.first - due, answer.ended - due
            return Told(policy, repetition, index, request.at, answer.output_tokens, *times, error)

        return list(await asyncio.gather(*(one(index, request) for index, request in mine)))


def _set(request: Asked) -> dict[str, Any]:
    """An answer that has the recorded length, whatever the weights."""
    return {
        "prompt": request.text,
        "max_tokens": _MOST_TOKENS,
        "temperature": 1.0,
        **ending_after(int(request.output_tokens)),
    }


def _own(request: Asked, temperature: float | None, seed: int) -> dict[str, Any]:
    """An answer that the model ends; the same for every policy of a repetition, as far as batches let it be."""
    messages = [{"role": "user", "content": request.text}]
    return {"messages": messages, "max_tokens": _MOST_OWN_TOKENS, "temperature": temperature, "seed": seed}


def _serve(policy: str, asked: Sequence[Asked], way: Way, pipe: Connection) -> None:
    """A gateway, until this process is ended; tells its URL when its worker is ready."""
    import uvicorn

    from controller.configuration import Configuration
    from controller.store import ArtifactStore, shipped_models
    from envs.engines.vllm_process import free_port
    from gateway.application import create_app
    from gateway.server import Waits, protocol

    scorer = None if policy == FCFS or policy in way.refs else Table(asked, policy)
    configuration = Configuration.model_validate({
        "pools": [{
            "name": "pool", "model": way.model, "tier": 0, "context_length": 8192,
            "workers": [
                {"name": "w", "url": way.worker, "max_inflight": way.max_inflight, "priority_scheduling": True},
            ],
        }],
        "limits": {"max_queue": 100_000, "max_queue_seconds": 3600},
        "stages": {"order": FCFS if policy == FCFS else "length_rank"},
        "scoring": {"length": way.refs.get(policy), "quality": None, "remaining": None, "when": "always"},
    })  # fmt: skip
    application = create_app(configuration, store=ArtifactStore(shipped_models(), way.home), scorer=scorer)
    port = free_port()
    settings = uvicorn.Config(
        application,
        host="127.0.0.1",
        port=port,
        http=protocol(application, Waits(60.0, 60.0, 900.0, 900.0), application.runtime.clients),
        lifespan="on",
        ws="none",
        log_level="warning",
        backlog=4096,
    )
    server = uvicorn.Server(settings)

    async def main() -> None:
        serving = asyncio.create_task(server.serve())
        while not serving.done() and not sum(application.runtime.ready_workers().values()):
            await asyncio.sleep(0.1)
        await asyncio.sleep(1.0)
        if not serving.done():
            pipe.send(f"http://127.0.0.1:{port}")
        await serving

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
