"""Which models there are, in OpenAI's and vLLM's shape: pools, their models, their adapters, and aliases."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter

from controller.types import PoolName, PoolSpec
from gateway.errors import ApiError

__all__ = ["cards", "router"]

_STATEFUL = (
    "a stored response is in the memory of the worker that made it, and the gateway keeps no state between requests; "
    "send the whole conversation as 'input' of POST /v1/responses"
)


def cards(
    models: Mapping[str, Sequence[PoolName]],
    pools: Mapping[PoolName, PoolSpec],
    created: int,
    told: Mapping[PoolName, Mapping[str, int]] | None = None,
) -> list[dict[str, Any]]:
    """One card a name that a request may ask for; ``created`` is in seconds since 1970.

    ``max_model_len`` is the longest context among the pools that the name stands for, as configured, or as their
    workers have ``told`` if that is less; ``parent`` is an adapter's base model, ``tasks`` what the pools can do.
    """
    told = told or {}
    return [
        _card(name, [pools[pool] for pool in names if pool in pools], created, told) for name, names in models.items()
    ]


def router(all_cards: Callable[[], Awaitable[list[dict[str, Any]]]]) -> APIRouter:
    """``GET /v1/models`` and its like, and what has to be refused beside the relay."""
    routes = APIRouter(tags=["openai"], responses={401: {"description": "The API key is missing or wrong"}})

    @routes.get("/v1/models")
    async def models() -> dict[str, Any]:
        """Every model name that a request may ask for."""
        return {"object": "list", "data": await all_cards()}

    @routes.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """One of them."""
        for card in await all_cards():
            if card["id"] == name:
                return card
        raise ApiError(404, "model_not_found", f"no model is called {name!r}", param="model")

    refused: dict[int | str, dict[str, Any]] = {501: {"description": _STATEFUL}}

    @routes.get("/v1/responses/{response_id}", status_code=501, responses=refused)
    @routes.delete("/v1/responses/{response_id}", status_code=501, responses=refused, include_in_schema=False)
    @routes.get("/v1/responses/{response_id}/input_items", status_code=501, include_in_schema=False)
    @routes.post("/v1/responses/{response_id}/cancel", status_code=501, responses=refused)
    async def stored_response(response_id: str) -> None:
        """Always refused."""
        raise ApiError(501, "stateful_responses", _STATEFUL)

    return routes


def _card(
    name: str, pools: Sequence[PoolSpec], created: int, told: Mapping[PoolName, Mapping[str, int]]
) -> dict[str, Any]:
    adapted = [pool for pool in pools if name in pool.adapters and name not in (pool.name, pool.model)]
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "headway",
        "root": name if adapted else _common([pool.model for pool in pools]),
        "parent": _common([pool.model for pool in adapted]),
        "max_model_len": max((_context(pool, told.get(pool.name, {})) for pool in pools), default=0),
        "tasks": sorted({task.value for pool in pools for task in pool.tasks}),
        "pools": [pool.name for pool in pools],
    }


def _context(pool: PoolSpec, told: Mapping[str, int]) -> int:
    return min(pool.context_length, told.get(pool.model, pool.context_length))


def _common(models: Sequence[str]) -> str | None:
    """The one model, where it is one."""
    return models[0] if len(set(models)) == 1 else None
