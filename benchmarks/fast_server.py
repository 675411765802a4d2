"""A server that is never what a client waits for: bytes made beforehand, sent from one poll loop.

    python benchmarks/fast_server.py            prints its address, and serves until it is ended

The model's name is the plan: `c100-g20000-f200000` are 100 chunks, the first after 200,000 µs, one every
20,000 µs; what has no gap is sent at once. `lean-c100...` are chunks without `created` and
`finish_reason`: a million of them has less than 128 MiB. /v1/messages answers in Anthropic's words, all else
in those of OpenAI's chat. A GET tells of the time since the last one: processor time used, and how late its
own chunks were.
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
_WORDS = (" one", " two", " three", " four", " five", " six", " seven")  # one client stops at repetitions
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _chunk(*events: tuple[str, object]) -> bytes:
    """Events as one chunk of HTTP."""
    text = b""
    for name, body in events:
        said = body if isinstance(body, str) else json.dumps(body, separators=(",", ":"))
        text += (f"event: {name}\n" if name else "").encode() + f"data: {said}\n\n".encode()
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
        about = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
        about |= {
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 1},
        }
        events.append(("message_start", {"type": "message_start", "message": about}))
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
def pieces(anthropic: bool, chunks: int, lean: bool = False) -> list[bytes]:
    """An answer, chunk by chunk."""

    def made(word: str, first: bool = False, last: bool = False) -> bytes:
        return _anthropic(word, first, last) if anthropic else _openai(word, last, lean)

    middle = [made(word) for word in _WORDS]
    out = [middle[i % len(middle)] for i in range(chunks)]
    out[0], out[-1] = made(_WORDS[0], first=True, last=chunks == 1), made(_WORDS[-1], chunks == 1, last=True)
    return out


@functools.lru_cache(16)
def whole(anthropic: bool, chunks: int, lean: bool = False) -> bytes:
    """An answer at once."""
    return _HEAD + b"".join(pieces(anthropic, chunks, lean))


@dataclass(slots=True, eq=False)
class Peer:
    """A connection, and the answer that it is given."""

    sock: socket.socket
    asked: bytes = b""
    unsent: bytes | memoryview = b""
    answer: list[bytes] = field(default_factory=list)
    at: int = 0
    due: float = 0.0


class Server:
    """All connections on one poll. Chunks with one gap stand in one queue, in the order of their times."""

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
        """Until the process is ended."""
        while True:
            first = min((q[0].due for q in self.queues.values() if q), default=None)
            for number, what in self.poll.poll(
                None if first is None else max(0.0, first - time.perf_counter())
            ):
                if number == self.listener.fileno():
                    self.accept()
                elif what & select.EPOLLOUT:
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
        peer.asked += data
        head, found, body = peer.asked.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if found and len(body) >= (int(length[1]) if length else 0):
            peer.asked = b""
            self.start(peer, head, body)
        return None

    def start(self, peer: Peer, head: bytes, body: bytes) -> None:
        plan = _MODEL.search(body)
        if plan is None:
            return self.tell(peer)
        lean, *numbers = plan.groups()
        chunks, gap, first = map(int, numbers)
        how = b"/messages" in head.partition(b"\r")[0], chunks, bool(lean)
        if not gap and not first:
            return self.send(peer, whole(*how))
        peer.answer, peer.at, peer.due = pieces(*how), 0, time.perf_counter() + first / 1e6
        self.send(peer, _HEAD)
        self.queues.setdefault((first / 1e6, gap / 1e6), deque()).append(peer)
        return None

    def send_due(self, gap: float, queue: deque[Peer]) -> None:
        """What is due. A queue of first chunks feeds the one of its gap."""
        further = self.queues.setdefault((gap, gap), deque())
        while queue and queue[0].due <= (now := time.perf_counter()):
            peer = queue.popleft()
            if not peer.answer:
                continue  # its client is gone
            self.late.append(now - peer.due)
            piece = peer.answer[peer.at]
            peer.at, peer.due = peer.at + 1, peer.due + gap
            if peer.at < len(peer.answer):
                further.append(peer)
            self.send(peer, piece)

    def send(self, peer: Peer, data: bytes | memoryview) -> None:
        waited = bool(peer.unsent)
        data = b"".join((peer.unsent, data)) if waited and data else memoryview(peer.unsent or data)
        try:
            sent = peer.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return self.close(peer)
        peer.unsent = data[sent:]
        if waited != bool(peer.unsent):
            self.poll.modify(peer.sock, select.EPOLLIN | (select.EPOLLOUT if peer.unsent else 0))
        return None

    def tell(self, peer: Peer) -> None:
        cpu, began = self.since
        self.late.sort()
        told = {
            "busy": (time.process_time() - cpu) / (time.perf_counter() - began),
            "late_ms": self.late[int(0.99 * len(self.late))] * 1e3 if self.late else 0.0,
        }
        body = json.dumps(told).encode()
        self.late, self.since = [], (time.process_time(), time.perf_counter())
        self.send(peer, b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))


if __name__ == "__main__":
    server = Server()
    print(f"http://127.0.0.1:{server.listener.getsockname()[1]}", flush=True)
    server.serve()
