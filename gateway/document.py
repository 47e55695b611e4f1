"""A request's JSON object: its members as Python values, and changes to single ones that leave the bytes of the others.

Re-serialising what was parsed would turn large integers into floats and lose duplicate keys, and a stricter parser than
the worker's would refuse ``1e400``; members that the gateway does not know are none of its business. So the object is
cut into its members while it is parsed, in Python's dialect of JSON, which is the one vLLM reads; members that stay are
copied as they came.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Document", "Malformed", "Member", "read"]

_BLANK = r"[ \t\n\r]*"
_OPEN = re.compile(rf'{_BLANK}\{{{_BLANK}(["}}])')
_COLON = re.compile(rf"{_BLANK}:{_BLANK}")
_NEXT = re.compile(rf"{_BLANK}(?:,{_BLANK}\"|(\}}){_BLANK}\Z)")
_DECODER = json.JSONDecoder()


class Malformed(ValueError):
    """Not a JSON object; says what is wrong and where."""


@dataclass(frozen=True, slots=True)
class Member:
    """One ``"key": value``: ``text[start:end]``, its value from ``value``."""

    key: str
    start: int
    value: int
    end: int


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON object. ``fields`` holds its values, of duplicate keys the last, as the worker's parser does."""

    text: str
    members: tuple[Member, ...]
    fields: Mapping[str, Any]

    def rewritten(
        self, *, values: Mapping[str, str], drop: Collection[str] = (), add: Mapping[str, str] | None = None
    ) -> str:
        """The text with some members' values exchanged (every duplicate's), some dropped, and some added at the end.

        Values are JSON text.
        """
        text = self.text
        kept = [
            text[m.start : m.value] + values[m.key] if m.key in values else text[m.start : m.end]
            for m in self.members
            if m.key not in drop
        ]
        kept += [f'"{key}":{value}' for key, value in (add or {}).items()]
        return "{" + ",".join(kept) + "}"

    def raw(self, key: str) -> str:
        """The JSON text of a member's value, the last one's; KeyError if there is none."""
        for member in reversed(self.members):
            if member.key == key:
                return self.text[member.value : member.end]
        raise KeyError(key)


def read(text: str) -> Document:
    """Parse an object. Raises Malformed."""
    try:
        return _read(text)
    except json.JSONDecodeError as error:
        raise Malformed(f"{error.msg} at line {error.lineno}, column {error.colno}") from error
    except RecursionError as error:
        raise Malformed("it is nested too deeply") from error
    except ValueError as error:
        raise Malformed(str(error)) from error


def _read(text: str) -> Document:
    opened = _OPEN.match(text)
    if opened is None:
        raise Malformed("a JSON object is expected")
    fields: dict[str, Any] = {}
    members: list[Member] = []
    at = opened.end()
    if opened.group(1) == "}":
        if text[at:].strip(" \t\n\r"):
            raise Malformed(f"something follows the object at character {at}")
        return Document(text, (), fields)
    while True:
        start = at - 1
        key, at = _DECODER.raw_decode(text, start)
        colon = _COLON.match(text, at)
        if colon is None:
            raise Malformed(f"a colon is expected at character {at}")
        fields[key], end = _DECODER.raw_decode(text, colon.end())
        members.append(Member(key, start, colon.end(), end))
        following = _NEXT.match(text, end)
        if following is None:
            raise Malformed(f"a comma or the object's end is expected at character {end}")
        at = following.end()
        if following.group(1):
            return Document(text, tuple(members), fields)
