"""From what validation found to sentences with a place."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from controller.configuration.source import Path
from controller.errors import suggestion

_SECRET = frozenset(
    {
        "admin",
        "api_key",
        "auth",
        "cache_secret",
        "cluster",
        "headers",
        "keys",
        "operator_keys",
        "redis",
        "token",
        "upstream",
        "url",
    }
)
"""Keys whose values are not repeated: what a mistake says ends in logs."""

Located = tuple[Path, str]
"""A path relative to the section that found the mistake, and what it is."""


class LocatedErrors(ValueError):
    """Raised inside a validator: mistakes at keys below the section that is being checked."""

    def __init__(self, errors: Sequence[Located]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(message for _, message in errors))


def unknown_keys(data: Mapping[Any, Any], known: Collection[str]) -> list[Located]:
    """One entry a key that the section does not have, with the nearest one that it has."""
    return [((str(key),), f"unknown key{suggestion(str(key), known)}") for key in data if key not in known]


def located(error: ValidationError) -> list[Located]:
    """Every mistake, in the order of the tree, with paths relative to what was validated."""
    return [found for details in error.errors() for found in _located(details)]


def _located(details: ErrorDetails) -> Iterator[Located]:
    base = tuple(key for key in details["loc"] if key != "[key]")  # pydantic's mark for the key itself
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, LocatedErrors):
        yield from (((*base, *path), message) for path, message in cause.errors)
    else:
        yield base, _sentence(details, cause)


def _sentence(details: ErrorDetails, cause: object) -> str:
    if details["type"] == "missing":
        return "this key is required"
    said = str(cause) if cause is not None else details["msg"]
    said = said[:1].lower() + said[1:]
    given = details["input"]
    secret = not _SECRET.isdisjoint(details["loc"])
    if secret or isinstance(given, Mapping | list | tuple | set | frozenset):
        return said
    shown = repr(given)
    return f"{said}; given: {shown if len(shown) <= 80 else shown[:77] + '...'}"
