"""Goodput: requests a second that were answered as they should have been, in two definitions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from controller.objectives.outcome import Objective, Served


def goodput(requests: Sequence[Served], seconds: float, objective: Objective | None = None) -> float:
    """Requests per second that were answered within their objective, as ``vllm bench serve --goodput`` counts them.

    A request is good if it keeps every limit that is named (a limit itself still counts as kept, and a single token
    has a time per output token of 0); and, beyond vLLM, its own deadline if it has one. 0 where there was no request.
    ``seconds`` is the length of the run, from the first arrival to the last answer.

    Raises:
        ValueError: the run has no length.
    """
    if not seconds > 0:
        raise ValueError(f"a run lasts longer than {seconds} s")
    wanted = objective or Objective()
    return sum(wanted.met(request) for request in requests) / seconds


def goodput_per_gpu(attained: Mapping[float, float | None], gpus: float, target: float = 0.9) -> float:
    """The greatest rate at which the objective was attained, per GPU: DistServe's goodput (Zhong et al., OSDI'24).

    ``attained`` maps a rate of arrivals in requests/s to the :func:`~controller.objectives.attainment` measured there;
    ``None`` (no request) attains nothing. ``target`` is the share of requests that must keep the objective. 0 where
    it was attained at no rate. :func:`~controller.objectives.search_capacity` finds the rate without measuring a grid.

    Raises:
        ValueError: no GPU, a target outside (0, 1], or a rate that is negative or not finite.
    """
    if not gpus > 0:
        raise ValueError(f"a fleet has more than {gpus} GPUs")
    if not 0 < target <= 1:
        raise ValueError(f"the share that must attain the objective lies above 0 and at most at 1, not at {target}")
    if any(not 0 <= rate < math.inf for rate in attained):
        raise ValueError(f"rates must be finite and not negative, not {sorted(attained)}")
    return max((rate for rate, share in attained.items() if share is not None and share >= target), default=0.0) / gpus
