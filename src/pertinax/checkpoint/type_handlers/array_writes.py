# SPDX-License-Identifier: Apache-2.0
"""Arrays on their way into an item, several in one transaction.

Knows what TensorStore's transactions are good for, and what they cost. Knows nothing of handlers.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, cast

from pertinax.checkpoint import serialization
from pertinax.checkpoint.arrays.fragments import Fragments
from pertinax.checkpoint.serialization.tensorstore_utils import JsonSpec
from pertinax.checkpoint.type_handlers.contract import ParamInfo
from pertinax.checkpoint.type_handlers.stored_arrays import all_of, context_of

_LOCAL_DRIVERS: Final = frozenset({"file", "memory"})


class ArrayWrite(NamedTuple):
    """One array whose pieces are on the host."""

    fragments: Fragments
    spec: JsonSpec
    info: ParamInfo


async def write_arrays(writes: Sequence[ArrayWrite], primary_host: int | None) -> None:
    """Write all of them; `primary_host` (None: each process) writes their metadata.

    A database gets one version for as many arrays as the limit on bytes allows, so that nothing
    superseded stays in it.
    """
    for group in _groups(writes):
        await _write_group(group, primary_host)


async def _write_group(group: Sequence[ArrayWrite], primary_host: int | None) -> None:
    import tensorstore

    transaction = (
        cast("Any", tensorstore).Transaction(atomic=True) if _is_atomic(group[0]) else None
    )

    async def write(one: ArrayWrite) -> None:
        await serialization.async_serialize_fragments(
            one.fragments,
            one.spec,
            context=context_of(one.info),
            primary_host=primary_host,
            transaction=transaction,
            byte_limiter=one.info.byte_limiter,
        )

    try:
        await all_of(write, group)
    except BaseException:
        if transaction is not None:
            transaction.abort()
        raise
    if transaction is not None:
        await transaction.commit_async()


def _is_atomic(one: ArrayWrite) -> bool:
    """Whether a transaction makes sense: in a database, on a store that can replace a manifest."""
    base = _kvstore(one.spec).get("base")
    local = isinstance(base, dict) and cast("JsonSpec", base).get("driver") in _LOCAL_DRIVERS
    return bool(one.info.is_ocdbt_checkpoint) and local


def _kvstore(spec: JsonSpec) -> JsonSpec:
    return spec["kvstore"] if "kvstore" in spec else _kvstore(spec["base"])


def _groups(writes: Sequence[ArrayWrite]) -> Iterator[list[ArrayWrite]]:
    """Writes of one transaction: together they keep within the limit, for their bytes stay in
    memory until it is committed.
    """
    limiter = writes[0].info.byte_limiter
    limit = getattr(limiter, "max_bytes", None)
    group: list[ArrayWrite] = []
    weight = 0
    for one in writes:
        needed = one.fragments.addressable_nbytes
        if group and limit is not None and weight + needed > limit:
            yield group
            group, weight = [], 0
        group.append(one)
        weight += needed
    yield group
