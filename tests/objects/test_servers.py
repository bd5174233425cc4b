# SPDX-License-Identifier: Apache-2.0
"""The servers of the tests behave as the services that they stand for."""

import concurrent.futures
import re
import threading

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError
from obstore.store import AzureStore, GCSStore, S3Store

from tests.objects.servers import ObjectServer


def store_at(server: ObjectServer, bucket: str) -> GCSStore | S3Store | AzureStore:
    http = {"allow_http": True}
    if server.scheme == "az":
        return AzureStore(bucket, client_options=http)
    if server.scheme == "gs":
        return GCSStore(bucket, config=server.obstore_config, client_options=http)
    return S3Store(bucket, client_options=http)


def test_obstore_finds_again_what_it_wrote(cloud):
    store = store_at(cloud, cloud.new_bucket())
    put = obstore.put(store, "a/b c+%é", b"content")
    assert put["e_tag"]
    got = obstore.get(store, "a/b c+%é")
    assert bytes(got.bytes()) == b"content"
    assert got.meta["e_tag"] == put["e_tag"]
    assert obstore.head(store, "a/b c+%é")["size"] == 7
    assert bytes(obstore.get_range(store, "a/b c+%é", start=2, end=5)) == b"nte"
    obstore.delete(store, "a/b c+%é")
    with pytest.raises(FileNotFoundError):
        obstore.head(store, "a/b c+%é")


def test_a_key_is_created_once_however_many_try(cloud):
    store = store_at(cloud, cloud.new_bucket())
    start = threading.Barrier(8)

    def create(number: int) -> bool:
        start.wait()
        try:
            obstore.put(store, "key", str(number).encode(), mode="create")
        except AlreadyExistsError:
            return False
        return True

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert sum(won) == 1
    assert bytes(obstore.get(store, "key").bytes()) == str(won.index(True)).encode()


def test_a_multipart_upload_appears_when_it_is_completed(cloud):
    bucket = cloud.new_bucket()
    store = store_at(cloud, bucket)
    content = bytes(range(256)) * (80 << 10)  # 20 MiB
    obstore.put(store, "large", content, use_multipart=True, chunk_size=8 << 20)
    assert bytes(obstore.get(store, "large").bytes()) == content
    if cloud.scheme == "az":
        part = f"/{bucket}/unfinished?comp=block&blockid=MDAwMQ%3D%3D"
        cloud.ask("PUT", part, b"x" * 100)
        assert [one["path"] for one in obstore.list(store).collect()] == ["large"]
        return
    begun = cloud.ask("POST", f"/{bucket}/unfinished?uploads")
    number = re.search(rb"<UploadId>(.*?)</UploadId>", begun)
    assert number
    part = f"/{bucket}/unfinished?partNumber=1&uploadId={number[1].decode()}"
    cloud.ask("PUT", part, b"x" * 100)
    assert [one["path"] for one in obstore.list(store).collect()] == ["large"]
    cloud.ask("DELETE", f"/{bucket}/unfinished?uploadId={number[1].decode()}")


@pytest.mark.parametrize("server", ["gs", "s3"], indirect=True)
def test_a_multipart_upload_can_be_made_to_create_only(cloud):
    bucket = cloud.new_bucket()
    begun = cloud.ask("POST", f"/{bucket}/key?uploads")
    number = re.search(rb"<UploadId>(.*?)</UploadId>", begun)[1].decode()
    where = f"/{bucket}/key?uploadId={number}"
    cloud.ask("PUT", f"{where}&partNumber=1", b"late")
    listed = cloud.ask("GET", f"/{bucket}?uploads&prefix=key")
    assert number.encode() in listed
    etag = store_part_etag(cloud, b"late")
    done = (
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber>"
        f"<ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    ).encode()
    cloud.ask("PUT", f"/{bucket}/key", b"early")
    only_new = {"gs": {"x_goog_if_generation_match": "0"}, "s3": {"If_None_Match": "*"}}
    status, _ = cloud.try_ask("POST", where, done, **only_new[cloud.scheme])
    assert status == 412
    assert cloud.ask("GET", f"/{bucket}/key") == b"early"
    cloud.ask("DELETE", f"/{bucket}/key")
    cloud.ask("POST", where, done, **only_new[cloud.scheme])
    assert cloud.ask("GET", f"/{bucket}/key") == b"late"


def store_part_etag(server: ObjectServer, content: bytes) -> str:
    import hashlib

    import crc32c

    if server.scheme == "s3":
        return hashlib.md5(content, usedforsecurity=False).hexdigest()
    return f"{crc32c.crc32c(content):08x}"


def test_long_lists_come_in_pages(cloud):
    bucket = cloud.new_bucket()
    store = store_at(cloud, bucket)
    names = sorted(f"run/{i % 3}/leaf.{i:04d}" for i in range(1203))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: obstore.put(store, name, b"x"), names))
    assert [one["path"] for one in obstore.list(store, "run").collect()] == names
    inside = obstore.list_with_delimiter(store, "run")
    assert inside["common_prefixes"] == ["run/0", "run/1", "run/2"]
    after = obstore.list(store, "run", offset="run/1/leaf.0001").collect()
    assert [one["path"] for one in after] == [one for one in names if one > "run/1/leaf.0001"]
    obstore.delete(store, names)
    assert obstore.list(store).collect() == []


@pytest.mark.interop
def test_tensorstore_and_obstore_see_the_same_objects(gcs):
    import tensorstore as ts

    bucket = gcs.new_bucket()
    kv = ts.KvStore.open({"driver": "gcs", "bucket": bucket, "path": "dir/"}).result()
    store = store_at(gcs, bucket)
    obstore.put(store, "dir/ours", b"0123456789")
    kv.write("theirs", b"x" * 1000).result()
    assert kv.read("ours").result().value == b"0123456789"
    with_generation = kv.read("ours").result().stamp.generation
    assert kv.write("ours", b"", if_equal=b"").result().generation != with_generation
    assert bytes(obstore.get(store, "dir/theirs").bytes()) == b"x" * 1000
    assert kv.list().result() == [b"ours", b"theirs"]
    kv.delete_range(ts.KvStore.KeyRange("o", "p")).result()
    assert [one["path"] for one in obstore.list(store).collect()] == ["dir/theirs"]


@pytest.mark.interop
def test_epath_and_obstore_see_the_same_objects(gcs):
    from etils import epath

    bucket = gcs.new_bucket()
    store = store_at(gcs, bucket)
    obstore.put(store, "run/1/file", b"text")
    run = epath.Path(f"gs://{bucket}/run")
    assert (run / "1" / "file").read_text() == "text"
    (run / "2" / "other").write_text("more")
    assert sorted(one.name for one in run.iterdir()) == ["1", "2"]
    assert bytes(obstore.get(store, "run/2/other").bytes()) == b"more"
    (run / "2").rename(run / "3")
    assert [one["path"] for one in obstore.list(store, "run").collect()] == [
        "run/1/file",
        "run/3/other",
    ]
    (run / "1").rmtree()
    assert not (run / "1").exists()
