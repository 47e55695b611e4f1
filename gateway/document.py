"""A request's JSON object: its members as Python values, and changes to single ones that leave the bytes of the others.

Re-serialising what was parsed would turn large integers into floats and lose duplicate keys, and a stricter parser than
the worker's would refuse ``1e400``; members that the gateway does not know are none of its business. So what is read is
JSON in Python's dialect, which is the one vLLM reads, and members that stay are copied as they came.

Reading is for a fast parser, which knows nothing of where members stand; Python's own takes over where that one
refuses. Where a member stands is looked for only if it has to change: a key that occurs once, spelt without escapes, is
found at once; for anything else the object is cut into all of its members.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

__all__ = ["Document", "Malformed", "Member", "read"]

_BLANK = r"[ \t\n\r]*"
_OPEN = re.compile(rf'{_BLANK}\{{{_BLANK}(["}}])')
_COLON = re.compile(rf"{_BLANK}:{_BLANK}")
_NEXT = re.compile(rf"{_BLANK}(?:,{_BLANK}\"|(\}}){_BLANK}\Z)")
_DECODER = json.JSONDecoder()
_STRING = re.compile(rb'[ \t\n\r]*:[ \t\n\r]*("(?:[^"\\]|\\.)*")', re.DOTALL)
_PLAIN = re.compile("[A-Za-z_]+")
_ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")
_LARGEST = 2.0**63
"""The fast parser reads integers beyond 64 bits as floats; what the gateway has to look at must be an integer."""


class Malformed(ValueError):
    """Not a JSON object; says what is wrong and where."""


@dataclass(frozen=True, slots=True)
class Member:
    """One ``"key": value``: ``text[start:end]``, its value from ``value``."""

    key: str
    start: int
    value: int
    end: int


class Document:
    """A JSON object. ``fields`` holds its values, of duplicate keys the last, as the worker's parser does."""

    __slots__ = ("_members", "_text", "body", "fields")

    def __init__(self, body: bytes, fields: Mapping[str, Any], members: tuple[Member, ...] | None = None) -> None:
        self.body = body
        """As it came, UTF-8."""
        self.fields = fields
        self._text: str | None = None
        self._members = members

    @property
    def text(self) -> str:
        """The whole of it."""
        if self._text is None:
            self._text = self.body.decode("utf-8")
        return self._text

    @property
    def members(self) -> tuple[Member, ...]:
        """Where each member stands in :attr:`text`."""
        if self._members is None:
            self._members = _cut(self.text)[0]
        return self._members

    def rewritten(
        self, *, values: Mapping[str, str], drop: Collection[str] = (), add: Mapping[str, str] | None = None
    ) -> bytes:
        """The object with some members' values exchanged (every duplicate's), some dropped, and some added at the end.

        Values are JSON text.
        """
        dropped = [key for key in drop if key in self.fields]
        if not values and not dropped and not add:
            return self.body
        quick = None if dropped or not self.fields else self._exchanged(values, add or {})
        if quick is not None:
            return quick
        text = self.text
        kept = [
            text[m.start : m.value] + values[m.key] if m.key in values else text[m.start : m.end]
            for m in self.members
            if m.key not in drop
        ]
        kept += [f'"{key}":{value}' for key, value in (add or {}).items()]
        return ("{" + ",".join(kept) + "}").encode()

    def raw(self, key: str) -> str:
        """The JSON text of a member's value, the last one's; KeyError if there is none."""
        for member in reversed(self.members):
            if member.key == key:
                return self.text[member.value : member.end]
        raise KeyError(key)

    def _exchanged(self, values: Mapping[str, str], add: Mapping[str, str]) -> bytes | None:
        """Strings exchanged where they stand and members added before the last brace; ``None`` if it is not so easy.

        ``"key"`` in the bytes is a key or a string of its own, or the end of a string with an escaped quote; inside a
        string its quotes would be escaped. So if it occurs once, and no letter is spelt as an escape, it is the one
        place where a key that the object has can be.
        """
        body = self.body
        if b"\\u00" in body and _ESCAPED_LETTER.search(body):
            return None
        for key, value in values.items():
            name = f'"{key}"'.encode()
            at = body.find(name)
            if key not in self.fields or body.find(name, at + 1) >= 0 or _PLAIN.fullmatch(key) is None:
                return None
            found = _STRING.match(body, at + len(name))
            if found is None:
                return None
            start, end = found.span(1)
            body = b"%b%b%b" % (body[:start], value.encode(), body[end:])
        if add:
            end = body.rindex(b"}")
            members = ",".join([f'"{key}":{value}' for key, value in add.items()])
            body = b"%b,%b%b" % (body[:end], members.encode(), body[end:])
        return body


def read(body: bytes | str) -> Document:
    """Parse an object. Raises Malformed; UnicodeDecodeError for bytes that are not UTF-8."""
    if isinstance(body, str):
        body = body.encode("utf-8", "surrogatepass")
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _slowly(body)
    if isinstance(fields, dict) and not any(type(v) is float and abs(v) >= _LARGEST for v in fields.values()):
        return Document(body, fields)
    return _slowly(body)


def _slowly(body: bytes) -> Document:
    text = body.decode("utf-8")
    try:
        members, fields = _cut(text)
    except json.JSONDecodeError as error:
        raise Malformed(f"{error.msg} at line {error.lineno}, column {error.colno}") from error
    except RecursionError as error:
        raise Malformed("it is nested too deeply") from error
    except ValueError as error:
        raise Malformed(str(error)) from error
    return Document(body, fields, members)


def _cut(text: str) -> tuple[tuple[Member, ...], dict[str, Any]]:
    """The object's members, and their values."""
    opened = _OPEN.match(text)
    if opened is None:
        raise Malformed("a JSON object is expected")
    fields: dict[str, Any] = {}
    members: list[Member] = []
    at = opened.end()
    if opened.group(1) == "}":
        if text[at:].strip(" \t\n\r"):
            raise Malformed(f"something follows the object at character {at}")
        return (), fields
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
            return tuple(members), fields
