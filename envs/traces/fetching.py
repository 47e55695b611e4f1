"""Downloading public data: whole and checked, or not at all."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from envs.traces.reading import TraceError

SCHEMES = ("https", "http", "file")
_CHUNK = 1 << 18

Progress = Callable[[int, int | None], None]
"""Told of bytes so far, and of all there are where the server says so."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that was downloaded."""

    path: Path
    size: int
    sha256: str


def file_name(url: str) -> str:
    """The last part of a URL's path. Raises ``TraceError`` where there is none."""
    name = Path(unquote(urlsplit(url).path)).name
    if not name or name in {".", ".."}:
        raise TraceError(f"{url}: no file name in it; say under which name to keep it")
    return name


def fetch(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    check: Callable[[Path], None] | None = None,
    progress: Progress | None = None,
    timeout_s: float = 60.0,
) -> Fetched:
    """Download to ``path``, which is there only when all of it came and passed.

    ``sha256`` is the hexadecimal digest it must have; ``check`` may raise ``TraceError`` on what came; ``timeout_s`` is
    how long the server may stay silent. Raises ``TraceError`` that says what failed.
    """
    if urlsplit(url).scheme not in SCHEMES:
        raise TraceError(f"{url}: not a URL of {', '.join(SCHEMES)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as folder:
        draft = Path(folder) / path.name
        size, digest = _download(url, draft, progress, timeout_s)
        if sha256 is not None and digest != sha256.strip().lower():
            raise TraceError(f"{url}: the file that came has the SHA-256 {digest}, not {sha256}; it was not kept")
        if check is not None:
            check(draft)
        draft.chmod(0o644)
        draft.replace(path)
    return Fetched(path, size, digest)


def _download(url: str, draft: Path, progress: Progress | None, timeout_s: float) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    try:
        with (
            urlopen(Request(url, headers={"User-Agent": "headway"}), timeout=timeout_s) as reply,
            draft.open("wb") as file,
        ):
            announced = reply.headers.get("Content-Length")
            total = int(announced) if announced else None
            while chunk := reply.read(_CHUNK):
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
                if progress is not None:
                    progress(size, total)
    except HTTPError as error:
        raise TraceError(f"{url}: the server answered {error.code} {error.reason}") from error
    except (URLError, HTTPException, OSError) as error:
        raise TraceError(f"{url}: could not be downloaded: {getattr(error, 'reason', error)}") from error
    if total is not None and size != total:
        raise TraceError(f"{url}: ended after {size} of {total} bytes; it was not kept")
    return size, digest.hexdigest()
