# SPDX-License-Identifier: Apache-2.0
"""Tests that run in forked processes: which lines each reaches, and the first one that fails.

Knows pytest's hooks, coverage, and processes. Knows nothing of changes. A process that has
collected the tests forks one child for each run, so that nothing is imported or collected twice and
no run sees what another has done. A child that takes much longer with a test than is usual is
killed.
"""

import contextlib
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

# Beyond the usual time of a test: another process may have the processor for a while.
PATIENCE_S, PATIENCE = 15.0, 10.0


@dataclass
class Known:
    """What one run of all tests has taught.

    Attributes:
        seconds: how long each test takes that passes.
        failed: the tests that did not, which say nothing.
        reached: for each file and line, the tests that execute it.
        text: a digest of the sources of the tests.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    reached: dict[str, dict[int, list[str]]] = field(default_factory=dict)
    text: str = ""

    def reaching(self, file: str, first: int, last: int) -> list[str]:
        """The tests that execute one of some lines, the fastest first."""
        lines = self.reached.get(file, {})
        names = {name for line in range(first, last + 1) for name in lines.get(line, [])}
        return sorted(names & self.seconds.keys(), key=lambda name: (self.seconds[name], name))

    def touching(self, file: str) -> list[str]:
        """The tests that execute any line of a file."""
        return self.reaching(file, 0, max(self.reached.get(file, {}), default=0))


def _has_threads() -> bool:
    """Whether JAX has begun to compute: its threads would be missing in a forked process."""
    from jax._src import xla_bridge

    return xla_bridge.backends_are_initialized()


def name_of(item: pytest.Item) -> str:
    """The path of a test's file, and what pytest calls it there."""
    return f"{item.path}::{item.nodeid.partition('::')[2]}"


class Session:
    """pytest in this process, which has been told to collect and no more: `work` does the rest."""

    def __init__(self, work: Callable[[Self], None]) -> None:
        self._work = work
        self._failed = ""
        self.items: dict[str, pytest.Item] = {}
        self.spoiled_by = ""

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        if not self.spoiled_by and _has_threads():
            self.spoiled_by = str(item.path)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items = {name_of(one): one for one in session.items}
        self._work(self)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed = report.nodeid

    def passes(self, item: pytest.Item, following: pytest.Item | None) -> bool:
        """Run one test."""
        self._failed = ""
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        return not self._failed

    def run(self, names: Sequence[str], tell: Callable[[str], None]) -> None:
        """Run tests up to the first that fails."""
        items = [self.items[name] for name in names]
        for item, following in zip(items, [*items[1:], None], strict=True):
            tell(f"begin {name_of(item)}")
            if not self.passes(item, following):
                tell(f"fail {name_of(item)}")
                return
        tell("pass")


def collect(arguments: Sequence[str], session: Session) -> int:
    """Have pytest collect tests and hand them to a session."""
    options = ["-q", "-s", "-p", "no:cacheprovider", "-p", "no:xdist"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # hypothesis is there already
    return int(pytest.main([*options, *arguments], plugins=[session]))


def in_child(work: Callable[[Callable[[str], None]], None], *, quiet: bool = True) -> "Child":
    """Fork, and do the work there; it tells by lines of text."""
    ours, theirs = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX warns of every fork
        pid = os.fork()
    if pid:
        os.close(theirs)
        return Child(pid, ours)
    code = 1
    try:
        os.close(ours)
        os.setsid()
        for number in (signal.SIGHUP, signal.SIGTERM):  # under `nohup` one would be ignored
            signal.signal(number, signal.SIG_DFL)
        if quiet:
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
        work(lambda line: _tell(theirs, line))
        code = 0
    except BaseException:
        if not quiet:
            sys.excepthook(*sys.exc_info())  # pyright: ignore[reportArgumentType]
    finally:
        os._exit(code)


def _tell(descriptor: int, line: str) -> None:
    left = line.encode() + b"\n"
    while left:
        left = left[os.write(descriptor, left) :]


class Child:
    """A forked process. As a context manager it ends with the block, and all it has started."""

    def __init__(self, pid: int, pipe: int) -> None:
        self._pid, self._pipe = pid, pipe
        self._buffer = b""

    def lines(self, limit_s: Callable[[str], float]) -> Iterator[str]:
        """What it tells, up to its end. `TimeoutError` if nothing comes for as long as the last
        line allows.
        """
        limit = limit_s("")
        while True:
            if not select.select([self._pipe], [], [], limit)[0]:
                raise TimeoutError
            read = os.read(self._pipe, 1 << 16)
            if not read:
                return
            *whole, self._buffer = (self._buffer + read).split(b"\n")
            for line in whole:
                limit = limit_s(line.decode())
                yield line.decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):  # before it had a group of its own
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._pipe)


def verdict(child: Child, known: Known, start_s: float = 0.0) -> str:
    """Who has noticed: a test, or nobody ("") if all tests pass."""

    def limit(line: str) -> float:
        usual = known.seconds.get(line.removeprefix("begin "), start_s)
        return PATIENCE_S + PATIENCE * usual

    now = "the start"
    with child:
        try:
            for line in child.lines(limit):
                word, _, name = line.partition(" ")
                if word == "begin":
                    now = name
                elif word == "fail":
                    return name
                elif word == "pass":
                    return ""
        except TimeoutError:
            return f"no end of {now}"
    return f"death in {now}"


def learn(session: Session, files: Sequence[Path], *, twice: bool) -> Known:
    """Run all tests under coverage and, if `twice`, as they will be run: some may fail then."""
    known = Known()
    with in_child(lambda tell: _covered(session, files, tell)) as child:
        for line in child.lines(lambda _: 600.0):
            word, rest = line.split(" ", 1)
            if word == "reached":
                file, at, name = rest.split(" ", 2)
                known.reached.setdefault(file, {}).setdefault(int(at), []).append(name)
            else:
                _count(known, word, rest)
    if twice:
        names, known.seconds = list(known.seconds), {}
        with in_child(lambda tell: _timed(session, names, tell)) as child:
            for line in child.lines(lambda _: 600.0):
                _count(known, *line.split(" ", 1))
    known.failed = sorted(session.items.keys() - known.seconds.keys())
    return known


def _count(known: Known, word: str, rest: str) -> None:
    seconds, name = rest.split(" ", 1)
    if word == "pass":
        known.seconds[name] = float(seconds)


def _covered(session: Session, files: Sequence[Path], tell: Callable[[str], None]) -> None:
    import coverage

    measure = coverage.Coverage(data_file=None, config_file=False, include=[str(f) for f in files])
    measure.start()
    _timed(session, list(session.items), tell, measure.switch_context)
    measure.stop()
    data = measure.get_data()
    for file in data.measured_files():
        for line, names in data.contexts_by_lineno(file).items():
            for name in filter(None, names):
                tell(f"reached {file} {line} {name}")


def _timed(
    session: Session,
    names: Sequence[str],
    tell: Callable[[str], None],
    about: Callable[[str], None] = lambda _: None,
) -> None:
    items = [session.items[name] for name in names]
    for name, item, following in zip(names, items, [*items[1:], None], strict=True):
        about(name)
        begin = time.perf_counter()
        passed = session.passes(item, following)
        tell(f"{'pass' if passed else 'fail'} {time.perf_counter() - begin:.4f} {name}")


def unhurried() -> None:
    """A hypothesis profile for runs that are often killed: the same examples, and no shrinking."""
    from hypothesis import HealthCheck, Phase, settings

    phases = (Phase.explicit, Phase.generate)
    quiet: dict[str, Any] = {"deadline": None, "database": None, "phases": phases}
    checks = list(HealthCheck)
    settings.register_profile("mutation", derandomize=True, suppress_health_check=checks, **quiet)
    os.environ["HYPOTHESIS_PROFILE"] = "mutation"
