"""Who asks. Naming a tenant is not proving it: what stands in front of the gateway has to do that.

A request names its tenant in ``X-Headway-Tenant``; where tenants are configured, an API key that is a tenant's name
does as well, for clients that can only set a key. Everybody else is ``default``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from controller.configuration import Configuration, Tenant
from gateway.errors import ApiError

__all__ = ["DEFAULT", "Tenants"]

DEFAULT = "default"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Tenants:
    """The configured tenants, and how requests name them."""

    def __init__(self, configuration: Configuration) -> None:
        self._listed = {tenant.name: tenant for tenant in configuration.tenants}
        self._unlisted = configuration.tenant("")
        self.names = tuple(self._listed)

    def of(self, headers: Mapping[bytes, bytes]) -> tuple[str, Tenant]:
        """The tenant's name, and its settings or the defaults. Raises ApiError (400) for a name that cannot be one."""
        name = headers.get(b"x-headway-tenant", b"").decode("latin-1") or self._from_key(headers) or DEFAULT
        if _NAME.fullmatch(name) is None:
            raise ApiError(
                400, "invalid_tenant", f"X-Headway-Tenant: {name[:80]!r} is no name", param="X-Headway-Tenant"
            )
        return name, self._listed.get(name, self._unlisted)

    def _from_key(self, headers: Mapping[bytes, bytes]) -> str | None:
        scheme, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        return key if scheme.lower() == "bearer" and key in self._listed else None
