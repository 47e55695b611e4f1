from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.types import Dispatch
from gateway.endpoints import find
from gateway.errors import ApiError
from gateway.form import MalformedForm, is_form, read_form
from gateway.openai import Wish, body_for, parse

WISH = Wish("t1", "team", lowest_priority=0, highest_priority=0, deadline=None)
TYPE = b'multipart/form-data; boundary="xx--yy"'


def form(*parts: tuple[str, bytes], boundary: bytes = b"xx--yy") -> bytes:
    """A body as clients write it; a name that holds a colon is a file's."""
    written = b""
    for name, value in parts:
        plain, _, file = name.partition(":")
        more = f'; filename="{file}"\r\nContent-Type: audio/wav' if file else ""
        head = f'Content-Disposition: form-data; name="{plain}"{more}'.encode()
        written += b"--" + boundary + b"\r\n" + head + b"\r\n\r\n" + value + b"\r\n"
    return written + b"--" + boundary + b"--\r\n"


AUDIO = b"RIFF\r\n--xx--y\r\n\r\n\x00\xff"
BODY = form(("file:a.wav", AUDIO), ("model", b"auto"), ("language", b"de"), ("stream", b"true"))


def test_text_fields_are_read_and_files_are_not() -> None:
    assert is_form(TYPE)
    assert is_form(b"Multipart/Form-Data; boundary=a")
    assert not is_form(b"application/json")
    found = read_form(BODY, TYPE)
    assert dict(found.fields) == {"model": "auto", "language": "de", "stream": "true"}


def test_another_model_changes_nothing_but_the_models_value() -> None:
    found = read_form(BODY, TYPE)
    assert found.rewritten("model", "whisper-1") == BODY.replace(b"auto", b"whisper-1")
    assert found.body == BODY


@given(st.binary(max_size=200), st.text(st.characters(codec="utf-8", exclude_characters="\r\n-"), max_size=20))
def test_whatever_the_file_holds(content: bytes, prompt: str) -> None:
    content = content.replace(b"\r\n--xx--yy", b"")
    body = form(("model", b"m"), ("file:f", content), ("prompt", prompt.encode()))
    found = read_form(b"a preamble\r\n" + body, TYPE)
    assert dict(found.fields) == {"model": "m", "prompt": prompt}
    assert found.rewritten("model", "n").endswith(body[body.index(b"\r\n--xx", 5) :])


@given(st.binary(max_size=300))
def test_what_is_no_form_is_said_so_and_nothing_else(body: bytes) -> None:
    try:
        found = read_form(body, TYPE)
    except MalformedForm:
        return
    assert found.body == body


@pytest.mark.parametrize(
    ("body", "kind", "word"),
    [
        (BODY, b"multipart/form-data", "boundary"),
        (b"", TYPE, "boundary"),
        (BODY[:-20], TYPE, "last boundary"),
        (form(*[("a", b"")] * 300), TYPE, "parts"),
        (form(("model", b"\xff")), TYPE, "UTF-8"),
        (BODY.replace(b"\r\n\r\nde", b"de"), TYPE, "headers"),
    ],
)
def test_what_is_wrong_with_a_form(body: bytes, kind: bytes, word: str) -> None:
    endpoint = find("POST", "/v1/audio/transcriptions")
    assert endpoint is not None
    with pytest.raises(ApiError, match=word) as caught:
        parse(endpoint, body, WISH, kind)
    assert (caught.value.status, caught.value.code) == (400, "invalid_form")


def test_a_transcription_goes_on_as_it_came_with_the_model_of_its_pool() -> None:
    endpoint = find("POST", "/v1/audio/transcriptions")
    assert endpoint is not None
    call = parse(endpoint, BODY, WISH, TYPE)
    assert (call.ticket.model, call.streams, call.ticket.max_tokens) == ("auto", True, 1)
    dispatch = Dispatch("t1", "p", "p-0", "http://w", "whisper-1", 3, 1)
    assert body_for(call, dispatch) == BODY.replace(b"auto", b"whisper-1")


def test_a_form_where_json_belongs_or_without_a_model() -> None:
    chat, speech = find("POST", "/v1/chat/completions"), find("POST", "/v1/audio/translations")
    assert chat is not None
    assert speech is not None
    with pytest.raises(ApiError) as caught:
        parse(chat, BODY, WISH, TYPE)
    assert (caught.value.status, caught.value.code) == (415, "unsupported_media_type")
    with pytest.raises(ApiError) as caught:
        parse(speech, form(("file:a", AUDIO)), WISH, TYPE)
    assert (caught.value.status, caught.value.param) == (400, "model")
