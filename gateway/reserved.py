"""Members of a request that are not the client's to choose: what only the gateway may set, what tenants' limits say.

The headers of the same kind are in :mod:`gateway.headers`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from gateway.document import Document
from gateway.endpoints import Endpoint
from gateway.errors import ApiError

__all__ = ["RESERVED", "answers", "impose", "with_imposed"]

RESERVED: Final = frozenset({"priority", "kv_transfer_params", "ec_transfer_params"})
"""Taken out of every body. A ``priority`` is a wish that the controller hears; the others tell a worker which hosts to
fetch a cache from."""
_INSIDE: Final = "vllm_xargs"
"""What vLLM hands to its extensions under whatever names the client gives."""
_REFUSED_INSIDE: Final = RESERVED | {"kv_cache_report_mode"}
"""The last has the worker report cached blocks once more, which everybody who keeps count of them would count twice."""
_LIMITS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")
"""Whatever the endpoint: one that the gateway does not know may read any of them."""


def impose(
    endpoint: Endpoint, fields: Mapping[str, Any], longest: int | None, asked: int | None
) -> tuple[int | None, dict[str, str | int]]:
    """The longest answer that may come, and the members that have to be set for that.

    ``longest`` is the tenant's limit, ``asked`` what the request says or is taken to say, if anything. Raises ApiError
    (400) for a request that asks for more.
    """
    inside = fields.get(_INSIDE)
    if isinstance(inside, Mapping) and not _REFUSED_INSIDE.isdisjoint(inside):
        name = ", ".join(sorted(_REFUSED_INSIDE & inside.keys()))
        raise ApiError(400, "reserved_field", f"{_INSIDE!r} must not hold {name}", param=_INSIDE)
    if longest is None:
        return asked, {}
    for name in _LIMITS:
        value = fields.get(name)
        if isinstance(value, int | float) and value > longest:
            message = f"{name!r} is {value}; this tenant's answers may have {longest} tokens at most (max_tokens)"
            raise ApiError(400, "max_tokens_exceeded", message, param=name)
        if name in endpoint.limits and isinstance(value, int | float) and value < 0:
            raise ApiError(400, "invalid_value", f"{name!r} must not be negative; it is {value}", param=name)
    if not endpoint.limits or any(fields.get(name) is not None for name in endpoint.limits):
        return asked, {}
    if asked is not None and asked <= longest:  # the worker's own default
        return asked, {}
    return longest, {endpoint.limits[0]: longest}


def with_imposed(document: Document, members: Mapping[str, str | int]) -> Document:
    """The request as it may go on: with these members, and without the reserved ones."""
    fields = document.fields
    if not members and RESERVED.isdisjoint(fields):
        return document
    text = {name: json.dumps(value) for name, value in members.items()}
    values = {name: value for name, value in text.items() if name in fields}
    added = {name: value for name, value in text.items() if name not in fields}
    body = document.rewritten(values=values, drop=RESERVED, add=added)
    return Document(body, {**{name: value for name, value in fields.items() if name not in RESERVED}, **members})


def answers(endpoint: Endpoint, fields: Mapping[str, Any]) -> int:
    """How many answers are asked for: ``n`` to each of the prompts."""
    if not endpoint.generates:
        return 1
    many = endpoint.path.endswith("/batch")
    count, several = fields.get("n"), fields.get("messages" if many else "prompt")
    each = count if (many or endpoint.usage_option) and type(count) is int and count > 1 else 1
    if not isinstance(several, list) or not several or isinstance(several[0], int):
        return each
    return each * len(several)
