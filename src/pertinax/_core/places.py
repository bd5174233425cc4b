# SPDX-License-Identifier: Apache-2.0
"""Places: what people write for a path, and the store and the absolute path that it means.

Knows the spellings: text, path objects, `~`, relative paths, `file://`, URLs of object
stores. Knows nothing of what lies there.
"""

import os
import re
import urllib.parse

from pertinax._store.contract import Peculiar, Store
from pertinax._store.local import LocalStore
from pertinax._store.objects.urls import is_url, parse_url
from pertinax.errors import InvalidOption
from pertinax.typing import PathLike

_SCHEME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.-]*")


def locate(path: PathLike, store: Store | None = None) -> tuple[Store, str]:
    """The store and the absolute path. A `store` given by the caller is used as it is.

    Raises `InvalidOption` for an empty path or a scheme that no store serves.
    """
    text = os.fspath(path)
    if not isinstance(text, str) or not text or "\0" in text:
        raise InvalidOption(f"not a path: {path!r}")
    if store is not None:
        if {".", ".."} & set(text.split("/")):
            raise InvalidOption(f"not a plain path: {path!r}")
        return store, store.absolute(text) if isinstance(store, Peculiar) else "/" + text.strip("/")
    if is_url(text):
        # What speaks with buckets is loaded when the first is met.
        from pertinax._store.objects.store import ObjectStore

        return ObjectStore(text), parse_url(text).url
    scheme, separator, rest = text.partition("://")
    if separator and scheme == "file":
        local = rest.removeprefix("localhost") if rest.startswith("localhost/") else rest
        if not local.startswith("/"):
            raise InvalidOption(f"{path!r} is on another machine: file:///path is on this one")
        text = urllib.parse.unquote(local)
    elif separator and _SCHEME.fullmatch(scheme):
        raise InvalidOption(
            f"no store for {scheme}:// in {path!r}: give a path on this machine, or s3://, gs://, "
            "az:// or memory://"
        )
    return LocalStore(), os.path.abspath(os.path.expanduser(text))
