# SPDX-License-Identifier: Apache-2.0
"""Real jobs of several processes on this machine: real `jax.distributed`, real collectives.

Processes are forked from a server that has imported JAX once and started no backend, so a job takes
a second or two. A job has a deadline; who is not done by then is killed, and that is the answer.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_PRELOAD = [
    "jax",
    "jax.experimental.multihost_utils",
    "pertinax",
    "pertinax.checkpoint",
    "tests.hosts.processes",
]


@dataclass(frozen=True)
class Ended:
    """How one process ended: `value` is what it returned, `error` the text of what it raised.

    `code` as in `subprocess`: -9 killed, -6 aborted by the coordination service.
    """

    code: int
    value: Any = None
    error: str = ""
    type_name: str = ""


class Job:
    """A running job. `kill` and `signal` do to a process what its name says."""

    def __init__(
        self, processes: list[BaseProcess], folder: Path, begun_s: float, limit_s: float
    ) -> None:
        self._processes = processes
        self._folder = folder
        self._end_s = begun_s + limit_s

    def signal(self, process: int, number: int = signal.SIGKILL) -> None:
        pid = self._processes[process].pid
        assert pid is not None
        with contextlib.suppress(ProcessLookupError):  # it was faster
            os.kill(pid, number)

    def wait_for(self, name: str) -> None:
        """Wait until a process has called `tell(name)`."""
        while not (self._folder / f"told-{name}").exists():
            assert time.monotonic() < self._end_s, f"nobody told {name}"
            assert any(p.is_alive() for p in self._processes), self.end()
            multiprocessing.connection.wait([p.sentinel for p in self._processes], timeout=0.02)

    def end(self) -> list[Ended]:
        """Wait for all; in order."""
        for process in self._processes:
            process.join(max(0.1, self._end_s - time.monotonic()))
        out: list[Ended] = []
        for i, process in enumerate(self._processes):
            if process.is_alive():
                assert process.pid is not None
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                out.append(Ended(-9, error=f"not done by the deadline\n{self._trace(i)}"))
                continue
            assert process.exitcode is not None
            file = self._folder / f"outcome-{i}"
            if file.exists():
                value, error, kind = pickle.loads(file.read_bytes())
                out.append(Ended(process.exitcode, value, error, kind))
            else:
                out.append(Ended(process.exitcode))
        return out

    def _trace(self, process: int) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self._folder / f"stderr-{process}").read_text()
        return ""


def start(
    work: Callable[..., Any],
    count: int,
    *args: Any,
    folder: Path,
    devices: int = 1,
    limit_s: float = 120.0,
    recoverable: bool = False,
    config: Mapping[str, Any] | None = None,
) -> Job:
    """Run `work(*args)`, a function of a module, in `count` processes of `devices` CPUs each.

    `folder` is for what the job leaves behind; inside, `jax.process_index()` tells who one is.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "jax_num_cpu_devices": devices,
        "jax_platforms": "cpu",
        "jax_enable_recoverability": recoverable,
        **(config or {}),
    }
    begun_s = time.monotonic()
    processes: list[BaseProcess] = []
    for i in range(count):
        process = context.Process(
            target=_member, args=(work, args, i, count, port, str(folder), settings), daemon=True
        )
        process.start()
        processes.append(process)
    return Job(processes, folder, begun_s, limit_s)


def run(work: Callable[..., Any], count: int, *args: Any, **kwargs: Any) -> list[Any]:
    """What `work` returned in each process; all must end well."""
    ended = start(work, count, *args, **kwargs).end()
    bad = [
        f"process {i}: code {e.code}\n{e.error}" for i, e in enumerate(ended) if e.error or e.code
    ]
    assert not bad, "\n".join(bad)
    return [one.value for one in ended]


def tell(folder: Path, name: str) -> None:
    """Let the parent know that this point was reached."""
    (folder / f"told-{name}").touch()


def _member(
    work: Callable[..., Any],
    args: tuple[Any, ...],
    index: int,
    count: int,
    port: int,
    folder: str,
    settings: dict[str, Any],
) -> None:
    log = os.open(f"{folder}/stderr-{index}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.pop("XLA_FLAGS", None)
    import jax

    code = 1
    outcome: tuple[Any, str, str] = (None, "it ended before it could tell", "")
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        jax.distributed.initialize(
            f"127.0.0.1:{port}",
            num_processes=count,
            process_id=index,
            initialization_timeout=60,
            heartbeat_timeout_seconds=30,
            shutdown_timeout_seconds=30,
        )
        outcome = (work(*args), "", "")
        code = 0
    except BaseException as error:
        outcome = (None, traceback.format_exc(), type(error).__name__)
        code = 3
    partial = Path(f"{folder}/outcome-{index}.partial")
    partial.write_bytes(pickle.dumps(outcome))
    partial.rename(f"{folder}/outcome-{index}")
    sys.stdout.flush()
    sys.stderr.flush()
    if not settings["jax_enable_recoverability"] and code == 0:
        jax.distributed.shutdown()
    os._exit(code)
