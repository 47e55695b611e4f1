"""How well a fleet served: the one definition of each figure, for the gateway, the demo and every evaluation.

Nothing drops out of a denominator: a request that was rejected, failed, aborted, or never answered counts as one that
got nothing. ``None`` stands for a figure that is not defined (of no requests at all).
"""

from controller.objectives.capacity import CapacitySearch, search_capacity
from controller.objectives.columns import ServedColumns, column_quantile
from controller.objectives.cost import BILLED, PhaseChange, PhaseSpan, dollars, gpu_hours, spans
from controller.objectives.fluidity import (
    Deadlines,
    FluidityForm,
    Stream,
    fluid_token_rate,
    fluidity_index,
    miss_quantile,
    share_fluid,
)
from controller.objectives.latency import endless, latency_quantile, normalised_latency, quantile
from controller.objectives.outcome import Objective, Served, seconds_per_token, served
from controller.objectives.rates import goodput, goodput_per_gpu
from controller.objectives.shares import (
    attainment,
    availability,
    deadline_reward,
    jains_index,
    mean_quality,
    share_of_peak,
)

__all__ = [
    "BILLED",
    "CapacitySearch",
    "Deadlines",
    "FluidityForm",
    "Objective",
    "PhaseChange",
    "PhaseSpan",
    "Served",
    "ServedColumns",
    "Stream",
    "attainment",
    "availability",
    "column_quantile",
    "deadline_reward",
    "dollars",
    "endless",
    "fluid_token_rate",
    "fluidity_index",
    "goodput",
    "goodput_per_gpu",
    "gpu_hours",
    "jains_index",
    "latency_quantile",
    "mean_quality",
    "miss_quantile",
    "normalised_latency",
    "quantile",
    "search_capacity",
    "seconds_per_token",
    "served",
    "share_fluid",
    "share_of_peak",
    "spans",
]
