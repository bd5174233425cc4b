# SPDX-License-Identifier: Apache-2.0
"""All processes restore the same step or none: what each sees, and what one cannot read."""

from collections.abc import Iterator
from typing import Any

import pytest

from pertinax._hosts.cluster import Cluster
from pertinax._steps.fallback import restore_newest
from pertinax._steps.together import Together
from pertinax.errors import (
    CheckpointNotFound,
    CorruptCheckpoint,
    NotACheckpoint,
    PeerFailed,
    RestoreMismatch,
    StorageError,
    UnfinishedCheckpoint,
)
from tests.hosts.service import clients, clusters, together

ALL = {1: "/run/1", 2: "/run/2", 3: "/run/3"}


@pytest.fixture(scope="module")
def made() -> Iterator[list[Any]]:
    with clients(3) as connected:
        yield connected


def restore(
    made: list[Any],
    *,
    steps: dict[int, dict[int, str]],
    failures: dict[tuple[int, str], Exception],
    fallback: bool = False,
) -> list[Any]:
    """What a restore is on each process: the step and what was passed over, or an error. Process 1
    leads; `steps` is what each sees; `failures` what it meets at a place.
    """

    def work(job: Cluster) -> Any:
        me = job.topology.process

        def read(place: str) -> Any:
            if (me, place) in failures:
                raise failures[me, place]
            return f"{me} of {place}"

        with job.begin("restore", "/run", timeout_s=30) as talk:
            both = Together(talk, lambda: steps[me], read)
            found = restore_newest(
                "/run", both.look, lambda _, place: both.read(place), fallback=fallback
            )
        assert found is not None
        passed = [(one.step, type(one.error).__name__) for one in found.passed_over]
        return found.step, found.tree, passed

    return together(clusters(made, primary=1), work)


def test_all_take_the_newest_step_that_the_primary_sees(made: list[Any]) -> None:
    """A directory may show a step late on one host, and a stale one on another."""
    seen = {0: ALL, 1: {1: "/run/1", 2: "/run/2"}, 2: {1: "/run/1"}}
    answers = restore(made, steps=seen, failures={})
    assert answers == [(2, f"{me} of /run/2", []) for me in range(3)]


def test_what_one_cannot_read_none_restores(made: list[Any]) -> None:
    damaged = CorruptCheckpoint("checksum is wrong", file="d/x")
    answers = restore(made, steps=dict.fromkeys(range(3), ALL), failures={(2, "/run/3"): damaged})
    assert answers[2] is damaged
    for error in answers[:2]:
        assert isinstance(error, CorruptCheckpoint)
        assert error.file == "d/x"
        assert "process 2 could not read its part" in str(error)


def test_all_go_back_together(made: list[Any]) -> None:
    failures: dict[tuple[int, str], Exception] = {
        (0, "/run/3"): CorruptCheckpoint("checksum is wrong", file="d/x"),
        (2, "/run/2"): StorageError(5, "the disk is broken"),
    }
    answers = restore(made, steps=dict.fromkeys(range(3), ALL), failures=failures, fallback=True)
    passed = [(3, "CorruptCheckpoint"), (2, "StorageError")]
    assert answers == [(1, f"{me} of /run/1", passed) for me in range(3)]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (CheckpointNotFound("gone"), CheckpointNotFound),
        (NotACheckpoint("notes"), NotACheckpoint),
        (UnfinishedCheckpoint("tmp"), NotACheckpoint),
        (StorageError(5, "broken"), StorageError),
        (RestoreMismatch("/run/3", [], 1), PeerFailed),
        (MemoryError("no room"), PeerFailed),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, Exception) else "",
)
def test_the_others_are_told_the_same_kind_of_failure(
    made: list[Any], error: Exception, kind: type[Exception]
) -> None:
    only = {3: "/run/3"}
    answers = restore(made, steps=dict.fromkeys(range(3), only), failures={(0, "/run/3"): error})
    if isinstance(
        error, CheckpointNotFound
    ):  # gone for one is passed over by all, and no step left
        assert all(isinstance(one, CheckpointNotFound) for one in answers)
        return
    assert answers[0] is error
    assert all(isinstance(one, kind) for one in answers[1:]), answers
