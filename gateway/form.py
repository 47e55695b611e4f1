"""A form (``multipart/form-data``, RFC 7578): its short text fields, and a change to one that leaves all other bytes.

Audio comes in forms. Nothing of a file is looked at or copied but for its boundaries.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

__all__ = ["Form", "MalformedForm", "is_form", "read_form"]

_BOUNDARY = re.compile(rb';\s*boundary=(?:"([^"]{1,70})"|([^\s";,]{1,70}))', re.IGNORECASE)
_NAME = re.compile(rb'[;\s]name="([^"]*)"', re.IGNORECASE)
_FILE = re.compile(rb"[;\s]filename\*?=", re.IGNORECASE)
_LONGEST_FIELD = 4096
"""Bytes of a text field that is read; longer ones are the worker's business."""
_MOST_PARTS = 256


class MalformedForm(ValueError):
    """Not a form that could be read; says why."""


@dataclass(frozen=True, slots=True)
class Form:
    """``fields`` holds the short text fields, of repeated ones the last, as the worker's parser does."""

    body: bytes
    fields: Mapping[str, str]
    spans: Mapping[str, tuple[int, int]]
    """Where each one's value stands in the body."""

    def rewritten(self, name: str, value: str) -> bytes:
        """The body with another value of this field; KeyError if it has none."""
        start, end = self.spans[name]
        return self.body[:start] + value.encode() + self.body[end:]


def is_form(content_type: bytes) -> bool:
    """Whether a body of this type is a form."""
    return content_type[:19].lower() == b"multipart/form-data"


def read_form(body: bytes, content_type: bytes) -> Form:
    """Raises MalformedForm."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise MalformedForm("the Content-Type names no boundary")
    fields: dict[str, str] = {}
    spans: dict[str, tuple[int, int]] = {}
    for start, end in _parts(body, b"--" + (found.group(1) or found.group(2))):
        head_end = body.find(b"\r\n\r\n", start - 2, end)
        if head_end < 0:
            raise MalformedForm(f"the part at byte {start} has no end of its headers")
        name = _text_field(body[start : max(start, head_end)])
        if name is None or end - head_end - 4 > _LONGEST_FIELD:
            continue
        try:
            fields[name] = body[head_end + 4 : end].decode()
        except UnicodeDecodeError as error:
            raise MalformedForm(f"the field {name!r} is not UTF-8") from error
        spans[name] = head_end + 4, end
    return Form(body, fields, spans)


def _parts(body: bytes, boundary: bytes) -> Iterator[tuple[int, int]]:
    """From the first byte of a part's headers to the end of its content."""
    at = 0 if body.startswith(boundary) else body.find(b"\r\n" + boundary) + 2
    if not body.startswith(boundary, at):
        raise MalformedForm("its boundary is nowhere in the body")
    for _ in range(_MOST_PARTS):
        at += len(boundary)
        if body.startswith(b"--", at):
            return
        start = body.find(b"\r\n", at)
        end = body.find(b"\r\n" + boundary, start) if start >= 0 else -1
        if end < 0:
            raise MalformedForm("its last boundary is missing")
        yield start + 2, end
        at = end + 2
    raise MalformedForm(f"it has more than {_MOST_PARTS} parts")


def _text_field(head: bytes) -> str | None:
    """The name, unless it is a file's."""
    for line in head.split(b"\r\n"):
        if line[:20].lower() == b"content-disposition:":
            name = _NAME.search(line)
            return name.group(1).decode("latin-1") if name is not None and not _FILE.search(line) else None
    return None
