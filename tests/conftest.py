"""Property-based tests draw the same examples in every run, and are not timed: the machine may be busy."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("headway", deadline=None, derandomize=True)
settings.load_profile("headway")
