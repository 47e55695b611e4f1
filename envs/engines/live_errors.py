"""What can go wrong with live engines, beyond what happens to single requests (that comes as events).

::

    LiveError
    ├── ServerUnusable      a server cannot be reached, serves no such model, or lacks an endpoint that is needed
    ├── NotIdle             a server still works on something after everything was aborted
    └── LoopFailed          something failed inside the event loop; the cause says what
"""

from __future__ import annotations

__all__ = ["LiveError", "LoopFailed", "NotIdle", "ServerUnusable"]


class LiveError(RuntimeError):
    """Base of these errors."""


class ServerUnusable(LiveError):
    """The server cannot be used so. Says what it lacks, and what would help."""


class NotIdle(LiveError):
    """A server's gauges did not go back to zero in time."""


class LoopFailed(LiveError):
    """The event loop behind an engine or a fleet has met an error that nobody else would hear of."""
