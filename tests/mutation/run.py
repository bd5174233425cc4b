# SPDX-License-Identifier: Apache-2.0
"""Tests of the tests: one small change to a module at a time, and which of them no test notices.

    make mutate MODULE=src/pertinax/_store/draft.py
    python -m tests.mutation.run src/pertinax/_store/*.py --tests tests/store tests/core

Knows which tests belong to which modules, the list of changes that mean nothing, and the file of
results. Knows nothing of how changes are made or tests are run. What survives is printed, and the
exit status is 1. A run that is stopped goes on where it was when it is started again.
"""

import argparse
import dataclasses
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.mutation import changes, living, running
from tests.mutation.changes import Change

ROOT = Path(__file__).resolve().parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.txt")
RESULTS = ROOT / ".mutation-results.jsonl"
DAY_S = 86_400.0
FAST = "not campaign and not slow and not interop"
# The first prefix that fits says which tests are tried when none are named.
TESTS = (
    ("_store/objects/", "tests/objects tests/store"),
    ("_store/", "tests/store tests/core tests/steps tests/crash"),
    ("_formats/ocdbt/", "tests/formats/ocdbt tests/core tests/checkpoint/type_handlers"),
    ("_formats/", "tests/formats tests/corruption tests/core tests/golden"),
    ("_steps/", "tests/steps tests/checkpoint/manager"),
    ("_core/", "tests/core tests/corruption tests/steps tests/golden"),
    ("_tiers/", "tests/tiers"),
    ("_plan/", "tests/plan tests/core"),
    ("_tree/", "tests/tree tests/core"),
    ("", "tests"),
)


@dataclass(frozen=True)
class Target:
    """A module and its source."""

    path: Path

    @cached_property
    def source(self) -> str:
        return self.path.read_text()

    @cached_property
    def changes(self) -> list[Change]:
        return changes.changes_of(self.source)

    @property
    def short(self) -> str:
        parts = self.path.parts
        return "/".join(parts[parts.index("src") + 2 :] if "src" in parts else parts[-1:])

    @property
    def name(self) -> str:
        parts = self.path.with_suffix("").parts
        return ".".join(parts[parts.index("src") + 1 :] if "src" in parts else parts[-1:])


def read_equivalent(text: str) -> dict[tuple[str, str], str]:
    """Module and key of each change that means nothing, with the reason.

    A module's name in brackets, then two lines for each change: its key, and indented the reason.
    """
    found: dict[tuple[str, str], str] = {}
    module, key = "", ""
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("["):
            module = line.strip("[]")
        elif line.startswith(" "):
            found[module, key] = f"{found[module, key]} {line.strip()}".strip()
        else:
            key = line
            found[module, key] = ""
    return found


class Results:
    """What earlier runs have found, in a file that only grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._known = {(one["source"], one["number"]): one for one in map(json.loads, lines)}

    def find(self, target: Target, change: Change, tests: str) -> str | None:
        """Who has noticed it, "" for nobody. None if it must be tried (again)."""
        one = self._known.get((_digest(target.source), change.number))
        if one is None or (not one["by"] and one["tests"] != tests):
            return None
        return one["by"]

    def add(self, target: Target, change: Change, by: str, tests: str) -> None:
        record = {"source": _digest(target.source), "number": change.number, "by": by}
        record |= {"module": target.short, "key": change.key, "tests": tests}
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")


class Run:
    """Changes to be tried, and what came of them."""

    def __init__(self, options: Any) -> None:
        self.targets = [Target(one.resolve()) for one in options.modules]
        self.tests: list[str] = options.tests or _tests_of(self.targets[0])
        self.marks: str = options.marks
        self.everywhere: bool = options.everywhere
        self.twice = options.sample is None
        self.basetemp = tempfile.mkdtemp(prefix="mutation-")
        self.results = Results(options.results)
        self.known = running.Known()
        self.left_out: list[str] = []
        self.chosen: dict[str, list[Change]] = {}
        self.skipped: dict[str, int] = {}
        for target in self.targets:
            self._choose(target, options)
        if options.sample is not None:
            self._sample(random.Random(options.seed), options.sample)

    @property
    def arguments(self) -> list[str]:
        return [
            "-m",
            self.marks,
            "-c",
            str(ROOT / "pyproject.toml"),
            f"--basetemp={self.basetemp}/tests",
        ]

    def _choose(self, target: Target, options: Any) -> None:
        listed = read_equivalent(options.equivalent.read_text())
        found = target.changes[options.seed % options.every :: options.every]
        if options.only is not None:
            found = [one for one in found if one.line in options.only]
        equivalent = [one for one in found if (target.short, one.key) in listed]
        self.skipped[target.short] = 0 if options.recheck else len(equivalent)
        left = [one for one in found if one not in equivalent]
        self.chosen[target.short] = equivalent if options.recheck else left

    def _sample(self, chance: random.Random, count: int) -> None:
        every = [(short, one) for short, found in self.chosen.items() for one in found]
        every = chance.sample(every, min(count, len(every)))
        for short in self.chosen:
            self.chosen[short] = sorted((c for s, c in every if s == short), key=lambda c: c.number)

    def leave_out(self, path: str) -> None:
        """Collect without a file of tests, also if it was named."""
        self.left_out.append(f"--ignore={path}")
        self.tests = [one for one in self.tests if str(Path(one).resolve()) != path]

    def left(self) -> Iterator[tuple[Target, Change]]:
        """What has not been tried."""
        for target in self.targets:
            for change in self.chosen[target.short]:
                if self.results.find(target, change, self.known.text) is None:
                    yield target, change

    def in_place(self, session: running.Session, tell: Callable[[str], None]) -> None:
        """Learn the tests, and try what can be changed where everything is imported."""
        if session.spoiled_by:
            tell(f"spoiled {session.spoiled_by}")
            return
        for target in self.targets:
            importlib.import_module(target.name)
        print(f"{len(session.items)} tests: which lines does each reach?", flush=True)
        files = [one.path for one in self.targets]
        self.known = running.learn(session, files, twice=self.twice)
        self.known.text = _digest_of_tests(session) + " everywhere" * self.everywhere
        alive = living.Living([str(one.path) for one in self.targets])
        tell("known " + json.dumps(dataclasses.asdict(self.known)))
        print(f"{len(self.known.seconds)} in {sum(self.known.seconds.values()):.0f} s", flush=True)
        for name in self.known.failed:
            print(f"not counted, for it fails without any change: {name}", flush=True)
        kills = dict.fromkeys(self.known.seconds, 0)
        for target, change in self.left():
            code = changes.changed(target.source, change.number, str(target.path))
            names = self._reaching(target, change)
            if not alive.would_change(code):
                continue
            if not names:
                self._say(target, change, "", names)
                continue
            names.sort(key=lambda name: self.known.seconds[name] / (1 + kills[name]))

            def work(
                tell: Callable[[str], None],
                target: Target = target,
                change: Change = change,
                code: Any = code,
                names: Any = names,
            ) -> None:
                self._elsewhere(target, change)
                alive.change(code)
                session.run(names, tell)

            by = running.verdict(running.in_child(work), self.known)
            if by in kills:
                kills[by] += 1
            self._say(target, change, by, names)

    def from_the_start(self, target: Target, change: Change) -> None:
        """Try what is decided when the module is imported."""
        names = self._reaching(target, change) or self.known.touching(str(target.path))
        # What nothing imports but the tests' own processes is not seen from here.
        code = changes.changed(target.source, change.number, str(target.path))

        def work(tell: Callable[[str], None]) -> None:
            self._elsewhere(target, change)
            sys.meta_path.insert(0, living.Loader(target.name, code))
            session = running.Session(lambda one: one.run(names, tell))
            files = sorted({name.partition("::")[0] for name in names})
            code_ = running.collect([*self.arguments, *files], session)
            tell(f"fail collection {code_}")

        by = running.verdict(running.in_child(work), self.known, start_s=10.0) if names else ""
        self._say(target, change, by, names)

    def _elsewhere(self, target: Target, change: Change) -> None:
        text = changes.changed_text(target.source, change.number)
        living.change_elsewhere(target.name, text, Path(self.basetemp) / "changed.py")

    def _reaching(self, target: Target, change: Change) -> list[str]:
        if self.everywhere:
            return list(self.known.seconds)
        return self.known.reaching(str(target.path), *change.reach)

    def _say(self, target: Target, change: Change, by: str, names: Sequence[str]) -> None:
        self.results.add(target, change, by, self.known.text)
        if not by:
            why = "" if names else "  (no test comes here)"
            print(f"{target.path}:{change.line}: {change.key}{why}", flush=True)

    def report(self) -> int:
        """Print the sums; how many survive that are not listed."""
        self.results = Results(self.results._path)
        survivors = 0
        for target in self.targets:
            chosen = self.chosen[target.short]
            left = [o for o in chosen if not self.results.find(target, o, self.known.text)]
            survivors += len(left)
            total, listed = len(chosen) + self.skipped[target.short], self.skipped[target.short]
            noticed = len(chosen) - len(left)
            print(f"{target.short}: {total} changes, {noticed} noticed, {listed} equivalent, "
                  f"{len(left)} survive")  # fmt: skip
        return survivors


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _digest_of_tests(session: running.Session) -> str:
    names = sorted({name.partition("::")[0] for name in session.items})
    return _digest("".join(Path(one).read_text() for one in names))


def _tests_of(target: Target) -> list[str]:
    words = next(tests for prefix, tests in TESTS if target.short.startswith(prefix))
    return [str(ROOT / one) for one in words.split()]


def _options(arguments: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", type=Path, nargs="+")
    parser.add_argument("--tests", nargs="+", help="paths; else those that TESTS names")
    parser.add_argument("--marks", default=FAST, help="which of them, as for pytest -m")
    parser.add_argument("--every", type=int, default=1, help="only one change of so many")
    parser.add_argument("--sample", type=int, help="only so many changes, drawn by chance")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    parser.add_argument("--only", type=int, nargs="+", help="only changes in these lines")
    parser.add_argument(
        "--everywhere",
        action="store_true",
        help="all tests for each change: also those that come there in processes of their own",
    )
    parser.add_argument("--recheck", action="store_true", help="only changes listed as equivalent")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--equivalent", type=Path, default=EQUIVALENT)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    sys.path.insert(0, str(ROOT / "src"))
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8".strip()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # and so are our children
    running.unhurried()
    for slow in ("jax.numpy", "numpy", "pytest", "coverage", "zstandard", "crc32c"):
        importlib.import_module(slow)  # none of it starts a thread, so that we may fork
    run = Run(options)
    try:
        begin = time.monotonic()
        _try_all(run)
        survivors = run.report()
        print(f"{time.monotonic() - begin:.0f} s")
    finally:
        shutil.rmtree(run.basetemp, ignore_errors=True)
    return 1 if survivors else 0


def _try_all(run: Run) -> None:
    def collector(tell: Callable[[str], None]) -> None:
        session = running.Session(lambda one: run.in_place(one, tell))
        status = running.collect([*run.arguments, *run.tests], session)
        if status:
            raise SystemExit(f"pytest: {status}")

    spoiled = True
    while spoiled:
        spoiled = False
        with running.in_child(collector, quiet=False) as child:
            for line in child.lines(lambda _: DAY_S):
                word, rest = line.split(" ", 1)
                if word == "spoiled":
                    print(f"left out, for it uses JAX while it is imported: {rest}", flush=True)
                    run.leave_out(rest)
                    spoiled = True
                else:
                    run.known = running.Known(**_known(json.loads(rest)))
    if not run.known.seconds:
        raise SystemExit("no test passes without any change")
    run.results = Results(run.results._path)
    for target, change in run.left():
        run.from_the_start(target, change)


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    reached = fields["reached"].items()
    lines = {file: {int(at): names for at, names in one.items()} for file, one in reached}
    return fields | {"reached": lines}


if __name__ == "__main__":
    sys.exit(main())
