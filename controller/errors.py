"""Every exception that the controller raises on purpose.

    HeadwayError
    ├── ConfigurationError        the configuration cannot be used; ``problems`` has one entry a mistake
    ├── StageError                a decision stage cannot be built
    │   ├── UnknownStage          no implementation of that name
    │   └── StageOptionsError     the implementation refuses its options
    ├── ControlError              an event that contradicts what the control plane knows
    │   ├── UnknownPool
    │   ├── UnknownWorker
    │   ├── DuplicateWorker
    │   └── UnknownTicket
    ├── StoreError                the artifact store
    │   ├── UnknownArtifact       no such artifact, or no such version of it
    │   ├── ArtifactRefused       its files are not what its manifest says
    │   ├── PointerError          a pointer file is damaged, or cannot be moved as asked
    │   └── StoreReadOnly         there is no writable store to keep pointers in
    └── ActuatorError             replicas cannot be started or stopped
        ├── NoFreePort
        └── StartFailed           the process ended or did not become healthy; ``log`` has its last lines

The artifacts themselves raise :class:`predictors.artifact.ArtifactError`; the store turns it into ``ArtifactRefused``.
Reading or writing a file may also raise :class:`OSError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


def suggestion(wrong: str, right: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the nearest of the right names, else ``; known: 'x', 'y'``; for ends of messages."""
    known = sorted(set(right))
    folded = {name.lower(): name for name in known}
    near = difflib.get_close_matches(wrong.lower(), folded, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {folded[near[0]]!r}?"
    return f"; known: {', '.join(map(repr, known))}" if known else ""


class HeadwayError(Exception):
    """Base of every error that a user or an operator can act on."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a configuration: where it stands, which key, what is wrong and what would be right."""

    where: str
    """``FILE:LINE``, or the name of an environment variable."""
    key: str
    """For example ``pools[0].tier``; empty for the document as a whole."""
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.key, self.message) if part)


class ConfigurationError(HeadwayError):
    """The configuration cannot be used."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class StageError(HeadwayError):
    """A decision stage cannot be built."""


class UnknownStage(StageError):
    """No implementation of that name."""


class StageOptionsError(StageError):
    """The implementation refuses its options."""


class ControlError(HeadwayError):
    """An event that contradicts what the control plane knows: an error in the program that drives it."""


class UnknownPool(ControlError):
    """No pool of that name."""


class UnknownWorker(ControlError):
    """No worker of that name."""


class DuplicateWorker(ControlError):
    """A worker of that name is already there."""


class UnknownTicket(ControlError):
    """No ticket of that name, neither waiting nor running nor lately ended."""


class StoreError(HeadwayError):
    """The artifact store cannot do what was asked."""


class UnknownArtifact(StoreError):
    """No such artifact, or no such version of it."""


class ArtifactRefused(StoreError):
    """The artifact's files are not what its manifest says."""


class PointerError(StoreError):
    """A pointer file is damaged, or cannot be moved as asked."""


class StoreReadOnly(StoreError):
    """There is no writable store to keep pointers in."""


class ActuatorError(HeadwayError):
    """Replicas cannot be started or stopped."""


class NoFreePort(ActuatorError):
    """Every port of the configured range is taken."""


class StartFailed(ActuatorError):
    """The process ended, or did not become healthy in time."""

    def __init__(self, message: str, log: str = "") -> None:
        self.log = log
        super().__init__(f"{message}\n{log}" if log else message)
