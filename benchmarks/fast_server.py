"""A server that is never the bottleneck: prepared bytes, sent from one poll loop.

    python benchmarks/fast_server.py            prints its address, and serves until it is ended

The model's name is the plan: `c100-g20000-f200000` is 100 chunks, the first after 200,000 µs, then one every
20,000 µs; without a gap everything is sent at once. `lean-c100...` is chunks without `created` and
`finish_reason`: a million of them have less than 128 MiB. /v1/messages answers in Anthropic's format, any
other path in that of OpenAI's chat. A GET returns statistics since the last GET: CPU time used, and the delay
of its own chunks.
"""

from __future__ import annotations

import functools
import json
import re
import select
import socket
import time
from collections import deque
from dataclasses import dataclass, field

_MODEL = re.compile(rb'"model":\s*"[^"]*?(lean-)?c(\d+)-g(\d+)-f(\d+)"')
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_WORDS = (" one", " two", " three", " four", " five", " six", " seven")  # one client stops at repeated chunks
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _chunk(*events: tuple[str, object]) -> bytes:
    """Events as one HTTP chunk."""
    text = b""
    for name, body in events:
        data = body if isinstance(body, str) else json.dumps(body, separators=(",", ":"))
        text += (f"event: {name}\n" if name else "").encode() + f"data: {data}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(text), text)


def _openai(word: str, last: bool, lean: bool) -> bytes:
    same: dict[str, object] = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m"}
    piece: dict[str, object] = {"index": 0, "delta": {"content": word}}
    if not lean:
        same["created"], piece["finish_reason"] = 1764000000, None
    events: list[tuple[str, object]] = [("", same | {"choices": [piece]})]
    if last:
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        end = {"index": 0, "delta": {}, "finish_reason": "stop"}
        events += [
            ("", same | {"choices": [end]}),
            ("", same | {"choices": [], "usage": usage}),
            ("", "[DONE]"),
        ]
    return _chunk(*events) + (b"0\r\n\r\n" if last else b"")


def _anthropic(word: str, first: bool, last: bool) -> bytes:
    delta = {"type": "text_delta", "text": word}
    events: list[tuple[str, object]] = []
    if first:
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
        message |= {
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 1},
        }
        events.append(("message_start", {"type": "message_start", "message": message}))
        block = {"type": "text", "text": ""}
        start = {"type": "content_block_start", "index": 0, "content_block": block}
        events.append(("content_block_start", start))
    events.append(("content_block_delta", {"type": "content_block_delta", "index": 0, "delta": delta}))
    if last:
        events.append(("content_block_stop", {"type": "content_block_stop", "index": 0}))
        end = {"stop_reason": "end_turn", "stop_sequence": None}
        events.append(
            ("message_delta", {"type": "message_delta", "delta": end, "usage": {"output_tokens": 1}})
        )
        events.append(("message_stop", {"type": "message_stop"}))
    return _chunk(*events) + (b"0\r\n\r\n" if last else b"")


@functools.lru_cache(64)
def answer_chunks(anthropic: bool, chunks: int, lean: bool = False) -> list[bytes]:
    """An answer as a list of chunks."""

    def chunk(word: str, first: bool = False, last: bool = False) -> bytes:
        return _anthropic(word, first, last) if anthropic else _openai(word, last, lean)

    middle = [chunk(word) for word in _WORDS]
    out = [middle[i % len(middle)] for i in range(chunks)]
    out[0], out[-1] = (
        chunk(_WORDS[0], first=True, last=chunks == 1),
        chunk(_WORDS[-1], chunks == 1, last=True),
    )
    return out


@functools.lru_cache(16)
def complete_answer(anthropic: bool, chunks: int, lean: bool = False) -> bytes:
    """An answer in one piece."""
    return _HEAD + b"".join(answer_chunks(anthropic, chunks, lean))


@dataclass(slots=True, eq=False)
class Peer:
    """A connection and its answer."""

    sock: socket.socket
    received: bytes = b""
    unsent: bytes | memoryview = b""
    answer: list[bytes] = field(default_factory=list)
    position: int = 0
    due: float = 0.0


class Server:
    """All connections on one poll. Chunks with the same gap are in one queue, in order of time."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.listener.setblocking(False)
        self.poll = select.epoll()
        self.poll.register(self.listener, select.EPOLLIN)
        self.peers: dict[int, Peer] = {}
        self.queues: dict[tuple[float, float], deque[Peer]] = {}
        self.late: list[float] = []
        self.since = (time.process_time(), time.perf_counter())

    def serve(self) -> None:
        """Runs until the process is ended."""
        while True:
            first = min((q[0].due for q in self.queues.values() if q), default=None)
            for number, events in self.poll.poll(
                None if first is None else max(0.0, first - time.perf_counter())
            ):
                if number == self.listener.fileno():
                    self.accept()
                elif events & select.EPOLLOUT:
                    self.send(self.peers[number], b"")
                else:
                    self.read(self.peers[number])
            for wait, queue in list(self.queues.items()):
                self.send_due(wait[1], queue)

    def accept(self) -> None:
        for _ in range(256):
            try:
                sock, _ = self.listener.accept()
            except BlockingIOError:
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.peers[sock.fileno()] = Peer(sock)
            self.poll.register(sock, select.EPOLLIN)

    def close(self, peer: Peer) -> None:
        self.peers.pop(peer.sock.fileno(), None)
        peer.answer = []
        peer.sock.close()

    def read(self, peer: Peer) -> None:
        try:
            data = peer.sock.recv(65536)
        except OSError:
            data = b""
        if not data:
            return self.close(peer)
        peer.received += data
        head, found, body = peer.received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if found and len(body) >= (int(length[1]) if length else 0):
            peer.received = b""
            self.start(peer, head, body)
        return None

    def start(self, peer: Peer, head: bytes, body: bytes) -> None:
        plan = _MODEL.search(body)
        if plan is None:
            return self.send_stats(peer)
        lean, *numbers = plan.groups()
        chunks, gap, first = map(int, numbers)
        arguments = b"/messages" in head.partition(b"\r")[0], chunks, bool(lean)
        if not gap and not first:
            return self.send(peer, complete_answer(*arguments))
        peer.answer, peer.position, peer.due = answer_chunks(*arguments), 0, time.perf_counter() + first / 1e6
        self.send(peer, _HEAD)
        self.queues.setdefault((first / 1e6, gap / 1e6), deque()).append(peer)
        return None

    def send_due(self, gap: float, queue: deque[Peer]) -> None:
        """Sends the chunks that are due. A queue of first chunks passes its connections on to the queue of
        their gap."""
        next_queue = self.queues.setdefault((gap, gap), deque())
        while queue and queue[0].due <= (now := time.perf_counter()):
            peer = queue.popleft()
            if not peer.answer:
                continue  # its client has disconnected
            self.late.append(now - peer.due)
            piece = peer.answer[peer.position]
            peer.position, peer.due = peer.position + 1, peer.due + gap
            if peer.position < len(peer.answer):
                next_queue.append(peer)
            self.send(peer, piece)

    def send(self, peer: Peer, data: bytes | memoryview) -> None:
        had_unsent = bool(peer.unsent)
        data = b"".join((peer.unsent, data)) if had_unsent and data else memoryview(peer.unsent or data)
        try:
            sent = peer.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return self.close(peer)
        peer.unsent = data[sent:]
        if had_unsent != bool(peer.unsent):
            self.poll.modify(peer.sock, select.EPOLLIN | (select.EPOLLOUT if peer.unsent else 0))
        return None

    def send_stats(self, peer: Peer) -> None:
        cpu, start = self.since
        self.late.sort()
        stats = {
            "busy": (time.process_time() - cpu) / (time.perf_counter() - start),
            "late_ms": self.late[int(0.99 * len(self.late))] * 1e3 if self.late else 0.0,
        }
        body = json.dumps(stats).encode()
        self.late, self.since = [], (time.process_time(), time.perf_counter())
        self.send(peer, b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))


if __name__ == "__main__":
    server = Server()
    print(f"http://127.0.0.1:{server.listener.getsockname()[1]}", flush=True)
    server.serve()
