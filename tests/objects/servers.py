# SPDX-License-Identifier: Apache-2.0
"""Object stores of the tests: servers in processes of their own, on free ports of 127.0.0.1.

Which environment makes each client library speak to them stands here, and nowhere else.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

from tests.objects import azure_requests

ROOT = Path(__file__).resolve().parents[2]
Scheme = Literal["gs", "s3", "az"]
MODULES: Mapping[Scheme, str] = {
    "gs": "tests.objects.gcs",
    "s3": "tests.objects.s3",
    "az": "tests.objects.azure",
}
AZURITE = os.environ.get("PERTINAX_AZURITE")
"""Where `make azure` has Azurite: then it stands in for our own server."""
_KEYS = re.compile(r"<Key>(.*?)</Key>|<Blob><Name>(.*?)</Name>")


@dataclass(frozen=True)
class ObjectServer:
    """A server that listens: its scheme and its port."""

    scheme: Scheme
    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def new_bucket(self) -> str:
        """Make an empty bucket; its name."""
        name = f"b{uuid.uuid4().hex[:12]}"
        self.ask("PUT", f"/{name}?restype=container" if self.scheme == "az" else f"/{name}")
        return name

    def new_root(self) -> str:
        """A URL in a bucket of its own."""
        return f"{self.scheme}://{self.new_bucket()}"

    def keys(self, url: str) -> list[str]:
        """The keys below a URL, relative to it: at most a page of them."""
        bucket, _, prefix = url.split("://")[1].partition("/")
        asked = "restype=container&comp=list" if self.scheme == "az" else "list-type=2"
        told = self.ask("GET", f"/{bucket}?{asked}&prefix={prefix}/").decode()
        return [(one or other)[len(prefix) + 1 :] for one, other in _KEYS.findall(told)]

    def put(self, url: str, content: bytes) -> None:
        """Write an object."""
        kind = {"x_ms_blob_type": "BlockBlob"} if self.scheme == "az" else {}
        self.ask("PUT", f"/{url.split('://')[1]}", content, **kind)

    def remove(self, url: str) -> None:
        """Delete an object."""
        self.ask("DELETE", f"/{url.split('://')[1]}")

    def ask(self, method: str, target: str, body: bytes = b"", **headers: str) -> bytes:
        """One plain request; the body of the reply."""
        status, answer = self.try_ask(method, target, body, **headers)
        assert status < 300, (method, target, status, answer)
        return answer

    def try_ask(
        self, method: str, target: str, body: bytes = b"", **headers: str
    ) -> tuple[int, bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.scheme == "s3":  # moto tells services apart by the signature
            scope = "x/20260101/us-east-1/s3/aws4_request"
            named["Authorization"] = (
                f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"
            )
        if self.scheme == "az":
            target = f"/{azure_requests.ACCOUNT}{target}"
            named |= azure_requests.signed(method, target, len(body), named)
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, target, body, named)
            with contextlib.closing(connection.getresponse()) as reply:
                return reply.status, reply.read()

    def behind(self, port: int) -> "ObjectServer":
        """The same server, reached through a proxy at `port`."""
        return ObjectServer(self.scheme, port)

    @property
    def environment(self) -> dict[str, str]:
        """What makes obstore, TensorStore, gcsfs and their kin speak to this server."""
        if self.scheme == "gs":
            return {
                "STORAGE_EMULATOR_HOST": self.endpoint,
                "TENSORSTORE_GCS_HTTP_URL": self.endpoint,
                "GOOGLE_CLOUD_PROJECT": "tests",
                "NO_GCE_CHECK": "true",  # nobody asks 169.254.169.254 who we are
            }
        if self.scheme == "az":
            return {
                "AZURE_STORAGE_USE_EMULATOR": "true",
                "AZURITE_BLOB_STORAGE_URL": self.endpoint,
            }
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "not-a-secret",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def obstore_config(self) -> dict[str, Any]:
        """What a plain obstore client needs besides the environment.

        `skip_signature` would not do: obstore 0.12 asks for a token before it writes all the same.
        """
        if self.scheme != "gs":
            return {}
        facts = {"gcs_base_url": self.endpoint, "disable_oauth": True}
        nobody = {"client_email": "", "private_key": "", "private_key_id": ""}
        return {"service_account_key": json.dumps({**facts, **nobody})}

    @contextlib.contextmanager
    def in_environment(self) -> Iterator[None]:
        with patch.dict(os.environ, self.environment):
            yield


@contextlib.contextmanager
def running(scheme: Scheme, module: str | None = None) -> Iterator[ObjectServer]:
    """Start a server and end it. It says its port as soon as it listens."""
    command = [sys.executable, "-m", module or MODULES[scheme]]
    if scheme == "az" and AZURITE:
        command = azure_requests.azurite(AZURITE)
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        said = child.stdout.readline()
        while "listens on http" not in said and not said.strip().isdigit():
            assert said, f"the {scheme} server did not start"
            said = child.stdout.readline()
        yield ObjectServer(scheme, int(re.findall(r"\d+", said)[-1]))
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
