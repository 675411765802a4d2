"""Bytes in, frames out: whatever the body is and however the network cut it."""

import contextlib
import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.core.calls import Frame
from nbllm.core.errors import NbllmError, ProtocolError
from nbllm.http.frames import FrameReader


def frames(data: bytes, cuts: list[int]) -> list[Frame]:
    """The frames of `data`, cut into pieces of the given sizes, in turn."""
    return [frame for batch in batches(data, cuts) for frame in batch]


def batches(data: bytes, cuts: list[int]) -> Iterator[list[Frame]]:
    """As frames, those of one piece together."""
    cutter, at, turn = FrameReader(), 0, 0
    while at < len(data):
        size = cuts[turn % len(cuts)]
        yield cutter.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    yield cutter.close()


def seen(data: bytes, cuts: list[int] | None = None) -> list[tuple[str, bool]]:
    return [(f.data, f.tail) for f in frames(data, cuts or [4096])]


BODIES = [
    # (what it is, the body, the frames' data and whether the body ended inside it)
    ("two events", b'data: {"a":1}\n\ndata: [DONE]\n\n', [('{"a":1}', False), ("[DONE]", False)]),
    ("a byte-order mark", b'\xef\xbb\xbfdata: {"a":1}\n\n', [('{"a":1}', False)]),
    (
        "CRLF, no space after the colon",
        b'event:x\r\ndata:{"a":1}\r\n\r\ndata:2\r\n\r\n',
        [('{"a":1}', False), ("2", False)],
    ),
    ("bare CR", b"data: a\r\rdata: b\r\rdata: c\r\r:x\r", [("a", False), ("b", False), ("c", False)]),
    ("a last event without its blank line", b"data: a\n\ndata: b", [("a", False), ("b", True)]),
    ("several data lines", b"data: a\ndata: b\n\n", [("a\nb", False)]),
    ("comments and heartbeats", b": ping\n\ndata:\n\n: ping\n\ndata: a\n\n", [("a", False)]),
    ("ids and retry fields", b"retry: 3\n\nid: 1\ndata: a\n\n\n\ndata: b\n\n", [("a", False), ("b", False)]),
    ("only comments", b": ping\n\n: ping\n\n", []),
    (
        "line separators that are not line ends",
        "data: a\u2028b\u0085c\n\n".encode(),
        [("a\u2028b\u0085c", False)],
    ),
    (
        "a bare JSON error after events",
        b'data: {"a":1}\n\n{"error": {\n "code": 503}}\n',
        [('{"a":1}', False), ('{"error": {\n "code": 503}}', False)],
    ),
    (
        "an array-wrapped error after events",
        b'data: {"a":1}\n\n[{\n"error": {}}]',
        [('{"a":1}', False), ('{\n"error": {}}', False)],
    ),
    (
        "NDJSON",
        b'{"a":1}\n{"b":2}\r\n\n{"c":3}',
        [('{"a":1}', False), ('{"b":2}', False), ('{"c":3}', False)],
    ),
    (
        "NDJSON with line separators in strings",
        '{"a":"\u2028"}\n{"b":"\u0085"}\n'.encode(),
        [('{"a":"\u2028"}', False), ('{"b":"\u0085"}', False)],
    ),
    ("NDJSON cut in a line", b'{"a":1}\n{"b":', [('{"a":1}', False), ('{"b":\n', True)]),
    (
        "one object over several lines, after blank lines",
        b'\n\n  {"a":\n {"b":"}\\""}}\n',
        [('{"a":\n {"b":"}\\""}}', False)],
    ),
    ("an array of objects", b'[{"a":1}\n,\r\n{"b":[{}]}]', [('{"a":1}', False), ('{"b":[{}]}', False)]),
    ("an array on one line", b'[{"a":"]"},{"b":2}]', [('{"a":"]"}', False), ('{"b":2}', False)]),
    (
        "a byte-order mark before each event",
        "\ufeff\ufeffdata: a\n\n\ufeffdata: b\n\n\ufeffevent: x\n\ufeffdata: c\n\n".encode(),
        [("a", False), ("b", False), ("c", False)],
    ),
    (
        "blanks before a field",
        b"data: a\n\n  data: b\n\n\tdata: c",
        [("a", False), ("b", False), ("c", True)],
    ),
    (
        "JSON over several lines, of which one has a field",
        b'data: {\n "a": 1,\n\t"b": [\n  2\n ]\n}\n\ndata: c\n\n',
        [('{\n "a": 1,\n\t"b": [\n  2\n ]\n}', False), ("c", False)],
    ),
    (
        "words of a gateway after events",
        b"data: a\n\nupstream connect error, reset\nreason: overflow\n",
        [("a", False), ("upstream connect error, reset\nreason: overflow", False)],
    ),
    ("words without a line's end", b"data: a\nBad Gateway", [("a", True), ("Bad Gateway", False)]),
    (
        "a page after events",
        b"data: a\n\n<html>\n<title>502</title>\n</html>",
        [("a", False), ("<html>\n<title>502</title>\n</html>", False)],
    ),
    ("a field that was cut", b"data: a\n\ndat", [("a", False)]),
    ("a field's name that was cut", b"data: a\n\nevent", [("a", False)]),
    ("words between events", b"data: a\n\nhm\n\ndata: b\n\n", [("a", False), ("b", False)]),
    ("nothing", b"", []),
    ("white space", b" \n \n", []),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 4096])
@pytest.mark.parametrize(("what", "body", "expected"), BODIES, ids=[b[0] for b in BODIES])
def test_a_body_gives_the_same_frames_however_it_is_cut(what, body, expected, size):
    """SSE, NDJSON, JSON and mixtures are told apart by their first character."""
    assert expected == seen(body, [size])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html><head><script>x()</script></head><body>Log in</body></html>", "Log in"),
        (b"Internal Server Error", "Internal Server Error"),
    ],
)
def test_what_is_no_answer_is_said_in_its_own_words(body, words):
    """A web page or plain text with status 200 is a ProtocolError that shows what came."""
    with pytest.raises(ProtocolError, match=words):
        seen(body)


@given(
    st.lists(
        st.text(st.characters(blacklist_characters="\r\n\0", blacklist_categories=["Cs"]), min_size=1),
        min_size=1,
        max_size=6,
    ),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.sampled_from(["\n", "\r\n"]),
)
def test_any_cutting_of_an_event_stream_gives_the_same_frames(texts, cuts, end):
    """Whatever the text and the cuts, each event comes out as it went in."""
    values = [json.dumps({"t": t}, ensure_ascii=False) for t in texts]
    body = "".join(f"data: {v}{end}{end}" for v in values).encode()
    assert [(v, False) for v in values] == seen(body, cuts)


@given(
    st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=8)), max_size=4),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.sampled_from(["lines", "array", "pretty"]),
)
def test_any_cutting_of_json_gives_the_same_values(objects, cuts, form):
    """NDJSON, arrays and pretty-printed objects come out whole."""
    text = {
        "lines": "\n".join(map(json.dumps, objects)),
        "array": json.dumps(objects),
        "pretty": json.dumps(objects, indent=1),
    }[form]
    assert objects == [json.loads(f.data) for f in frames(text.encode(), cuts)]


@given(st.binary(max_size=400), st.lists(st.integers(1, 40), min_size=1, max_size=3))
def test_any_bytes_at_all_give_frames_or_one_of_our_errors(data, cuts):
    """Nothing foreign is raised, and the cutting does not matter to whether something is."""
    with contextlib.suppress(NbllmError):
        frames(data, cuts)


def test_one_event_may_not_take_all_memory():
    """An endless line ends in an error, not in a full memory."""
    cutter = FrameReader()
    for _ in range(63):
        assert [] == cutter.feed(b"data: " + b"x" * 2**20)
    with pytest.raises(ProtocolError, match="64 MiB"):
        cutter.feed(b"x" * 2**20)


def test_a_frame_is_stamped_with_the_read_that_completed_it():
    """Two events in one read share a stamp; a later read has a later one."""
    found = frames(b"data: a\n\ndata: b\n\ndata: c\n\n", [18, 9])
    assert found[0].at == found[1].at < found[2].at
