"""Tenants' API keys: what a tenant is given, and what the configuration keeps of it.

    hw1_ID_SECRET            the key, shown once: 64 bits of id, 256 bits of secret
    hw1$ID$SALT$HASH         the line in the configuration; HASH is SHA-256 of the salt and the secret

The id is public and finds the one line to compare with. The secret is drawn at random, not chosen by a person, so there
is no dictionary to try: a slow hash (bcrypt, Argon2) would protect nothing, and would cost milliseconds a request that
anybody may ask for. The salt keeps one table from serving against every file. Both have a fixed length, so no other two
give the same text, and nobody is ever given a hash to extend.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import Self

__all__ = ["RANDOM_BYTES", "Credential", "StoredKey"]

RANDOM_BYTES = 8 + 16 + 32
"""Of id, salt and secret."""
_SECRET_BYTES = 32
_KEY = re.compile(r"hw1_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_STORED = re.compile(r"hw1\$([0-9a-f]{16})\$([0-9a-f]{32})\$([0-9a-f]{64})")


class Credential:
    """A key as it is presented. Its ``repr`` shows nothing."""

    __slots__ = ("id", "secret")

    def __init__(self, id_: str, secret: str) -> None:
        self.id = id_
        self.secret = secret

    @classmethod
    def parse(cls, key: str) -> Self | None:
        """``None`` for what is no key of ours."""
        found = _KEY.fullmatch(key)
        return None if found is None else cls(*found.groups())


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What the configuration keeps of a key."""

    id: str
    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)

    @classmethod
    def parse(cls, line: str) -> Self:
        """Raises ValueError, which does not repeat the line."""
        found = _STORED.fullmatch(line)
        if found is None:
            raise ValueError("not a stored key; write the line hw1$ID$SALT$HASH that `headway tenants key` printed")
        return cls(found[1], bytes.fromhex(found[2]), bytes.fromhex(found[3]))

    @classmethod
    def issue(cls, random: bytes) -> tuple[str, Self]:
        """A new key and what to keep of it, from :data:`RANDOM_BYTES` bytes of a secure source."""
        if len(random) != RANDOM_BYTES:
            raise ValueError(f"needs {RANDOM_BYTES} random bytes, not {len(random)}")
        id_, salt = random[:8].hex(), random[8:24]
        secret = base64.urlsafe_b64encode(random[-_SECRET_BYTES:]).rstrip(b"=").decode()
        return f"hw1_{id_}_{secret}", cls(id_, salt, _digest(salt, secret))

    def __str__(self) -> str:
        return f"hw1${self.id}${self.salt.hex()}${self.digest.hex()}"

    def matches(self, secret: str) -> bool:
        """Whether this is the key's secret; takes the same time whatever the difference."""
        return hmac.compare_digest(_digest(self.salt, secret), self.digest)


def _digest(salt: bytes, secret: str) -> bytes:
    return hashlib.sha256(salt + secret.encode()).digest()
