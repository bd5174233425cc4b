# SPDX-License-Identifier: Apache-2.0
"""Requests to a bucket: repeated where that is safe, and failures told as a disk would."""

import errno
import json
import socket

import pytest
from obstore import exceptions as theirs

from pertinax._store.objects.replies import as_os_error
from pertinax._store.objects.requests import Bucket, Requests
from pertinax._store.objects.store import ObjectStore
from pertinax._store.objects.urls import Address, client, is_url, parse_url
from pertinax.errors import InvalidOption
from tests.objects.scripted import Reply, Scripted, saying

WHEN = (("Last-Modified", "Sat, 21 Nov 2026 10:00:00 GMT"), ("ETag", '"1"'))
GONE = Reply(0)
REFUSED = Reply(503, b"<Error><Code>SlowDown</Code></Error>")
TAKEN = Reply(412, b"<Error><Code>PreconditionFailed</Code></Error>")


def bucket_at(server: Scripted | str, *, retry_s: float = 0) -> Requests:
    """Requests to an S3 at this endpoint, which nobody but us repeats."""
    endpoint = server if isinstance(server, str) else server.endpoint
    config = {
        "endpoint": endpoint,
        "region": "us-east-1",
        "access_key_id": "tests",
        "secret_access_key": "not-a-secret",
    }
    made = ObjectStore("s3://b", config=config, retry_s=0).requests
    made._retry_s = retry_s
    return made


def test_a_server_that_takes_a_connection_and_says_nothing_is_told_as_a_timeout():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        config = {"endpoint": endpoint, "region": "us-east-1", "skip_signature": True}
        options = {"timeout": "300ms", "allow_http": True}
        store = ObjectStore("s3://b", config=config, client_options=options, retry_s=0)
        with pytest.raises(TimeoutError, match=f"{endpoint} did not answer: the request timed out"):
            store.requests.head("key")


@pytest.mark.parametrize(
    ("error", "kind", "number"),
    [
        (FileNotFoundError("x"), FileNotFoundError, errno.ENOENT),
        (theirs.NotFoundError("x"), FileNotFoundError, errno.ENOENT),
        (theirs.AlreadyExistsError("x"), FileExistsError, errno.EEXIST),
        (theirs.PreconditionError("x"), FileExistsError, errno.EEXIST),
        (theirs.PermissionDeniedError("x"), PermissionError, errno.EACCES),
        (theirs.UnauthenticatedError("x"), PermissionError, errno.EACCES),
        (theirs.GenericError("status code: 401"), PermissionError, errno.EACCES),
        (theirs.GenericError("status code: 403, denied"), PermissionError, errno.EACCES),
        (theirs.GenericError("status code: 416"), OSError, errno.EINVAL),
        (theirs.GenericError("Invalid range requested"), OSError, errno.EINVAL),
        (theirs.GenericError("operation timed out"), TimeoutError, errno.ETIMEDOUT),
        (theirs.GenericError("Timeout of the connection"), TimeoutError, errno.ETIMEDOUT),
        (theirs.GenericError("status code: 500"), OSError, errno.EIO),
        (theirs.GenericError("status code: 4030"), PermissionError, errno.EACCES),
    ],
)
def test_failures_are_those_of_a_disk(error, kind, number):
    made = as_os_error(error, "s3://b/key")
    assert type(made) is kind or kind is OSError
    assert (made.errno, made.filename) == (number, "s3://b/key")


def test_failures_are_short_and_tell_no_secret():
    secret = "PUT http://h/b/k?X-Amz-Signature=abc&x=1 token=hidden, Signature=s&key=k"
    text = str(as_os_error(theirs.GenericError(f"{secret}\n\nDebug source:\nmuch"), "s3://b/k"))
    for word in ("abc", "hidden", "=s&", "=k", "Debug", "much"):
        assert word not in text, word
    assert "token=..." in text
    for length in (299, 300, 301, 1000):
        said = as_os_error(theirs.GenericError("w" * length), "s3://b/k").strerror
        assert said == "w" * min(length, 300) + ("..." if length > 300 else "")


def test_nobody_there_is_told_at_once():
    with saying(GONE) as server:
        gone = server.endpoint
    with pytest.raises(OSError, match="s3://b/key") as caught:
        bucket_at(gone).create("key", b"x")
    assert caught.value.errno == errno.EIO


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses between tries, which nobody waits for."""
    noted: list[float] = []
    monkeypatch.setattr("pertinax._store.objects.requests.time.sleep", noted.append)
    return noted


def test_creating_is_repeated_for_nobody_below_does_it(pauses):
    with saying(GONE, GONE, Reply(200, b"", WHEN)) as server:
        bucket_at(server, retry_s=60).create("key", b"x")
    assert [(one.path, one.body, one.headers["if-none-match"]) for one in server.asked] == [
        ("/b/key", b"x", "*")
    ] * 3
    assert pauses == [0.1, 0.2]


@pytest.mark.parametrize("before", [(GONE,), (REFUSED,), ()])
def test_what_is_there_after_a_try_of_ours_may_be_ours(pauses, before):
    with saying(*before, TAKEN, Reply(200, b"x", WHEN)) as server:
        bucket_at(server, retry_s=60).create("key", b"x")
        assert [one.method for one in server.asked] == ["PUT"] * (len(before) + 1) + ["GET"]
    others = Reply(200, b"another's", WHEN)
    with saying(*before, TAKEN, others) as server, pytest.raises(FileExistsError):
        bucket_at(server, retry_s=60).create("key", b"x")


def test_creating_is_not_repeated_for_ever_nor_where_we_may_not(pauses):
    with saying(GONE) as server:
        with pytest.raises(OSError, match="s3://b/key"):
            bucket_at(server, retry_s=60).create("key", b"x")
        assert len(server.asked) == 5
        assert pauses == [0.1, 0.2, 0.4, 0.8]
        with pytest.raises(OSError, match="s3://b/key"):
            bucket_at(server, retry_s=0.05).create("key", b"x")
        assert len(server.asked) == 6
    with saying(Reply(403, b"<Error><Code>AccessDenied</Code></Error>")) as server:
        with pytest.raises(PermissionError, match="the store refuses"):
            bucket_at(server, retry_s=60).create("key", b"x")
        assert len(server.asked) == 1


BEGUN = Reply(
    200,
    b"<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>key</Key><UploadId>u</UploadId>"
    b"</InitiateMultipartUploadResult>",
)
TOOK = Reply(200, b"", (("ETag", '"1"'),))
ENDED = Reply(
    200,
    b"<CompleteMultipartUploadResult><Bucket>b</Bucket><Key>key</Key><ETag>1</ETag>"
    b"</CompleteMultipartUploadResult>",
    WHEN,
)


def upload(server: Scripted) -> None:
    bucket_at(server, retry_s=60).upload("key", iter([b"one", b"two"]), 5 << 20, 1)


def test_an_upload_is_begun_again_but_never_with_what_is_left_of_it(pauses):
    with saying(GONE, REFUSED, BEGUN, TOOK, ENDED) as server:
        upload(server)
    assert [one.method for one in server.asked] == ["POST"] * 3 + ["PUT", "POST"]
    assert server.asked[3].body == b"onetwo"
    with saying(BEGUN, REFUSED, REFUSED, Reply(404)) as server:
        with pytest.raises(OSError, match="s3://b/key"):
            upload(server)
        assert [one.path for one in server.asked].count("/b/key?uploads=") <= 1
        assert [one.method for one in server.asked].count("PUT") == 1


def test_an_upload_of_which_the_last_reply_was_lost_is_done_if_all_of_it_is_there(pauses):
    with saying(BEGUN, TOOK, GONE, Reply(200, b"onetwo", WHEN)) as server:
        upload(server)
        assert server.asked[-1].method == "HEAD"
    for there in (Reply(200, b"older", WHEN), Reply(404)):
        with saying(BEGUN, TOOK, GONE, there) as server, pytest.raises(OSError, match="s3://b/key"):
            upload(server)


def test_a_batch_of_deletions_is_repeated(pauses):
    keys = b"".join(b"<Deleted><Key>%b</Key></Deleted>" % key for key in (b"one", b"two"))
    gone = Reply(200, b"<DeleteResult>%b</DeleteResult>" % keys)
    with saying(GONE, REFUSED, gone) as server:
        bucket_at(server, retry_s=60).delete(["one", "two"])
    assert [one.method for one in server.asked] == ["POST"] * 3
    assert all(b"two" in one.body for one in server.asked)
    with saying(GONE) as server, pytest.raises(OSError, match="s3://b/one"):
        bucket_at(server, retry_s=60).delete(["one", "two"])
    assert len(server.asked) == 5


def test_a_range_behind_the_end_is_the_end_of_the_file():
    behind = Reply(416, b"<Error><Code>InvalidRange</Code></Error>")
    with saying(behind) as server, pytest.raises(EOFError, match="s3://b/key ends before byte 6"):
        bucket_at(server).get_range("key", 5, 9)


def test_times_are_those_of_the_store_in_nanoseconds():
    with saying(Reply(200, b"", (*WHEN, ("Content-Length", "0")))) as server:
        found = bucket_at(server).head("key")
    assert found is not None
    assert (found.key, found.modified_ns, found.etag) == (
        "key",
        1795255200 * 1_000_000_000,
        "1",
    )


def test_of_many_that_are_deleted_those_that_are_gone_are_no_error():
    requests = ObjectStore("memory://many").requests
    requests.delete([])
    for i in range(3):
        requests.put(f"k{i}", b"x")
    requests.delete([f"k{i}" for i in range(2500)])
    assert list(requests.list("")) == []


def test_of_a_batch_with_one_that_is_gone_the_others_are_deleted(monkeypatch):
    """Some stores say that one is not there, and do nothing of the rest."""
    import obstore

    requests = ObjectStore("memory://batch").requests
    deleted: list[object] = []
    for name in "abc":
        requests.put(name, b"x")

    def delete(store: object, keys: object) -> None:
        deleted.append(keys)
        if keys in (["a", "gone", "b"], "gone"):
            raise FileNotFoundError("gone")
        real(store, keys)

    real = obstore.delete
    monkeypatch.setattr(obstore, "delete", delete)
    requests.delete(["a", "gone", "b"])
    assert deleted == [["a", "gone", "b"], "a", "gone", "b"]
    assert [one.key for page in requests.list("") for one in page] == ["c"]


def test_large_and_small_objects_of_any_kind_of_buffer_are_written():
    requests = ObjectStore("memory://flat").requests
    words = memoryview(bytearray(range(16))).cast("I", (2, 2))
    for key, data in (("w", words), ("e", b""), ("z", memoryview(bytearray()).cast("B"))):
        requests.create(key, data)
        assert requests.get(key) == bytes(data)
    requests.create("large", bytes(1 << 20))
    assert requests.head("large").length == 1 << 20
    with pytest.raises(FileExistsError):
        requests.create("large", b"")


@pytest.mark.parametrize(
    ("text", "kind", "front", "key"),
    [
        ("s3://b/a/c", "s3", "s3://b", "a/c"),
        ("S3A://b//a//", "s3", "s3a://b", "a"),
        ("gs://b", "gs", "gs://b", ""),
        ("gcs://b/x", "gs", "gcs://b", "x"),
        ("az://c/x", "az", "az://c", "x"),
        ("azure://c/x", "az", "azure://c", "x"),
        ("abfs://c@account.dfs.core.windows.net/x", "az", "abfs://c", "x"),
        ("abfss://c/x\ny", "az", "abfss://c", "x\ny"),
        ("s3://a@b/x", "s3", "s3://a@b", "x"),
        ("memory://b/x", "memory", "memory://b", "x"),
    ],
)
def test_urls_are_taken_apart(text, kind, front, key):
    found = parse_url(text)
    assert (found.kind, found.front, found.key) == (kind, front, key)
    assert found.url == (f"{front}/{key}" if key else front)
    assert is_url(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("http://b/x", "they begin with s3://, gs://, az://, memory://"),
        ("/a/b", "is no URL of an object store"),
        ("s3://", "names no bucket: s3://<bucket>/<key>"),
        ("s3:///x", "names no bucket"),
        ("s3://b/../x", "not a plain path"),
        ("s3://b/./x", "not a plain path"),
        ("s3://b/a\0b", "not a plain path"),
        ("s3://b?x=1", "is no URL of an object store"),
    ],
)
def test_urls_without_a_meaning_are_refused(text, told):
    with pytest.raises(InvalidOption) as caught:
        parse_url(text)
    assert told in str(caught.value)
    assert not is_url("http://b/x")
    assert not is_url("/s3://b")


@pytest.mark.parametrize(
    "options",
    [
        {"config": {"nonsense": "x"}},
        {"client_options": {"nonsense": "x"}},
        {"client_options": {"timeout": []}},
        {"config": {"region": object()}},
    ],
)
def test_settings_that_nobody_knows_are_refused(options):
    with pytest.raises(InvalidOption, match="s3://b: "):
        ObjectStore("s3://b", **options)


def of(url: str, *, data: bool = False, **settings):
    address = parse_url(url)
    groups = {name: settings.get(name, {}) for name in ("config", "client", "retry")}
    return client(address, groups, data=data)


def test_one_client_serves_all_who_have_the_same_settings(monkeypatch):
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert of("s3://b/x") is of("s3://b/y")
    assert of("s3://b") is not of("s3://b", data=True)
    assert of("s3://b") is not of("s3://c")
    before = of("s3://b")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert of("s3://b") is not before
    assert of("memory://b") is of("memory://b", data=True)
    assert of("memory://b") is not of("memory://c")


@pytest.mark.parametrize(
    ("url", "config", "env", "plain"),
    [
        ("s3://b", {}, {}, False),
        ("s3://b", {"endpoint": "http://h"}, {}, True),
        ("s3://b", {"aws_endpoint_url": "http://h"}, {}, True),
        ("s3://b", {"endpoint": "https://h"}, {}, False),
        ("s3://b", {}, {"AWS_ENDPOINT_URL": "http://h"}, True),
        ("s3://b", {}, {"AWS_ENDPOINT_URL_S3": "https://h"}, False),
        ("s3://b", {}, {"AWS_ENDPOINT": "http://h"}, True),
        ("s3://b", {}, {"AWS_ALLOW_HTTP": "True"}, True),
        ("s3://b", {}, {"AWS_ALLOW_HTTP": "0"}, False),
        ("az://c", {"account_name": "x"}, {"AZURE_ALLOW_HTTP": "yes"}, True),
        ("az://c", {"account_name": "x"}, {"AZURE_STORAGE_USE_EMULATOR": "true"}, True),
        ("az://c", {"account_name": "x"}, {"AZURE_STORAGE_USE_EMULATOR": "false"}, False),
        ("gs://b", {}, {"STORAGE_EMULATOR_HOST": "h:1"}, True),
        ("gs://b", {}, {"STORAGE_EMULATOR_HOST": "http://h:1"}, True),
        ("gs://b", {}, {"STORAGE_EMULATOR_HOST": "https://h:1"}, False),
    ],
)
def test_plain_http_is_spoken_only_where_somebody_says_so(monkeypatch, url, config, env, plain):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert (of(url, config=config).client_options.get("allow_http") == "true") is plain


def test_an_emulator_is_spoken_to_as_nobody_unless_somebody_says_who_he_is(monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "host:1")
    told = json.loads(of("gs://b").config["service_account_key"])
    assert told == {
        "gcs_base_url": "http://host:1",
        "disable_oauth": True,
        **dict.fromkeys(("client_email", "private_key", "private_key_id"), ""),
    }
    own = json.dumps(told | {"gcs_base_url": "http://mine:2"})
    for name in ("service_account_key", "google_service_account_key"):
        assert of("gs://b", config={name: own}).config["service_account_key"] == own


def test_control_requests_end_within_half_of_a_lease():
    control, data = of("s3://b"), of("s3://b", data=True)
    assert control.retry_config["retry_timeout"].total_seconds() == 12
    assert data.retry_config["retry_timeout"].total_seconds() == 120
    assert control.client_options["timeout"] == "15s"
    assert (data.client_options["timeout"], data.client_options["read_timeout"]) == ("10m", "30s")
    chosen = of("s3://b", retry={"retry_s": 3})
    assert chosen.retry_config["retry_timeout"].total_seconds() == 3
    assert control.retry_config["max_retries"] == data.retry_config["max_retries"] == 10
    mine = of("s3://b", client={"timeout": "1s"})
    assert mine.client_options["timeout"] == "1s"


def test_a_bucket_is_told_by_its_address():
    assert Bucket(Address("memory", "told", "x"), {}, {}).front == "memory://told"
