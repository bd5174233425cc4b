# SPDX-License-Identifier: Apache-2.0
"""What the GCS server of the tests keeps, and what a request and a reply are.

One lock makes a condition and its effect one step: a name is created once, however many try.
"""

import base64
import hashlib
import itertools
import re
import struct
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from functools import cached_property
from urllib.parse import parse_qs, urlsplit

import crc32c as crc

PAGE = 1000  # names in one reply to a list, as the real service cuts it


class Refused(Exception):
    """A reply that is not a success."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True)
class Object:
    """What lies under one name."""

    name: str
    content: bytes
    generation: int
    kind: str = "application/octet-stream"
    notes: Mapping[str, str] = field(default_factory=dict)
    time_s: float = field(default_factory=time.time)

    @cached_property
    def md5(self) -> bytes:
        return hashlib.md5(self.content, usedforsecurity=False).digest()

    @property
    def etag(self) -> str:
        # Real ones are the MD5 in hexadecimal, unless composed; nobody may rely on that.
        return f'"{self.generation:x}-{len(self.content):x}"'

    @cached_property
    def crc32c(self) -> str:
        return base64.b64encode(struct.pack(">I", crc.crc32c(self.content))).decode()


@dataclass
class Upload:
    """A multipart or resumable upload that nobody can see yet."""

    bucket: str
    name: str
    kind: str
    notes: Mapping[str, str]
    condition: int | None = None
    parts: dict[int, bytes] = field(default_factory=dict)
    tail: bytearray = field(default_factory=bytearray)


class Buckets:
    """All objects; one lock, so that conditions and effects are one step."""

    def __init__(self, names: list[str]) -> None:
        self.lock = threading.RLock()
        self.objects: dict[str, dict[str, Object]] = {name: {} for name in names}
        self.uploads: dict[str, Upload] = {}
        self._generations = itertools.count(time.time_ns() // 1000)

    def bucket(self, name: str) -> dict[str, Object]:
        if name not in self.objects:
            raise Refused(404, "The specified bucket does not exist.")
        return self.objects[name]

    def find(self, bucket: str, name: str) -> Object:
        with self.lock:
            found = self.bucket(bucket).get(name)
        if found is None:
            raise Refused(404, f"No such object: {bucket}/{name}")
        return found

    def put(
        self,
        bucket: str,
        name: str,
        content: bytes,
        *,
        kind: str = "application/octet-stream",
        notes: Mapping[str, str] | None = None,
        condition: int | None = None,
    ) -> Object:
        """`condition`: the generation that must be there; 0 = nothing."""
        with self.lock:
            self._check(bucket, name, condition)
            made = Object(name, content, next(self._generations), kind, notes or {})
            self.bucket(bucket)[name] = made
        return made

    def remove(self, bucket: str, name: str, condition: int | None = None) -> None:
        with self.lock:
            self._check(bucket, name, condition)
            self.find(bucket, name)
            del self.bucket(bucket)[name]

    def _check(self, bucket: str, name: str, condition: int | None) -> None:
        there = self.bucket(bucket).get(name)
        if condition is not None and condition != (there.generation if there else 0):
            raise Refused(412, "At least one of the pre-conditions you specified did not hold.")

    def page(
        self, bucket: str, prefix: str, delimiter: str, after: str, limit: int, *, first: str = ""
    ) -> tuple[list[Object], list[str], str | None]:
        """Objects and common prefixes behind `after`, from `first`; then where to go on."""
        objects: list[Object] = []
        prefixes: list[str] = []
        with self.lock:
            names = sorted(self.bucket(bucket).values(), key=lambda one: one.name.encode())
        last = after
        for one in names:
            shown = one.name
            if not shown.startswith(prefix) or shown < first:
                continue
            cut = shown.find(delimiter, len(prefix)) if delimiter else -1
            if cut >= 0:
                shown = shown[: cut + len(delimiter)]
            if (after and shown <= after) or (prefixes and shown == prefixes[-1]):
                continue
            if len(objects) + len(prefixes) == limit:
                return objects, prefixes, last
            last = shown
            if cut >= 0:
                prefixes.append(shown)
            else:
                objects.append(one)
        return objects, prefixes, None


@dataclass
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @classmethod
    def of(cls, method: str, target: str, headers: Mapping[str, str], body: bytes) -> "Request":
        parts = urlsplit(target)
        asked = parse_qs(parts.query, keep_blank_values=True)
        query = {name: values[0] for name, values in asked.items()}
        return cls(method, parts.path, query, headers, body)

    def number(self, name: str) -> int | None:
        return int(self.query[name]) if name in self.query else None


def media(found: Object, request: Request) -> Reply:
    """The bytes of an object, or the range that was asked for."""
    headers = {
        "ETag": found.etag,
        "Last-Modified": formatdate(found.time_s, usegmt=True),
        "Content-Type": found.kind,
        "Accept-Ranges": "bytes",
        "x-goog-generation": str(found.generation),
        "x-goog-metageneration": "1",
        "x-goog-stored-content-length": str(len(found.content)),
        "x-goog-stored-content-encoding": "identity",
        "x-goog-storage-class": "STANDARD",
        "x-goog-hash": f"crc32c={found.crc32c}",
        **{f"x-goog-meta-{name}": value for name, value in found.notes.items()},
    }
    wanted = request.headers.get("range")
    if wanted is None:
        return Reply(200, found.content, headers)
    begin, end = byte_range(wanted, len(found.content))
    headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(found.content)}"
    return Reply(206, found.content[begin:end], headers)


def byte_range(text: str, length: int) -> tuple[int, int]:
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", text)
    if match is None or match.groups() == ("", ""):
        raise Refused(400, f"not a range: {text}")
    first, last = match.groups()
    if not first:
        return max(0, length - int(last)), length
    if int(first) >= length:
        raise Refused(416, "The requested range cannot be satisfied.")
    return int(first), min(length, int(last) + 1) if last else length


def as_number(text: str | None) -> int | None:
    return None if text is None else int(text)


def iso(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
