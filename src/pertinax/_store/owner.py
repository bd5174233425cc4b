# SPDX-License-Identifier: Apache-2.0
"""Whose temporary directory is this, and does the owner still live?

Knows hosts, boots, processes and how to name them. Knows nothing of directories' content. The only
answer that allows deletion is a proof of death; everything doubtful is "cannot tell".

A token reads `<host>-<boot>-<space>-<pid>-<start>-<random>`, all lower-case letters and digits:
hashes of host name and machine id, of the boot, of the process-number space (containers may share
host name and boot, yet not see each other's processes), then the process and when it started.
"""

import hashlib
import os
import platform
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TMP_MARK: Final = ".orbax-checkpoint-tmp-"

_TOKEN: Final = re.compile(
    r"([0-9a-f]{8})-([0-9a-f]{8})-([0-9a-f]{8})-(\d{1,10})-(\d{1,20})-[0-9a-f]{8}"
)
_UNKNOWN: Final = "0" * 8
# Names that any number of machines may bear: another boot of such a "host" proves nothing.
_NOBODY: Final = frozenset({"", "localhost", "localhost.localdomain"})


@dataclass(frozen=True, slots=True)
class _Owner:
    host: str
    boot: str
    space: str
    pid: int
    start: int


def new_token() -> str:
    """A name part that no one else uses and that tells who we are."""
    me = _myself()
    return f"{me.host}-{me.boot}-{me.space}-{me.pid}-{me.start}-{uuid.uuid4().hex[:8]}"


def is_ours(token: str) -> bool:
    """Whether this very process has made the token."""
    return _parse(token) == _myself()


def owner_alive(token: str) -> bool | None:
    """True: the owner lives. False: it is proven dead. None: cannot tell from here."""
    owner = _parse(token)
    if owner is None:
        return None
    me = _myself()
    if owner.host != me.host or owner.host == _UNKNOWN:
        return None
    if _UNKNOWN not in (owner.boot, me.boot) and owner.boot != me.boot:
        return False
    if owner.boot != me.boot or owner.space != me.space:
        return None
    return _process_alive(owner.pid, owner.start)


def _parse(token: str) -> _Owner | None:
    match = _TOKEN.fullmatch(token)
    if match is None:
        return None
    host, boot, space, pid, start = match.groups()
    # kill(2) gives 0 and whatever wraps around a meaning of their own.
    if not 0 < int(pid) < 2**31:
        return None
    return _Owner(host, boot, space, int(pid), int(start))


def _myself() -> _Owner:
    pid = os.getpid()
    name = platform.node().lower()
    host = _UNKNOWN if name in _NOBODY else _short(name + "/" + _read("/etc/machine-id"))
    return _Owner(host, _boot(), _space(), pid, _start(pid) or 0)


def _process_alive(pid: int, start: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's process, but a process
    if _state(pid) in ("Z", "X"):
        return False
    now = _start(pid)
    # Unknown on either side counts as the same process: litter is better than a lost save.
    return not now or not start or now == start


def _stat_fields(pid: int) -> list[str]:
    # The command name may hold blanks and parentheses; fields are safe after the last ")".
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _state(pid: int) -> str | None:
    fields = _stat_fields(pid)
    return fields[0] if fields else None


def _start(pid: int) -> int | None:
    """Clock ticks from boot to the start of the process; None where /proc does not tell."""
    fields = _stat_fields(pid)
    return int(fields[19]) if len(fields) > 19 else None  # field 22 of proc(5)


def _boot() -> str:
    text = _read("/proc/sys/kernel/random/boot_id")
    return _short(text) if text else _UNKNOWN


def _space() -> str:
    try:
        return _short(os.readlink("/proc/self/ns/pid"))
    except OSError:
        return _UNKNOWN


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
