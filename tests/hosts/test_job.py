# SPDX-License-Identifier: Apache-2.0
"""Who takes part in an operation of this job."""

from typing import Any

import pytest

from pertinax._hosts import Alone, this_job
from pertinax.errors import InvalidOption


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
