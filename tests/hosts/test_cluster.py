# SPDX-License-Identifier: Apache-2.0
"""Processes agree, and when one fails all others know why, at once."""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pertinax._hosts import Topology, decide_for_all, handed_over
from pertinax._hosts.board import Board
from pertinax._hosts.cluster import Cluster
from pertinax.errors import PeerAbsent, PeerFailed, UnsupportedTopology
from tests.hosts.service import clients, clusters, together

COUNT = 4


@pytest.fixture(scope="module")
def made() -> Iterator[list[Any]]:
    with clients(COUNT) as connected:
        yield connected


@pytest.fixture
def subject(request: pytest.FixtureRequest) -> str:
    """Each test has a subject of its own, as each checkpoint root has."""
    return request.node.name


def test_all_hear_what_the_primary_decides(made: list[Any], subject: str) -> None:
    def work(job: Cluster) -> Any:
        with job.begin("save", subject) as talk:
            return talk.agree("draft", lambda: {"by": job.topology.process, "path": "/x"})

    assert together(clusters(made), work) == [{"by": 0, "path": "/x"}] * COUNT


def test_the_primary_hears_all_and_decides(made: list[Any], subject: str) -> None:
    def work(job: Cluster) -> Any:
        me = job.topology.process
        with job.begin("save", subject) as talk:
            total = talk.collect("written", me * 10, lambda values: sum(values.values()))
            order = talk.collect("names", f"p{me}", lambda values: list(values.items()))
        return total, order

    answers = together(clusters(made, primary=2), work)
    assert answers == [(60, [[i, f"p{i}"] for i in range(COUNT)])] * 2 + [
        (60, [(i, f"p{i}") for i in range(COUNT)])
    ] + [(60, [[i, f"p{i}"] for i in range(COUNT)])]


def test_a_failure_reaches_all_others_with_its_cause_and_long_before_any_deadline(
    made: list[Any], subject: str
) -> None:
    def work(job: Cluster) -> Any:
        with job.begin("save", subject, timeout_s=60) as talk:
            talk.agree("draft", lambda: "x")
            if job.topology.process == 3:
                raise OSError(28, "no space left")
            talk.collect("written", 1, len)
            return "done"

    began = time.monotonic()
    answers = together(clusters(made), work)
    assert time.monotonic() - began < 10
    assert isinstance(answers[3], OSError)
    for error in answers[:3]:
        assert isinstance(error, PeerFailed)
        assert (error.process, error.phase, error.type_name) == (3, "draft", "OSError")
        assert "no space left" in str(error)
        assert subject in str(error)


def test_a_failing_primary_is_named_too(made: list[Any], subject: str) -> None:
    def work(job: Cluster) -> Any:
        with job.begin("save", subject, timeout_s=60) as talk:

            def decide() -> str:
                raise PermissionError("not yours")

            return talk.agree("draft", decide)

    answers = together(clusters(made, primary=1), work)
    assert isinstance(answers[1], PermissionError)
    told = [answers[i] for i in (0, 2, 3)]
    assert all(isinstance(error, PeerFailed) and error.process == 1 for error in told)


def test_a_refusal_is_the_same_for_all_however_late_they_come(
    made: list[Any], subject: str
) -> None:
    refused = threading.Event()

    def refuse() -> None:
        raise FileExistsError("taken")

    def work(job: Cluster) -> Any:
        if not job.topology.is_primary:
            assert refused.wait(30)  # the primary has left the round
        try:
            with job.begin("save", subject, timeout_s=60) as talk:
                decide_for_all(talk, "look", refuse, FileExistsError)
        finally:
            refused.set()

    answers = together(clusters(made), work)
    assert [repr(error) for error in answers] == ["FileExistsError('taken')"] * COUNT


def test_an_operation_is_left_with_its_failure_if_no_thread_can_end_it(
    made: list[Any], subject: str
) -> None:
    def work(job: Cluster) -> Any:
        with contextlib.ExitStack() as stack:
            talk = stack.enter_context(job.begin("save", subject, timeout_s=60))
            if job.topology.process == 1:
                with handed_over(stack):
                    raise RuntimeError("can't start new thread")
            with handed_over(stack) as on_thread:
                pass
        with on_thread:  # what has been handed over is not left before
            talk.collect("written", 1, len)

    answers = together(clusters(made), work)
    assert isinstance(answers[1], RuntimeError)
    others = [answers[i] for i in (0, 2, 3)]
    assert all(isinstance(error, PeerFailed) and error.process == 1 for error in others)


def test_who_does_not_wait_can_ask(made: list[Any], subject: str) -> None:
    failed = threading.Event()

    def work(job: Cluster) -> Any:
        if job.topology.process == 1:
            try:
                with job.begin("save", subject):
                    raise RuntimeError("boom")
            finally:
                failed.set()
        with job.begin("save", subject) as talk:
            assert failed.wait(30)
            talk.check()

    answers = together(clusters(made, members=(0, 1)), work)
    assert isinstance(answers[0], PeerFailed)
    assert answers[0].text == "boom"


def test_after_a_failure_the_next_operation_works(made: list[Any], subject: str) -> None:
    def work(job: Cluster) -> Any:
        for attempt in range(3):
            try:
                with job.begin("save", subject, timeout_s=60) as talk:
                    if attempt == 1 and job.topology.process == 2:
                        raise ValueError("only I")
                    talk.collect("written", attempt, len)
            except (ValueError, PeerFailed):
                assert attempt == 1
        return "fine"

    assert together(clusters(made), work) == ["fine"] * COUNT


def test_who_fails_in_the_whole_does_not_come_to_its_parts_and_is_in_step_afterwards(
    made: list[Any], subject: str
) -> None:
    def work(job: Cluster) -> Any:
        told: list[Any] = []
        for attempt in range(3):
            try:
                with job.begin("whole", subject, timeout_s=60) as whole:
                    if attempt == 1 and job.topology.process == 2:
                        raise ValueError("only I")
                    with whole.begin("part", "a", timeout_s=60) as part:
                        told.append(part.collect("written", attempt, len))
                    # One that goes on when the whole is over.
                    lasting = job.begin("lasting", subject, timeout_s=60, within=whole)
                with lasting as talk:
                    told.append(talk.collect("written", attempt, len))
            except (ValueError, PeerFailed) as error:
                told.append(str(error))
        return told

    answers = together(clusters(made), work)
    for process, told in enumerate(answers):
        assert told[:2] == told[3:] == [COUNT, COUNT]
        assert told[2] == "only I" if process == 2 else "process 2 failed" in told[2]


def test_a_service_that_does_not_answer_is_told_once_and_soon(subject: str) -> None:
    class Stopped:
        """A client whose service has been stopped: calls never come back."""

        def __init__(self, client: Any) -> None:
            self.client = client
            self.stopped = threading.Event()
            self.asked = 0

        def __getattr__(self, name: str) -> Any:
            real = getattr(self.client, name)

            def call(*args: Any, **kwargs: Any) -> Any:
                if self.stopped.is_set() and name != "blocking_key_value_get":
                    self.asked += 1
                    threading.Event().wait(60)
                return real(*args, **kwargs)

            return call

    with clients(2) as pair:
        client = Stopped(pair[1])
        job = Cluster(client, Topology(1, (0, 1), 0), silence_s=1.0)
        began_s = time.monotonic()

        def work() -> None:
            with (
                job.begin("save", subject, timeout_s=60) as whole,
                whole.begin("part", "a") as talk,
            ):
                client.stopped.set()
                talk.agree("written", lambda: None)

        with pytest.raises(PeerFailed, match="the coordination service") as caught:
            work()
        assert caught.value.process == 0
        assert caught.value.phase == "written"
        assert time.monotonic() - began_s < 10
        client.stopped.clear()  # it goes on
        with pytest.raises(PeerAbsent), job.begin("save", subject, timeout_s=1) as talk:
            talk.agree("written", lambda: None)


def test_one_that_never_comes_is_named_at_the_deadline(made: list[Any], subject: str) -> None:
    def work(job: Cluster) -> Any:
        if job.topology.process == 2:
            return "elsewhere"
        limit_s = 4.0 if job.topology.is_primary else 60.0
        with job.begin("save", subject, timeout_s=limit_s) as talk:
            return talk.collect("written", 1, len)

    answers = together(clusters(made), work)
    assert isinstance(answers[0], PeerAbsent)
    assert "for process 2" in str(answers[0])
    assert "'written'" in str(answers[0])
    # The others hear of the primary's failure, long before their own deadline.
    assert all(isinstance(answers[i], PeerFailed) for i in (1, 3))
    # The one that comes late is told at once, and from then on all are in step again.
    late = clusters(made)[2]
    with pytest.raises(PeerFailed), late.begin("save", subject) as talk:
        talk.collect("written", 1, len)
    assert together(clusters(made), _meet(subject)) == [COUNT] * COUNT


def _meet(subject: str) -> Any:
    def work(job: Cluster) -> Any:
        with job.begin("save", subject, timeout_s=60) as talk:
            return talk.collect("written", 1, len)

    return work


def test_one_that_falls_silent_is_named_before_the_deadline(made: list[Any], subject: str) -> None:
    # Its pulse is on the board, and no thread counts it up any more.
    Board(made[0]).put("beat/77", "5")
    job = Cluster(made[0], Topology(0, (0, 77), 0), silence_s=0.2)
    with (
        pytest.raises(PeerFailed, match="nothing was heard of it") as caught,
        job.begin("save", subject, timeout_s=60) as talk,
    ):
        talk.collect("written", 1, len)
    assert caught.value.process == 77


def test_operations_on_different_subjects_may_come_in_any_order(
    made: list[Any], subject: str
) -> None:
    def work(job: Cluster) -> Any:
        order = ["a", "b", "c"]
        if job.topology.process % 2:
            order.reverse()
        talks = {name: job.begin("save", f"{subject}/{name}") for name in order}
        out = {}

        def run(name: str) -> None:
            with talks[name] as talk:
                out[name] = talk.collect(
                    "written", name, lambda values: sorted(set(values.values()))
                )

        threads = [threading.Thread(target=run, args=(name,)) for name in order]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return out

    assert together(clusters(made), work) == [{"a": ["a"], "b": ["b"], "c": ["c"]}] * COUNT


def test_a_part_of_the_job_talks_by_itself(made: list[Any], subject: str) -> None:
    assert together(clusters(made, members=(1, 3), primary=3), _meet(subject)) == [2, 2]
    assert together(clusters(made), _meet(subject)) == [COUNT] * COUNT


def test_nothing_but_counters_stays_on_the_board(made: list[Any], subject: str) -> None:
    for _ in range(3):
        together(clusters(made), _meet(subject))
    before = Board(made[0]).read_all("save").keys()
    together(clusters(made), _meet(subject))
    assert Board(made[0]).read_all("save").keys() == before
    assert [name for name in before if "/calls/" in name]


@pytest.mark.parametrize(
    ("process", "members", "primary"),
    [(0, (1, 2), 1), (1, (1, 2), 0), (0, (), 0), (0, (0, 0), 0), (1, (1, 0), 1)],
)
def test_a_topology_that_cannot_be_is_refused(
    process: int, members: tuple[int, ...], primary: int
) -> None:
    with pytest.raises((ValueError, IndexError)):
        Topology(process, members, primary)


@pytest.mark.row("R167")
def test_a_jax_without_counters_is_refused_with_the_reason() -> None:
    class Old:
        """The client of the coordination service before JAX had counters in it."""

        def key_value_set(self, key: str, text: str) -> None: ...

    with pytest.raises(UnsupportedTopology, match=r"has no counters .* need a newer jax"):
        Board(Old())
