# SPDX-License-Identifier: Apache-2.0
"""The JSON API of the GCS server of the tests: what TensorStore, gcsfs and Google speak."""

import base64
import json
import re
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote

from tests.objects.gcs_objects import (
    PAGE,
    Buckets,
    Object,
    Refused,
    Reply,
    Request,
    Upload,
    iso,
    media,
)

JSON_PATH = re.compile(
    r"(?P<way>/upload|/download)?(?:/storage/v1)?/b(?:/(?P<bucket>[^/]+)"
    r"(?:/(?P<layout>storageLayout)|/o(?:/(?P<name>[^/]+)"
    r"(?:/(?P<verb>rewriteTo|copyTo)/b/(?P<to>[^/]+)/o/(?P<target>[^/]+)|/(?P<compose>compose))?"
    r")?)?)?/?"
)


def answer_json(buckets: Buckets, request: Request, match: re.Match[str]) -> Reply:
    bucket, way = match["bucket"], match["way"]
    name = unquote(match["name"]) if match["name"] else None
    if bucket is None:
        if request.method == "POST":
            bucket = json.loads(request.body)["name"]
            buckets.objects.setdefault(bucket, {})
            return json_reply(bucket_facts(bucket))
        return json_reply(
            {"kind": "storage#buckets", "items": [*map(bucket_facts, buckets.objects)]}
        )
    if way == "/upload":
        return json_upload(buckets, request, bucket)
    if match["layout"]:
        buckets.bucket(bucket)
        return json_reply({"bucket": bucket, "locationType": "region", "hierarchicalNamespace": {}})
    if name is None:
        buckets.bucket(bucket)
        is_list = request.path.rstrip("/").endswith("/o")
        return json_list(buckets, request, bucket) if is_list else json_reply(bucket_facts(bucket))
    if match["compose"]:
        return json_compose(buckets, request, bucket, name)
    if match["verb"]:
        found = buckets.find(bucket, name)
        made = buckets.put(
            match["to"], unquote(match["target"]), found.content, kind=found.kind,
            notes=found.notes, condition=request.number("ifGenerationMatch"),
        )  # fmt: skip
        told = facts(match["to"], made)
        if match["verb"] == "copyTo":
            return json_reply(told)
        size = str(len(found.content))
        return json_reply(
            {"kind": "storage#rewriteResponse", "done": True, "resource": told,
             "totalBytesRewritten": size, "objectSize": size}
        )  # fmt: skip
    return json_object(buckets, request, bucket, name, whole=way == "/download")


def json_object(
    buckets: Buckets, request: Request, bucket: str, name: str, *, whole: bool
) -> Reply:
    condition = request.number("ifGenerationMatch")
    if request.method == "DELETE":
        buckets.remove(bucket, name, condition)
        return Reply(204)
    found = buckets.find(bucket, name)
    if request.method in ("PATCH", "PUT"):
        told = json.loads(request.body or b"{}")
        notes = {
            k: v for k, v in {**found.notes, **told.get("metadata", {})}.items() if v is not None
        }
        with buckets.lock:
            changed = Object(name, found.content, found.generation, found.kind, notes, found.time_s)
            buckets.bucket(bucket)[name] = changed
        return json_reply(facts(bucket, changed))
    if request.number("generation") not in (None, found.generation):
        raise Refused(404, f"No such object: {bucket}/{name}#{request.query['generation']}")
    if condition is not None and condition != found.generation:
        raise Refused(412, "At least one of the pre-conditions you specified did not hold.")
    if request.number("ifGenerationNotMatch") == found.generation:
        raise Refused(304, "not modified")
    if whole or request.query.get("alt") == "media":
        return media(found, request)
    return json_reply(facts(bucket, found))


def json_list(buckets: Buckets, request: Request, bucket: str) -> Reply:
    query = request.query
    objects, prefixes, more = buckets.page(
        bucket,
        query.get("prefix", ""),
        query.get("delimiter", ""),
        base64.urlsafe_b64decode(query.get("pageToken", "")).decode(),
        min(PAGE, request.number("maxResults") or PAGE),
        first=query.get("startOffset", ""),
    )
    end = query.get("endOffset")
    told: dict[str, Any] = {"kind": "storage#objects"}
    told["items"] = [facts(bucket, one) for one in objects if end is None or one.name < end]
    told["prefixes"] = prefixes
    if more:
        told["nextPageToken"] = base64.urlsafe_b64encode(more.encode()).decode()
    return json_reply({key: value for key, value in told.items() if value})


def json_upload(buckets: Buckets, request: Request, bucket: str) -> Reply:
    query = request.query
    kind = request.headers.get("content-type", "application/octet-stream")
    condition = request.number("ifGenerationMatch")
    match query.get("uploadType"), query.get("upload_id"):
        case _, str(number):
            return json_resume(buckets, request, number)
        case "media", _:
            made = buckets.put(bucket, query["name"], request.body, kind=kind, condition=condition)
        case "multipart", _:
            head, content = mime_parts(request)
            told = json.loads(head[1])
            name = told.get("name") or query["name"]
            made = buckets.put(
                bucket, name, content[1], kind=content[0].get("content-type", kind),
                notes=told.get("metadata"), condition=condition,
            )  # fmt: skip
        case _:
            told = json.loads(request.body or b"{}")
            number = uuid.uuid4().hex
            kind = request.headers.get("x-upload-content-type", "application/octet-stream")
            buckets.bucket(bucket)
            buckets.uploads[number] = Upload(
                bucket, told.get("name") or query["name"], kind, told.get("metadata", {}), condition
            )
            host = request.headers.get("host", "")
            where = f"http://{host}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={number}"
            return Reply(200, b"", {"Location": where, "X-GUploader-UploadID": number})
    return json_reply(facts(bucket, made))


def json_resume(buckets: Buckets, request: Request, number: str) -> Reply:
    """One piece of a resumable upload; `bytes 0-99/*` means that more will come."""
    upload = buckets.uploads.get(number)
    if upload is None:
        raise Refused(404, "The specified upload does not exist.")
    if request.method == "DELETE":
        del buckets.uploads[number]
        return Reply(499)
    match = re.fullmatch(
        r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", request.headers.get("content-range", "bytes */*")
    )
    if match is None:
        raise Refused(400, "not a content range")
    if match[1] is not None:
        del upload.tail[int(match[1]) :]
        upload.tail += request.body
    elif "content-range" not in request.headers:
        upload.tail += request.body
    whole = "content-range" not in request.headers or match[3] == str(len(upload.tail))
    if not whole:
        reply = Reply(308)
        if upload.tail:
            reply.headers["Range"] = f"bytes=0-{len(upload.tail) - 1}"
        return reply
    made = buckets.put(
        upload.bucket, upload.name, bytes(upload.tail), kind=upload.kind, notes=upload.notes,
        condition=upload.condition,
    )  # fmt: skip
    del buckets.uploads[number]
    return json_reply(facts(upload.bucket, made))


def json_compose(buckets: Buckets, request: Request, bucket: str, name: str) -> Reply:
    told = json.loads(request.body)
    pieces = [buckets.find(bucket, one["name"]).content for one in told["sourceObjects"]]
    condition = request.number("ifGenerationMatch")
    return json_reply(
        facts(bucket, buckets.put(bucket, name, b"".join(pieces), condition=condition))
    )


def answer_batch(request: Request, answer: Callable[[Request], Reply]) -> Reply:
    """Several JSON requests in one."""
    mark = "batch_of_replies"
    lines: list[bytes] = []
    for headers, content in mime_parts(request):
        head, _, body = content.partition(b"\r\n\r\n")
        first, *rest = head.decode().split("\r\n")
        method, target, *_ = first.split(" ")
        named = dict(line.lower().split(": ", 1) for line in rest if ": " in line)
        reply = answer(Request.of(method, target, named, body.strip()))
        number = headers.get("content-id", "<0>").strip("<>")
        lines += [
            f"--{mark}\r\nContent-Type: application/http\r\nContent-ID: <response-{number}>\r\n\r\n"
            f"HTTP/1.1 {reply.status} .\r\nContent-Length: {len(reply.body)}\r\n"
            "Content-Type: application/json\r\n\r\n".encode(),
            reply.body + b"\r\n",
        ]
    body = b"".join(lines) + f"--{mark}--\r\n".encode()
    return Reply(200, body, {"Content-Type": f"multipart/mixed; boundary={mark}"})


def mime_parts(request: Request) -> list[tuple[dict[str, str], bytes]]:
    match = re.search(r'boundary="?([^";]+)"?', request.headers.get("content-type", ""))
    if match is None:
        raise Refused(400, "no boundary")
    parts: list[tuple[dict[str, str], bytes]] = []
    for piece in request.body.split(b"--" + match[1].encode())[1:-1]:
        head, _, content = piece.removeprefix(b"\r\n").removeprefix(b"\n").partition(b"\r\n\r\n")
        if not content and b"\n\n" in head:
            head, _, content = head.partition(b"\n\n")
        lines = (line.split(":", 1) for line in head.decode().splitlines() if ":" in line)
        named = {key.strip().lower(): value.strip() for key, value in lines}
        parts.append((named, content.removesuffix(b"\n").removesuffix(b"\r")))
    return parts


def bucket_facts(name: str) -> dict[str, Any]:
    return {"kind": "storage#bucket", "id": name, "name": name, "location": "US", "etag": "CAE="}


def facts(bucket: str, one: Object) -> dict[str, Any]:
    return {
        "kind": "storage#object",
        "id": f"{bucket}/{one.name}/{one.generation}",
        "name": one.name,
        "bucket": bucket,
        "generation": str(one.generation),
        "metageneration": "1",
        "contentType": one.kind,
        "size": str(len(one.content)),
        "md5Hash": base64.b64encode(one.md5).decode(),
        "crc32c": one.crc32c,
        "etag": base64.b64encode(str(one.generation).encode()).decode(),
        "timeCreated": iso(one.time_s),
        "updated": iso(one.time_s),
        "storageClass": "STANDARD",
        "metadata": dict(one.notes),
        "mediaLink": f"/download/storage/v1/b/{bucket}/o/{quote(one.name, safe='')}?alt=media",
    }


def json_reply(told: Any, status: int = 200) -> Reply:
    return Reply(
        status, json.dumps(told).encode(), {"Content-Type": "application/json; charset=UTF-8"}
    )
