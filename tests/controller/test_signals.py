from __future__ import annotations

import pytest

from controller.settings import ControlSettings
from controller.types import Scores
from tests.controller.planes import LADDER, plane, record_of, submit

ALWAYS = ControlSettings(score_always=True)


@pytest.mark.parametrize(
    ("scores", "length", "quality", "unranked"),
    [
        (Scores(0.5, 10.0, {"small": 0.5}), "scored", "scored", None),
        (Scores(output_tokens=10.0), "scored", "fallback", "no_prediction"),
        (Scores(quality={"small": 0.5}), "fallback", "scored", "no_prediction"),
        (None, "fallback", "fallback", "timeout"),
    ],
)
def test_each_signal_counts_once_as_what_became_of_it(
    scores: Scores | None, length: str, quality: str, unranked: str | None
) -> None:
    control = plane({"tier": "router", "order": "length_rank"}, pools=LADDER, settings=ALWAYS)
    assert submit(control, "a", 0.0).wants_scores
    control.on_scores("a", scores, 0.0, "timeout")
    control.on_scores("a", Scores(0.1, 1.0, {}), 0.0)
    counted = {(by, outcome): n for (stage, by, outcome), n in control.counters().items() if stage == "score" and n}
    assert counted == {("length", length): 1, ("quality", quality): 1}
    control.dispatch(0.0)
    control.on_abort("a", 1.0)
    (order,) = [choice for choice in record_of(control, "a").choices if choice.stage == "order"]
    assert order.fallback is None, "what came late ranks it all the same"
    assert unranked is None or unranked in {reason for _, _, reason in control.fallbacks()}


def test_what_is_sent_before_its_scores_came_is_spared_them() -> None:
    control = plane({"order": "length_rank"}, max_inflight=1)
    for name in "ab":
        submit(control, name, 0.0)
    assert control.counters()["score", "length", "skipped"] == 1, "the first could be sent at once"
    control.dispatch(0.0)
    control.on_abort("a", 1.0)
    control.dispatch(1.0)
    assert control.counters()["score", "length", "skipped"] == 2
    control.on_scores("b", Scores(0.1), 1.0)
    assert control.counters()["score", "length", "scored"] == 0
