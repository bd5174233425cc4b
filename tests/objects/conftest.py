# SPDX-License-Identifier: Apache-2.0
"""Fixtures: object stores that start when the first test asks, and end with the session."""

from collections.abc import Iterator

import fsspec
import pytest

from tests.objects.servers import ObjectServer, running

# epath would remember lists that others have made out of date.
for protocol in ("gs", "gcs"):
    fsspec.config.conf.setdefault(protocol, {})["use_listings_cache"] = False


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[ObjectServer]:
    with running("gs") as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[ObjectServer]:
    with running("s3") as server:
        yield server


@pytest.fixture
def gcs(gcs_server: ObjectServer) -> Iterator[ObjectServer]:
    """The GCS server, with the environment that leads every client to it."""
    with gcs_server.in_environment():
        yield gcs_server


@pytest.fixture
def s3(s3_server: ObjectServer) -> Iterator[ObjectServer]:
    """The S3 server, with the environment that leads every client to it."""
    with s3_server.in_environment():
        yield s3_server


@pytest.fixture(params=["gs", "s3"])
def cloud(request: pytest.FixtureRequest) -> ObjectServer:
    """Each of the servers in turn."""
    return request.getfixturevalue({"gs": "gcs", "s3": "s3"}[request.param])
