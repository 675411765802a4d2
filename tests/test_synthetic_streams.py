"""Synthetic answers with every oddity we know of, through the public API: whole, cut to 7 bytes, cut to 1.

One line of tests/data/streams/manifest.jsonl is a case: the file with the body, how it is sent, and what a
client must make of it. Recorded traffic of real providers is played likewise by .ci/streams.sh where it lies.
"""

import gzip
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import nbllm
from nbllm.core import errors

from .test_bytes_to_events import events

DATA = Path(__file__).parent / "data" / "streams"
LINES = (DATA / "manifest.jsonl").read_text("utf-8").split("\n")  # texts hold the other line separators
CASES = {case["id"]: case for case in map(json.loads, filter(None, LINES))}
NAMES = list(CASES)
SPEAKS = {  # a manifest's protocol: our provider and dialect
    "openai-chat": ("openai", "openai_chat"),
    "openai-responses": ("openai", "openai_responses"),
    "anthropic-messages": ("anthropic", "anthropic"),
    "gemini-generate": ("gemini", "gemini"),
    "ollama-native": ("ollama", "ollama"),
    "cohere-chat": ("cohere", "cohere"),
}
USAGE = {
    "input": "input_tokens",
    "output": "output_tokens",
    "reasoning": "reasoning_tokens",
    "cached_input": "cache_read_tokens",
    "cache_write": "cache_write_tokens",
}
KEY = "sk-test-000"
FRAMING = {"content-length", "transfer-encoding", "connection", "content-encoding"}


def body(case):
    return (DATA / case["response"]["body_file"]).read_bytes()


def chunks(data, sending, cut):
    """The HTTP chunks of a body: after a separator, or of `cut` bytes, or as the case says."""
    if "split_after_each" in sending:
        after = re.escape(sending["split_after_each"].encode())
        return [part for part in re.split(b"(?<=" + after + b")", data) if part]
    size = cut or sending.get("chunk_size", 4096)
    return [data[at : at + size] for at in range(0, len(data), size)]


class Player(BaseHTTPRequestHandler):
    """Answers POST /NUMBER/CUT/... with the case of that number, in HTTP chunks of CUT bytes."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 256  # a write for every chunk of one byte takes too long

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        _, number, cut, *_ = self.path.split("/")
        self.play(CASES[NAMES[int(number)]], int(cut))

    def play(self, case, cut):
        answer, sending, data = case["response"], case["transport"], body(case)
        headers = {name: value for name, value in answer["headers"].items() if name not in FRAMING}
        if sending.get("content_encoding") == "gzip":
            data, headers = gzip.compress(data), {**headers, "content-encoding": "gzip"}
        self.send_response_only(answer["status"])
        for name, value in {**headers, "transfer-encoding": "chunked"}.items():
            self.send_header(name, value)
        self.end_headers()
        for piece in chunks(data, sending, cut):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        if sending.get("abort") == "reset":
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *args):
        """Silent."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, address):
        """A client may leave before the body ends: for it the answer was complete."""


@pytest.fixture(scope="module")
def address():
    server = Server(("127.0.0.1", 0), Player)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


# --- what is wanted, and what differs ---


def close(ours, theirs, parts):
    """Whether a text is the one expected; between the parts of an answer white space is free."""
    return ours == theirs or (parts is not None and "".join(ours.split()) == "".join("".join(parts).split()))


def of_text(want, response):
    if not close(response.text, want["text"], want.get("text_parts")):
        yield "text", response.text, want["text"]
    if not close(response.reasoning, want["reasoning_text"], want.get("reasoning_parts")):
        yield "reasoning", response.reasoning, want["reasoning_text"]


def of_tools(want, response):
    if want.get("tools_any") or "invalid_arguments" in want.get("accept", ()):
        return
    order = sorted if want.get("tool_order") == "any" else list
    ours = order(json.dumps([c.name, c.arguments]) for c in response.tool_calls)
    theirs = order(json.dumps([c["name"], c["arguments"]]) for c in want["tool_calls"])
    if ours != theirs:
        yield "tool calls", ours, theirs
    ids, wanted = [c.id for c in response.tool_calls], [c["id"] for c in want["tool_calls"]]
    if order is list and any(w is not None and i != str(w) for i, w in zip(ids, wanted, strict=False)):
        yield "ids of tool calls", ids, wanted
    if set(wanted) == {None} and len(set(ids)) != len(ids):
        yield "made-up ids", ids, "one each"


def of_usage(want, response):
    if want.get("usage_any") or want["error"]:
        return
    for name, ours in USAGE.items():
        got, wanted = getattr(response.usage, ours, None), (want["usage"] or {}).get(name)
        if got != wanted and (name in ("input", "output") or got or wanted):  # elsewhere 0 may be unknown
            yield f"usage: {name}", got, wanted


def of_finish(want, response):
    if want["finish_reason"]["normalised"] not in (None, response.finish_reason) and not want["error"]:
        yield "finish_reason", response.finish_reason, want["finish_reason"]["normalised"]


def of_error(want, error):
    if error is None:
        yield "error", None, want
        return
    for name in ("status", "retry_after"):
        wanted, got = want[name], getattr(error, name, None)
        if wanted != got and (wanted is not None or name == "retry_after"):
            yield name, got, wanted
    for words in (want["message"], want.get("message_contains")):
        if words and words[:80] not in str(error):
            yield "message", str(error), words


def of_cut(want, error, text):
    if error is None or not want.get("text_prefix_of", "").startswith(text) or text != want.get("text", text):
        yield "a cut answer", (error, text), want


def of_answer(want, response, error):
    if response is not None:
        for part in (of_text, of_tools, of_usage, of_finish):
            yield from part(want, response)
    elif want["text"] or want["tool_calls"]:
        yield "answer", None, want["text"]
    if want["error"]:
        yield from of_error(want["error"], error)
    elif error is not None and "accept" not in want:
        yield "error", error, None


def differences(want, response, error):
    """What differs: (field, what came, what was wanted). response: with an error, the partial one or None."""
    cut, accepted = isinstance(error, errors.StreamCut), want.get("accept", [])
    if want.get("incomplete"):
        yield from of_cut(want, error, response.text if response else "")
    elif error is not None and not cut and "error" in accepted:
        return
    elif cut or accepted == ["error"]:
        yield "error", error, want
    elif "finish_reason" in want:
        yield from of_answer(want, response, error)
    elif response.text != want.get("text", response.text) and not accepted:
        yield "text", response.text, want["text"]


@pytest.mark.parametrize("cut", [0, 7, 1])
@pytest.mark.parametrize("name", NAMES)
def test_a_synthetic_answer(address, name, cut):
    """Text, reasoning, calls, usage, end and errors are what they should be, however the bytes are cut."""
    case = CASES[name]
    provider, dialect = SPEAKS[case["protocol"]]
    response = error = None
    try:
        model, url = f"{provider}/{case['model'] or 'm'}", f"{address}/{NAMES.index(name)}/{cut}"
        options = {"dialect": dialect, "base_url": url, "api_key": KEY, "retries": 0, "timeout": 60}
        response = nbllm.stream("hello", model, **options).response()
    except errors.NbllmError as problem:
        error, response = problem, getattr(problem, "partial", None)
    assert [] == list(differences(case["expect"], response, error))
    assert KEY not in str(error)


def outcome(case, cut):
    """The events of a body whose reads are of exactly `cut` bytes, or the error."""
    try:
        return events(SPEAKS[case["protocol"]][1], body(case), [cut])
    except errors.NbllmError as error:
        return type(error), str(error)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["response"]["status"] == 200])
def test_any_cut_of_a_synthetic_answer_gives_the_same_events(name):
    """A socket joins small pieces; here every read has exactly the size that is said."""
    whole = outcome(CASES[name], 2**20)
    assert whole == outcome(CASES[name], 7)
    assert whole == outcome(CASES[name], 1 if len(body(CASES[name])) < 2**16 else 4097)
