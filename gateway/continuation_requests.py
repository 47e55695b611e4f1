"""What to ask the next worker for, so that it goes on where the last one was cut off."""

from __future__ import annotations

import json
from dataclasses import dataclass

from controller.types import Dispatch
from gateway.continuation_journal import Produced
from gateway.continuation_rules import CARRIED, greedy, stops
from gateway.endpoints import Endpoint
from gateway.openai import Call

__all__ = ["Request", "again", "from_text", "from_tokens", "holdback", "with_ids"]

_UNLIMITED = 2**31 - 1
"""For a chat that gave no ``max_tokens``: vLLM takes as many as its context has room for, of a completion too."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request for the rest of a stream."""

    path: str
    members: str
    """JSON members of the body, those left out that depend on the worker (``model``, ``priority``)."""
    kept: int
    """Tokens of the answer that the worker is given; the rest of what was produced comes again."""
    overlap: str
    """Text that the client has, and that comes again."""
    chat: bool
    """The answer has the form of a chat."""

    def body(self, dispatch: Dispatch) -> bytes:
        """The body for the worker that was chosen."""
        priority = "" if dispatch.priority is None else f',"priority":{dispatch.priority}'
        return f'{{"model":{json.dumps(dispatch.model)},{self.members}{priority}}}'.encode()


def holdback(call: Call) -> int:
    """Characters at the end of the answer that a worker keeps to itself, since they may begin a stop string."""
    fields = call.document.fields
    found = stops(fields)
    return max(map(len, found)) - 1 if found and not fields.get("include_stop_str_in_output") else 0


def with_ids(body: bytes) -> bytes:
    """The body of the first request, asking for token ids as well."""
    return body.rstrip()[:-1] + b',"return_token_ids":true}'


def from_tokens(call: Call, produced: Produced) -> Request | str:
    """Token replay; or why it cannot be, now that this much has been produced."""
    if produced.prompt is None or not produced.has_ids:
        return "its worker tells no token ids"
    kept, shown = len(produced.ids), produced.shown
    if not call.document.fields.get("return_token_ids"):  # the client has seen the text only: the last of it counts
        back = _back(call, produced)
        if isinstance(back, str):
            return back
        kept, shown = back
    overlap = produced.text[shown:]
    if overlap and not greedy(call.document.fields):
        return "it was cut where a stop string may have begun"
    ids = b",".join([produced.prompt, b",".join([b"%d" % token for token in produced.ids[:kept]])]).strip(b", ")
    members = [f'"prompt":[{ids.decode()}]', *_limits(call, kept), *_carried(call), _streaming(call)]
    members.append('"return_token_ids":true')
    return Request(Endpoint.COMPLETIONS.path, ",".join(members), kept, overlap, chat=False)


def from_text(call: Call, produced: Produced) -> Request | str:
    """The produced text as the beginning of the answer; or why it cannot be."""
    if _begun(call, produced.text) and call.document.fields.get("include_stop_str_in_output"):
        return "it was cut where a stop string may have begun"
    fields = call.document.fields
    kept = produced.tokens
    if call.endpoint is Endpoint.COMPLETIONS:
        prompt = json.dumps(fields["prompt"] + produced.text)
        members = [f'"prompt":{prompt}', *_limits(call, kept), *_carried(call), _streaming(call)]
        members += [_raw(call, "add_special_tokens")] if "add_special_tokens" in fields else []
        return Request(Endpoint.COMPLETIONS.path, ",".join(members), kept, "", chat=False)
    changed = {"messages": _messages(call, produced.text), "continue_final_message": "true"}
    changed |= {"add_generation_prompt": "false"}
    dropped = ("max_tokens", "max_completion_tokens", "min_tokens")
    return _same(call, changed, dropped, _limits(call, kept, chat=True), kept)


def again(call: Call, *, ids: bool) -> Request:
    """The client's own request once more: nothing of an answer has been shown yet."""
    return _same(call, {"return_token_ids": "true"} if ids else {}, (), [], 0)


def _same(call: Call, changed: dict[str, str], dropped: tuple[str, ...], more: list[str], kept: int) -> Request:
    document = call.document
    values = {name: value for name, value in changed.items() if name in document.fields}
    added = {name: value for name, value in changed.items() if name not in document.fields}
    drop = ("model", "priority", "stream_options", *dropped)
    text = document.rewritten(values=values, drop=drop, add=added).decode()[1:-1]
    members = ",".join([text, *more, f'"stream_options":{_options(call)}'])
    return Request(call.endpoint.path, members, kept, "", chat=call.endpoint is Endpoint.CHAT)


def _back(call: Call, produced: Produced) -> tuple[int, int] | str:
    """Where to go on: tokens and characters, at the end of a token whose text has been shown in full.

    Text that a worker holds back may belong to tokens of which some text was shown; and where it shows stop strings
    too, it would not recognise one whose beginning it was given. Those tokens are produced again.
    """
    if produced.shown == 0:
        return 0, 0
    lag = holdback(call)
    begun = _begun(call, produced.text)
    if lag == 0 and begun == 0:
        return produced.boundaries[-1]
    kept, shown = produced.back(produced.shown - max(lag, begun))
    return (kept, min(shown + lag, produced.shown)) if kept else (0, 0)


def _begun(call: Call, text: str) -> int:
    """Characters at the end of the text that may be the beginning of a stop string."""
    longest = 0
    for stop in stops(call.document.fields):
        for size in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:size]):
                longest = size
                break
    return longest


def _limits(call: Call, kept: int, *, chat: bool = False) -> list[str]:
    fields = call.document.fields
    most = call.ticket.max_tokens
    least = fields.get("min_tokens")
    found = []
    if most is not None:
        found.append(f'"max_tokens":{max(1, most - kept)}')
    elif not chat:
        found.append(f'"max_tokens":{_UNLIMITED}')
    if type(least) is int and least > kept:
        found.append(f'"min_tokens":{least - kept}')
    return found


def _carried(call: Call) -> list[str]:
    fields = call.document.fields
    return [_raw(call, name) for name in CARRIED if fields.get(name) is not None]


def _streaming(call: Call) -> str:
    return f'"stream":true,"stream_options":{_options(call)}'


def _options(call: Call) -> str:
    given = call.document.fields.get("stream_options") or {}
    more = ',"continuous_usage_stats":true' if not call.adds_usage and given.get("continuous_usage_stats") else ""
    return f'{{"include_usage":true{more}}}'


def _messages(call: Call, text: str) -> str:
    if call.document.fields.get("continue_final_message"):
        *before, last = call.document.fields["messages"]
        return json.dumps([*before, {**last, "content": last["content"] + text}])
    answer = json.dumps({"role": "assistant", "content": text})
    return f"{call.document.raw('messages').rstrip()[:-1]},{answer}]"


def _raw(call: Call, name: str) -> str:
    return f'"{name}":{call.document.raw(name)}'
