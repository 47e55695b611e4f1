"""Salts that keep one tenant's prefix cache apart from another's.

A worker serves a prompt that begins like an earlier one faster, so that timing tells what others have asked. vLLM mixes
``cache_salt`` into its block hashes; the gateway gives each isolated tenant one that nobody else can guess, and derives
it from the client's own where it sends one.
"""

from __future__ import annotations

import base64
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

__all__ = ["CacheKey", "kept_secret"]

_SECRET_BYTES = 32
_FILE = "cache-secret"


class CacheKey:
    """One tenant's, derived from the gateway's secret."""

    __slots__ = ("_key", "_plain")

    def __init__(self, secret: bytes, tenant: str) -> None:
        self._key = hmac.digest(secret, b"headway cache\0" + tenant.encode(), "sha256")
        self._plain = self._derived("")

    def salt(self, own: str = "") -> str:
        """The ``cache_salt`` to send, where the client's own is ``own``."""
        return self._derived(own) if own else self._plain

    def _derived(self, own: str) -> str:
        digest = hmac.digest(self._key, own.encode("utf-8", "surrogatepass"), "sha256")
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def kept_secret(home: Path | None) -> bytes:
    """The secret kept in ``home``, made at the first call; gateways that share the folder share it. Without a folder,
    one that lasts as long as this process. Raises OSError if the folder cannot be used."""
    if home is None:
        return secrets.token_bytes(_SECRET_BYTES)
    path = home / _FILE
    with suppress(FileNotFoundError):
        return _read(path)
    home.mkdir(parents=True, exist_ok=True)
    draft = home / f"{_FILE}.{secrets.token_hex(8)}"
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secrets.token_bytes(_SECRET_BYTES))
    try:
        os.link(draft, path)  # fails where another process was faster: its secret is the one
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return _read(path)


def _read(path: Path) -> bytes:
    secret = path.read_bytes()
    if len(secret) != _SECRET_BYTES:
        raise OSError(f"{path} does not hold {_SECRET_BYTES} bytes; delete it, and a new one will be made")
    return secret
