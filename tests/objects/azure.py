# SPDX-License-Identifier: Apache-2.0
"""A small Azure Blob Storage of the tests: blobs in memory, on 127.0.0.1, as `obstore` asks for
them.

The reference is Azurite, the emulator of Microsoft, which is a program for Node.js with 180 MiB of
packages: `make azure` runs the same tests against it. What the two have in common with the service,
and our protocol leans on: `If-None-Match: *` creates exactly once, blocks are invisible until they
are committed, a listing comes in pages and its ETags have no quotes, a batch of deletions says of
each blob whether it was there. Signatures are not looked at. `python -m tests.objects.azure` serves
and prints its port.
"""

import base64
import sys
import uuid
from email.utils import formatdate
from urllib.parse import unquote
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from tests.objects.gcs import Handler, Server
from tests.objects.gcs_json import mime_parts
from tests.objects.gcs_objects import Buckets, Object, Refused, Reply, Request, media

ACCOUNT = "devstoreaccount1"
PAGE = 1000  # the service has up to 5,000
MOST_IN_A_BATCH = 256


class Containers(Buckets):
    """Blobs, and blocks that wait to be committed: by blob, then by their own names."""

    def __init__(self) -> None:
        super().__init__([])
        self.blocks: dict[str, dict[str, bytes]] = {}


def answer(containers: Containers, request: Request) -> Reply:
    """What the service says to one request."""
    account, _, rest = request.path.lstrip("/").partition("/")
    container, _, name = rest.partition("/")
    try:
        if account != ACCOUNT or not container:
            raise Refused(400, "InvalidUri")
        if request.query.get("restype") == "container":
            return answer_container(containers, request, container)
        return answer_blob(containers, request, container, unquote(name))
    except Refused as refused:
        return error_reply(refused)


def error_reply(refused: Refused) -> Reply:
    code = {404: "BlobNotFound", 409: "BlobAlreadyExists", 416: "InvalidRange"}
    named = code.get(refused.status, refused.reason)
    text = f"<Error><Code>{named}</Code><Message>{escape(refused.reason)}</Message></Error>"
    headers = {"Content-Type": "application/xml", "x-ms-error-code": named}
    return Reply(refused.status, text.encode(), headers)


def answer_container(containers: Containers, request: Request, container: str) -> Reply:
    if request.method == "PUT":
        containers.objects.setdefault(container, {})
        return Reply(201)
    containers.bucket(container)
    if request.query.get("comp") == "batch":
        return answer_batch(containers, request)
    return answer_list(containers, request, container)


def answer_batch(containers: Containers, request: Request) -> Reply:
    """Deletions, each with an answer of its own."""
    parts = mime_parts(request)
    if len(parts) > MOST_IN_A_BATCH:
        raise Refused(400, "ExceedsMaxBatchRequestCount")
    mark = f"batchresponse_{uuid.uuid4()}"
    lines: list[bytes] = []
    for headers, content in parts:
        method, target, *_ = content.decode().split(" ")
        reply = answer(containers, Request.of(method, target, {}, b""))
        kind = "\r\nx-ms-error-code: BlobNotFound" if reply.status == 404 else ""
        lines.append(
            f"--{mark}\r\nContent-Type: application/http\r\nContent-ID: {headers['content-id']}"
            f"\r\n\r\nHTTP/1.1 {reply.status} .{kind}\r\nx-ms-version: 2023-11-03\r\n\r\n".encode()
        )
    body = b"".join(lines) + f"--{mark}--\r\n".encode()
    return Reply(202, body, {"Content-Type": f"multipart/mixed; boundary={mark}"})


def answer_list(containers: Containers, request: Request, container: str) -> Reply:
    query = request.query
    after = base64.urlsafe_b64decode(query.get("marker", "")).decode()
    limit = min(PAGE, request.number("maxresults") or PAGE)
    found, prefixes, more = containers.page(
        container, query.get("prefix", ""), query.get("delimiter", ""), after, limit
    )
    inside = "".join(
        f"<Blob><Name>{escape(one.name)}</Name><Properties>"
        f"<Last-Modified>{formatdate(one.time_s, usegmt=True)}</Last-Modified>"
        f"<Etag>{etag(one).strip(chr(34))}</Etag><Content-Length>{len(one.content)}"
        f"</Content-Length><Content-Type>{one.kind}</Content-Type>"
        "<BlobType>BlockBlob</BlobType></Properties></Blob>"
        for one in found
    )
    inside += "".join(f"<BlobPrefix><Name>{escape(one)}</Name></BlobPrefix>" for one in prefixes)
    going_on = base64.urlsafe_b64encode(more.encode()).decode() if more else ""
    body = (
        "<?xml version='1.0' encoding='UTF-8'?><EnumerationResults>"
        f"<Blobs>{inside}</Blobs><NextMarker>{going_on}</NextMarker></EnumerationResults>"
    )
    return Reply(200, body.encode(), {"Content-Type": "application/xml"})


def answer_blob(containers: Containers, request: Request, container: str, name: str) -> Reply:
    match request.method, request.query.get("comp"):
        case "PUT", "block":
            containers.bucket(container)
            with containers.lock:
                blocks = containers.blocks.setdefault(f"{container}/{name}", {})
                blocks[request.query["blockid"]] = request.body
            return Reply(201)
        case "PUT", "blocklist":
            blocks = containers.blocks.get(f"{container}/{name}", {})
            wanted = [one.text or "" for one in ET.fromstring(request.body)]
            if not set(wanted) <= set(blocks):
                raise Refused(400, "InvalidBlockList")
            content = b"".join(blocks[one] for one in wanted)
            return put(containers, request, container, name, content)
        case "PUT", _:
            if request.headers.get("x-ms-blob-type") != "BlockBlob":
                raise Refused(400, "MissingRequiredHeader")
            return put(containers, request, container, name, request.body)
        case "DELETE", _:
            containers.remove(container, name)
            return Reply(202)
        case _:
            found = containers.find(container, name)
            reply = media(found, request)
            kept = ("Last-Modified", "Content-Type", "Accept-Ranges", "Content-Range")
            headers = {key: value for key, value in reply.headers.items() if key in kept}
            return Reply(
                reply.status,
                reply.body,
                {**headers, "ETag": etag(found), "x-ms-blob-type": "BlockBlob"},
            )


def put(
    containers: Containers, request: Request, container: str, name: str, content: bytes
) -> Reply:
    condition = 0 if request.headers.get("if-none-match") == "*" else None
    try:
        made = containers.put(container, name, content, condition=condition)
    except Refused as refused:
        raise Refused(409 if refused.status == 412 else refused.status, refused.reason) from None
    containers.blocks.pop(f"{container}/{name}", None)
    when = formatdate(made.time_s, usegmt=True)
    return Reply(201, b"", {"ETag": etag(made), "Last-Modified": when})


def etag(one: Object) -> str:
    return f'"0x{one.generation:X}"'


class AzureHandler(Handler):
    answer = staticmethod(answer)


def serve() -> Server:
    handler = type("BoundHandler", (AzureHandler,), {"buckets": Containers()})
    return Server(("127.0.0.1", 0), handler)


if __name__ == "__main__":
    server = serve()
    print(server.server_address[1], flush=True)
    sys.stdout.close()
    server.serve_forever()
