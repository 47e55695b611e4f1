"""vLLM's KV-cache events: what a message holds, in every encoding that has been on the wire. No sockets here.

A message has three frames: topic, sequence number (8 bytes, big endian), payload. The payload is msgpack: a batch
``[ts, events, data_parallel_rank]``, each event tagged with its kind. Servers up to vLLM 0.22 send an event as an
array ``["BlockStored", hashes, …]``, later ones as a map ``{"type": "BlockStored", …}``; for a time the batch was a map
too. Fields have been added at the end, and more will be: what is unknown is passed over, what is missing is ``None``.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from upstream.errors import ProtocolError
from upstream.kv_events_types import Batch, BlocksRemoved, BlocksStored, CacheCleared, Event, ExtraKeys

__all__ = ["END", "KvEventsError", "decode"]

END = (1 << 64) - 1
"""The sequence number (-1) that ends a replay."""
_MASK = (1 << 64) - 1
_DEVICE = "gpu"
"""The medium that is the engine's own cache, whatever device that is on; others are caches behind it."""
_STORED = (
    *("block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name", "extra_keys"),
    *("group_idx", "kv_cache_spec_kind", "kv_cache_spec_sliding_window", "locality", "ownership", "session_id"),
)
_REMOVED = ("block_hashes", "medium", "group_idx", "locality", "ownership")
_WHOLE_PREFIX = frozenset({None, "full_attention", "mla_attention", "sink_full_attention"})
"""Kinds of caches in which a prefix is held block by block from its start; sliding windows and states are not."""


class KvEventsError(ProtocolError):
    """A message that is no batch of KV-cache events."""

    code = "kv_events_error"


def decode(payload: bytes) -> Batch:
    """Raises KvEventsError for what is no batch of events."""
    try:
        whole = msgspec.msgpack.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise KvEventsError(f"a KV-cache event message is not msgpack: {error}") from error
    try:
        return _batch(whole)
    except (TypeError, ValueError, KeyError, IndexError, OverflowError, AttributeError) as error:
        raise KvEventsError(f"a KV-cache event message has an unexpected shape: {error!r}") from error


def _batch(whole: Any) -> Batch:
    if isinstance(whole, Mapping):
        at, raw, rank = whole["ts"], whole["events"], whole.get("data_parallel_rank")
    else:
        at, raw, rank = whole[0], whole[1], whole[2] if len(whole) > 2 else None
    if not isinstance(raw, list):
        raise TypeError("events are not a list")
    events: list[Event] = []
    unknown = 0
    for entry in raw:
        event = _event(entry)
        if event is None:
            unknown += 1
        else:
            events.append(event)
    return Batch(float(at), tuple(events), _integer(rank), unknown)


def _event(entry: Any) -> Event | None:
    if isinstance(entry, Mapping):
        kind, fields = entry.get("type"), entry
    else:
        kind, fields = entry[0], None
    if not isinstance(kind, str):
        raise TypeError("an event without a kind")
    found = _KINDS.get(kind)
    if found is None:
        return None
    names, make = found
    return make(dict(zip(names, entry[1:], strict=False)) if fields is None else fields)


def _stored(fields: Mapping[str, Any]) -> BlocksStored:
    get = fields.get
    hashes, size = _hashes(fields["block_hashes"]), fields["block_size"]
    tokens = array("I", fields["token_ids"])
    if type(size) is not int:
        raise TypeError("block_size is not an integer")
    parent, name, number = get("parent_block_hash"), get("lora_name"), get("lora_id")
    return BlocksStored(
        hashes,
        None if parent is None else _hash(parent),
        tokens,
        size,
        adapter=_text(name) if name is not None else None if number is None else f"#{number}",
        extra_keys=_extra_keys(get("extra_keys")),
        group=_integer(get("group_idx")),
        session=_text(get("session_id")),
        device=_on_device(get("medium")),
        prefix=_text(get("kv_cache_spec_kind")) in _WHOLE_PREFIX and size > 0 and len(tokens) == size * len(hashes),
    )


def _removed(fields: Mapping[str, Any]) -> BlocksRemoved:
    hashes, group, medium = _hashes(fields["block_hashes"]), fields.get("group_idx"), fields.get("medium")
    return BlocksRemoved(hashes, _integer(group), _on_device(medium))


def _cleared(fields: Mapping[str, Any]) -> CacheCleared:
    return CacheCleared()


_KINDS: Mapping[str, tuple[Sequence[str], Callable[[Mapping[str, Any]], Event]]] = {
    "BlockStored": (_STORED, _stored),
    "BlockRemoved": (_REMOVED, _removed),
    "AllBlocksCleared": ((), _cleared),
}


def _hashes(raw: Any) -> tuple[int, ...]:
    if not isinstance(raw, list):
        raise TypeError("block_hashes is not a list")
    return tuple([_hash(value) for value in raw])


def _hash(raw: Any) -> int:
    if isinstance(raw, bytes):
        return int.from_bytes(raw[-8:], "big")
    if type(raw) is int:
        return raw & _MASK
    raise TypeError(f"a block hash is {type(raw).__name__}, not an integer or bytes")


def _extra_keys(raw: Any) -> tuple[ExtraKeys | None, ...] | None:
    return None if raw is None else tuple([None if keys is None else _frozen(keys) for keys in raw])


def _frozen(value: Any) -> Any:
    return tuple([_frozen(each) for each in value]) if isinstance(value, list) else value


def _on_device(medium: Any) -> bool:
    return medium is None or (isinstance(medium, str) and medium.lower() == _DEVICE)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise TypeError(f"{type(value).__name__} in place of a text")


def _integer(value: Any) -> int | None:
    if value is None or type(value) is int:
        return value
    raise TypeError(f"{type(value).__name__} in place of an integer")
