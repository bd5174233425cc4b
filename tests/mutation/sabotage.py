# SPDX-License-Identifier: Apache-2.0
"""Sabotage: the library is broken on purpose, in ways that matter, and a test must notice each.

    python -m tests.mutation.sabotage [WORD ...] [--jobs 2] [--no-control]

Knows a table of changes (`sabotages.toml`) and how to run tests on a copy of the sources with one
of them made; what the tests start in other processes gets the copy, too. Knows nothing of what a
change means. First the same tests run on the copy as it is: they must pass. WORD picks the changes
that have it in their name, area or file. Ends with 1 if a change was noticed by no test.

Each change lives in a process of its own, forked from one that has imported what is slow.
"""

import argparse
import contextlib
import importlib
import importlib.util
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("sabotages.toml")
LIMIT_S = 900
TEST_LIMIT_S = 300
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
_OPTIONS = (
    *("-x", "-q", "-n0", "-p", "no:cacheprovider", "-m", "not campaign"),
    *("--timeout", str(TEST_LIMIT_S)),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # what has been imported before
)
_SLOW = ("jax.numpy", "jax.experimental.multihost_utils", "hypothesis.strategies", "zstandard")


@dataclass(frozen=True)
class Sabotage:
    """In `file` (below `src/pertinax`) the text `old` becomes `new`; `tests` should notice."""

    name: str
    area: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def spoil(self, source: str) -> str:
        """The changed source. `ValueError` if the text is not there exactly once."""
        count = source.count(self.old)
        if count != 1:
            raise ValueError(f"{self.area}: {self.name}: {self.file} has its text {count} times")
        return source.replace(self.old, self.new)


def read_table() -> list[Sabotage]:
    """All changes, in the order of the table."""
    return [
        Sabotage(
            one["name"],
            area,
            one["file"],
            one["old"],
            one["new"],
            tuple(one.get("tests", told["tests"])),
        )
        for area, told in tomllib.loads(TABLE.read_text("utf-8")).items()
        for one in told["changes"]
    ]


class Copy:
    """A copy of the library, and what pytest says of it. One change at a time."""

    def __init__(self, place: Path) -> None:
        self._sources = place / "src"
        self._told = place / "told"
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / "src", self._sources, ignore=ignored)

    @contextlib.contextmanager
    def spoiled(self, one: Sabotage) -> Iterator[None]:
        """The copy with this change made, as long as the block runs."""
        path = self._sources / "pertinax" / one.file
        original = path.read_text("utf-8")
        try:
            self._write(path, one.spoil(original))
            yield
        finally:
            self._write(path, original)

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text, "utf-8")
        # Bytecode is known by seconds and length, and a change may have both of the original.
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)

    def start(self, tests: Sequence[str]) -> int:
        """Begin to run tests on the copy; the number of the process, a group of its own."""
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            os.setsid()
            signal.alarm(LIMIT_S)  # what never ends has been noticed
            out = os.open(self._told, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), out, out)):
                os.dup2(descriptor, number)
            sys.path.insert(0, str(self._sources))
            os.environ["PYTHONPATH"] = os.pathsep.join([str(self._sources), str(ROOT)])
            import pytest

            code = int(pytest.main([*_OPTIONS, *tests]))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def outcome(self, status: int) -> str:
        """The test that failed first, or what else went wrong; empty if all passed."""
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            return f"no end within {LIMIT_S} s" if number == signal.SIGALRM else f"signal {number}"
        if not os.WEXITSTATUS(status):
            return ""
        text = self._told.read_text("utf-8", "replace")
        found = _FAILED.search(text)
        return found[1] if found else f"pytest ended with {os.WEXITSTATUS(status)}: {text[-600:]}"


def run_all(chosen: Iterable[Sabotage], copies: Sequence[Copy]) -> list[Sabotage]:
    """Make each change in turn, as many at a time as there are copies; those nobody noticed."""
    survived: list[Sabotage] = []
    idle = list(copies)
    busy: dict[int, tuple[Sabotage, Copy, contextlib.ExitStack, float]] = {}

    def wait_for_one() -> None:
        pid, status = os.wait()
        one, copy, change, begun_s = busy.pop(pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # what the tests have started and lost
        change.close()
        idle.append(copy)
        found = copy.outcome(status)
        survived.extend([] if found else [one])
        took_s = time.monotonic() - begun_s
        told = found or "NOTICED BY NO TEST"
        print(f"{one.area}: {one.name} [{took_s:.0f} s]\n    {told}", flush=True)

    for one in chosen:
        if not idle:
            wait_for_one()
        copy, change = idle.pop(), contextlib.ExitStack()
        try:
            change.enter_context(copy.spoiled(one))
        except ValueError as error:
            print(f"{error}: the table is old", flush=True)
            survived.append(one)
            idle.append(copy)
            continue
        busy[copy.start(one.tests)] = one, copy, change, time.monotonic()
    while busy:
        wait_for_one()
    return survived


def _import_what_is_slow() -> None:
    """Not the library itself. What starts the tests wants to be there before JAX."""
    os.environ["HYPOTHESIS_PROFILE"] = "ci"
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    for name in ("tests.conftest", *_SLOW):
        importlib.import_module(name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--no-control", action="store_true")
    options = parser.parse_args()
    chosen = [
        one
        for one in read_table()
        if not options.words
        or any(word in f"{one.area}: {one.name} {one.file}" for word in options.words)
    ]
    _import_what_is_slow()
    with tempfile.TemporaryDirectory(prefix="sabotage-") as place:
        copies = [Copy(Path(place) / str(number)) for number in range(options.jobs)]
        if not options.no_control:
            copies[0].start(sorted({test for one in chosen for test in one.tests}))
            broken = copies[0].outcome(os.wait()[1])
            if broken:
                print(f"without any change there fails {broken}")
                return 2
        survived = run_all(chosen, copies)
    print(f"{len(chosen)} changes, {len(survived)} noticed by no test")
    return 1 if survived else 0


if __name__ == "__main__":
    raise SystemExit(main())
