"""Servers that several suites of this folder share; each starts at its first use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.servers.ceph import Ceph
from tests.support.servers.seaweed import Seaweed
from tests.support.servers.toxiproxy import Toxiproxy


@pytest.fixture(scope="package")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with Seaweed(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(scope="package")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    with Ceph(tmp_path_factory.mktemp("ceph")) as server:
        yield server


@pytest.fixture(scope="package")
def toxiproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toxiproxy]:
    with Toxiproxy(tmp_path_factory.mktemp("toxiproxy")) as proxies:
        yield proxies
