"""What ``benchmarks.fairness`` asks for: who wants what when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from controller.types import Ticket
from envs.fleet import FleetRequest
from envs.workloads import Arrival, Lengths

POOL: Final = "pool"
BLOCK: Final = 512
"""Tokens that one hash stands for, as in the trace."""
TENANTS: Final = 27
"""As many as in the trace of VTC's evaluation."""
_ZIPF: Final = 1.0

Floats = npt.NDArray[np.float64]


class Half(StrEnum):
    """Of the trace, by time."""

    TUNE = "tune"
    REPORT = "report"


def halves(arrivals: Sequence[Arrival], half: Half) -> list[Arrival]:
    """The first or the second half of the trace's time; the first of them comes at 0 s."""
    middle = arrivals[-1].at / 2.0
    chosen = [one for one in arrivals if (one.at < middle) == (half is Half.TUNE)]
    return [replace(one, at=one.at - chosen[0].at) for one in chosen]


def applications(half: Half, seed: int, rate: float = 120.0, duration: float = 80.0) -> list[Arrival]:
    """Poisson arrivals of short questions to applications, each of which begins all its prompts with the same long
    instructions (median 8,000 tokens). A tenant has four of them; load is skewed by Zipf's law twice over, between
    tenants and between a tenant's applications."""
    rng = np.random.default_rng([seed, 43, half is Half.TUNE])
    tenants = rng.choice(TENANTS, int(rate * duration), p=zipf(TENANTS)).tolist()
    which = rng.choice(4, len(tenants), p=zipf(4)).tolist()
    blocks = np.clip(np.exp(rng.normal(np.log(8000.0), 0.6, (TENANTS, 4))) // BLOCK, 2, 60).astype(int)
    at = np.cumsum(rng.exponential(1.0 / rate, len(tenants))).tolist()
    found = []
    for when, tenant, one in zip(at, tenants, which, strict=True):
        chain = tuple((tenant * 4 + one) * 1000 + block for block in range(int(blocks[tenant, one])))
        prompt, output = len(chain) * BLOCK + int(rng.integers(20, 400)), int(rng.geometric(1.0 / 60.0))
        found.append(Arrival(when, lengths=Lengths(prompt, output, chain, BLOCK), tenant=f"t{tenant:02}"))
    return found


def zipf(count: int) -> Floats:
    """Shares of so many, which add up to 1."""
    weights: Floats = 1.0 / np.arange(1, count + 1, dtype=np.float64) ** _ZIPF
    weights /= weights.sum()
    return weights


def dealt(arrivals: Sequence[Arrival], speed: float, seed: int) -> list[FleetRequest]:
    """As a fleet takes them, ``speed`` times as fast; a conversation without a tenant is given one by Zipf's law."""
    rng = np.random.default_rng([seed, 41])
    owners: dict[int, str] = {}
    requests = []
    for index, arrival in enumerate(arrivals):
        sizes = arrival.lengths
        assert sizes is not None
        talk = sizes.prefix[1] if len(sizes.prefix) > 1 else -1 - index
        if talk not in owners:
            drawn = f"t{rng.choice(TENANTS, p=zipf(TENANTS)):02}"
            owners[talk] = drawn if arrival.tenant == "default" else arrival.tenant
        ticket = Ticket(
            str(index), POOL, owners[talk], prompt_tokens=sizes.prompt_tokens, prefix=sizes.prefix, session=str(talk)
        )
        outputs = {POOL: sizes.output_tokens}
        requests.append(FleetRequest(arrival.at / speed, ticket, sizes.prompt_tokens, outputs, None, index))
    return requests
