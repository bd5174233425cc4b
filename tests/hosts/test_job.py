"""A job of several processes is refused before anything is written; one of one process is not."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pertinax._hosts import Alone, Topology, this_job

_MEMBER = """
import sys
import jax
jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]))
import pertinax
try:
    pertinax.save(sys.argv[3], {"w": 1})
except pertinax.errors.UnsupportedTopology as error:
    print("refused:", error)
"""


def test_a_single_process_is_alone_and_agrees_with_itself() -> None:
    job = this_job()
    assert job == Alone()
    assert job.topology == Topology(0, 1)
    assert job.topology.is_primary
    assert job.agree("id", "x", timeout_s=1) == "x"
    assert job.gather("ids", 3, timeout_s=1) == [3]


@pytest.mark.parametrize(("process", "count"), [(-1, 1), (1, 1), (0, 0)])
def test_a_process_that_cannot_be_is_refused(process: int, count: int) -> None:
    with pytest.raises(ValueError, match="no such process"):
        Topology(process, count)


@pytest.mark.slow
def test_two_real_processes_are_refused_and_write_nothing(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    target = tmp_path / "state"
    members = [
        subprocess.Popen(
            [sys.executable, "-c", _MEMBER, port, str(i), str(target)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    answers = [member.communicate(timeout=120)[0] for member in members]
    assert all(answer.startswith("refused: this job has 2 processes") for answer in answers)
    assert list(tmp_path.iterdir()) == []
