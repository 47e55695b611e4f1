"""A simulated engine under the same loads as a live server, in simulated time: for rehearsals and tests."""

from __future__ import annotations

import numpy as np

from envs.calibration.loads import ClosedLoad, Load, OpenLoad, Recorded
from envs.engines.replay import replay
from predictors.latency.campaign import Sample
from predictors.latency.measurements import Latencies, Measurements
from predictors.latency.model import Profile


class SimulatedWorker:
    """A worker that is :class:`~envs.engines.sim.SimEngine`. ``noise`` (relative, log-normal) blurs its latencies."""

    def __init__(self, profile: Profile, *, noise: float = 0.0, seed: int = 0) -> None:
        self._profile = profile
        self._noise = noise
        self._rng = np.random.default_rng(seed)

    def run(self, load: Load) -> Recorded:
        """See :meth:`Worker.run`."""
        asked = _unmeasured(load)
        simulated = replay(self._profile, asked)
        blur = np.exp(self._rng.normal(0.0, self._noise, size=(3, len(asked))))
        seen = simulated.latencies
        columns = (seen.ttft * blur[0], seen.e2e * blur[1], seen.itl * blur[2])
        samples = [
            Sample(float(arrival), int(prompt), int(output), int(output), float(ttft), float(e2e), float(itl))
            for arrival, prompt, output, ttft, e2e, itl in zip(
                simulated.arrival, asked.prompt_tokens, asked.output_tokens, *columns, strict=True
            )
        ]
        return Recorded(samples, (0.0,), float((simulated.arrival + seen.e2e).max()))


def _unmeasured(load: Load) -> Measurements:
    if isinstance(load, OpenLoad):
        arrival, sizes = np.array(load.at), load.sizes
    else:
        arrival, sizes = np.zeros(load.requests), (load.sizes,) * load.requests
    unknown = np.full(len(sizes), np.nan)
    return Measurements(
        name=load.name,
        arrival=arrival,
        prompt_tokens=np.array([one.prompt_tokens for one in sizes], dtype=np.int64),
        output_tokens=np.array([one.output_tokens for one in sizes], dtype=np.int64),
        measured=Latencies(unknown, unknown, unknown),
        sha256="",
        concurrency=load.concurrency if isinstance(load, ClosedLoad) else None,
    )
