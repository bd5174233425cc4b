# SPDX-License-Identifier: Apache-2.0
"""The published `gcp-storage-emulator`, behind a thin proxy that says what real GCS says.

The emulator speaks JSON. Of what obstore asks for in XML it has GET and an unconditional PUT, both
without ETag, Last-Modified or generation; it has no HEAD, DELETE, listing, condition or upload in
parts. The proxy asks it for the same in JSON, and keeps nothing but the parts of uploads that are
not complete. One change at a time: the emulator itself takes requests in turn.
`python -m tests.objects.emulated` serves and prints its port.
"""

import contextlib
import json
import logging
import threading
import uuid
from collections.abc import Mapping
from datetime import datetime
from email.utils import format_datetime
from http.client import HTTPConnection
from typing import Any
from urllib.parse import quote, unquote, urlencode
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from gcp_storage_emulator.server import create_server

from tests.objects.gcs import Handler, Server, error_reply
from tests.objects.gcs_json import JSON_PATH
from tests.objects.gcs_objects import PAGE, Refused, Reply, Request, byte_range
from tests.objects.gcs_xml import part_etag, text, xml


class Upstream:
    """The emulator, asked in JSON; and parts that wait until their upload is complete."""

    def __init__(self) -> None:
        logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
        self.server = create_server("127.0.0.1", 0, in_memory=True)
        self.server.start()
        self.port: int = self.server._api._httpd.server_port
        self.turn = threading.RLock()
        self.uploads: dict[str, dict[int, bytes]] = {}

    def ask(
        self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Reply:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, target, body, dict(headers or {}))
            with contextlib.closing(connection.getresponse()) as reply:
                told = {k: v for k, v in reply.getheaders() if k.lower() not in _OF_THE_HOP}
                return Reply(reply.status, reply.read(), told)

    def facts(self, bucket: str, name: str) -> dict[str, Any] | None:
        reply = self.ask("GET", f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}")
        return None if reply.status == 404 else json.loads(reply.body)

    def put(self, bucket: str, name: str, body: bytes, condition: str | None) -> dict[str, Any]:
        with self.turn:
            there = self.facts(bucket, name)
            if condition is not None and condition != (there["generation"] if there else "0"):
                raise Refused(412, "At least one of the pre-conditions did not hold.")
            kind, way = "application/octet-stream", "media"
            if not body:  # of an empty body the emulator asks how long None is
                kind, way = 'multipart/related; boundary="part"', "multipart"
                body = b"--part\r\n\r\n{}\r\n--part\r\n\r\n\r\n--part--"
            asked = urlencode({"uploadType": way, "name": name})
            target = f"/upload/storage/v1/b/{bucket}/o?{asked}"
            reply = self.ask("POST", target, body, {"Content-Type": kind})
        if reply.status != 200:
            raise Refused(reply.status, "The specified bucket does not exist.")
        return json.loads(reply.body)


_OF_THE_HOP = frozenset(("content-length", "transfer-encoding", "connection", "server", "date"))


def answer(up: Upstream, request: Request) -> Reply:
    """What the service says to one request."""
    match = JSON_PATH.fullmatch(request.path)
    if match or request.path == "/batch/storage/v1":
        asked = urlencode(request.query)
        named = {k: v for k, v in request.headers.items() if k not in _OF_THE_HOP}
        with up.turn:
            reply = up.ask(request.method, f"{request.path}?{asked}", request.body, named)
            if match and request.query.get("alt") == "media" and reply.status < 300:
                # TensorStore goes on from the generation that it has read.
                facts = up.facts(match["bucket"], unquote(match["name"]))
                reply.headers |= headers_of(facts) if facts else {}
        return reply
    bucket, _, name = request.path.lstrip("/").partition("/")
    try:
        if name:
            return answer_object(up, request, bucket, unquote(name))
        if request.method == "PUT":
            made = json.dumps({"name": bucket}).encode()
            return up.ask("POST", "/storage/v1/b", made, {"Content-Type": "application/json"})
        return answer_list(up, request, bucket)
    except Refused as refused:
        return error_reply(refused, xml=True)


def answer_object(up: Upstream, request: Request, bucket: str, name: str) -> Reply:
    if "uploads" in request.query or "uploadId" in request.query:
        return answer_upload(up, request, bucket, name)
    if request.method == "PUT":
        condition = request.headers.get("x-goog-if-generation-match")
        return Reply(200, b"", headers_of(up.put(bucket, name, request.body, condition)))
    found = up.facts(bucket, name)
    if found is None:
        raise Refused(404, f"No such object: {bucket}/{name}")
    where = f"/b/{bucket}/o/{quote(name, safe='')}"
    if request.method == "DELETE":
        return Reply(up.ask("DELETE", f"/storage/v1{where}").status)
    headers = headers_of(found)
    if request.method == "HEAD":
        return Reply(200, bytes(int(found["size"])), headers)
    wanted = {}
    if "range" in request.headers:
        byte_range(request.headers["range"], int(found["size"]))  # the emulator gives nothing, 206
        wanted = {"Range": request.headers["range"]}
    reply = up.ask("GET", f"/download/storage/v1{where}?alt=media", b"", wanted)
    return Reply(reply.status, reply.body, {**reply.headers, **headers})


def answer_upload(up: Upstream, request: Request, bucket: str, name: str) -> Reply:
    if "uploads" in request.query:
        number = uuid.uuid4().hex
        up.uploads[number] = {}
        return xml("InitiateMultipartUploadResult", f"<UploadId>{number}</UploadId>")
    number = request.query["uploadId"]
    if number not in up.uploads:
        raise Refused(404, "The specified upload does not exist.")
    if request.method == "PUT":
        up.uploads[number][int(request.query["partNumber"])] = request.body
        return Reply(200, b"", {"ETag": part_etag(request.body)})
    parts = up.uploads.pop(number)
    if request.method == "DELETE":
        return Reply(204)
    order = [int(text(part, "PartNumber")) for part in ET.fromstring(request.body)]
    made = up.put(bucket, name, b"".join(parts[one] for one in order), None)
    reply = xml("CompleteMultipartUploadResult", f"<ETag>{escape(headers_of(made)['ETag'])}</ETag>")
    reply.headers["x-goog-generation"] = made["generation"]
    return reply


def answer_list(up: Upstream, request: Request, bucket: str) -> Reply:
    query = request.query
    asked = {name: query[name] for name in ("prefix", "delimiter") if query.get(name)}
    reply = up.ask("GET", f"/storage/v1/b/{bucket}/o?{urlencode(asked)}")
    if reply.status != 200:
        raise Refused(reply.status, "The specified bucket does not exist.")
    told = json.loads(reply.body)
    after = query.get("continuation-token") or query.get("start-after", "")
    names = {one["name"]: one for one in told.get("items") or ()}
    everything = sorted(name for name in {*names, *(told.get("prefixes") or ())} if name > after)
    page = everything[:PAGE]
    inside = "".join(
        f"<Contents><Key>{escape(name)}</Key><LastModified>{names[name]['updated']}</LastModified>"
        f"<ETag>{escape(headers_of(names[name])['ETag'])}</ETag><Size>{names[name]['size']}</Size>"
        "</Contents>"
        if name in names
        else f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
        for name in page
    )
    if len(everything) > PAGE:
        inside += f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>"
    more = str(len(everything) > PAGE).lower()
    return xml("ListBucketResult", f"<IsTruncated>{more}</IsTruncated>{inside}")


def headers_of(facts: Mapping[str, Any]) -> dict[str, str]:
    """What real GCS says of an object and the emulator does not."""
    return {
        "ETag": f'"{facts["generation"]}"',
        "Last-Modified": format_datetime(datetime.fromisoformat(facts["updated"]), usegmt=True),
        "x-goog-generation": facts["generation"],
        "x-goog-metageneration": "1",
    }


class EmulatedHandler(Handler):
    answer = staticmethod(answer)


if __name__ == "__main__":
    handler = type("BoundHandler", (EmulatedHandler,), {"buckets": Upstream()})
    server = Server(("127.0.0.1", 0), handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
