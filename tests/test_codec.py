"""The one JSON form of messages, requests, responses and events: it gives back what was written, is the same
text everywhere, and refuses what it does not know."""

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from types import UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from nbllm.core import events as ev
from nbllm.core import messages as ms
from nbllm.core.codec import Encodable, digest, from_plain, to_json, to_plain
from nbllm.core.errors import ConfigError, ProtocolError
from nbllm.core.events import DEPTH_LIMIT, Event, Response, TextDelta, Usage
from nbllm.core.messages import Image, Message, Raw, Request, Text, Tool, ToolCall

from .decoding import from_json
from .examples import examples
from .growth import growth

# Halves of a pair that stand side by side are one character in JSON, as they are when they are sent.
texts = st.text(st.characters(exclude_categories=()), max_size=8).map(
    lambda s: s.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
)
keys = texts | st.sampled_from(["$ref", "$float", "$$", "type", "nbllm", ""])
floats = st.floats(allow_nan=False)  # one is not equal to itself; it has a test of its own
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | texts | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=4,
)
KINDS = [kind for kind in get_args(Encodable) if is_dataclass(kind)]
LEAVES = {
    str: texts,
    float: floats,
    int: st.integers(),
    bool: st.booleans(),
    bytes: st.binary(max_size=9),
    type(None): st.none(),
    dict: st.dictionaries(keys, plain, max_size=3),
    Mapping: st.dictionaries(keys, plain, max_size=3),
}


@cache
def values(hint):
    """A strategy for an annotation: every field of our classes is drawn."""
    origin, arms = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, UnionType):
        return st.one_of(*map(values, arms))
    if origin is Literal:
        return st.sampled_from(arms)
    if origin is tuple:
        return st.lists(values(arms[0]), max_size=2).map(tuple)
    if is_dataclass(origin):
        hints = get_type_hints(origin)
        return st.builds(origin, **{f.name: values(hints[f.name]) for f in fields(origin)})
    return LEAVES[origin]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_was_written_is_read(kind):
    """All types, every field; the text is canonical, and says the class by itself."""

    @examples(40, suppress_health_check=[HealthCheck.too_slow])
    @given(values(kind))
    def check(value):
        text = to_json(value)
        assert value == from_json(text) == from_json(text, kind)
        assert text == to_json(from_json(text))
        assert text.isascii()
        assert value == from_plain(json.loads(json.dumps(to_plain(value))))

    check()


def test_every_part_and_event_has_a_form():
    """Those of the vocabulary, and what a call and an answer are."""
    assert {*get_args(ms.Part), *get_args(Event), Message, Tool, Request, Response, Usage} <= set(KINDS)


STORED = [  # as files hold it: what these say may never change while the version is the same
    (Text("hé"), '{"nbllm":1,"value":{"text":"h\\u00e9","type":"Text"}}'),
    (
        Request("m", (Message("user", [Text("hi"), Image(b"\x89PNG\r\n\x1a\n")]),), temperature=0),
        '{"nbllm":1,"value":{"messages":[{"parts":[{"text":"hi","type":"Text"},{"data":"iVBORw0KGgo=",'
        '"type":"Image"}],"role":"user","type":"Message"}],"model":"m","temperature":0.0,"type":"Request"}}',
    ),
    (
        Request("m", (), cache="1h"),
        '{"nbllm":1,"value":{"cache":"1h","messages":[],"model":"m","type":"Request"}}',
    ),
    (
        (TextDelta("a"), ev.Finished("stop")),
        '{"nbllm":1,"value":[{"text":"a","type":"TextDelta"},{"reason":"stop","type":"Finished"}]}',
    ),
    (
        Tool("f", parameters={"$ref": "x", "b": b"\x00", "n": math.inf, "a": [None]}),
        '{"nbllm":1,"value":{"name":"f","parameters":{"$$ref":"x","a":[null],"b":{"$bytes":"AA=="},'
        '"n":{"$float":"inf"}},"type":"Tool"}}',
    ),
]


@pytest.mark.parametrize(("value", "text"), STORED)
def test_the_text_stays_the_same(value, text):
    """So that caches and files outlive a version."""
    assert text == to_json(value)
    kind = tuple[Event, ...] if isinstance(value, tuple) else Encodable
    assert value == from_json(text, kind)


def test_equal_values_have_one_digest():
    """However they were made; others have another one."""
    one = Request("m", (Message("user", "hi"),), temperature=0, extra={"a": 1, "b": 2})
    two = Request("m", (Message("user", [Text("hi")]),), temperature=-0.0, extra={"b": 2, "a": 1})
    assert (one, digest(one)) == (two, digest(two))
    others = [replace(one, temperature=None), replace(one, seed=0), replace(one, extra={"a": 1, "b": None})]
    assert 4 == len({digest(r) for r in [one, *others]})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none(value):
    """In a field of ours and in a value of others; the text stays strict JSON."""
    response = Response(cost=value, raw={"x": [value]})
    text = to_json(response)
    json.loads(text, parse_constant=pytest.fail)
    found = from_json(text, Response)
    assert (repr(value), repr(value)) == (repr(found.cost), repr(found.raw["x"][0]))


REFUSED = [
    "{}",
    '{"nbllm":1}',
    '{"nbllm":"1","value":{"type":"Text","text":""}}',
    '{"nbllm":1,"value":NaN}',
    '{"nbllm":1,"value":null}',
    '{"nbllm":1,"value":{"type":"Text"}}',
    '{"nbllm":1,"value":{"type":"Text","text":5}}',
    '{"nbllm":1,"value":{"type":"Text","text":null}}',
    '{"nbllm":1,"value":{"type":"Text","text":"","more":1}}',
    '{"nbllm":1,"value":{"type":"Nothing"}}',
    '{"nbllm":1,"value":{"type":["Text"],"text":""}}',
    '{"nbllm":1,"value":{"type":"Image","data":"%"}}',
    '{"nbllm":1,"value":{"type":"Message","role":"king"}}',
    '{"nbllm":1,"value":{"type":"Message","role":"user","parts":[{"type":"Message","role":"user"}]}}',
    '{"nbllm":1,"value":{"type":"Request","model":"m","messages":[],"seed":true}}',
    '{"nbllm":1,"value":{"type":"Raw","dialect":"d","block":{"$float":"nan"}}}',
    '{"nbllm":1,"value":{"type":"Raw","dialect":"d","block":{"$other":1}}}',
    '{"nbllm":1,"value":{"type":"Raw","dialect":"d","block":' + '{"a":' * 600 + "1" + "}" * 602,
]


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:80])
def test_what_is_no_such_text_is_refused(text):
    """In words, and whatever it is."""
    with pytest.raises(ProtocolError, match="Expected data written by nbllm"):
        from_json(text)


@given(plain)
def test_any_json_is_read_or_refused(value):
    """Nothing but our own errors comes out."""
    with contextlib.suppress(ProtocolError):
        from_json(json.dumps({"nbllm": 1, "value": to_plain(Raw("d", {"x": value}))["block"]["x"]}))


def test_a_later_version_is_told():
    """It says what to do."""
    with pytest.raises(ConfigError, match=r"later nbllm.*2(?s:.*)Update nbllm"):
        from_json('{"nbllm":2,"value":{}}')


def test_another_kind_than_asked_for_is_refused():
    """A file of events is no file of messages."""
    with pytest.raises(ProtocolError, match="'TextDelta'"):
        from_json(to_json(TextDelta("a")), Message)


@pytest.mark.parametrize("odd", [object(), {1: "a"}, [{1, 2}], Text, 1j])
def test_what_has_no_form_is_refused(odd):
    """Before anything is written."""
    with pytest.raises(ConfigError, match="no JSON form"):
        to_json(Request("m", (), extra={"odd": odd}))
    with pytest.raises(ConfigError, match="no JSON form"):
        to_json(odd)


def test_a_deep_value_goes_there_and_back():
    """As deep as arguments may be; deeper ones are refused on both sides."""
    value = 1
    for _ in range(DEPTH_LIMIT - 1):
        value = {"a": value}
    call = ToolCall("1", "f", value)
    assert call == from_json(to_json(call))
    with pytest.raises(ConfigError, match="levels"):
        to_json(ToolCall("1", "f", {"a": {"b": {"c": value}}}))


LONG = {  # what stands n times, between what
    "events": ('[{"type":"TextDelta","text":"a"}', ',{"type":"TextDelta","text":"a"}', "]"),
    "keys": ('{"type":"Raw","dialect":"d","block":{"$$a":[0', ',{"$$b":{"$float":"nan"}}', "]}}"),
    "unknown fields": ('{"type":"Text","x":0', ',"x":1', "}"),
    "base64": ('{"type":"Image","data":"', "A= ", '"}'),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", LONG)
def test_what_is_read_costs_its_length(what):
    """Whatever stands in it."""
    begin, middle, end = LONG[what]
    kind = tuple[Event, ...] if what == "events" else Encodable
    growth(
        lambda text: from_json(text, kind), lambda n: f'{{"nbllm":1,"value":{begin}{middle * n}{end}}}', 500
    )
