# SPDX-License-Identifier: Apache-2.0
"""The XML API of the GCS server of the tests: what obstore speaks."""

import uuid
from collections.abc import Mapping
from urllib.parse import unquote
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

import crc32c as crc

from tests.objects.gcs_objects import (
    PAGE,
    Buckets,
    Refused,
    Reply,
    Request,
    Upload,
    as_number,
    iso,
    media,
)


def answer_xml(buckets: Buckets, request: Request, bucket: str, name: str) -> Reply:
    if not name:
        if request.method == "PUT":
            buckets.objects.setdefault(bucket, {})
            return Reply()
        buckets.bucket(bucket)
        return Reply() if request.method == "HEAD" else xml_list(buckets, request, bucket)
    if "uploads" in request.query or "uploadId" in request.query:
        return xml_upload(buckets, request, bucket, name)
    condition = as_number(request.headers.get("x-goog-if-generation-match"))
    match request.method:
        case "GET" | "HEAD":
            found = buckets.find(bucket, name)
            if request.headers.get("if-none-match") == found.etag:
                raise Refused(304, "not modified")
            return media(found, request)
        case "DELETE":
            buckets.remove(bucket, name, condition)
            return Reply(204)
        case "PUT" if "x-goog-copy-source" in request.headers:
            source = unquote(request.headers["x-goog-copy-source"]).lstrip("/").partition("/")
            found = buckets.find(source[0], source[2])
            made = buckets.put(bucket, name, found.content, kind=found.kind, condition=condition)
            text = f"<CopyObjectResult><ETag>{escape(made.etag)}</ETag></CopyObjectResult>"
            return Reply(200, text.encode(), {"ETag": made.etag})
        case "PUT":
            kind, notes = described(request)
            made = buckets.put(
                bucket, name, request.body, kind=kind, notes=notes, condition=condition
            )
            return Reply(200, b"", {"ETag": made.etag, "x-goog-generation": str(made.generation)})
        case _:
            raise Refused(405, "The method is not allowed here.")


def described(request: Request) -> tuple[str, Mapping[str, str]]:
    mark = "x-goog-meta-"
    notes = {k.removeprefix(mark): v for k, v in request.headers.items() if k.startswith(mark)}
    return request.headers.get("content-type", "application/octet-stream"), notes


def xml_upload(buckets: Buckets, request: Request, bucket: str, name: str) -> Reply:
    """Multipart upload: begun, filled part by part, completed or aborted."""
    if "uploads" in request.query:
        if request.method == "GET":
            return xml_open_uploads(buckets, bucket, request.query.get("prefix", ""))
        buckets.bucket(bucket)
        number = uuid.uuid4().hex
        kind, notes = described(request)
        buckets.uploads[number] = Upload(bucket, name, kind, notes)
        return xml(
            "InitiateMultipartUploadResult", f"<Bucket>{bucket}</Bucket><Key>{escape(name)}</Key>"
            f"<UploadId>{number}</UploadId>"
        )  # fmt: skip
    number = request.query["uploadId"]
    upload = buckets.uploads.get(number)
    if upload is None or (upload.bucket, upload.name) != (bucket, name):
        raise Refused(404, "The specified upload does not exist.")
    if request.method == "PUT":
        upload.parts[int(request.query["partNumber"])] = request.body
        return Reply(200, b"", {"ETag": part_etag(request.body)})
    if request.method == "DELETE":
        del buckets.uploads[number]
        return Reply(204)
    listed = [
        (int(text(part, "PartNumber")), text(part, "ETag")) for part in ET.fromstring(request.body)
    ]
    for part, etag in listed:
        if part not in upload.parts or part_etag(upload.parts[part]).strip('"') != etag.strip('"'):
            raise Refused(400, f"InvalidPart: {part}")
    if [part for part, _ in listed] != sorted({part for part, _ in listed}):
        raise Refused(400, "InvalidPartOrder")
    condition = as_number(request.headers.get("x-goog-if-generation-match"))
    content = b"".join(upload.parts[part] for part, _ in listed)
    made = buckets.put(
        bucket, name, content, kind=upload.kind, notes=upload.notes, condition=condition
    )
    del buckets.uploads[number]
    reply = xml(
        "CompleteMultipartUploadResult",
        f"<Bucket>{bucket}</Bucket><Key>{escape(name)}</Key><ETag>{escape(made.etag)}</ETag>",
    )
    reply.headers["x-goog-generation"] = str(made.generation)
    return reply


def xml_open_uploads(buckets: Buckets, bucket: str, prefix: str) -> Reply:
    inside = "".join(
        f"<Upload><Key>{escape(one.name)}</Key><UploadId>{number}</UploadId></Upload>"
        for number, one in list(buckets.uploads.items())
        if one.bucket == bucket and one.name.startswith(prefix)
    )
    return xml("ListMultipartUploadsResult", f"<Bucket>{bucket}</Bucket>{inside}")


def part_etag(content: bytes) -> str:
    return f'"{crc.crc32c(content):08x}"'


def text(node: ET.Element, tag: str) -> str:
    return next(child.text or "" for child in node if child.tag.rpartition("}")[2] == tag)


def xml_list(buckets: Buckets, request: Request, bucket: str) -> Reply:
    if "uploads" in request.query:
        return xml_open_uploads(buckets, bucket, request.query.get("prefix", ""))
    query = request.query
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    after = query.get("continuation-token") or query.get("start-after", "")
    limit = min(PAGE, request.number("max-keys") or PAGE)
    objects, prefixes, more = buckets.page(bucket, prefix, delimiter, after, limit)
    inside = "".join(
        f"<Contents><Key>{escape(one.name)}</Key><LastModified>{iso(one.time_s)}</LastModified>"
        f"<ETag>{escape(one.etag)}</ETag><Size>{len(one.content)}</Size>"
        f"<Generation>{one.generation}</Generation></Contents>"
        for one in objects
    )
    inside += "".join(
        f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in prefixes
    )
    inside += f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>"
    if more:
        inside += f"<NextContinuationToken>{escape(more)}</NextContinuationToken>"
    count = len(objects) + len(prefixes)
    return xml(
        "ListBucketResult",
        f"<Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{count}</KeyCount>{inside}",
    )


def xml(tag: str, inside: str) -> Reply:
    body = f"<?xml version='1.0' encoding='UTF-8'?><{tag}>{inside}</{tag}>".encode()
    return Reply(200, body, {"Content-Type": "application/xml"})
