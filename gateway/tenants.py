"""Who asks, and how that is known.

Where no key is configured, a request names its tenant in ``X-Headway-Tenant``, or by an API key that is a tenant's
name, for clients that can only set a key. Naming is not proving, so what stands in front of the gateway has to do that.
Where tenants have keys, the key says who asks, and the header is believed only from operators' keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from controller.configuration import Configuration, Tenant
from controller.configuration.credentials import Credential, StoredKey
from gateway.authorization import presented, unauthorized
from gateway.errors import ApiError
from gateway.isolation import CacheKey, kept_secret

__all__ = ["DEFAULT", "UNLISTED", "Caller", "Tenants"]

DEFAULT: Final = "default"
UNLISTED: Final = "other"
"""What metrics call every tenant that is not listed."""
_HEADER: Final = b"x-headway-tenant"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NOBODY: Final = StoredKey("", bytes(16), bytes(32))
"""Compared with where no key has the id, so that this takes as long as a wrong secret."""
_OPERATOR: Final = ""
"""Holder of the keys that may name any tenant; no tenant has this name."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The tenant that a request counts for."""

    name: str
    settings: Tenant
    longest_answer: int | None
    """Tokens that a request may ask for at most."""
    cache_key: CacheKey | None
    """Makes its cache salts; ``None`` if its cache is not kept apart."""


class Tenants:
    """The configured tenants, and how requests prove to be theirs. Raises OSError if a secret cannot be kept."""

    def __init__(self, configuration: Configuration) -> None:
        default = configuration.limits.tenant
        isolates = any(tenant.cache_isolation for tenant in configuration.tenants)
        secret = _secret(configuration) if isolates else b""
        self._listed = {
            tenant.name: Caller(
                tenant.name,
                tenant,
                tenant.limits.over(default).max_tokens,
                CacheKey(secret, tenant.name) if tenant.cache_isolation else None,
            )
            for tenant in configuration.tenants
        }
        self._unlisted = configuration.tenant("")
        self._longest_unlisted = default.max_tokens
        self._keys = {key.id: (key, tenant.name) for tenant in configuration.tenants for key in tenant.stored_keys()}
        self._keys.update({key.id: (key, _OPERATOR) for key in configuration.auth.stored_keys()})
        self._with_keys = frozenset(tenant.name for tenant in configuration.tenants if tenant.keys)
        self._optional = configuration.auth.mode == "optional"
        self.names = tuple(self._listed)

    @property
    def takes_keys(self) -> bool:
        """Whether a key that a client shows is meant for the gateway, and so not for workers."""
        return bool(self._listed or self._keys)

    @property
    def classes(self) -> tuple[str, ...]:
        """Every class of tenants."""
        return tuple(sorted({self._unlisted.class_, *(caller.settings.class_ for caller in self._listed.values())}))

    def class_of(self, name: str) -> str:
        """The class of a tenant, listed or not."""
        listed = self._listed.get(name)
        return self._unlisted.class_ if listed is None else listed.settings.class_

    def label_of(self, name: str) -> str:
        """What metrics call a tenant, so that clients cannot make up labels."""
        return name if name in self._listed or name == DEFAULT else UNLISTED

    def identify(self, headers: Mapping[bytes, bytes]) -> Caller:
        """Who asks. Raises ApiError: 401 without a valid key where one is needed, 403 for a key of another tenant than
        the one that is named, 400 for a name that cannot be one."""
        named = headers.get(_HEADER, b"").decode("latin-1")
        if not self._keys:
            return self._caller(named or self._name_as_key(headers) or DEFAULT)
        holder = self._holder(headers)
        if holder is None:
            return self._unproved(named or self._name_as_key(headers) or DEFAULT)
        if holder == _OPERATOR:
            return self._caller(named or DEFAULT)
        if named and named != holder:
            message = f"the key belongs to tenant {holder!r}, so X-Headway-Tenant cannot name another; leave it out"
            raise ApiError(403, "tenant_mismatch", message, param="X-Headway-Tenant", close=True)
        return self._listed[holder]

    def _holder(self, headers: Mapping[bytes, bytes]) -> str | None:
        """The tenant of the key shown, or an operator; ``None`` if no key of the gateway's is shown."""
        for shown in presented(headers):
            credential = Credential.parse(shown)
            if credential is not None:
                stored, holder = self._keys.get(credential.id, (_NOBODY, None))
                if not stored.matches(credential.secret) or holder is None:
                    raise unauthorized("the API key is not valid; ask the operator for another", close=True)
                return holder
        return None

    def _unproved(self, name: str) -> Caller:
        if not self._optional:
            message = "an API key is needed: Authorization: Bearer hw1_…, or x-api-key: hw1_…"
            raise unauthorized(message, code="missing_api_key", close=True)
        if name in self._with_keys:
            raise unauthorized(f"tenant {name!r} is proved by its API key, which is missing", close=True)
        return self._caller(name)

    def _caller(self, name: str) -> Caller:
        listed = self._listed.get(name)
        if listed is not None:
            return listed
        if _NAME.fullmatch(name) is None:
            message = f"X-Headway-Tenant: {name[:80]!r} is no name"
            raise ApiError(400, "invalid_tenant", message, param="X-Headway-Tenant", close=True)
        return Caller(name, self._unlisted, self._longest_unlisted, None)

    def _name_as_key(self, headers: Mapping[bytes, bytes]) -> str | None:
        return next((key for key in presented(headers) if key in self._listed), None) if self._listed else None


def _secret(configuration: Configuration) -> bytes:
    given = configuration.auth.cache_secret
    return kept_secret(configuration.home) if given is None else given.encode()
