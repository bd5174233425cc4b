# SPDX-License-Identifier: Apache-2.0
"""Verdicts: the primary decides, and where it must refuse, all processes refuse alike.

Knows rounds and exceptions. Knows nothing of what is decided.
"""

from collections.abc import Callable
from typing import Any

from pertinax._hosts.contract import Round
from pertinax.errors import UnsupportedTopology


def decide_for_all(
    talk: Round,
    phase: str,
    decide: Callable[[], Any],
    *refusals: type[Exception],
    about: str = "",
) -> Any:
    """What the primary's `decide` returns (plain data), on every process.

    If it raises one of `refusals`, made of one text, every process raises that; anything else is
    `PeerFailed` for the others. `about` is what it is all about, and must be the same everywhere,
    or `UnsupportedTopology` is raised where it differs from the primary's.
    """
    if talk.topology.alone:
        return decide()

    def attempt() -> list[Any]:
        try:
            return [about, "", decide()]
        except refusals as error:
            kind = next(kind for kind in refusals if isinstance(error, kind))
            return [about, kind.__name__, str(error)]

    theirs, name, result = talk.agree(phase, attempt)
    if theirs != about:
        who = talk.topology
        raise UnsupportedTopology(
            f"process {who.process} is at {about} where process {who.primary} is at {theirs}: all "
            "processes must make the same calls in the same order"
        )
    for kind in refusals:
        if kind.__name__ == name:
            raise kind(result)
    return result
