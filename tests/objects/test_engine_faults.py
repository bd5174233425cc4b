# SPDX-License-Identifier: Apache-2.0
"""What networks and servers do to requests costs time, or an error that says so: never a wrong
byte, never a checkpoint that is visible and not whole, never a wait without end.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
import pytest

import pertinax
from pertinax._store.objects.store import MARKER
from pertinax.errors import (
    CheckpointNotFound,
    PertinaxError,
    StorageError,
    UnfinishedCheckpoint,
)
from tests.objects.faults import Fault, FaultProxy, Link, Rule
from tests.objects.servers import ObjectServer

pytestmark = pytest.mark.interop

TREE = {"w": np.arange(700_000, dtype=np.float32), "small": [np.arange(9), 3, "text"]}
LATER = (Fault.TOO_MANY, Fault.BROKEN, Fault.BUSY, Fault.RESET_BEFORE, Fault.RESET_MIDDLE)


@contextlib.contextmanager
def between(server: ObjectServer, link: Link | None = None) -> Iterator[tuple[FaultProxy, str]]:
    """A proxy before the server, the environment that leads through it, and a new root."""
    with FaultProxy(server.port, link=link, pause_s=0.05) as proxy:
        behind = server.behind(proxy.port)
        with patch.dict(os.environ, behind.environment):
            yield proxy, f"{server.new_root()}/run"


def is_whole(url: str) -> bool:
    back = pertinax.load(url, TREE)
    return np.array_equal(back["w"], TREE["w"]) and back["small"][2] == "text"


@pytest.mark.parametrize("fault", [*LATER, Fault.RESET_AFTER, Fault.LOST_REPLY])
def test_a_save_goes_on_after_what_passes(server, fault):
    """Trouble befalls two requests in a row, early, in the middle, and late."""
    with between(server) as (proxy, root):
        saved = 0
        for skip in (3, 9, 15):
            url = f"{root}/{skip}"
            with proxy.suffering(Rule(fault, "PUT|POST", times=2, skip=skip)):
                try:
                    pertinax.save(url, TREE)
                except PertinaxError:
                    with pytest.raises((CheckpointNotFound, UnfinishedCheckpoint)):
                        pertinax.load(url)
                else:
                    saved += 1
                    assert is_whole(url)
        assert sum(one.fault is fault for one in proxy.seen) >= 3
        assert saved == 3


@pytest.mark.parametrize("fault", [Fault.RESET_AFTER, Fault.LOST_REPLY])
@pytest.mark.parametrize("last", [f"/{MARKER}", r"\.end"])
def test_a_lost_reply_to_the_word_that_counts_is_found_out(server, fault, last):
    with between(server) as (proxy, root):
        with proxy.suffering(Rule(fault, "PUT|POST", key=last, times=1)):
            pertinax.save(f"{root}/a", TREE)
        assert any(one.fault is fault for one in proxy.seen)
        assert is_whole(f"{root}/a")


LARGE = {"w": np.arange(5 << 20, dtype=np.float32)}
BEGIN, PART, END = "uploads", "partNumber|blockid", "uploadId=[^&]*$|blocklist"


@pytest.mark.parametrize("place", [BEGIN, PART, END], ids=["begin", "part", "end"])
@pytest.mark.parametrize("fault", [Fault.RESET_BEFORE, Fault.LOST_REPLY])
def test_a_large_upload_goes_on_after_what_passes(server, fault, place):
    """Uploads in parts have three kinds of requests, which fail in their own ways: the beginning is
    not the same when it is done twice, and a list of blocks is refused the second time.
    """
    if server.scheme == "az" and place is BEGIN:
        pytest.skip("blocks have no beginning")
    with between(server) as (proxy, root):
        url = f"{root}/a"
        with proxy.suffering(Rule(fault, "PUT|POST", key=place, times=1)):
            pertinax.save(url, LARGE)
        assert any(one.fault is fault for one in proxy.seen)
        assert np.array_equal(pertinax.load(url)["w"], LARGE["w"])


@pytest.mark.parametrize("fault", [Fault.RESET_BEFORE, Fault.RESET_AFTER, Fault.BUSY])
def test_a_deletion_goes_on_after_what_passes(server, fault):
    with between(server) as (proxy, root), pertinax.Manager(root) as manager:
        manager.save(1, {"n": 1}).result()
        rule = Rule(fault, "POST|DELETE", key="[?&]delete|comp=batch|/run/1/", times=2, skip=1)
        with proxy.suffering(rule):
            manager.delete(1)
            manager.wait()
        assert any(one.fault is fault for one in proxy.seen)
        assert [key for key in server.keys(root) if key.startswith("1/")] == []


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault.BUSY, r"http://\S+ answered 503 Service Unavailable \(HEAD, after \d+ retries\)"),
        (Fault.RESET_BEFORE, r"http://\S+ did not answer: [Cc]onnection .*\(HEAD, after"),
    ],
)
def test_an_error_says_who_was_asked_and_what_was_answered(server, fault, said):
    with between(server) as (proxy, root), proxy.suffering(Rule(fault, "HEAD|GET")):
        store = pertinax.ObjectStore(root, retry_s=0.5)
        with pytest.raises(StorageError, match=said) as caught:
            pertinax.load("a", store=store)
        assert f"{root}/a" in str(caught.value)


def test_a_bucket_that_is_not_there_is_said_not_to_be_there(cloud):
    url = f"{cloud.scheme}://no-such-bucket/run"
    for act in (lambda: pertinax.load(url), lambda: pertinax.save(url, {"n": 1})):
        with pytest.raises(StorageError, match=r"(?i)404 Not Found, .*(bucket|container)"):
            act()


@pytest.mark.parametrize("fault", [Fault.TRUNCATED, Fault.SHORT, Fault.FLIPPED, *LATER[:4]])
def test_no_wrong_byte_is_loaded(server, fault):
    with between(server) as (proxy, root):
        pertinax.save(f"{root}/a", TREE)
        for chance in (0.3, 1.0):
            rule = Rule(fault, "GET", key="/d/", times=4, chance=chance, seed=1)
            with proxy.suffering(rule), contextlib.suppress(PertinaxError):
                assert is_whole(f"{root}/a")
        assert any(one.fault is fault for one in proxy.seen)
        assert is_whole(f"{root}/a")


def test_a_stale_list_publishes_nothing_twice(server):
    with between(server) as (proxy, root):
        with proxy.suffering(Rule(Fault.STALE_LIST)):
            pertinax.save(f"{root}/a", TREE)
            with pytest.raises((FileExistsError, PertinaxError)):
                pertinax.save(f"{root}/a", TREE)
        assert is_whole(f"{root}/a")


def test_a_server_that_is_silent_is_given_up_in_time(server):
    soon = {"timeout": "1s", "connect_timeout": "1s", "read_timeout": "1s"}
    with between(server) as (proxy, root):
        store = pertinax.ObjectStore(root, client_options=soon, retry_s=1)
        begun_s = time.monotonic()
        silence = Rule(Fault.SILENCE, "PUT|POST")
        with proxy.suffering(silence), pytest.raises(StorageError, match="could not"):
            pertinax.save("a", TREE, store=store)
        assert time.monotonic() - begun_s < 30
        with pytest.raises(CheckpointNotFound):
            pertinax.load("a", store=store)


def test_errors_name_the_url_and_no_secret(s3_server):
    with between(s3_server) as (proxy, root):
        store = pertinax.ObjectStore(root, retry_s=0.2)
        with proxy.suffering(Rule(Fault.BROKEN)), pytest.raises(StorageError) as caught:
            pertinax.load("a", store=store)
    assert f"{root}/a" in str(caught.value)
    assert "not-a-secret" not in str(caught.value)


def test_requests_are_parallel(gcs_server):
    tree = {str(i): np.full(3_000_000, i, np.float32) for i in range(6)}
    with between(gcs_server, Link(latency_s=0.02)) as (proxy, root):
        pertinax.save(f"{root}/a", tree)
        proxy.forget()
        back = pertinax.load(f"{root}/a", tree)
        assert all(np.array_equal(back[name], tree[name]) for name in tree)
        assert proxy.most_in_flight >= 6
