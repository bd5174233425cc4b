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


@pytest.fixture(scope="session")
def az_server() -> Iterator[ObjectServer]:
    with running("az") as server:
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


@pytest.fixture
def az(az_server: ObjectServer) -> Iterator[ObjectServer]:
    """The Azure server, with the environment that leads every client to it."""
    with az_server.in_environment():
        yield az_server


# What every store must do is tried on Azure by `make azure`, and by `make crash`; a sample of it
# (test_azure.py) always.
CLOUDS = ["gs", "s3", pytest.param("az", marks=pytest.mark.campaign)]


@pytest.fixture(params=CLOUDS)
def server(request: pytest.FixtureRequest) -> ObjectServer:
    """Each of the servers in turn."""
    return request.getfixturevalue({"gs": "gcs", "s3": "s3", "az": "az"}[request.param] + "_server")


@pytest.fixture
def cloud(server: ObjectServer) -> Iterator[ObjectServer]:
    """Each of the servers in turn, with the environment that leads every client to it."""
    with server.in_environment():
        yield server
