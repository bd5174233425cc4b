"""Verdicts: the primary decides, and where it must refuse, all processes refuse alike.

Knows rounds and exceptions. Knows nothing of what is decided.
"""

from collections.abc import Callable
from typing import Any

from pertinax._hosts.contract import Round


def decide_for_all(
    talk: Round, phase: str, decide: Callable[[], Any], *refusals: type[Exception]
) -> Any:
    """What the primary's `decide` returns (plain data), on every process.

    If it raises one of `refusals`, made of one text, every process raises that; anything else is
    `PeerFailed` for the others.
    """
    if talk.topology.alone:
        return decide()

    def attempt() -> list[Any]:
        try:
            return ["", decide()]
        except refusals as error:
            return [type(error).__name__, str(error)]

    name, result = talk.agree(phase, attempt)
    for kind in refusals:
        if kind.__name__ == name:
            raise kind(result)
    return result
