"""Stage ``rebalance``: whether a running request should move to another worker."""

from controller.rebalance.migrate import Migrate, MigrateOptions
from controller.rebalance.stay import NoRebalance

__all__ = ["Migrate", "MigrateOptions", "NoRebalance"]
