"""Servers that several suites of this folder share; each starts at its first use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.servers.kafka import Kafka


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """One broker without passwords. Each module has its own: many stop it and start it."""
    with Kafka(tmp_path_factory.mktemp("kafka")) as made:
        yield made
