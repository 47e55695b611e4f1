"""How long a decoding step of each model takes, at equal load and alone on the machine.

Every request generates exactly the same number of tokens, whatever the model would say. Rounds go through the models in
turn, so that what else the machine does in a while hits all of them, and ratios are taken within a round.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from envs.collection import Target
from upstream.client import Client
from upstream.errors import UpstreamError
from upstream.sse import DONE, EventBuffer, data, split
from upstream.types import Header, Timeouts

_LEAST_REQUESTS: Final = 4
"""In a round; where fewer are in flight they go in waves."""
_WARM_UP: Final = -1
"""Number of the round that is not counted."""


class StepTimeError(RuntimeError):
    """A server did not do what was asked of it. Says which, and how."""


@dataclass(frozen=True, slots=True)
class Load:
    """What each round asks: at each of ``in_flight``, requests of ``tokens`` output tokens."""

    in_flight: tuple[int, ...] = (1, 16)
    tokens: int = 128
    repeats: int = 9
    timeout_s: float = 600.0
    headers: tuple[Header, ...] = ()


@dataclass(frozen=True, slots=True)
class Round:
    """What one model did in one round."""

    model: str
    in_flight: int
    repeat: int
    step_s: float
    """Median over its requests of the seconds from one output token to the next."""
    tokens_per_s: float
    """Output tokens of all requests together, prefill included."""


@dataclass(frozen=True, slots=True)
class _Timed:
    """One request: its output tokens, and seconds a token where they came apart from each other."""

    tokens: int
    step_s: float | None


async def measure(
    prompts: Sequence[str], targets: Sequence[Target], load: Load, done: Callable[[], None]
) -> list[Round]:
    """All rounds of all targets, after one that is not counted; ``done`` is called as each ends.

    A round whose tokens all came at once, on a machine that is busy with other things, is left out.

    Raises:
        StepTimeError: a request failed, or had another number of tokens than it was to have; or no round can be timed.
    """
    rounds: list[Round] = []
    async with Client() as client:
        for repeat in range(_WARM_UP, load.repeats):
            turn = repeat % len(targets)
            for in_flight in load.in_flight:
                for target in (*targets[turn:], *targets[:turn]):
                    asked = _prompts(prompts, repeat - _WARM_UP, in_flight)
                    found = await _round(client, target, asked, load, (in_flight, repeat))
                    if repeat != _WARM_UP:
                        rounds += [] if found is None else [found]
                        done()
    for target in targets:
        if load.repeats and not any(one.model == target.model for one in rounds):
            raise StepTimeError(f"{target.model} at {target.url} sent its tokens all at once; is something buffering?")
    return rounds


def _prompts(prompts: Sequence[str], number: int, in_flight: int) -> list[str]:
    """Others in each round; the same for every model."""
    count = in_flight * -(-_LEAST_REQUESTS // in_flight)
    return [prompts[(number * count + place) % len(prompts)] for place in range(count)]


async def _round(
    client: Client, target: Target, prompts: Sequence[str], load: Load, number: tuple[int, int]
) -> Round | None:
    in_flight, repeat = number
    begun = time.perf_counter()
    timed: list[_Timed] = []
    for start in range(0, len(prompts), in_flight):
        wave = (_timed(client, target, prompt, load) for prompt in prompts[start : start + in_flight])
        timed += await asyncio.gather(*wave)
    elapsed = time.perf_counter() - begun
    steps = [one.step_s for one in timed if one.step_s is not None]
    if not steps:
        return None
    return Round(target.model, in_flight, repeat, median(steps), sum(one.tokens for one in timed) / elapsed)


async def _timed(client: Client, target: Target, prompt: str, load: Load) -> _Timed:
    body = {
        "model": target.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": load.tokens,
        "min_tokens": load.tokens,
        "ignore_eos": True,
        "temperature": 0.0,
        "return_token_ids": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    limits = Timeouts(first_byte=load.timeout_s, idle=load.timeout_s, total=load.timeout_s)
    headers = [(b"content-type", b"application/json"), *load.headers]
    url = f"{target.url}/v1/chat/completions"
    try:
        async with client.stream(
            b"POST", url, headers=headers, body=json.dumps(body).encode(), timeouts=limits
        ) as response:
            if response.status != 200:
                said = (await response.body())[:300].decode(errors="replace")
                raise StepTimeError(f"{target.model} at {url}: {said}")
            reading = _Reading()
            events = EventBuffer()
            async for chunk in response.chunks():
                now = time.perf_counter()
                for event in split(events.feed(chunk)):
                    reading.take(event, now)
    except (UpstreamError, ValueError) as error:
        raise StepTimeError(f"{target.model} at {url}: {error}") from error
    return reading.result(target, load.tokens)


class _Reading:
    """When the tokens of one stream came. A token without text (a special one, half a character) counts as well.

    A busy server sends several tokens in one event, and a busy client reads several events at once: a step is taken
    from the first read to the last, over the tokens that came after the first.
    """

    def __init__(self) -> None:
        self.reads: list[tuple[float, int]] = []
        """Time, and tokens until then."""
        self.seen = 0
        self.tokens = 0

    def take(self, event: bytes, now: float) -> None:
        payload = data(event)
        if payload is None or payload == DONE:
            return
        body: Mapping[str, Any] = json.loads(payload)
        new = sum(_tokens_in(choice) for choice in body.get("choices") or ())
        if new:
            self.seen += new
            if self.reads and self.reads[-1][0] == now:
                self.reads.pop()
            self.reads.append((now, self.seen))
        self.tokens = (body.get("usage") or {}).get("completion_tokens", self.tokens)

    def result(self, target: Target, wanted: int) -> _Timed:
        if self.tokens != wanted or not self.reads:
            said = f"{self.tokens} output tokens, not {wanted}"
            raise StepTimeError(f"{target.model} at {target.url} sent {said}; is it a vLLM that knows ignore_eos?")
        (first, begun), (last, _) = self.reads[0], self.reads[-1]
        return _Timed(wanted, (last - first) / (wanted - begun) if begun < wanted and last > first else None)


def _tokens_in(choice: Mapping[str, Any]) -> int:
    return len(choice.get("token_ids") or ()) or bool((choice.get("delta") or {}).get("content"))
