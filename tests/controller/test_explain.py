from __future__ import annotations

from controller.explain import explain
from controller.types import Needs, PoolSpec, Scores
from tests.controller.planes import LADDER, finish, plane, record_of, refused, submit


def test_a_decision_reads_like_a_sentence_a_stage() -> None:
    control = plane({"tier": ("router", {"quality_usd": 1.0}), "fairness": "vtc"}, pools=LADDER)
    scores = Scores(length_rank=0.3, output_tokens=40.0, quality={"small": 0.25, "medium": 0.5, "large": 0.125})
    submit(control, "a", 0.0, scores, max_tokens=64, tenant="acme")
    control.dispatch(0.5)
    finish(control, "a", 2.0, 30)
    text = explain(record_of(control, "a")).splitlines()
    assert text[0] == "a: 'auto' for acme, 100 prompt tokens, at most 64 out"
    assert text[1] == "Taken? admitted, by bounded"
    assert text[2].startswith("Which pool? medium, by router: small (0.25); medium (0.4999); large (0.12")
    assert text[3].startswith("Whose turn? acme, by vtc")
    assert text[4].startswith("When? key ")
    assert text[5].startswith("Which worker? medium-0, by least_load")
    assert text[6] == "completed after 2.000 s, waited 0.500 s, 30 tokens out"


def test_a_fallback_a_dropped_pool_and_a_refusal_are_told() -> None:
    pools = (*LADDER[:2], PoolSpec("plain", "org/plain", 2, tools=False))
    control = plane({"tier": "router"}, pools=pools)
    submit(control, "a", 0.0, needs=Needs(tools=True))
    control.on_scores("a", None, 0.0, why="timeout")
    control.dispatch(0.0)
    finish(control, "a", 1.0)
    text = explain(record_of(control, "a"))
    assert "by threshold standing in (timeout)" in text
    assert "not plain (-0, not eligible)" in text

    refused(control, "b", 2.0, model="nothing")
    assert "rejected after 0.000 s (model_not_found)" in explain(record_of(control, "b"))


def test_a_draw_tells_its_probability_and_a_retry_its_attempts() -> None:
    control = plane({"tier": ("static", {"weights": {"small": 1.0, "large": 3.0}})}, pools=LADDER, workers=2)
    submit(control, "a", 0.0)
    control.dispatch(0.0)
    control.on_worker_error("a", "reset", 0.1, retryable=True)
    control.dispatch(0.2)
    finish(control, "a", 1.0)
    text = explain(record_of(control, "a"))
    assert "chosen with probability 0." in text
    assert "2 attempts" in text
