"""A job of several processes is refused before anything is written; one of one process is not."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pertinax._hosts import Alone, this_job
from pertinax.errors import InvalidOption

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
    assert job.topology.is_primary
    assert job.topology.alone
    with job.begin("save", "x") as talk:
        assert talk.agree("id", lambda: "x") == "x"
        assert talk.collect("ids", 3, dict) == {0: 3}
        talk.check()


@pytest.mark.parametrize("kwargs", [{"members": [1]}, {"members": []}, {"primary": 1}])
def test_members_and_primary_must_be_processes_of_the_job(kwargs: Any) -> None:
    with pytest.raises(InvalidOption, match="process 0 of 1"):
        this_job(**kwargs)


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
    assert all(answer.startswith("refused: jobs of several processes") for answer in answers)
    assert list(tmp_path.iterdir()) == []
