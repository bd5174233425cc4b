# SPDX-License-Identifier: Apache-2.0
"""No wait is endless: each call in the library that could wait for ever is listed here with the
reason why it does not, or why it must. A new one is a failure until somebody has thought about it.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path("src/pertinax")
WAITS = {"join", "result", "get", "acquire", "wait", "shutdown", "communicate", "recv", "exception"}
FUNCTIONS = {"wait", "as_completed", "wait_for", "run_until_complete", "block_until_ready"}

MOVING = "until nothing has moved for half an hour"
LIMIT = "as long as it is told to"
DONE = "it has ended: that was waited for, or it is what a callback is called with"
THREAD = "on a thread of ours, for whose end others wait with a limit"
SYSTEM = "in the foreground, for threads that end when the operating system gives their calls back"
OBJECTS = "the requests of the other thread have limits of time and of tries"
NO_WAIT = "does not wait: a context variable, a path or a note"
DEVICES = "for what the program itself computes"

REVIEWED = {
    ("_core/pending.py", "self._thread.join()"): DONE,
    ("_core/rest.py", "one.result()"): SYSTEM,
    ("_formats/item.py", "content.others.wait()"): THREAD,
    (
        "_formats/zarr/tensorstore.py",
        "ts.KvStore.open(key_value_spec(item_dir, '', 'ocdbt')).result()",
    ): SYSTEM,
    ("_formats/zarr/tensorstore.py", "array[box.slices].read().result()"): SYSTEM,
    ("_formats/zarr/tensorstore.py", "pending.result()"): SYSTEM,
    ("_formats/zarr/tensorstore.py", "store.list().result()"): SYSTEM,
    ("_formats/zarr/tensorstore.py", "ts.open(spec, open=True, read=True).result()"): SYSTEM,
    ("_steps/line.py", "flight.exception()"): DONE,
    ("_steps/manager.py", "jax.block_until_ready(tree)"): DEVICES,
    ("_steps/manager.py", "self._deleter.wait(max(0.0, deadline_s - time.monotonic()))"): LIMIT,
    ("_store/objects/attempts.py", "self._over.wait(self._attempts.lease_s / _SIGNS)"): LIMIT,
    ("_store/objects/attempts.py", "self._thread.join()"): OBJECTS,
    (
        "_store/objects/writer.py",
        "self._changed.wait_for(lambda: self._ended or self._queued <= self._part_bytes)",
    ): OBJECTS,
    ("_store/objects/writer.py", "self._pieces.get()"): THREAD,
    ("_store/objects/writer.py", "self._thread.join()"): OBJECTS,
    ("_store/workers.py", "future.exception()"): DONE,
    ("_store/workers.py", "f.exception()"): DONE,
    ("_store/workers.py", "failed.result()"): DONE,
    ("_store/workers.py", "future.result()"): DONE,
    ("_store/workers.py", "self._changed.wait_for(lambda: self._left >= length)"): THREAD,
    ("_store/workers.py", "self._tasks.get()"): THREAD,
    ("_store/workers.py", "thread.join()"): SYSTEM,
    ("_store/workers.py", "wait(futures)"): SYSTEM,
    ("_store/workers.py", "wait(futures, return_when=FIRST_EXCEPTION)"): SYSTEM,
    ("_tiers/manager.py", "pending.result()"): MOVING,
    ("_tiers/manager.py", "self._deleter.wait(max(0.0, end_s - time.monotonic()))"): LIMIT,
    ("_tiers/manager.py", "self.wait()"): MOVING,
    ("checkpoint/_adapt/leaf_handlers.py", "future.result()"): THREAD,
    ("checkpoint/_adapt/meeting.py", "_registry.OPERATION.get()"): NO_WAIT,
    ("checkpoint/_adapt/publish.py", "path.get()"): NO_WAIT,
    ("checkpoint/_adapt/root_metadata.py", "self.get()"): NO_WAIT,
    ("checkpoint/_adapt/saving.py", "others.wait()"): THREAD,
    (
        "checkpoint/_adapt/threads.py",
        "start(lambda: _run(coroutine), 'pertinax-loop').result()",
    ): SYSTEM,
    ("checkpoint/async_checkpointer.py", "future.result()"): THREAD,
    ("checkpoint/async_checkpointer.py", "path.get()"): NO_WAIT,
    ("checkpoint/checkpoint_manager.py", "self._finalizer.wait()"): MOVING,
    ("checkpoint/checkpoint_manager.py", "self._finalizer.wait(settle=True)"): MOVING,
    ("checkpoint/checkpoint_manager.py", "self._root_metadata.get()"): NO_WAIT,
    ("checkpoint/checkpointer.py", "path.get()"): NO_WAIT,
    ("checkpoint/experimental/emergency/checkpoint_manager.py", "self._tiers.wait()"): MOVING,
    ("checkpoint/handlers/array_checkpoint_handler.py", "future.result()"): SYSTEM,
    ("checkpoint/handlers/base_pytree_checkpoint_handler.py", "future.result()"): SYSTEM,
    ("checkpoint/handlers/composite_checkpoint_handler.py", "future.result()"): SYSTEM,
    ("checkpoint/handlers/composite_checkpoint_handler.py", "path.get()"): NO_WAIT,
    (
        "checkpoint/handlers/composite_checkpoint_handler.py",
        "self._current_temporary_paths[name].get()",
    ): NO_WAIT,
    ("checkpoint/handlers/json_checkpoint_handler.py", "future.result()"): SYSTEM,
    ("checkpoint/handlers/json_checkpoint_handler.py", "self._executor.shutdown()"): SYSTEM,
    ("checkpoint/handlers/proto_checkpoint_handler.py", "future.result()"): SYSTEM,
    ("checkpoint/handlers/proto_checkpoint_handler.py", "self._executor.shutdown()"): SYSTEM,
    ("checkpoint/handlers/pytree_checkpoint_handler.py", "future.result()"): SYSTEM,
    ("checkpoint/handlers/random_key_checkpoint_handler.py", "future.result()"): SYSTEM,
    ("checkpoint/handlers/standard_checkpoint_handler.py", "future.result()"): SYSTEM,
    ("checkpoint/metadata/checkpoint.py", "self._thread.shutdown(wait=True)"): DONE,
    ("checkpoint/metadata/checkpoint.py", "write.exception()"): DONE,
    ("checkpoint/multihost/multislice.py", "jax.block_until_ready(merged)"): DEVICES,
    (
        "checkpoint/path/step.py",
        (
            "concurrent.futures.as_completed("
            "[pool.submit(build_metadata, path) for path in step_paths])"
        ),
    ): SYSTEM,
    ("checkpoint/path/step.py", "future.result()"): DONE,
    ("testing/crashing.py", "self.lock.acquire()"): NO_WAIT,
    ("testing/store_tests.py", "one.join()"): SYSTEM,
}


def endless(source: str) -> Iterator[str]:
    """The calls in a module that could wait without a limit, as text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and _is_endless(node):
            yield ast.unparse(node)


def _is_endless(node: ast.Call) -> bool:
    call = node.func
    name = call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "")
    said = {word.arg: word.value for word in node.keywords if not _says(word.value, None)}
    if any("timeout" in (word or "") for word in said) or _says(said.get("blocking"), False):
        return False
    limits = [one for one in node.args if not _says(one, None) and not _says(one, True)]
    if isinstance(call, ast.Attribute) and name in WAITS and not limits:
        return True
    return name in FUNCTIONS and len(limits) == 1 and not _is_seconds(limits[0])


def _says(node: ast.AST | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _is_seconds(node: ast.AST) -> bool:
    """Whether the only argument of a `wait` is a number of seconds, by its name or by itself."""
    return isinstance(node, ast.Constant) or ast.unparse(node).endswith("_s")


def found() -> Counter[tuple[str, str]]:
    return Counter(
        (str(path.relative_to(SOURCE)), call)
        for path in sorted(SOURCE.rglob("*.py"))
        for call in endless(path.read_text())
    )


def test_every_wait_has_a_limit_or_a_reason() -> None:
    calls = found()
    assert calls.keys() - REVIEWED.keys() == set(), "a new wait: give it a limit, or a reason here"
    assert REVIEWED.keys() - calls.keys() == set(), "no wait any more: strike it off the list"


@pytest.mark.parametrize(
    "wait",
    [
        *("thread.join()", "future.result()", "event.wait()", "lock.acquire()", "queue.get()"),
        *("pool.shutdown()", "pool.shutdown(wait=True)", "condition.wait_for(lambda: done)"),
        *("wait(futures, return_when=FIRST)", "condition.wait(None)", "process.communicate()"),
        *("lock.acquire(True)", "queue.get(True)", "queue.get(block=True)", "thread.join(None)"),
        *("future.result(timeout=None)", "event.wait(timeout=None)"),
    ],
)
def test_a_wait_without_a_limit_is_seen(wait: str) -> None:
    assert list(endless(wait)) == [wait]


@pytest.mark.parametrize(
    "wait",
    [
        *("thread.join(3)", "future.result(timeout=left_s)", "event.wait(pause_s)", "', '.join(x)"),
        *("wait(futures, STILL_S)", "condition.wait_for(lambda: done, 3)", "words.get('key')"),
        *("lock.acquire(True, 3)", "lock.acquire(blocking=False)", "queue.get(timeout=3)"),
    ],
)
def test_a_wait_with_a_limit_is_none_of_these(wait: str) -> None:
    assert not list(endless(wait))
