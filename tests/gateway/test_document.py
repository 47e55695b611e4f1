from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.document import Malformed, read

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=6) | st.sampled_from(["model", "priority"]), VALUES, max_size=6)


def same(a: Any, b: Any) -> bool:
    return json.dumps(a) == json.dumps(b)  # NaN is not equal to itself


def rounded(value: Any) -> Any:
    """Inside members, integers beyond 64 bits may be floats."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(value) if type(value) is int and not -(2**63) <= value < 2**63 else value


def same_fields(a: Any, b: Any) -> bool:
    """Equal, and on the uppermost level of the same types."""
    return same(rounded(a), rounded(b)) and [type(v) for v in a.values()] == [type(v) for v in b.values()]


@given(OBJECTS, st.sampled_from([None, 0, 2]), st.booleans())
def test_fields_are_what_pythons_parser_reads(value: dict[str, Any], indent: int | None, ascii_: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_)
    document = read(text)
    assert same_fields(document.fields, json.loads(text))
    assert same({m.key: json.loads(text[m.value : m.end]) for m in document.members}, value)


@given(OBJECTS, VALUES, st.booleans())
def test_a_rewrite_changes_what_it_should_and_copies_the_rest(value: dict[str, Any], new: Any, ascii_: bool) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=ascii_)
    written = read(text).rewritten(values={"model": json.dumps(new)}, drop=("priority",), add={"added": "7"})
    expected = {key: new if key == "model" else old for key, old in value.items() if key != "priority"}
    assert same(json.loads(written), {**expected, "added": 7})
    for key, old in expected.items():
        if key != "model":
            assert json.dumps(old, ensure_ascii=ascii_, indent=1).splitlines()[0].encode() in written


KEYS = st.sampled_from(["model", "x", 'say "model', "model\\", "a:b", "mo", "n"])
TEXTS = st.sampled_from(["model", '"model"', '"model":"a"', '\\"model\\": "x', "}", '"', "\\", "é", "{"]) | st.text(
    max_size=5
)
NESTED = st.recursive(TEXTS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3))


@settings(max_examples=500)
@given(st.dictionaries(KEYS, NESTED, max_size=4), st.sampled_from([None, 0, 2]), st.booleans(), st.booleans())
def test_the_quick_way_to_a_member_finds_no_other(
    value: dict[str, Any], indent: int | None, ascii_: bool, spelt: bool
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_)
    if spelt:
        text = text.replace('"model":', '"m\\u006fdel":', 1)
    written = read(text).rewritten(values={"model": '"new"'}, add={"added": "{}"})
    expected = {key: "new" if key == "model" else old for key, old in value.items()}
    assert json.loads(written) == {**expected, "added": {}}


def test_what_stays_stays_as_it_is_when_one_string_changes() -> None:
    text = '{ "messages": [{"content": "\\"model\\": 1e5"}] ,\n "model" : "auto" , "n": 1.0 }\n'
    written = read(text).rewritten(values={"model": '"p"'}, add={"priority": "3"})
    assert written.decode() == text.replace('"auto"', '"p"').replace(" }\n", ' ,"priority":3}\n')


@given(st.text(max_size=30) | OBJECTS.map(lambda value: json.dumps(value)[:-1]))
def test_it_refuses_exactly_what_pythons_parser_refuses(text: str) -> None:
    try:
        expected = json.loads(text)
    except (ValueError, RecursionError):
        expected = None
    if isinstance(expected, dict):
        assert same_fields(read(text).fields, expected)
    else:
        with pytest.raises(Malformed):
            read(text)


def test_duplicates_escapes_and_numbers_survive() -> None:
    text = '{ "mod\\u0065l": "a", "x": 1e400, "y": 123456789012345678901234567890, "x": 2, "z": "\\ud800" }'
    document = read(text)
    assert [member.key for member in document.members] == ["model", "x", "y", "x", "z"]
    written = document.rewritten(values={"model": '"b"'})
    assert (
        written.decode() == '{"mod\\u0065l": "b","x": 1e400,"y": 123456789012345678901234567890,"x": 2,"z": "\\ud800"}'
    )
    assert document.raw("x") == "2"


def test_every_duplicate_is_exchanged_and_every_one_dropped() -> None:
    document = read('{"model":1,"a":0,"model":2,"a":1}')
    assert document.rewritten(values={"model": "3"}, drop=("a",)) == b'{"model":3,"model":3}'


@pytest.mark.parametrize(
    "text, what",
    [
        ("[]", "object is expected"),
        ('{"a":1} x', "end is expected at character 6"),
        ('{"a" 1}', "colon is expected at character 4"),
        ('{"a":}', "Expecting value"),
        ('{"a":"\n"}', "control character"),
        ("{} {}", "follows the object"),
        ('{"a":' + "[" * 100_000, "nested too deeply"),
        ('{"a":' + "1" * 5000 + "}", "4300 digits"),
    ],
)
def test_what_is_wrong_is_said(text: str, what: str) -> None:
    with pytest.raises(Malformed, match=what):
        read(text)
