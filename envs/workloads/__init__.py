"""When requests come, and what they ask for: seeded, streaming, without end unless bounded.

Arrival processes give times (:mod:`~envs.workloads.processes`, :mod:`~envs.workloads.curves`), sources give requests
(:mod:`~envs.workloads.sources`), :func:`arrivals` joins them; :func:`conversations` makes turns whose prompts grow, and
:func:`mixed` lays tenants over one another. Rates are requests per second, times seconds from the workload's start.
"""

from envs.workloads.conversations import Conversations, Pace, Transcript, Turn, conversations, interleaved
from envs.workloads.curves import Diurnal, Ramp, Sinusoid, Step
from envs.workloads.processes import MMPP, ArrivalProcess, Bursty, Gamma, Poisson, Superposition
from envs.workloads.requests import PREFIX_BLOCK, Arrival, Lengths
from envs.workloads.sources import (
    Blend,
    EmpiricalLengths,
    GivenTasks,
    Histogram,
    LengthSource,
    LogNormalLengths,
    Request,
    RequestSource,
    Scaled,
    Source,
    TaskSource,
    TimedSource,
    Trend,
)
from envs.workloads.workload import Demand, TenantLoad, arrivals, bursty, mixed

__all__ = [
    "MMPP",
    "PREFIX_BLOCK",
    "Arrival",
    "ArrivalProcess",
    "Blend",
    "Bursty",
    "Conversations",
    "Demand",
    "Diurnal",
    "EmpiricalLengths",
    "Gamma",
    "GivenTasks",
    "Histogram",
    "LengthSource",
    "Lengths",
    "LogNormalLengths",
    "Pace",
    "Poisson",
    "Ramp",
    "Request",
    "RequestSource",
    "Scaled",
    "Sinusoid",
    "Source",
    "Step",
    "Superposition",
    "TaskSource",
    "TenantLoad",
    "TimedSource",
    "Transcript",
    "Trend",
    "Turn",
    "arrivals",
    "bursty",
    "conversations",
    "interleaved",
    "mixed",
]
