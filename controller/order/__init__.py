"""Stage ``order``: a ticket's place in its queue. Keys are in seconds on the caller's clock, so that waiting counts."""

from __future__ import annotations

from controller.order.ageing import Ageing
from controller.order.base import EnginePriority, LearnsFromEnds
from controller.order.boost import Boost, BoostOptions
from controller.order.length import LengthRank, LengthRankOptions, Oracle, OracleOptions
from controller.order.plain import Edf, EdfOptions, Fcfs, FcfsOptions
from controller.order.sessions import Mlfq, MlfqOptions

__all__ = [
    "Ageing",
    "Boost",
    "BoostOptions",
    "Edf",
    "EdfOptions",
    "EnginePriority",
    "Fcfs",
    "FcfsOptions",
    "LearnsFromEnds",
    "LengthRank",
    "LengthRankOptions",
    "Mlfq",
    "MlfqOptions",
    "Oracle",
    "OracleOptions",
]
