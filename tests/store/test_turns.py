# SPDX-License-Identifier: Apache-2.0
"""One at a time has the turn; nobody waits for the dead, and for the living not for ever."""

import errno
import itertools
import random
from typing import Any

import pytest

from pertinax._store import turns
from pertinax._store.memory import MemoryStore
from pertinax._store.owner import new_token
from tests.steps.interleaving import Interleaving

PLACE = "/run/marks/turn"


@pytest.mark.parametrize("seed", range(20))
def test_one_at_a_time(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, chance, inside, most = MemoryStore(), random.Random(seed), set[str](), 0
    world = Interleaving(disk, lambda waiting: chance.choice(waiting).name)
    monkeypatch.setattr(turns.time, "sleep", world.sleep)

    def take(name: str) -> str:
        nonlocal most
        for _ in range(3):
            with turns.turn(world.store, PLACE):
                inside.add(name)
                world.pause()
                most = max(most, len(inside))
                inside.discard(name)
        return "done"

    done = world.run(a=lambda: take("a"), b=lambda: take("b"), c=lambda: take("c"))
    assert done == dict.fromkeys("abc", "done")
    assert most == 1
    assert disk.list_dir("/run/marks") == []


def left_by(token: str, disk: MemoryStore) -> None:
    for path in ("/run", "/run/marks", PLACE, f"{PLACE}/{token}"):
        disk.make_dir(path)


class Clock:
    slept_s = 0.0

    def sleep(self, seconds: float) -> None:
        self.slept_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Both clocks go by what was slept."""
    clock, now_s = Clock(), turns.time.time()
    monkeypatch.setattr(turns, "_PAUSE_S", 0.25)
    monkeypatch.setattr(turns.time, "sleep", clock.sleep)
    monkeypatch.setattr(turns.time, "monotonic", lambda: clock.slept_s)
    monkeypatch.setattr(turns.time, "time_ns", lambda: int((now_s + clock.slept_s) * 1e9))
    return clock


@pytest.mark.parametrize("died", ["in it", "while ending it"])
def test_the_turn_of_the_dead_is_over(
    died: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, token = MemoryStore(), new_token()
    left_by(token, disk)
    if died == "while ending it":
        disk.remove_dir(f"{PLACE}/{token}")
    monkeypatch.setattr(turns, "owner_alive", lambda one: one != token)
    with turns.turn(disk, PLACE):
        assert [entry.name for entry in disk.list_dir(PLACE)] != [token]
    assert disk.list_dir("/run/marks") == []
    assert clock.slept_s == 0


@pytest.mark.parametrize("look", ["list_dir", "stat"])
def test_a_turn_that_ends_while_we_look_is_taken_at_once(look: str, clock: Clock) -> None:
    disk, token = MemoryStore(), new_token()
    left_by(token, disk)

    class Ending:
        def __getattr__(self, name: str) -> Any:
            return getattr(disk, name)

        def list_dir(self, path: str) -> Any:
            names = disk.list_dir(path)
            disk.remove_dir(f"{PLACE}/{token}")
            disk.remove_dir(PLACE)
            return names if look == "stat" else disk.list_dir(path)

    store: Any = Ending()
    with turns.turn(store, PLACE):
        assert clock.slept_s == 0


def test_who_lives_is_waited_for_a_minute_and_not_longer(clock: Clock) -> None:
    disk = MemoryStore()
    left_by(new_token(), disk)  # of this process
    with pytest.raises(OSError, match="does not end it") as caught, turns.turn(disk, PLACE):
        raise AssertionError
    assert caught.value.errno == errno.EBUSY
    assert 60 <= clock.slept_s < 61
    assert [entry.name for entry in disk.list_dir("/run/marks")] == ["turn"]


def test_of_a_stranger_only_an_old_turn_is_over(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = MemoryStore()
    left_by("a-stranger", disk)
    monkeypatch.setattr(turns, "_PATIENCE_S", 1e9)
    with turns.turn(disk, PLACE):
        pass
    assert 600 <= clock.slept_s < 602


def test_the_directory_may_vanish_while_one_begins() -> None:
    disk = MemoryStore()
    disk.make_dir("/run")
    tidied = itertools.count()

    class Tidying:
        def __getattr__(self, name: str) -> Any:
            return getattr(disk, name)

        def make_dir(self, path: str) -> None:
            if path != "/run/marks" and next(tidied) < 2:
                disk.remove_dir("/run/marks")
            disk.make_dir(path)

    store: Any = Tidying()
    with turns.turn(store, PLACE):
        assert disk.stat(PLACE) is not None
    assert next(tidied) > 2
