from __future__ import annotations

from typing import Any

import pytest

from controller.settings import ControlSettings, TenantSpec
from controller.types import Admitted, Needs, PoolSpec, Task, Usage
from tests.controller.planes import plane, record_of, refused, sent, serve_all, submit, ticket

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
def test_a_pool_that_cannot_serve_is_never_chosen(fields: dict[str, Any], pool: str) -> None:
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
    fields: dict[str, Any], status: int, code: str, word: str
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


VECTORS = PoolSpec("vectors", "e5", 2, context_length=500, tasks=frozenset({Task.EMBED, Task.RERANK}))
OTHER_VECTORS = PoolSpec("others", "bge", 3, context_length=500, tasks=frozenset({Task.EMBED}))
MORE_VECTORS = PoolSpec("more", "e5", 4, context_length=500, tasks=frozenset({Task.EMBED}))
EMBED, RERANK = Needs(task=Task.EMBED), Needs(task=Task.RERANK)


def test_a_pool_gets_only_what_its_model_can_do() -> None:
    control = plane({"tier": "static"}, pools=(PLAIN, VECTORS))
    submit(control, "chat", 0.0)
    submit(control, "vector", 0.0, needs=EMBED, max_tokens=1)
    submit(control, "count", 0.0, needs=Needs(task=None), prompt_tokens=0, max_tokens=1)
    serve_all(control, 0.0)
    assert {name: record_of(control, name).pool for name in ("chat", "vector", "count")} == {
        "chat": "plain",
        "vector": "vectors",
        "count": "plain",
    }


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"needs": EMBED, "model": "plain"}, "these do: e5"),
        ({"model": "e5"}, "these do: m0"),
        ({"needs": Needs(task=Task.TRANSCRIBE)}, "no pool"),
    ],
)
def test_the_wrong_task_is_told_with_the_models_that_have_it(fields: dict[str, Any], word: str) -> None:
    answer = refused(plane({}, pools=(PLAIN, VECTORS)), "a", 0.0, **fields)
    assert (answer.status, answer.code) == (404, "task_not_supported")
    assert word in answer.message


def test_other_obstacles_are_told_of_the_pools_that_have_the_task() -> None:
    control = plane({}, pools=(RICH, VECTORS))
    answer = refused(control, "a", 0.0, needs=EMBED, prompt_tokens=600, max_tokens=1)
    assert (answer.code, "600 tokens" in answer.message, "500" in answer.message) == (
        "context_length_exceeded",
        True,
        True,
    )


@pytest.mark.parametrize(("share", "fits"), [(1.0, False), (0.5, True), (0.0, True)])
def test_each_of_several_inputs_has_to_fit_not_their_sum(share: float, fits: bool) -> None:
    control = plane({}, pools=(VECTORS,))
    answer = control.submit(ticket("a", needs=Needs(task=Task.EMBED, share=share), prompt_tokens=1000), 0.0)
    assert isinstance(answer, Admitted) is fits


def test_vectors_of_different_models_are_never_mixed() -> None:
    control = plane({"tier": "threshold"}, pools=(VECTORS, OTHER_VECTORS, MORE_VECTORS), max_inflight=1)
    for index in range(9):
        submit(control, f"v{index}", 0.0, needs=EMBED, max_tokens=1)
    serve_all(control, 0.0)
    pools = {record_of(control, f"v{index}").pool for index in range(9)}
    assert pools <= {"vectors", "more"}


def test_what_does_not_generate_is_never_scored_and_teaches_nothing_of_answers() -> None:
    control = plane({"tier": "router", "order": "length_rank"}, pools=(VECTORS, MORE_VECTORS), max_inflight=1)
    typical = [pool.typical_output for pool in control.view(0.0).pools]
    answers = [submit(control, f"v{index}", 0.0, needs=EMBED, max_tokens=1) for index in range(5)]
    assert not any(answer.wants_scores for answer in answers)
    serve_all(control, 0.0, output_tokens=0)
    assert [pool.typical_output for pool in control.view(9.0).pools] == typical
    assert all(
        outcome == "skipped" for (stage, _, outcome), count in control.counters().items() if stage == "score" and count
    )


def test_an_adapter_is_a_model_of_the_pools_that_have_it() -> None:
    more = PoolSpec("more", "m2", 2, adapters=frozenset({"support-bot", "plain"}))
    control = plane({"tier": "static"}, pools=(PLAIN, RICH, more), max_inflight=1)
    assert control.models()["support-bot"] == ("rich", "more")
    assert control.models()["plain"] == ("plain",), "a pool's own name comes first"
    submit(control, "a", 0.0, model="support-bot")
    submit(control, "b", 0.0, model="more")
    dispatches = control.dispatch(0.0)
    assert sent(dispatches) == ["a"]
    assert (dispatches[0].pool, dispatches[0].model) == ("more", "support-bot")
    control.on_finish("a", Usage(1, 1), 1.0)
    assert control.dispatch(1.0)[0].model == "m2"
