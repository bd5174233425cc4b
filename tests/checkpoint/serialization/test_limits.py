# SPDX-License-Identifier: Apache-2.0
"""Byte limits: never more than allowed, nobody forgotten, from any loop and thread."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pertinax.checkpoint import serialization
from pertinax.checkpoint.serialization import LimitInFlightBytes, reserved_bytes


class Recording(LimitInFlightBytes):
    """Knows how much was out at once, as a program that subclasses the limiter would."""

    def __init__(self, num_bytes: int) -> None:
        super().__init__(num_bytes)
        self.out = 0
        self.most = 0
        self._counting = threading.Lock()

    async def wait_for_bytes(self, requested_bytes: int) -> None:
        await super().wait_for_bytes(requested_bytes)
        with self._counting:
            self.out += requested_bytes
            self.most = max(self.most, self.out)

    async def release_bytes(self, requested_bytes: int) -> None:
        with self._counting:
            self.out -= requested_bytes
        await super().release_bytes(requested_bytes)


async def settle() -> None:
    """Let everything that can run now, run."""
    for _ in range(20):
        await asyncio.sleep(0)


def run(program: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    async def main() -> Any:
        async with asyncio.timeout(60):
            return await program()

    return asyncio.run(main())


def test_limits_are_positive_or_absent():
    for make in (LimitInFlightBytes, serialization.get_byte_limiter):
        for count in (0, -1):
            with pytest.raises(ValueError, match="Must provide positive"):
                make(count)
    assert isinstance(serialization.get_byte_limiter(), serialization.UnlimitedInFlightBytes)
    assert isinstance(serialization.get_byte_limiter(5), LimitInFlightBytes)


def test_without_a_limit_nobody_waits():
    async def program() -> None:
        limiter = serialization.get_byte_limiter()
        for _ in range(3):
            await limiter.wait_for_bytes(1 << 60)
        await limiter.release_bytes(1)

    run(program)


@pytest.mark.parametrize("limit", [9, 10, 12])
def test_a_limit_for_two_of_four_lets_them_through_in_pairs(limit: int):
    async def program() -> list[list[int]]:
        limiter, running, doors = Recording(limit), list[int](), [asyncio.Event() for _ in range(4)]

        async def write(which: int) -> None:
            async with reserved_bytes(limiter, 4):
                running.append(which)
                await doors[which].wait()
                running.remove(which)

        tasks = [asyncio.create_task(write(which)) for which in range(4)]
        seen: list[list[int]] = []
        for pair in ((0, 1), (2, 3)):
            await settle()
            seen.append(sorted(running))
            for which in pair:
                doors[which].set()
        await asyncio.gather(*tasks)
        return seen

    assert run(program) == [[0, 1], [2, 3]]


def test_a_request_as_large_as_the_limit_runs_alone():
    async def program() -> None:
        limiter = LimitInFlightBytes(8)
        await limiter.wait_for_bytes(1)
        large = asyncio.create_task(limiter.wait_for_bytes(8))
        await settle()
        assert not large.done()
        await limiter.release_bytes(1)
        await large
        small = asyncio.create_task(limiter.wait_for_bytes(1))
        await settle()
        assert not small.done()
        await limiter.release_bytes(8)
        await small

    run(program)


def test_a_request_for_more_than_the_limit_is_refused():
    async def program() -> None:
        with pytest.raises(ValueError, match="Requested more bytes"):
            await LimitInFlightBytes(8).wait_for_bytes(9)

    run(program)


def test_more_cannot_be_given_back_than_was_taken():
    async def program() -> None:
        limiter = LimitInFlightBytes(8)
        await limiter.wait_for_bytes(3)
        with pytest.raises(ValueError, match="only 3 are in flight"):
            await limiter.release_bytes(4)
        await limiter.release_bytes(3)

    run(program)


def test_small_requests_do_not_overtake_a_large_one_for_ever():
    async def program() -> None:
        limiter = LimitInFlightBytes(10)
        await limiter.wait_for_bytes(4)
        large = asyncio.create_task(limiter.wait_for_bytes(9))
        await settle()
        small = asyncio.create_task(limiter.wait_for_bytes(1))
        await settle()
        assert not small.done()  # it would fit, but it came later
        await limiter.release_bytes(4)
        await large
        assert not small.done()
        await limiter.release_bytes(9)
        await small

    run(program)


def test_who_gives_up_waiting_stands_in_nobodys_way():
    async def program() -> None:
        limiter = LimitInFlightBytes(10)
        await limiter.wait_for_bytes(4)
        large = asyncio.create_task(limiter.wait_for_bytes(9))
        await settle()
        small = asyncio.create_task(limiter.wait_for_bytes(1))
        await settle()
        large.cancel()
        await small
        await asyncio.gather(large, return_exceptions=True)
        await limiter.release_bytes(5)
        await limiter.wait_for_bytes(10)  # all of it is free again

    run(program)


def test_bytes_granted_to_one_that_was_cancelled_come_back():
    async def program() -> None:
        limiter = LimitInFlightBytes(10)
        await limiter.wait_for_bytes(9)
        waiting = asyncio.create_task(limiter.wait_for_bytes(9))
        await settle()
        await limiter.release_bytes(9)  # grants
        waiting.cancel()  # before the one that waited could run
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await limiter.wait_for_bytes(10)

    run(program)


def test_bytes_are_given_back_when_the_work_fails():
    async def program() -> None:
        limiter = LimitInFlightBytes(10)
        with pytest.raises(OSError, match="disk"):
            async with reserved_bytes(limiter, 9):
                raise OSError("disk")
        await limiter.wait_for_bytes(10)

    run(program)


@settings(max_examples=15)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=30), st.integers(1, 4))
def test_threads_with_loops_of_their_own_share_one_limit(sizes: list[int], threads: int):
    limiter = Recording(12)  # made here, where no loop runs

    async def one(size: int) -> None:
        async with reserved_bytes(limiter, size):
            await asyncio.sleep(0)

    async def program() -> None:
        await asyncio.gather(*map(one, sizes))

    workers = [threading.Thread(target=run, args=(program,), daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert not worker.is_alive()
    assert limiter.out == 0
    assert limiter.most <= 12


def test_a_loop_that_is_gone_does_not_keep_its_bytes():
    limiter = LimitInFlightBytes(10)

    async def take() -> None:
        await limiter.wait_for_bytes(9)

    async def give_and_take() -> None:
        await limiter.release_bytes(9)
        await limiter.wait_for_bytes(10)

    asyncio.run(take())
    gone = asyncio.new_event_loop()
    waiting = gone.create_task(limiter.wait_for_bytes(9))
    gone.run_until_complete(settle())
    gone.close()
    run(give_and_take)
    waiting._log_destroy_pending = False  # it is meant to be left behind
