"""Stage ``place``: which worker of the chosen pool.

``round_robin``, ``least_load`` and ``power_of_two`` go by turns and load, ``prefix`` by what workers have cached,
``freeness`` by what is left of their KV caches, and ``predicted_latency`` by how long the request would take on each.
"""

from controller.place.base import least_loaded
from controller.place.freeness import Freeness, FreenessOptions
from controller.place.latency import PredictedLatency, PredictedLatencyOptions
from controller.place.load import LeastLoad, PowerOfTwo, RoundRobin
from controller.place.prefix import Prefix, PrefixOptions

__all__ = [
    "Freeness",
    "FreenessOptions",
    "LeastLoad",
    "PowerOfTwo",
    "PredictedLatency",
    "PredictedLatencyOptions",
    "Prefix",
    "PrefixOptions",
    "RoundRobin",
    "least_loaded",
]
