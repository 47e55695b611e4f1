"""Stage ``fairness``: whose turn it is when a worker of a pool has room."""

from controller.fairness.dlpm import Dlpm, DlpmOptions
from controller.fairness.none import NoFairness
from controller.fairness.vtc import Vtc, VtcOptions

__all__ = ["Dlpm", "DlpmOptions", "NoFairness", "Vtc", "VtcOptions"]
