# SPDX-License-Identifier: Apache-2.0
"""A proxy between a client and an object store that does to requests what networks do.

Knows HTTP/1.1 on the wire; nothing of what the client is. Which requests fare ill is said by rules;
a rule with a chance draws from its seed, the request's method and key and how often that came, so
that a run can be repeated however its threads interleave. Every request is written down.
`python -m tests.objects.faults PORT` is a slow link for benchmarks.
"""

import argparse
import contextlib
import json
import random
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

from tests.objects.azure_requests import ACCOUNT

PIECE = 1 << 18


class Fault(Enum):
    """What can happen to a request."""

    TOO_MANY = "429 instead of an answer; the server never heard of it"
    BROKEN = "500 instead of an answer; the server never heard of it"
    BUSY = "503 instead of an answer; the server never heard of it"
    DENIED = "403 instead of an answer: a credential has run out"
    RESET_BEFORE = "the connection breaks before the server heard of it"
    RESET_MIDDLE = "the connection breaks in the middle of the request's body"
    RESET_AFTER = "the server did it, then the connection breaks: the reply is lost"
    LOST_REPLY = "the server did it, and the client is told 503"
    SLOW_BODY = "the reply's body comes in a few pieces with pauses between"
    SLOW_START = "the reply comes late"
    TRUNCATED = "the reply breaks off in the middle of its body"
    SHORT = "the reply's body is half as long, and the reply says so: nothing looks wrong"
    FLIPPED = "one bit of the reply's body is wrong"
    WRONG_ETAG = "the reply carries another object's ETag"
    STALE_LIST = "a list as it was when the same was asked for the first time"
    SILENCE = "no reply ever; the server never heard of it"


@dataclass
class Rule:
    """`fault` befalls requests whose method and key match, `times` at most, after `skip` of them.

    `chance` below 1 decides by `seed`, for each request by itself.
    """

    fault: Fault
    method: str = ".*"
    key: str = ".*"
    times: int | None = None
    skip: int = 0
    chance: float = 1.0
    seed: int = 0

    def applies(self, method: str, target: str, count: int) -> bool:
        """`count`: how many times the same request came before. Called under a lock."""
        if not re.fullmatch(self.method, method) or not re.search(self.key, unquote(target)):
            return False
        if self.chance < 1:
            draw = random.Random(f"{self.seed} {self.fault.name} {method} {target} {count}")
            if draw.random() >= self.chance:
                return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            if not self.times:
                return False
            self.times -= 1
        return True


@dataclass
class Seen:
    """One request as it passed. `status` 0: there was no reply."""

    method: str
    target: str
    headers: Mapping[str, str]
    begin_s: float
    end_s: float = 0.0
    sent_bytes: int = 0
    got_bytes: int = 0
    status: int = 0
    fault: Fault | None = None

    @property
    def path(self) -> str:
        """Bucket and key, whatever the dialect."""
        path = urlsplit(self.target).path.removeprefix(f"/{ACCOUNT}")
        match = re.match(r"(?:/upload|/download)?(?:/storage/v1)?/b/([^/]+)/o/?(.*)", path)
        if match is None:
            return unquote(path).lstrip("/")
        name = match[2] or self.query.get("name", "")
        return f"{match[1]}/{unquote(name)}"

    @property
    def query(self) -> dict[str, str]:
        asked = parse_qs(urlsplit(self.target).query, keep_blank_values=True)
        return {name: values[0] for name, values in asked.items()}

    @property
    def is_list(self) -> bool:
        has_key = "/" in self.path.strip("/")
        return self.method == "GET" and not has_key and "uploads" not in self.query

    @property
    def writes(self) -> bool:
        """Whether it makes an object visible: a whole PUT, or the end of an upload."""
        if self.method == "PUT":
            return "partNumber" not in self.query and self.query.get("comp") != "block"
        return self.method == "POST" and "uploadId" in self.query

    @property
    def creates_only(self) -> bool:
        """Whether it carries the condition that nothing is there."""
        condition = self.headers.get("x-goog-if-generation-match") == "0"
        return condition or self.headers.get("if-none-match") == "*"


@dataclass
class Link:
    """How long each request waits, and how fast bytes flow in each stream."""

    latency_s: float = 0.0
    bytes_per_s: float | None = None

    def pace(self, begin_s: float, count: int) -> None:
        """Wait until `count` bytes may have passed since `begin_s`."""
        if self.bytes_per_s is not None:
            left = begin_s + count / self.bytes_per_s - time.monotonic()
            if left > 0:
                time.sleep(left)


@dataclass
class Head:
    """First line and headers of a message; names in lower case."""

    first: str
    headers: dict[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        lines = [self.first, *(f"{name}: {value}" for name, value in self.headers.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


class Stream:
    """One side of a conversation."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.peer: Stream | None = None  # of a client: its connection to the server
        self._file = connection.makefile("rb", buffering=PIECE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def head(self) -> Head | None:
        """The next message's head, or None at the end."""
        first = self._file.readline()
        if not first:
            return None
        head = Head(first.decode("latin-1").rstrip("\r\n"))
        while line := self._file.readline().decode("latin-1").rstrip("\r\n"):
            name, _, value = line.partition(":")
            head.headers[name.strip().lower()] = value.strip()
        return head

    def body(self, head: Head, *, is_reply: bool = False) -> Iterator[bytes]:
        """What follows the head, in pieces, without the marks of chunked encoding."""
        if head.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int(self._file.readline().split(b";")[0] or b"0", 16):
                yield self._whole(size)
                self._file.readline()
            while self._file.readline().strip():
                pass
        elif "content-length" in head.headers:
            left = int(head.headers["content-length"])
            while left:
                piece = self._file.read1(min(left, PIECE))
                if not piece:
                    raise ConnectionResetError("the body broke off")
                left -= len(piece)
                yield piece
        elif is_reply and head.headers.get("connection", "").lower() == "close":
            while piece := self._file.read1(PIECE):
                yield piece

    def _whole(self, size: int) -> bytes:
        piece = self._file.read(size)
        if len(piece) < size:
            raise ConnectionResetError("the body broke off")
        return piece

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reset(self) -> None:
        """Break the connection so that the other side sees an error, not an end."""
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._release()

    def close(self) -> None:
        """End it. A thread that waits for bytes of it wakes up."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self._release()

    def _release(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        self.socket.close()


STATUS = {Fault.TOO_MANY: 429, Fault.BROKEN: 500, Fault.BUSY: 503, Fault.DENIED: 403}
UNHEARD = {*STATUS, Fault.RESET_BEFORE, Fault.SILENCE}


class FaultProxy:
    """The proxy; listens on `port` while it is open as a context manager."""

    def __init__(
        self, upstream_port: int, *, link: Link | None = None, pause_s: float = 0.2
    ) -> None:
        self.rules: list[Rule] = []
        self.link = link or Link()
        self.pause_s = pause_s
        self.seen: list[Seen] = []
        self._upstream = ("127.0.0.1", upstream_port)
        self._lock = threading.Lock()
        self._counts = Counter[tuple[str, str]]()
        self._first_lists: dict[str, bytes] = {}
        self._streams: set[Stream] = set()
        self._closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="fault-proxy", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            stream.close()

    @contextlib.contextmanager
    def suffering(self, *rules: Rule) -> Iterator[None]:
        """With these rules, and without any afterwards."""
        self.rules = list(rules)
        try:
            yield
        finally:
            self.rules = []

    def forget(self) -> None:
        """Begin a new log; lists are fresh again."""
        with self._lock:
            self.seen = []
            self._first_lists = {}

    @property
    def most_in_flight(self) -> int:
        """How many requests were under way at once."""
        steps = [(one.begin_s, 1) for one in self.seen]
        steps += [(one.end_s or time.monotonic(), -1) for one in self.seen]
        most = now = 0
        for _, step in sorted(steps):
            now += step
            most = max(most, now)
        return most

    # ---------------------------------------------------------------------------------- connections

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(Stream(connection),), daemon=True).start()

    def _converse(self, client: Stream) -> None:
        """Pass requests of one client on until one side has enough."""
        with self._lock:
            self._streams.add(client)
        try:
            while head := client.head():
                begin_s = time.monotonic()
                method, target, _ = head.first.split(" ", 2)
                seen = Seen(method, target, head.headers, begin_s)
                seen.fault = self._draw(seen)
                try:
                    self._pass_on(client, head, seen)
                finally:
                    seen.end_s = seen.end_s or time.monotonic()
        except (OSError, ValueError):  # one side went away, as sides do
            pass
        finally:
            client.close()
            if client.peer:
                client.peer.close()
            with self._lock:
                self._streams.discard(client)

    def _draw(self, seen: Seen) -> Fault | None:
        with self._lock:
            self.seen.append(seen)
            count = self._counts[seen.method, seen.target]
            self._counts[seen.method, seen.target] += 1
            for rule in self.rules:
                if rule.fault is Fault.STALE_LIST and not seen.is_list:
                    continue
                if rule.applies(seen.method, seen.target, count):
                    return rule.fault
        return None

    def _pass_on(self, client: Stream, head: Head, seen: Seen) -> None:
        """One request and its reply."""
        if head.headers.get("expect", "").lower() == "100-continue":
            del head.headers["expect"]
            client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if seen.fault in UNHEARD:
            self._refuse(client, head, seen)
            return
        server = client.peer = client.peer or Stream(socket.create_connection(self._upstream))
        self._send_request(client, server, head, seen)
        reply = server.head()
        if reply is None:
            raise ConnectionResetError("the server went away")
        status = seen.status = int(reply.first.split(" ", 2)[1])
        has_body = seen.method != "HEAD" and status not in (204, 304)
        pieces = server.body(reply, is_reply=True) if has_body else iter(())
        self._link_wait(seen)
        plain = seen.fault is None and not seen.is_list
        chunked = "transfer-encoding" in reply.headers
        if plain and not chunked and "content-length" in reply.headers:
            self._stream_reply(client, reply, pieces, seen)
        else:
            body = self._remember_list(seen, b"".join(pieces))
            reply.headers.pop("transfer-encoding", None)
            if has_body:
                reply.headers["content-length"] = str(len(body))
            self._ail(client, reply, body, seen)
        if reply.headers.get("connection", "").lower() == "close":
            raise ConnectionResetError("the server keeps no connection, so the client has none")

    def _send_request(self, client: Stream, server: Stream, head: Head, seen: Seen) -> None:
        chunked = "transfer-encoding" in head.headers
        length = int(head.headers.get("content-length", 0))
        server.send(head.encode())
        begin_s = time.monotonic()
        for piece in client.body(head):
            if seen.fault is Fault.RESET_MIDDLE and seen.sent_bytes + len(piece) > length // 2:
                server.send(piece[: max(0, length // 2 - seen.sent_bytes)])
                server.reset()
                client.reset()
                raise ConnectionResetError("in the middle, as ordered")
            seen.sent_bytes += len(piece)
            self.link.pace(begin_s, seen.sent_bytes)
            server.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            server.send(b"0\r\n\r\n")

    def _link_wait(self, seen: Seen) -> None:
        if self.link.latency_s:
            self._closed.wait(self.link.latency_s)
        if seen.fault is Fault.SLOW_START:
            self._closed.wait(self.pause_s)

    def _stream_reply(
        self, client: Stream, reply: Head, pieces: Iterator[bytes], seen: Seen
    ) -> None:
        begin_s = seen.end_s = time.monotonic()
        client.send(reply.encode())
        for piece in pieces:
            seen.got_bytes += len(piece)
            self.link.pace(begin_s, seen.got_bytes)
            seen.end_s = time.monotonic()  # what comes after the last byte is not the client's
            client.send(piece)

    # --------------------------------------------------------------------------------------- faults

    def _refuse(self, client: Stream, head: Head, seen: Seen) -> None:
        """End a request that the server never hears of."""
        if seen.fault is Fault.SILENCE:
            self._closed.wait()
        if seen.fault not in STATUS:
            client.reset()
            raise ConnectionResetError("before the server heard, as ordered")
        for piece in client.body(head):
            seen.sent_bytes += len(piece)
        seen.status = STATUS[seen.fault]
        client.send(plain_reply(seen.status))

    def _ail(self, client: Stream, reply: Head, body: bytes, seen: Seen) -> None:
        """Send a whole reply as its fault makes it."""
        seen.end_s = time.monotonic()
        match seen.fault:
            case Fault.RESET_AFTER:
                seen.status = 0
                client.reset()
                raise ConnectionResetError("after the server did it, as ordered")
            case Fault.LOST_REPLY:
                seen.status = 503
                client.send(plain_reply(503))
                return
            case Fault.TRUNCATED if len(body) > 1:
                client.send(reply.encode() + body[: len(body) // 2])
                client.close()
                raise ConnectionResetError("in the middle of the reply, as ordered")
            case Fault.SHORT if len(body) > 1:
                body = body[: len(body) // 2]
                reply.headers["content-length"] = str(len(body))
            case Fault.FLIPPED if body:
                wrong = bytearray(body)
                place = random.Random(f"{seen.target}{len(body)}").randrange(len(body))
                wrong[place] ^= 1 << (place % 8)
                body = bytes(wrong)
            case Fault.WRONG_ETAG if "etag" in reply.headers:
                reply.headers["etag"] = '"5d41402abc4b2a76b9719d911017c592"'
            case _:
                pass
        client.send(reply.encode())
        if seen.fault is Fault.SLOW_BODY:
            third = len(body) // 3 + 1
            for begin in range(0, len(body), third):
                self._closed.wait(self.pause_s)
                client.send(body[begin : begin + third])
        else:
            client.send(body)
        seen.got_bytes += len(body)

    def _remember_list(self, seen: Seen, body: bytes) -> bytes:
        if not seen.is_list:
            return body
        with self._lock:
            first = self._first_lists.setdefault(seen.target, body)
        return first if seen.fault is Fault.STALE_LIST else body


def plain_reply(status: int) -> bytes:
    head = f"HTTP/1.1 {status} Injected\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n"
    return head.encode()


def main() -> None:
    """Be a slow link until the input ends; every line of it is answered with what passed since."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("port", type=int, help="of the server")
    parser.add_argument("--latency-s", type=float, default=0.0)
    parser.add_argument("--bytes-per-s", type=float, default=None)
    given = parser.parse_args()
    with FaultProxy(given.port, link=Link(given.latency_s, given.bytes_per_s)) as proxy:
        print(proxy.port, flush=True)
        for _ in sys.stdin:
            told = {"requests": len(proxy.seen), "in flight": proxy.most_in_flight}
            print(json.dumps(told), flush=True)
            proxy.forget()


if __name__ == "__main__":
    main()
