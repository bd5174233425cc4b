# SPDX-License-Identifier: Apache-2.0
"""The fault proxy does what it is told, to the requests it is told, and writes down what passed."""

import socket
import time
from collections.abc import Iterator
from http.client import HTTPException

import pytest

from tests.objects.faults import Fault, FaultProxy, Link, Rule
from tests.objects.servers import ObjectServer

CONTENT = bytes(range(256)) * 1000


@pytest.fixture
def proxy(gcs_server: ObjectServer) -> Iterator[FaultProxy]:
    with FaultProxy(gcs_server.port, pause_s=0.05) as proxy:
        yield proxy


@pytest.fixture
def bucket(gcs_server: ObjectServer) -> str:
    name = gcs_server.new_bucket()
    gcs_server.ask("PUT", f"/{name}/key", CONTENT)
    return name


def through(proxy: FaultProxy, server: ObjectServer) -> ObjectServer:
    return server.behind(proxy.port)


@pytest.mark.parametrize(
    ("fault", "status"),
    [(Fault.TOO_MANY, 429), (Fault.BROKEN, 500), (Fault.BUSY, 503), (Fault.LOST_REPLY, 503)],
)
def test_the_client_is_told_an_error(gcs_server, proxy, bucket, fault, status):
    with proxy.suffering(Rule(fault, "PUT")):
        told, _ = through(proxy, gcs_server).try_ask("PUT", f"/{bucket}/new", CONTENT)
    assert told == status
    there, _ = gcs_server.try_ask("HEAD", f"/{bucket}/new")
    assert there == (200 if fault is Fault.LOST_REPLY else 404)


@pytest.mark.parametrize("fault", [Fault.RESET_BEFORE, Fault.RESET_MIDDLE, Fault.RESET_AFTER])
def test_the_connection_breaks(gcs_server, proxy, bucket, fault):
    with proxy.suffering(Rule(fault, "PUT")), pytest.raises((OSError, HTTPException)):
        through(proxy, gcs_server).ask("PUT", f"/{bucket}/new", CONTENT)
    there, _ = gcs_server.try_ask("HEAD", f"/{bucket}/new")
    assert there == (200 if fault is Fault.RESET_AFTER else 404)


def test_bodies_are_cut_shortened_and_spoiled(gcs_server, proxy, bucket):
    client = through(proxy, gcs_server)
    with proxy.suffering(Rule(Fault.TRUNCATED)), pytest.raises((OSError, HTTPException)):
        client.ask("GET", f"/{bucket}/key")
    with proxy.suffering(Rule(Fault.SHORT)):
        assert client.ask("GET", f"/{bucket}/key") == CONTENT[: len(CONTENT) // 2]
    with proxy.suffering(Rule(Fault.FLIPPED)):
        wrong = client.ask("GET", f"/{bucket}/key")
    assert sum(a != b for a, b in zip(wrong, CONTENT, strict=True)) == 1
    with proxy.suffering(Rule(Fault.SLOW_BODY)):
        begin_s = time.monotonic()
        assert client.ask("GET", f"/{bucket}/key") == CONTENT
    assert time.monotonic() - begin_s > 0.14
    assert client.ask("GET", f"/{bucket}/key") == CONTENT


def test_a_stale_list_shows_what_was_there_first(gcs_server, proxy, bucket):
    client = through(proxy, gcs_server)
    first = client.ask("GET", f"/{bucket}?list-type=2")
    client.ask("PUT", f"/{bucket}/new", b"x")
    with proxy.suffering(Rule(Fault.STALE_LIST)):
        assert client.ask("GET", f"/{bucket}?list-type=2") == first
    assert b"<Key>new</Key>" in client.ask("GET", f"/{bucket}?list-type=2")


def test_rules_count_and_draw_alike_every_time(gcs_server, proxy, bucket):
    client = through(proxy, gcs_server)
    with proxy.suffering(Rule(Fault.BUSY, "GET", "key$", times=1, skip=1)):
        told = [client.try_ask("GET", f"/{bucket}/key")[0] for _ in range(4)]
    assert told == [200, 503, 200, 200]
    rule = Rule(Fault.BUSY, chance=0.5, seed=3)
    drawn = [rule.applies("GET", f"/{bucket}/{i}", 0) for i in range(100)]
    assert drawn == [rule.applies("GET", f"/{bucket}/{i}", 0) for i in range(100)]
    assert 30 < sum(drawn) < 70


def test_silence_lasts_as_long_as_the_client_waits(proxy):
    with (
        proxy.suffering(Rule(Fault.SILENCE)),
        socket.create_connection(("127.0.0.1", proxy.port), timeout=0.2) as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(1)


def test_a_link_has_latency_and_a_bandwidth_for_each_stream(gcs_server, bucket):
    link = Link(latency_s=0.05, bytes_per_s=len(CONTENT) / 0.1)
    with FaultProxy(gcs_server.port, link=link) as slow:
        begin_s = time.monotonic()
        assert through(slow, gcs_server).ask("GET", f"/{bucket}/key") == CONTENT
        assert time.monotonic() - begin_s >= 0.15


def test_the_log_tells_conditions_and_order(cloud):
    bucket = cloud.new_bucket()
    with FaultProxy(cloud.port) as proxy:
        client = through(proxy, cloud)
        client.put(f"{cloud.scheme}://{bucket}/a%20b", b"1")
        only_new = {"If_None_Match": "*"}
        if cloud.scheme == "gs":
            only_new = {"x_goog_if_generation_match": "0"}
        kind = {"x_ms_blob_type": "BlockBlob"} if cloud.scheme == "az" else {}
        client.ask("PUT", f"/{bucket}/done", b"2", **only_new, **kind)
        client.keys(f"{cloud.scheme}://{bucket}/dir")
    wrote = [(one.path, one.creates_only) for one in proxy.seen if one.writes]
    assert wrote == [(f"{bucket}/a b", False), (f"{bucket}/done", True)]
    assert [one.is_list for one in proxy.seen] == [False, False, True]
    assert {one.status for one in proxy.seen} <= {200, 201}
    assert proxy.most_in_flight == 1
