# SPDX-License-Identifier: Apache-2.0
"""A server that says what it was told to say: one reply after the other, whatever is asked.

Knows HTTP. Knows nothing of buckets.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Reply(NamedTuple):
    """`status` 0: the connection is closed, and nothing is said."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


class Asked(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Scripted:
    """`replies` are given in turn, the last one again and again; `asked` is what came."""

    def __init__(self, port: int, replies: Sequence[Reply]) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.replies = list(replies)
        self.asked: list[Asked] = []


@contextlib.contextmanager
def saying(*replies: Reply) -> Iterator[Scripted]:
    """A server on a free port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            named = {name.lower(): value for name, value in self.headers.items()}
            script.asked.append(Asked(self.command, self.path, named, body))
            reply = script.replies.pop(0) if len(script.replies) > 1 else script.replies[0]
            if not reply.status:
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in reply.headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    for method in ("GET", "PUT", "POST", "HEAD", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.answer)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    script = Scripted(server.server_port, replies)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
