"""``headway bench queue``: pushes and pops a second of one core with a long queue, for every order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from cli.collector import quiet
from cli.missing import fail
from cli.report import Label, Report

if TYPE_CHECKING:
    from controller.protocols import OrderContext, OrderStage
    from predictors.types import Interval

TARGET: Final = 200_000.0
"""Pushes with a pop each, a second."""
_QUEUES: Final = ("heap", "pool")
_GAP_S: Final = 0.0006
"""Between two arrivals: a hundred thousand come in a minute."""
_SESSIONS: Final = 1000
_RESAMPLES: Final = 1000

Push = Callable[[object, float, int], object]
Pop = Callable[[], object]


@dataclass(frozen=True, slots=True)
class _Work:
    """What is queued under one order: the first ``queued`` stay in the line, the others are pushed as one is popped."""

    contexts: Sequence[OrderContext]
    keys: Sequence[float]
    queued: int


def queue(
    queued: Annotated[int, typer.Option(min=1, help="Requests in the queue.")] = 100_000,
    operations: Annotated[int, typer.Option(min=100, help="Pushes with a pop each, in one repetition.")] = 50_000,
    repetitions: Annotated[int, typer.Option(min=1, help="Of each case.")] = 7,
    only: Annotated[list[str] | None, typer.Option(help="Order to measure; repeat; all if left out.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report here.")] = None,
) -> None:
    """Push and pop at a steady length, for every order's keys: in the heap alone, and in a pool's queue of groups.

    ``keyed`` is a pool's queue, with asking the order stage for the key of each request.
    """
    from controller.stages import names

    orders = names("order")
    if unknown := sorted(set(only or ()) - set(orders)):
        raise fail(f"no order is called {', '.join(unknown)}; there are {', '.join(orders)}")
    settings = {"queued": queued, "operations": operations, "repetitions": repetitions, "target_per_s": TARGET}
    report = Report("bench queue", seed, settings)
    for order in orders:
        if only and order not in only:
            continue
        for case, speed in _measured(order, queued, operations, repetitions, seed):
            labels: dict[str, Label] = {"order": order, "queue": case, "met": speed.value >= TARGET}
            report.row(labels, {"push_pop_per_s": speed, "microseconds": 1e6 / speed.value})
    report.write(json_path)
    Console().print(_table(report, queued))


def _measured(order: str, queued: int, operations: int, repetitions: int, seed: int) -> Iterable[tuple[str, Interval]]:
    from controller.protocols import Resources
    from controller.stages import Catalogue

    def make() -> OrderStage:
        return Catalogue().order.create(order, None, Resources())

    work = _work(make(), queued, operations, seed)
    for case in _QUEUES:
        yield case, _interval([_time(work, *_empty(case), None) for _ in range(repetitions)], seed)
    yield "keyed", _interval([_time(work, *_empty("pool"), make()) for _ in range(repetitions)], seed)


def _work(order: OrderStage, queued: int, operations: int, seed: int) -> _Work:
    """Requests of log-normal sizes, predicted with noise, a fifth of them in sessions, and their keys."""
    import numpy as np

    from controller.order import LearnsFromEnds
    from controller.protocols import OrderContext
    from controller.types import Scores, Ticket

    rng, count = np.random.default_rng(seed), queued + operations
    tokens = np.ceil(rng.lognormal(5.0, 1.0, count)).tolist()
    prompts = np.ceil(rng.lognormal(6.0, 1.0, count)).astype(int).tolist()
    sessions = rng.integers(0, 5 * _SESSIONS, count).tolist()
    contexts = []
    for i, (expected, prompt, session) in enumerate(zip(tokens, prompts, sessions, strict=True)):
        at, name = i * _GAP_S, f"s{session}" if session < _SESSIONS else None
        ticket = Ticket(f"{i}", "m", prompt_tokens=prompt, max_tokens=2048, deadline=at + prompt / 10.0, session=name)
        scores = Scores(expected, expected, output_tail=3.0 * expected)
        contexts.append(OrderContext(ticket, at, scores, prompt, min(2048, round(expected))))
    if isinstance(order, LearnsFromEnds):
        for context in contexts[:queued]:
            order.ended(context.ticket, context.expected_output)
    return _Work(contexts, [order.key(context) for context in contexts], queued)


def _empty(case: str) -> tuple[Push, Pop]:
    from controller.queue import KeyedHeap, PoolQueue

    if case == "heap":
        heap = KeyedHeap[object]()
        return heap.push, heap.pop
    pool = PoolQueue[object]()

    def push(item: object, key: float, tie: int) -> object:
        return pool.push("", item, key, tie)

    def pop() -> object:
        return pool.pop("")

    return push, pop


def _time(work: _Work, push: Push, pop: Pop, order: OrderStage | None) -> float:
    """Operations a second, with the queue filled beforehand."""
    items = [object() for _ in work.keys]
    for i in range(work.queued):
        push(items[i], work.keys[i], i)
    rest = range(work.queued, len(items))
    with quiet():
        started = time.process_time()
        if order is None:
            for i in rest:
                push(items[i], work.keys[i], i)
                pop()
        else:
            for i in rest:
                push(items[i], order.key(work.contexts[i]), i)
                pop()
        return len(rest) / (time.process_time() - started)


def _interval(speeds: Sequence[float], seed: int) -> Interval:
    """The median with the 95 % interval of its bootstrap."""
    import numpy as np

    from predictors.types import Interval

    draws = np.median(np.random.default_rng(seed).choice(speeds, (_RESAMPLES, len(speeds))), axis=1)
    lo, hi = np.quantile(draws, (0.025, 0.975))
    return Interval(float(np.median(speeds)), float(lo), float(hi))


def _table(report: Report, queued: int) -> Table:
    table = Table(title=f"Pushes with a pop each, a second, {queued:,} queued", title_justify="left")
    for heading in ("order", "queue"):
        table.add_column(heading, no_wrap=True)
    for heading in ("median", "from", "to", "met"):
        table.add_column(heading, justify="right", no_wrap=True)
    for labels, metrics in report.results:
        speed = metrics["push_pop_per_s"]
        assert speed is not None
        assert not isinstance(speed, int | float)
        numbers = (f"{round(number):,}" for number in (speed.value, speed.lo, speed.hi))
        table.add_row(str(labels["order"]), str(labels["queue"]), *numbers, "yes" if labels["met"] else "no")
    return table
