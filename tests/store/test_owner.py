# SPDX-License-Identifier: Apache-2.0
"""Tokens name their owner; only a proof of death counts as death."""

import os
import subprocess
import sys

import pytest

from pertinax._store import owner
from pertinax._store.owner import new_token, owner_alive

PARTS = ["host", "boot", "space", "pid", "start", "random"]


def changed(token: str, **parts: str) -> str:
    fields = dict(zip(PARTS, token.split("-"), strict=True))
    return "-".join({**fields, **parts}.values())


def test_tokens_are_unique_and_fit_for_names() -> None:
    tokens = {new_token() for _ in range(1000)}
    assert len(tokens) == 1000
    assert all(len(token) < 80 and set(token) <= set("0123456789abcdef-") for token in tokens)


def test_a_token_is_ours_or_that_of_another() -> None:
    token = new_token()
    assert owner.is_ours(token)
    for part in ("host", "boot", "space", "pid", "start"):
        assert not owner.is_ours(changed(token, **{part: "12345678"}))
    assert not owner.is_ours("1700000000")


def test_i_am_alive() -> None:
    assert owner_alive(new_token()) is True


def test_a_child_lives_until_it_is_dead_and_a_zombie_is_dead() -> None:
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            (
                "import sys; import pertinax._store.owner as o; print(o.new_token(), flush=True); "
                "sys.stdin.read()"
            ),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdin is not None
    assert child.stdout is not None
    token = child.stdout.readline().strip()
    assert owner_alive(token) is True
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, not yet buried
    assert owner_alive(token) is False
    child.wait()
    child.stdout.close()
    assert owner_alive(token) is False


def test_a_process_number_used_again_is_somebody_else() -> None:
    assert owner_alive(changed(new_token(), start="12345")) is False


def test_an_unknown_start_counts_as_alive() -> None:
    assert owner_alive(changed(new_token(), start="0")) is True


def test_a_token_says_when_its_process_started_where_that_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert int(new_token().split("-")[4]) > 0
    monkeypatch.setattr(owner, "_start", lambda pid: None)
    token = new_token()
    assert token.split("-")[4] == "0"
    assert owner_alive(token) is True


def test_what_cannot_be_read_says_nothing() -> None:
    assert owner._read("/proc/no/such/file") == ""
    assert owner._start(2**31 - 1) is None


def test_where_nothing_tells_of_processes_who_has_a_number_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    token, real = new_token(), owner._read
    monkeypatch.setattr(owner, "_read", lambda p: "" if p.endswith("/stat") else real(p))
    assert owner_alive(token) is True
    assert owner_alive(changed(token, start="12345")) is True


def test_where_nothing_tells_of_boots_nobody_is_dead_for_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = owner._read
    monkeypatch.setattr(owner, "_read", lambda p: "" if p.endswith("boot_id") else real(p))
    token = new_token()
    assert token.split("-")[1] == "0" * 8
    assert owner_alive(changed(token, boot="deadbeef")) is None
    assert owner_alive(token) is True


def test_where_nothing_tells_of_spaces_processes_are_judged_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(path: str) -> str:
        raise PermissionError(path)

    monkeypatch.setattr(owner.os, "readlink", refuse)
    token = new_token()
    assert token.split("-")[2] == "0" * 8
    assert owner_alive(token) is True


def test_of_somebody_elses_process_it_is_known_that_it_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(pid: int, signal: int) -> None:
        assert signal == 0
        raise PermissionError(pid)

    monkeypatch.setattr(owner.os, "kill", refuse)
    token = new_token()
    assert owner_alive(token) is True
    assert owner_alive(changed(token, start="12345")) is False


def test_the_first_process_of_all_is_a_process() -> None:
    assert owner_alive(changed(new_token(), pid="1", start="0")) is True


def test_another_boot_of_this_host_is_dead() -> None:
    assert owner_alive(changed(new_token(), boot="deadbeef", space="deadbeef")) is False


@pytest.mark.parametrize(
    "parts",
    [
        {"host": "deadbeef"},
        {"host": "00000000"},
        {"space": "deadbeef"},
        {"boot": "00000000"},
        {"pid": "0"},
        {"pid": "2147483648"},
        {"pid": "9999999999"},
    ],
)
def test_others_cannot_be_judged(parts: dict[str, str]) -> None:
    assert owner_alive(changed(new_token(), **parts)) is None


@pytest.mark.parametrize("token", ["", "0", "1700000000", "x-y", "../..", "-" * 5])
def test_foreign_tokens_cannot_be_judged(token: str) -> None:
    assert owner_alive(token) is None


def test_a_nameless_host_judges_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner.platform, "node", lambda: "localhost")
    token = new_token()
    assert token.startswith("00000000-")
    assert owner_alive(changed(token, boot="deadbeef")) is None
