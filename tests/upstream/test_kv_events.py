from __future__ import annotations

import contextlib
from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("msgspec", reason="KV-cache events need the extra kv-events")

import msgspec

from upstream.errors import ProtocolError, UpstreamError
from upstream.kv_events import KvEventsError, decode
from upstream.kv_events_types import Batch, BlocksRemoved, BlocksStored, CacheCleared

SHA = [bytes(range(32)), bytes(range(1, 33))]
LAST8 = [int.from_bytes(each[-8:], "big") for each in SHA]


def packed(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


def of_map(**more: Any) -> dict[str, Any]:
    fixed = {"block_hashes": SHA, "parent_block_hash": None, "token_ids": [1, 2, 3, 4], "block_size": 2}
    return {"type": "BlockStored", **fixed, "lora_id": None, "medium": "GPU", "lora_name": None, **more}


PLAIN = BlocksStored(tuple(LAST8), None, array("I", [1, 2, 3, 4]), 2)


@pytest.mark.parametrize(
    "batch",
    [
        [
            1.5,
            [
                of_map(),
                {"type": "BlockRemoved", "block_hashes": SHA[:1], "medium": "GPU"},
                {"type": "AllBlocksCleared"},
            ],
        ],
        {
            "ts": 1.5,
            "events": [of_map(), {"type": "BlockRemoved", "block_hashes": SHA[:1]}, {"type": "AllBlocksCleared"}],
        },
        [
            1.5,
            [
                ["BlockStored", SHA, None, [1, 2, 3, 4], 2, None, "GPU", None],
                ["BlockRemoved", SHA[:1], "GPU"],
                ["AllBlocksCleared"],
            ],
        ],
        [1.5, [["BlockStored", SHA, None, [1, 2, 3, 4], 2, None], ["BlockRemoved", SHA[:1]], ["AllBlocksCleared"]]],
        [1.5, [["BlockStored", SHA, None, [1, 2, 3, 4], 2], ["BlockRemoved", LAST8[:1]], ["AllBlocksCleared"]]],
    ],
    ids=["maps", "maps in a map", "arrays", "arrays of before media", "shorter arrays"],
)
def test_every_encoding_says_the_same(batch: Any) -> None:
    assert decode(packed(batch)) == Batch(1.5, (PLAIN, BlocksRemoved((LAST8[0],)), CacheCleared()))


def test_hashes_are_64_bits_however_they_are_sent() -> None:
    sent = [SHA[0], 7, -1, 2**64 - 1, b"\x01\x02"]
    (event,) = decode(packed([0, [of_map(block_hashes=sent, token_ids=[0] * 10, parent_block_hash=-2)]])).events
    assert isinstance(event, BlocksStored)
    assert event.hashes == (LAST8[0], 7, 2**64 - 1, 2**64 - 1, 258)
    assert event.parent == 2**64 - 2


def test_what_is_newer_is_read_too() -> None:
    more = {
        "extra_keys": [["lora", ["image", 3]], None],
        "group_idx": 1,
        "kv_cache_spec_kind": "full_attention",
        "session_id": "r-1",
        "something_new": {"a": 1},
    }
    batch = decode(packed([0, [of_map(lora_name="lora", **more)], 3, "and more"]))
    (event,) = batch.events
    assert isinstance(event, BlocksStored)
    assert event.extra_keys == (("lora", ("image", 3)), None)
    assert (event.group, event.session, event.adapter, batch.rank) == (1, "r-1", "lora", 3)
    array_form = [
        "BlockStored",
        SHA,
        5,
        [1, 2, 3, 4],
        2,
        9,
        "GPU",
        "lora",
        more["extra_keys"],
        1,
        "full_attention",
        None,
    ]
    (other,) = decode(packed([0, [[*array_form, "LOCAL", None, "r-1", "new"]], 3])).events
    assert isinstance(other, BlocksStored)
    assert (other.extra_keys, other.session, other.parent) == (event.extra_keys, "r-1", 5)


def test_an_adapter_without_a_name_is_told_by_its_number() -> None:
    (event,) = decode(packed([0, [of_map(lora_id=4)]])).events
    assert isinstance(event, BlocksStored)
    assert event.adapter == "#4"


@pytest.mark.parametrize(
    ("more", "device", "prefix"),
    [
        ({}, True, True),
        ({"medium": None}, True, True),
        ({"medium": "gpu"}, True, True),
        ({"medium": "CPU"}, False, True),
        ({"medium": "STORAGE", "token_ids": [], "block_size": 0}, False, False),
        ({"kv_cache_spec_kind": "sliding_window"}, True, False),
        ({"kv_cache_spec_kind": "mla_attention"}, True, True),
        ({"token_ids": [1, 2, 3, 4, 5, 6]}, True, False),
    ],
)
def test_other_caches_are_told_apart(more: dict[str, Any], device: bool, prefix: bool) -> None:
    (event,) = decode(packed([0, [of_map(**more)]])).events
    assert isinstance(event, BlocksStored)
    assert (event.device, event.prefix) == (device, prefix)


def test_unknown_kinds_are_counted_and_passed_over() -> None:
    events = [["BlockMoved", 1, 2], {"type": "BlockPinned"}, ["AllBlocksCleared", "reason"]]
    assert decode(packed([0, events])) == Batch(0.0, (CacheCleared(),), unknown=2)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        packed(7),
        packed([]),
        packed([0]),
        packed([0, 7]),
        packed({"ts": 0}),
        packed(["now", []]),
        packed([0, [7]]),
        packed([0, [[]]]),
        packed([0, [{}]]),
        packed([0, [["BlockStored"]]]),
        packed([0, [["BlockRemoved", 7]]]),
        packed([0, [["BlockRemoved", ["text"]]]]),
        packed([0, [of_map(token_ids=["a"])]]),
        packed([0, [of_map(token_ids=[-1])]]),
        packed([0, [of_map(token_ids=None)]]),
        packed([0, [of_map(block_size="2")]]),
        packed([0, [of_map(extra_keys=7)]]),
        packed([0, [of_map(session_id=[])]]),
        packed([0, [of_map(group_idx="0")]]),
        packed([0, [], "first"]),
    ],
)
def test_what_is_no_batch_is_refused(payload: bytes) -> None:
    with pytest.raises(KvEventsError) as caught:
        decode(payload)
    assert isinstance(caught.value, ProtocolError)
    assert isinstance(caught.value, UpstreamError)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_do_more_than_be_refused(payload: bytes) -> None:
    with contextlib.suppress(KvEventsError):
        decode(payload)


VALUES = st.recursive(
    st.one_of(st.none(), st.integers(-9, 9), st.text(max_size=3), st.binary(max_size=3), st.floats(allow_nan=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(of_map(extra_keys=None, group_idx=None, session_id=None))), VALUES))
def test_fields_of_any_type_never_do_more_than_be_refused(fields: dict[str, Any]) -> None:
    with contextlib.suppress(KvEventsError):
        decode(packed([0, [{**of_map(), **fields}]]))
