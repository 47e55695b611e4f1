"""Adversarial arrivals and ends for tests of fairness, and how far they drive two tenants apart."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

from hypothesis import strategies as st

from controller.pipeline import ControlPlane
from controller.settings import ControlSettings
from controller.types import Usage
from tests.controller.planes import submit

TENANTS = ("a", "b", "gold")
LONGEST_PROMPT, LONGEST_OUTPUT = 200, 60

Step = tuple[str, str, int, int, int]
"""``submit`` | ``finish`` | ``stream`` | ``abort``, tenant, prompt tokens, output tokens, which one."""


def steps() -> st.SearchStrategy[list[Step]]:
    """Mostly bursts of arrivals, so that there is a backlog, and ends in any order."""
    kinds = st.sampled_from(["submit", "submit", "submit", "finish", "finish", "stream", "abort"])
    numbers = st.integers(1, LONGEST_PROMPT), st.integers(1, LONGEST_OUTPUT), st.integers(0, 9)
    return st.lists(st.tuples(kinds, st.sampled_from(TENANTS), *numbers), min_size=5, max_size=80)


class _Gaps:
    """The most by which the weighted service of two tenants grew apart while both waited all along."""

    def __init__(self) -> None:
        self.widest = 0.0
        self._range: dict[tuple[str, str], tuple[float, float]] = {}

    def look(self, service: dict[str, float], waits: set[str]) -> None:
        """After each thing that happens."""
        for pair in combinations(TENANTS, 2):
            if not waits.issuperset(pair):
                self._range.pop(pair, None)
                continue
            ahead = service[pair[0]] - service[pair[1]]
            low, high = self._range.get(pair, (math.inf, -math.inf))
            low, high = min(low, ahead), max(high, ahead)
            self._range[pair] = low, high
            self.widest = max(self.widest, high - low)


def widest_gap(control: ControlPlane, script: list[Step], limits: ControlSettings) -> float:
    """Play the steps, then serve what waits, one after the other; the gap of prompt tokens sent and output tokens
    written (which count twice), divided by the tenants' weights. Aborted requests keep what they had."""
    service = dict.fromkeys(TENANTS, 0.0)
    waiting: Counter[str] = Counter()
    asked: dict[str, tuple[str, int, int]] = {}
    running: list[str] = []
    written: Counter[str] = Counter()
    gaps = _Gaps()

    def write(name: str, total: int) -> None:
        tenant = asked[name][0]
        service[tenant] += 2 * (total - written[name]) / limits.tenant(tenant).weight
        written[name] = total

    def finish(name: str) -> None:
        running.remove(name)
        _, prompt, output = asked[name]
        write(name, max(output, written[name]))
        control.on_finish(name, Usage(prompt, written[name]), now)

    def send() -> None:
        for dispatch in control.dispatch(now):
            tenant, prompt, _ = asked[dispatch.ticket]
            running.append(dispatch.ticket)
            waiting[tenant] -= 1
            service[tenant] += prompt / limits.tenant(tenant).weight
            gaps.look(service, {name for name, count in waiting.items() if count})

    now = 0.0
    for number, (kind, tenant, prompt, output, which) in enumerate(script):
        now += 1.0
        if kind == "submit":
            asked[f"{number}"] = tenant, prompt, output
            waiting[tenant] += 1
            submit(control, f"{number}", now, tenant=tenant, prompt_tokens=prompt, prefix=())
        elif running:
            name = running[which % len(running)]
            if kind == "finish":
                finish(name)
            elif kind == "stream":
                write(name, max(written[name], asked[name][2] // 2))
                control.on_tokens(name, written[name], now)
            else:
                running.remove(name)
                control.on_abort(name, now)
        send()
        gaps.look(service, {name for name, count in waiting.items() if count})
    while running:
        now += 1.0
        finish(running[0])
        send()
        gaps.look(service, {name for name, count in waiting.items() if count})
    assert not +waiting, "everything was served"
    return gaps.widest


def apart(control: ControlPlane, rounds: int = 60) -> float:
    """Two tenants whose prompts draw each to a worker of its own, one with much more to compute in each request: both
    workers end a request in each round. The widest gap between the two in what a request without a cache would cost."""
    sizes = {"a": (10, 1), "b": (LONGEST_PROMPT, LONGEST_OUTPUT)}
    service = dict.fromkeys(TENANTS, 0.0)
    gaps = _Gaps()
    running: list[str] = []
    for number in range(2 * rounds):
        for tenant, (prompt, _) in sizes.items():
            chain = (ord(tenant), ord(tenant) * 1000 + number)
            submit(control, f"{tenant}{number}", 0.0, tenant=tenant, prompt_tokens=prompt, prefix=chain)
        running += [dispatch.ticket for dispatch in control.dispatch(0.0)]
    for turn in range(rounds):
        now = 1.0 + turn
        for name in running:
            prompt, output = sizes[name[0]]
            control.on_finish(name, Usage(prompt, output), now)
            service[name[0]] += 2 * output + prompt / 2  # the first block is cached, the second is not
        running = [dispatch.ticket for dispatch in control.dispatch(now)]
        gaps.look(service, {"a", "b"})
    return gaps.widest
