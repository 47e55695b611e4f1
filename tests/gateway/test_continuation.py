from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.types import Dispatch
from gateway.continuation import Continuation, Continuations, Ending, Mode, Refused, Resume
from gateway.endpoints import Endpoint
from gateway.openai import Call, Wish, body_for, parse
from gateway.stream import StreamMeter
from tests.gateway.scripted import Model
from upstream import sse

DISPATCH = Dispatch("t", "p", "p-0", "http://p-0", "m", None, 1)
WISH = Wish("t", "default", 0, 0, None)
CHAT: dict[str, Any] = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
STOPS = ("</stop>", "top> beta", "a\n", ">")


def _call(body: dict[str, Any]) -> Call:
    return parse(Endpoint.CHAT if "messages" in body else Endpoint.COMPLETIONS, json.dumps(body).encode(), WISH)


def _begin(call: Call, mode: Mode = Mode.TOKENS, limit: int = 1 << 20) -> Continuation:
    going = Continuations(mode, limit, 1 << 30).open(call)
    assert going is not None
    going.answered()
    return going


REQUESTS = st.fixed_dictionaries(
    {"model": st.just("m"), "stream": st.just(True), "temperature": st.just(0)},
    optional={
        "max_tokens": st.integers(1, 60),
        "min_tokens": st.integers(0, 12),
        "stop": st.one_of(st.sampled_from(STOPS), st.lists(st.sampled_from(STOPS), min_size=1, max_size=3)),
        "include_stop_str_in_output": st.booleans(),
        "stream_options": st.sampled_from(
            [None, {}, {"include_usage": True}, {"include_usage": True, "continuous_usage_stats": True}]
        ),
    },
)
PROMPTS = st.text("ab €", min_size=1, max_size=4)
ASKED = st.one_of(
    st.builds(lambda body, text: {**body, "messages": [{"role": "user", "content": text}]}, REQUESTS, PROMPTS),
    st.builds(lambda body, text: {**body, "prompt": text}, REQUESTS, PROMPTS),
    st.builds(lambda body, text: {**body, "prompt": list(text.encode())}, REQUESTS, PROMPTS),
)


class Worker:
    """Answers what the gateway asks, and is cut off after so many bytes."""

    def __init__(self, model: Model, path: str, body: bytes, name: str, length: float = float("inf")) -> None:
        self.whole = b"".join(model.events(path, json.loads(body), name))
        self.cut = length < len(self.whole)
        self.sent = self.whole[: int(length)] if self.cut else self.whole


def _relayed(call: Call, going: Continuation, sent: bytes, random: Random) -> tuple[bytes, StreamMeter]:
    """What the client is sent of one worker's bytes, in chunks of any size."""
    meter = StreamMeter(drop_usage=call.adds_usage, screen=going.screen)
    events, at = b"", 0
    while at < len(sent):
        size = random.choice([1, 2, 50, 300, 5000])
        events += meter.feed(sent[at : at + size])
        at += size
    return events, meter


def _continued(body: dict[str, Any], model: Model, cuts: list[int], seed: int, mode: Mode = Mode.TOKENS) -> bytes:
    """The client's stream when each worker in turn dies after so many bytes; the last does not."""
    random, call = Random(seed), _call(body)
    going = _begin(call, mode)
    path, asked, out = call.endpoint.path, going.body(body_for(call, DISPATCH)), b""
    for number, length in enumerate([*cuts, 1 << 30]):
        worker = Worker(model, path, asked, f"w{number}", length)
        events, meter = _relayed(call, going, worker.sent, random)
        out += events
        if not worker.cut:
            assert going.finished()
            return out + meter.end()
        out += meter.cut()
        if not out:
            going.answered()
            continue
        step = going.after_failure()
        if isinstance(step, Ending):
            return out + step.events
        assert isinstance(step, Resume), step
        path, asked = step.path, step.body(DISPATCH)
        going.answered()
    raise AssertionError


def _unbroken(body: dict[str, Any], model: Model) -> bytes:
    """The client's stream from one worker, nothing being asked for but by the client."""
    path = Endpoint.CHAT.path if "messages" in body else Endpoint.COMPLETIONS.path
    return b"".join(model.events(path, body, "w0"))


def _said(events: bytes) -> dict[str, Any]:
    """What a client makes of a stream."""
    contents = [json.loads(data) for event in sse.split(events) if (data := sse.data(event)) not in (None, sse.DONE)]
    choices = [choice for content in contents for choice in content["choices"]]
    texts = [choice["text"] if "text" in choice else choice["delta"].get("content") or "" for choice in choices]
    return {
        "heads": {(c["id"], c["object"], c["created"], c["model"]) for c in contents},
        "roles": [choice["delta"]["role"] for choice in choices if "role" in choice.get("delta", {})],
        "text": "".join(texts),
        "finish": [c["finish_reason"] for c in choices if c["finish_reason"] is not None],
        "stop": [c.get("stop_reason") for c in choices if c["finish_reason"] is not None],
        "usage": [c["usage"] for c in contents if c.get("usage")][-1:],
        "done": events.endswith(b"data: [DONE]\n\n") and events.count(b"[DONE]") == 1,
        "ids": b'_ids":[' in events,
    }


@settings(max_examples=60, deadline=None)
@given(ASKED, st.integers(0, 2**32), st.integers(1, 3))
def test_the_clients_bytes_are_those_of_a_worker_that_was_asked_for_nothing(
    body: dict[str, Any], seed: int, batch: int
) -> None:
    assert _continued(body, Model(batch=batch), [], seed) == _unbroken(body, Model(batch=batch))


@settings(max_examples=120, deadline=None)
@given(ASKED, st.lists(st.integers(0, 9000), min_size=1, max_size=3), st.integers(0, 2**32), st.integers(1, 3))
def test_a_stream_that_is_cut_anywhere_says_what_it_would_have_said(
    body: dict[str, Any], cuts: list[int], seed: int, batch: int
) -> None:
    model = Model(batch=batch)
    unbroken, continued = _said(_unbroken(body, model)), _said(_continued(body, model, cuts, seed))
    if len(continued["heads"]) == 1:  # where nothing had been sent, the next worker's name is the stream's
        continued["heads"] = unbroken["heads"]
    assert continued == unbroken


@pytest.mark.parametrize("include", [False, True])
def test_every_byte_of_a_stream_with_a_stop_string_can_be_its_last(include: bool) -> None:
    body = {"model": "m", "stream": True, "temperature": 0, "prompt": "ab", "stop": ["</stop>", "top> beta"]}
    body |= {"include_stop_str_in_output": include, "stream_options": {"include_usage": True}, "max_tokens": 50}
    model = Model(every=60)
    unbroken = _unbroken(body, model)
    first = unbroken.find(b"\n\n") + 700  # the events that ask for ids are a little longer
    for length in range(first, len(unbroken) + 900, 23):
        assert _said(_continued(body, model, [length], length))["text"] == _said(unbroken)["text"]


@settings(max_examples=40, deadline=None)
@given(ASKED, st.integers(200, 6000), st.integers(0, 2**32))
def test_from_the_text_alone_one_stream_comes_out_too(body: dict[str, Any], cut: int, seed: int) -> None:
    body = {name: value for name, value in body.items() if name not in ("stop", "include_stop_str_in_output")}
    if isinstance(body.get("prompt"), list):
        return
    said = _said(_continued(body, Model(), [cut], seed, Mode.TEXT))
    assert (len(said["heads"]), len(said["finish"]), said["done"], said["ids"]) == (1, 1, True, False)
    assert len(said["roles"]) == ("messages" in body)


def test_text_mode_asks_for_nothing_and_repeats_the_answer_so_far() -> None:
    body: dict[str, Any] = {
        "model": "m",
        "stream": True,
        "max_tokens": 50,
        "messages": [{"role": "user", "content": "hi"}],
    }
    call = _call(body)
    going = _begin(call, Mode.TEXT)
    assert b"token_ids" not in going.body(body_for(call, DISPATCH))
    events = Model(every=1000).events("/v1/chat/completions", body)
    going.take(b"".join(events[:6]))
    text = _said(b"".join(events[:6]))["text"]
    step = going.after_failure()
    assert isinstance(step, Resume)
    assert step.path == "/v1/chat/completions"
    asked = json.loads(step.body(DISPATCH))
    assert asked["messages"] == [*body["messages"], {"role": "assistant", "content": text}]
    assert (asked["continue_final_message"], asked["add_generation_prompt"]) == (True, False)
    assert 44 < asked["max_tokens"] < 50


def test_the_request_for_the_rest_carries_what_says_how_tokens_are_chosen() -> None:
    body = {
        "model": "auto",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "temperature": 0.70,
        "top_p": 0.9,
        "logit_bias": {"5": 1e0},
        "repetition_penalty": 1.1,
        "presence_penalty": 0,
        "cache_salt": "x",
        "stop_token_ids": [7],
        "min_tokens": 20,
        "max_completion_tokens": 64,
        "tools": [],
        "seed": None,
        "user": "me",
    }
    call = _call(body)
    going = _begin(call)
    asked = json.loads(going.body(body_for(call, DISPATCH)))
    assert asked["return_token_ids"] is True
    events = Model(every=1000).events("/v1/chat/completions", asked)
    going.take(b"".join(events[:6]))
    step = going.after_failure()
    assert isinstance(step, Resume)
    again = json.loads(step.body(Dispatch("t", "p", "p-1", "http://p-1", "m", -3, 2)))
    prompt = again.pop("prompt")
    kept = len(prompt) - len(Model().prompt(body))
    assert prompt[: -kept or None] == Model().prompt(body)
    assert 0 < kept <= 5
    assert again == {
        "model": "m",
        "priority": -3,
        "temperature": 0.70,
        "top_p": 0.9,
        "logit_bias": {"5": 1.0},
        "repetition_penalty": 1.1,
        "cache_salt": "x",
        "stop_token_ids": [7],
        "user": "me",
        "max_tokens": 64 - kept,
        "min_tokens": 20 - kept,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
    }


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"response_format": {"type": "json_object"}}, "structured"),
        ({"structured_outputs": {"regex": "a"}}, "structured"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"echo": True}, "echo"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": -1}, "frequency_penalty"),
        ({"bad_words": ["a b"]}, "bad_words"),
        ({"seed": 3, "temperature": 1}, "seed"),
        ({"seed": 3}, "seed"),
        ({"include_reasoning": False}, "include_reasoning"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"vllm_xargs": {"a": 1}}, "vllm_xargs"),
        ({"tomorrows_field": 1}, "tomorrows_field"),
    ],
)
def test_what_would_come_out_wrong_is_refused(fields: dict[str, Any], why: str) -> None:
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}], **fields}
    call = _call(body)
    going = _begin(call)
    assert going.screen is None, "such a stream costs nothing"
    assert b"token_ids" not in going.body(body_for(call, DISPATCH))
    step = going.after_failure()
    assert isinstance(step, Refused)
    assert why in step.why


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 3, "temperature": 0},
        {"seed": 3, "temperature": 0.0},
        {"n": 1, "logprobs": False, "response_format": {"type": "text"}, "presence_penalty": 0.0},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"},
        {"repetition_penalty": 1.3},
    ],
)
def test_what_comes_out_right_is_continued(fields: dict[str, Any]) -> None:
    assert _begin(_call({"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}], **fields})).asks


@pytest.mark.parametrize("prompt", [["a", "b"], [[1, 2], [3]]])
def test_several_prompts_are_refused(prompt: list[Any]) -> None:
    assert isinstance(_begin(_call({"model": "m", "stream": True, "prompt": prompt})).after_failure(), Refused)


def test_what_is_no_stream_is_not_kept() -> None:
    call = _call({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
    assert Continuations(Mode.TOKENS, 1 << 20, 1 << 30).open(call) is None


def _chunk(delta: dict[str, Any], **choice: Any) -> bytes:
    one = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, "token_ids": [5], **choice}
    content = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [one]}
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"


def test_a_stream_that_is_cut_inside_its_reasoning_is_refused_and_after_it_continued() -> None:
    going = _begin(_call(CHAT))
    going.take(_chunk({"role": "assistant", "content": ""}, prompt_token_ids=[1]))
    going.take(_chunk({"reasoning": "hm"}))
    step = going.after_failure()
    assert isinstance(step, Refused)
    assert "reasoning" in step.why
    going.take(_chunk({"content": "so"}))
    assert isinstance(going.after_failure(), Resume)


def test_a_stream_with_a_tool_call_is_refused() -> None:
    going = _begin(_call(CHAT))
    going.take(_chunk({"content": "I call"}) + _chunk({"tool_calls": [{"index": 0, "function": {"name": "f"}}]}))
    assert isinstance(going.after_failure(), Refused)


def test_events_that_are_only_there_for_the_token_ids_are_taken_out() -> None:
    going = _begin(_call(CHAT))
    events = _chunk({"content": "a"}) + _chunk({}) + _chunk({}, finish_reason="stop")
    assert [b'"delta":{}' in event for event in sse.split(going.take(events))] == [False, True]


def test_text_that_looks_like_token_ids_is_left_alone() -> None:
    going = _begin(_call(CHAT))
    text = '"token_ids":[1,2] \\"prompt_token_ids": [3] "delta":{}'
    assert going.take(_chunk({"content": text})) == _chunk({"content": text}, token_ids=None)


def test_a_worker_that_ignores_the_wish_for_token_ids_is_continued_from_its_text() -> None:
    going = _begin(_call(CHAT))
    events = _chunk({"role": "assistant", "content": ""}) + _chunk({"content": "a"}) + _chunk({"content": "b"})
    events = events.replace(b',"token_ids":[5]', b"")
    assert going.take(events) == events
    step = going.after_failure()
    assert isinstance(step, Resume)
    assert json.loads(step.body(DISPATCH))["messages"][-1] == {"role": "assistant", "content": "ab"}


def test_sampled_text_is_never_spliced_over_what_would_come_differently() -> None:
    body = {**CHAT, "temperature": 1, "stop": ["never seen"], "include_stop_str_in_output": True}
    going = _begin(_call(body))
    going.take(_chunk({"role": "assistant", "content": ""}, prompt_token_ids=[1]))
    going.take(_chunk({"content": "I nev"}))
    assert isinstance(going.after_failure(), Refused)
    going.take(_chunk({"content": "a"}))
    assert isinstance(going.after_failure(), Resume)


def test_another_answer_at_the_seam_ends_the_stream() -> None:
    body = {**CHAT, "temperature": 0, "stop": ["wxyz"]}
    going = _begin(_call(body))
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "prompt_token_ids": [1]}
    role = {**head, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
    going.take(b"data: " + json.dumps(role).encode() + b"\n\n")
    for text in ("ab", "cd", "ef"):
        going.take(_chunk({"content": text}))
    assert isinstance(going.after_failure(), Resume)
    going.answered()
    other = {"index": 0, "text": "something else", "logprobs": None, "finish_reason": None, "token_ids": [9]}
    content = {"id": "y", "object": "text_completion", "created": 2, "model": "m", "choices": [other]}
    assert going.take(b"data: " + json.dumps(content).encode() + b"\n\n") == b""
    assert going.broken == "seam_mismatch"
    assert isinstance(going.after_failure(), Refused)


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (_chunk({"content": ""}, finish_reason="abort"), "aborted"),
        (b'data: {"error": {"message": "dead", "code": 500}}\n\n', "status_500"),
        (b'data: {"error": {"message": "dead"}}\n\n', "status_500"),
    ],
)
def test_a_worker_that_gives_up_in_words_is_as_good_as_dead(event: bytes, code: str) -> None:
    going = _begin(_call(CHAT))
    first = _chunk({"content": "a"}, token_ids=None)
    assert going.take(first + event + b"data: [DONE]\n\n") == first
    assert going.broken == code
    assert isinstance(going.after_failure(), Resume)


def test_an_error_that_is_the_requests_own_passes() -> None:
    going = _begin(_call(CHAT))
    event = b'data: {"error": {"message": "no", "code": 400}}\n\n'
    assert (going.take(event), going.broken) == (event, None)


def test_a_stream_that_outgrows_its_bounds_is_relayed_and_forgotten() -> None:
    shared = Continuations(Mode.TOKENS, 1000, 1 << 30)
    going = shared.open(_call(CHAT))
    assert going is not None
    event, stripped = _chunk({"content": "word"}), _chunk({"content": "word"}, token_ids=None)
    for _ in range(500):
        assert going.take(event) == stripped
    step = going.after_failure()
    assert isinstance(step, Refused)
    assert shared.held == 0


def test_all_streams_together_are_bounded_and_what_ends_is_given_back() -> None:
    shared = Continuations(Mode.TOKENS, 1 << 20, 3000)
    streams = [shared.open(_call(CHAT)) for _ in range(4)]
    for _ in range(200):
        for going in streams:
            assert going is not None
            going.take(_chunk({"content": "word"}))
    steps = [going.after_failure() for going in streams if going is not None]
    assert 0 < sum(isinstance(step, Resume) for step in steps) < 4
    assert 0 < shared.held <= 3000
    for going in streams:
        assert going is not None
        going.close()
    assert shared.held == 0


def test_a_continued_stream_that_outgrows_its_bounds_is_relayed_and_forgotten_too() -> None:
    call = _call({**CHAT, "max_tokens": 400})
    shared = Continuations(Mode.TOKENS, 1000, 1 << 30)
    going = shared.open(call)
    assert going is not None
    asked = json.loads(going.body(body_for(call, DISPATCH)))
    model = Model(every=1 << 40)
    going.take(b"".join(model.events("/v1/chat/completions", asked)[:9]))
    step = going.after_failure()
    assert isinstance(step, Resume)
    going.answered()
    rest = model.events(step.path, json.loads(step.body(DISPATCH)))
    told = _said(b"".join([going.take(event) for event in rest[:400]]))
    assert len(told["text"]) > 500
    assert len(told["heads"]) == 1
    assert isinstance(going.after_failure(), Refused)
    assert shared.held == 0


def test_after_the_finish_reason_only_the_end_is_missing() -> None:
    body = {**CHAT, "stream_options": {"include_usage": True}}
    call = _call(body)
    going = _begin(call)
    asked = json.loads(going.body(body_for(call, DISPATCH)))
    *events, usage, done = Model().events("/v1/chat/completions", asked)
    going.take(b"".join(events))
    step = going.after_failure()
    assert isinstance(step, Ending)
    told = sse.split(step.events)
    assert [json.loads(sse.data(told[0]) or b"")["usage"], told[1]] == [json.loads(usage[6:])["usage"], done]
