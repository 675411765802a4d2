"""Servers on loopback that note what reaches them, headers and all, and answer every request alike."""

from __future__ import annotations

import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Listener(ThreadingHTTPServer):
    """`seen`: (request line, headers, body) of each request. `answer`: (status, body, or what makes one of
    the handler) for all of them, or a list of such, one for each; `more`: further headers."""

    daemon_threads = True

    def __init__(self, answer=(200, b'{"data": []}'), context: ssl.SSLContext | None = None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.more, self.seen, self.scheme = answer, {}, [], "http"
        if context is not None:
            self.socket, self.scheme = context.wrap_socket(self.socket, server_side=True), "https"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

    @property
    def text(self):
        """Everything that came."""
        return "\n".join(f"{line}\n{headers}\n{body}" for line, headers, body in self.seen)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """A client that breaks off is none of our business."""


class _Handler(BaseHTTPRequestHandler):
    def _any(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.seen.append((self.requestline, str(self.headers), body.decode("utf-8", "replace")))
        answer = self.server.answer
        status, page = answer.pop(0) if isinstance(answer, list) else answer
        if callable(page):
            page = page(self)
        self.send_response(status)
        for name, value in {
            "content-type": "application/json",
            "content-length": str(len(page)),
            **self.server.more,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(page)

    do_GET = do_POST = do_DELETE = _any

    def log_message(self, *args):
        pass
