"""A decision in words, for the operator."""

from __future__ import annotations

from collections.abc import Iterator

from controller.types import Alternative, Choice, DecisionRecord, Result

_QUESTIONS = {
    "admit": "Taken?",
    "tier": "Which pool?",
    "order": "When?",
    "fairness": "Whose turn?",
    "place": "Which worker?",
}


def explain(record: DecisionRecord) -> str:
    """One line for the request, one for each stage that decided, one for how it ended."""
    return "\n".join([_request(record), *(_choice(choice) for choice in record.choices), _ending(record)])


def _request(record: DecisionRecord) -> str:
    limit = "" if record.max_tokens is None else f", at most {record.max_tokens} out"
    return f"{record.ticket}: {record.model!r} for {record.tenant}, {record.prompt_tokens} prompt tokens{limit}"


def _choice(choice: Choice) -> str:
    line = f"{_QUESTIONS.get(choice.stage, choice.stage)} {choice.chosen or 'any'}, by {choice.by}"
    if choice.fallback is not None:
        line += f" standing in ({choice.fallback})"
    weighed = "; ".join(_alternatives(choice))
    return f"{line}: {weighed}" if weighed else line


def _alternatives(choice: Choice) -> Iterator[str]:
    for alternative in choice.alternatives:
        parts = [part for part in (_score(alternative), alternative.why) if part]
        mark = "" if alternative.eligible else "not "
        yield f"{mark}{alternative.name}" + (f" ({', '.join(parts)})" if parts else "")
    if choice.propensity < 1.0:
        yield f"chosen with probability {choice.propensity:.3g}"


def _score(alternative: Alternative) -> str:
    return "" if alternative.score is None else f"{alternative.score:.4g}"


def _ending(record: DecisionRecord) -> str:
    took = record.finished_at - record.submitted_at
    line = f"{record.result.value} after {took:.3f} s"
    if record.code is not None:
        line += f" ({record.code})"
    if record.dispatched_at is not None:
        line += f", waited {record.dispatched_at - record.submitted_at:.3f} s"
    if record.attempts > 1:
        line += f", {record.attempts} attempts"
    if record.result is Result.COMPLETED and record.usage is not None:
        line += f", {record.usage.output_tokens} tokens out"
    return line
