"""What a server says of itself before it is measured: its model, and its limits where it shows them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from predictors.latency.campaign import Limits
from upstream.client import Client
from upstream.errors import UpstreamError
from upstream.types import Header, Timeouts

_TIMEOUTS = Timeouts(connect=5.0, first_byte=10.0, idle=10.0, total=20.0)
_CACHE = re.compile(r"^vllm:cache_config_info\{(.*)\} ", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class TargetError(Exception):
    """The target cannot be measured; the message says what would be right."""


@dataclass(frozen=True, slots=True)
class Shown:
    """The model that requests will name, and the limits that ``/v1/models`` and ``/metrics`` show."""

    model: str
    limits: Limits


def look(url: str, model: str | None = None, headers: Sequence[Header] = ()) -> Shown:
    """Ask the server under ``url`` (without ``/v1``).

    Raises:
        TargetError: it does not answer, or does not serve the model.
    """
    return asyncio.run(_look(url.rstrip("/"), model, tuple(headers)))


async def _look(url: str, model: str | None, headers: tuple[Header, ...]) -> Shown:
    async with Client() as client:
        status, body = await _get(client, f"{url}/v1/models", headers)
        cards = _cards(url, status, body)
        if model is None and len(cards) > 1:
            raise TargetError(f"{url} serves {', '.join(cards)}; name one of them with --model")
        chosen = model or next(iter(cards))
        if chosen not in cards:
            raise TargetError(f"{url} does not serve {chosen!r} but {', '.join(cards)}")
        length = cards[chosen].get("max_model_len")
        try:
            _, page = await _get(client, f"{url}/metrics", headers)
        except TargetError:
            page = b""
    return Shown(chosen, _limits(page.decode("utf-8", errors="replace"), length if isinstance(length, int) else None))


def _cards(url: str, status: int, body: bytes) -> dict[str, dict[str, Any]]:
    if status in (401, 403):
        raise TargetError(f"{url}/v1/models answered {status}: give the server's key with --api-key")
    try:
        cards = {str(card["id"]): card for card in json.loads(body)["data"]}
    except (ValueError, KeyError, TypeError) as error:
        raise TargetError(f"{url}/v1/models answered {status} and no list of models; is --target its root?") from error
    if not cards:
        raise TargetError(f"{url} serves no model")
    return cards


async def _get(client: Client, url: str, headers: tuple[Header, ...]) -> tuple[int, bytes]:
    try:
        async with client.stream(b"GET", url, headers=headers, timeouts=_TIMEOUTS) as response:
            return response.status, await response.body(1 << 24)
    except UpstreamError as error:
        raise TargetError(f"{url}: {error}") from error


def _limits(page: str, max_model_len: int | None) -> Limits:
    found = _CACHE.search(page)
    labels = dict(_LABEL.findall(found.group(1))) if found else {}
    blocks, size = (_whole(labels.get(name)) for name in ("num_gpu_blocks", "block_size"))
    return Limits(kv_blocks=blocks, block_size=size, max_model_len=max_model_len)


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() and int(text) > 0 else None
