# SPDX-License-Identifier: Apache-2.0
"""A small Google Cloud Storage of the tests: objects in memory, on 127.0.0.1, both of its APIs.

`gcp-storage-emulator` knows the JSON API only; obstore speaks the XML API (list, head, delete and
multipart upload included), TensorStore and gcsfs speak JSON. Here both look at the same objects,
with what the real service promises and our protocol leans on: every read and list sees all writes
before it, an object appears whole or not at all, `x-goog-if-generation-match: 0` (JSON:
`ifGenerationMatch=0`) creates exactly once however many try, parts are invisible until completed.
Signatures are not looked at. `python -m tests.objects.gcs` serves and prints its port.
"""

import sys
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote
from xml.sax.saxutils import escape

from tests.objects.gcs_json import JSON_PATH, answer_batch, answer_json, json_reply
from tests.objects.gcs_objects import Buckets, Refused, Reply, Request
from tests.objects.gcs_xml import answer_xml


def answer(buckets: Buckets, request: Request) -> Reply:
    """What the service says to one request."""
    try:
        match = JSON_PATH.fullmatch(request.path)
        if match:
            return answer_json(buckets, request, match)
        if request.path == "/batch/storage/v1":
            return answer_batch(request, lambda one: answer(buckets, one))
        bucket, _, name = request.path.lstrip("/").partition("/")
        return answer_xml(buckets, request, bucket, unquote(name))
    except Refused as refused:
        return error_reply(refused, xml=JSON_PATH.fullmatch(request.path) is None)


def error_reply(refused: Refused, *, xml: bool) -> Reply:
    if refused.status in (304, 416) and not xml:
        return Reply(refused.status)
    if xml:
        code = {404: "NoSuchKey", 412: "PreconditionFailed", 416: "InvalidRange"}
        text = (
            f"<Error><Code>{code.get(refused.status, 'InvalidArgument')}</Code>"
            f"<Message>{escape(refused.reason)}</Message></Error>"
        )
        return Reply(refused.status, text.encode(), {"Content-Type": "application/xml"})
    told = {"error": {"code": refused.status, "message": refused.reason, "errors": []}}
    return json_reply(told, refused.status)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    buckets: Buckets
    answer = staticmethod(answer)

    def answer_one(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        if headers.get("expect") == "100-continue":
            self.send_response_only(100)
            self.end_headers()
            self.wfile.flush()
        body = b"".join(self.body(headers))
        if len(body) < int(headers.get("content-length", 0)):
            self.close_connection = True  # the sender has gone: nothing was asked for
            return
        reply = self.answer(self.buckets, Request.of(self.command, self.path, headers, body))
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.status not in (204, 304):
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if self.command != "HEAD" and reply.status not in (204, 304):
            self.wfile.write(reply.body)

    def body(self, headers: Mapping[str, str]) -> Iterator[bytes]:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            length = int(headers.get("content-length", 0))
            if length:
                yield self.rfile.read(length)
            return
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    def log_message(self, *_: Any) -> None:
        pass


for method in ("GET", "HEAD", "PUT", "POST", "DELETE", "PATCH"):
    setattr(Handler, f"do_{method}", Handler.answer_one)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # clients go away in the middle
            super().handle_error(request, client_address)


def serve(names: list[str]) -> Server:
    handler = type("BoundHandler", (Handler,), {"buckets": Buckets(names)})
    return Server(("127.0.0.1", 0), handler)


if __name__ == "__main__":
    server = serve(sys.argv[1:])
    print(server.server_address[1], flush=True)
    server.serve_forever()
