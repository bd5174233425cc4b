# SPDX-License-Identifier: Apache-2.0
"""URLs of object stores, and the client for each.

Knows schemes, and which settings come from the environment. Knows nothing of requests. `obstore`
is imported here and only when a bucket is first used: it is an extra, `pertinax[cloud]`.
"""

import datetime as dt
import functools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pertinax.errors import InvalidOption

_SCHEMES: Final[Mapping[str, str]] = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "az": "az",
    "azure": "az",
    "abfs": "az",
    "abfss": "az",
    "memory": "memory",
}
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9]*)://([^/?#]*)(?:/(.*))?", re.DOTALL)
_SETTINGS: Final = ("AWS_", "GOOGLE_", "AZURE_", "AZURITE_", "STORAGE_EMULATOR_HOST")
# The whole of a control request with its retries stays below half of the lease of a writer.
_CONTROL_S: Final = 15
_CONTROL_RETRY_S: Final = 12
_DATA_S: Final = 600
_PAUSE_S: Final = 30
_DATA_RETRY_S: Final = 120


@dataclass(frozen=True, slots=True)
class Address:
    """A bucket (container, or name of a bucket in memory) and a key in it, without slashes around.

    `scheme` is as it was written, so that paths come back as people know them.
    """

    scheme: str
    bucket: str
    key: str

    @property
    def kind(self) -> str:
        """One of `s3`, `gs`, `az`, `memory`."""
        return _SCHEMES[self.scheme]

    @property
    def front(self) -> str:
        """The URL of the bucket, without a slash behind it."""
        return f"{self.scheme}://{self.bucket}"

    @property
    def url(self) -> str:
        """The whole URL."""
        return f"{self.front}/{self.key}" if self.key else self.front


def is_url(text: str) -> bool:
    """Whether this is the URL of an object store."""
    found = _URL.match(text)
    return found is not None and found[1].lower() in _SCHEMES


def parse_url(text: str) -> Address:
    """Take a URL apart. Raises `InvalidOption` for what is none, or has no bucket."""
    found = _URL.fullmatch(text)
    if found is None or found[1].lower() not in _SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in ("s3", "gs", "az", "memory"))
        raise InvalidOption(f"{text!r} is no URL of an object store: they begin with {known}")
    scheme, bucket, key = found[1].lower(), found[2], found[3] or ""
    if not bucket:
        raise InvalidOption(f"{text!r} names no bucket: {scheme}://<bucket>/<key>")
    parts = [part for part in key.split("/") if part]
    if {".", ".."} & set(parts) or "\0" in key:
        raise InvalidOption(f"not a plain path: {text!r}")
    if scheme in ("abfs", "abfss") and "@" in bucket:
        bucket = bucket.partition("@")[0]  # the account comes from the environment
    return Address(scheme, bucket, "/".join(parts))


def client(address: Address, settings: Mapping[str, Mapping[str, Any]], *, data: bool) -> Any:
    """What `obstore` needs to talk to the bucket; the same object for the same settings.

    `settings` are groups of them: `config` of the service, `client` of the connection, `retry`.
    `data`: for requests that carry much. Raises `InvalidOption` without `obstore`, or if it refuses
    a setting.
    """
    try:
        from obstore.exceptions import BaseError
    except ImportError as error:
        raise InvalidOption(
            f'{address.url} is in an object store, and that needs: pip install "pertinax[cloud]"'
        ) from error
    env = {k: v for k, v in os.environ.items() if k.upper().startswith(_SETTINGS)}
    groups = {"env": env, **settings}
    try:
        return _client(
            address.kind,
            address.bucket,
            tuple((group, k, v) for group, some in groups.items() for k, v in sorted(some.items())),
            data,
        )
    except (BaseError, TypeError, ValueError) as error:
        raise InvalidOption(f"{address.front}: {str(error).partition(chr(10))[0]}") from error


# Connections are kept for the next checkpoint, and so is what lies in memory.
@functools.lru_cache(maxsize=64)
def _client(
    kind: str,
    bucket: str,
    settings: tuple[tuple[str, str, Any], ...],
    data: bool,  # noqa: FBT001
) -> Any:
    import obstore.store

    if kind == "memory":
        return _memory(bucket)
    env = {name.upper(): value for group, name, value in settings if group == "env"}
    given = {name: value for group, name, value in settings if group == "config"}
    retry_s = next((value for group, _, value in settings if group == "retry"), None)
    emulator = env.get("STORAGE_EMULATOR_HOST")
    named = {name.removeprefix("google_") for name in given}
    if kind == "gs" and emulator and not named & {"base_url", "service_account_key"}:
        # What every library of Google does: plain HTTP, and nobody is asked who they are. A client
        # that does not sign would do, but this one asks for a token all the same before it writes.
        base = emulator if "://" in emulator else f"http://{emulator}"
        nobody = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
        account = {"gcs_base_url": base, "disable_oauth": True, **nobody}
        given["service_account_key"] = json.dumps(account)
        env["GOOGLE_BASE_URL"] = base  # for what is asked of the client below
    options = _client_options(env, given, data=data)
    options |= {name: value for group, name, value in settings if group == "client"}
    make: Any = {
        "s3": obstore.store.S3Store,
        "gs": obstore.store.GCSStore,
        "az": obstore.store.AzureStore,
    }[kind]
    return make(
        bucket, config=given, client_options=options, retry_config=_retries(retry_s, data=data)
    )


@functools.cache
def _memory(name: str) -> Any:  # noqa: ARG001 - one for each name, as long as the process lives
    import obstore.store

    return obstore.store.MemoryStore()


def _client_options(
    env: Mapping[str, str], config: Mapping[str, Any], *, data: bool
) -> dict[str, Any]:
    endpoints = [
        *(str(config[key]) for key in config if key.endswith(("endpoint", "endpoint_url", "url"))),
        *(env[key] for key in env if key.endswith(("_ENDPOINT_URL", "_ENDPOINT", "_BASE_URL"))),
    ]
    said = [env.get(f"{front}_ALLOW_HTTP", "").lower() for front in ("AWS", "GOOGLE", "AZURE")]
    plain = any(one.startswith("http://") for one in endpoints) or bool(
        {"true", "1", "yes", "on"} & set(said)
    )
    seconds = dt.timedelta
    options: dict[str, Any] = {
        "connect_timeout": seconds(seconds=5),
        "timeout": seconds(seconds=_DATA_S if data else _CONTROL_S),
        "read_timeout": seconds(seconds=_PAUSE_S if data else _CONTROL_S),
    }
    if plain:
        options["allow_http"] = True
    if env.get("AZURE_STORAGE_USE_EMULATOR", "").lower() in ("true", "1"):
        options["allow_http"] = True
    return options


def _retries(retry_s: float | None, *, data: bool) -> dict[str, Any]:
    seconds = dt.timedelta
    usual_s = _DATA_RETRY_S if data else _CONTROL_RETRY_S
    return {
        "max_retries": 10,
        "retry_timeout": seconds(seconds=usual_s if retry_s is None else retry_s),
        "backoff": {
            "init_backoff": seconds(milliseconds=100),
            "max_backoff": seconds(seconds=5 if data else 3),
            "base": 2,
        },
    }
