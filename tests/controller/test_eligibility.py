from __future__ import annotations

import pytest

from controller.settings import ControlSettings, TenantSpec
from controller.types import Needs, PoolSpec
from tests.controller.planes import plane, record_of, refused, serve_all, submit

PLAIN = PoolSpec("plain", "m0", 0, context_length=1000, tools=False, structured_output=False)
RICH = PoolSpec(
    "rich", "m1", 1, context_length=4000, modalities=frozenset({"image"}), adapters=frozenset({"support-bot"})
)


@pytest.mark.parametrize(
    ("fields", "pool"),
    [
        ({"needs": Needs(tools=True)}, "rich"),
        ({"needs": Needs(structured_output=True)}, "rich"),
        ({"needs": Needs(modalities=frozenset({"image"}))}, "rich"),
        ({"needs": Needs(adapter="support-bot")}, "rich"),
        ({"prompt_tokens": 1500}, "rich"),
        ({"prompt_tokens": 900, "max_tokens": 200}, "rich"),
        ({"prompt_tokens": 900, "max_tokens": 100}, "plain"),
        ({}, "plain"),
        ({"tenant": "basic"}, "plain"),
    ],
)
def test_a_pool_that_cannot_serve_is_never_chosen(fields: dict[str, object], pool: str) -> None:
    limits = ControlSettings(tenants={"basic": TenantSpec(tier_ceiling=0)})
    control = plane({"tier": "pinned"}, pools=(PLAIN, RICH), settings=limits)
    submit(control, "a", 0.0, **fields)
    serve_all(control, 0.0)
    record = record_of(control, "a")
    assert record.pool == pool
    tier = next(choice for choice in record.choices if choice.stage == "tier")
    assert tier.chosen == pool


@pytest.mark.parametrize(
    ("fields", "status", "code", "word"),
    [
        ({"prompt_tokens": 5000}, 400, "context_length_exceeded", "5001"),
        ({"prompt_tokens": 3999, "max_tokens": 2}, 400, "context_length_exceeded", "4000"),
        ({"needs": Needs(modalities=frozenset({"audio"}))}, 400, "no_capable_pool", "modality"),
        ({"needs": Needs(adapter="unheard-of")}, 400, "no_capable_pool", "adapter"),
        ({"needs": Needs(tools=True), "model": "plain"}, 400, "no_capable_pool", "tools"),
        ({"model": "rich", "tenant": "basic"}, 403, "tenant_ceiling", "basic"),
        ({"model": "gpt-9"}, 404, "model_not_found", "gpt-9"),
        ({"model": "ritch"}, 404, "model_not_found", "'rich'"),
    ],
)
def test_a_request_that_no_pool_can_serve_is_told_why(
    fields: dict[str, object], status: int, code: str, word: str
) -> None:
    limits = ControlSettings(tenants={"basic": TenantSpec(tier_ceiling=0)})
    control = plane({}, pools=(PLAIN, RICH), settings=limits)
    answer = refused(control, "a", 0.0, **fields)
    assert (answer.status, answer.code) == (status, code)
    assert word in answer.message
    assert record_of(control, "a").code == code


def test_an_estimated_length_steers_but_refuses_only_the_impossible() -> None:
    control = plane({"tier": "pinned"}, pools=(PLAIN, RICH))
    submit(control, "long-ish", 0.0, prompt_tokens=None, prompt_chars=4 * 1100)
    serve_all(control, 0.0)
    assert record_of(control, "long-ish").pool == "rich"
    submit(control, "maybe-too-long", 0.0, prompt_tokens=None, prompt_chars=4 * 5000)
    assert refused(control, "hopeless", 0.0, prompt_tokens=None, prompt_chars=4 * 50_000).status == 400
