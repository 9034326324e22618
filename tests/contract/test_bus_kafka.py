"""Port `Bus` on Kafka: the contracts of test_bus.py and test_bus_groups.py on a real broker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.contract.test_bus import BusLogContract
from tests.contract.test_bus_groups import BusGroupContract
from tests.support.bus_harness import Harness, KafkaHarness
from tests.support.servers.kafka import Kafka

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with Kafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture
async def kafka_harness(broker: Kafka, tmp_path: Path) -> AsyncIterator[KafkaHarness]:
    harness = KafkaHarness(broker, tmp_path)
    yield harness
    await harness.close()


class TestKafkaBus(BusLogContract):
    @pytest.fixture
    async def harness(self, kafka_harness: KafkaHarness) -> KafkaHarness:  # type: ignore[override]
        return kafka_harness

    @pytest.mark.xfail(
        strict=True,
        reason="The broker dates records, so that a recorder's wrong clock costs no event.",
    )
    async def test_a_record_is_dated_by_the_clock_of_who_published_it(
        self, harness: Harness
    ) -> None:
        await super().test_a_record_is_dated_by_the_clock_of_who_published_it(harness)

    @pytest.mark.xfail(
        strict=True, reason="Kafka drops old segments by itself, by its own clock; trim drops none."
    )
    async def test_trim_drops_what_is_older_than_its_topic_keeps(self, harness: Harness) -> None:
        harness.clock.advance = _no_time  # type: ignore[method-assign]
        await super().test_trim_drops_what_is_older_than_its_topic_keeps(harness)

    @pytest.mark.xfail(strict=True, reason="Kafka compacts by itself, in its own time.")
    async def test_compaction_keeps_the_newest_of_each_key(self, harness: Harness) -> None:
        await super().test_compaction_keeps_the_newest_of_each_key(harness)


async def _no_time(_seconds: float) -> None:
    """A day cannot pass here."""


class TestKafkaBusGroups(BusGroupContract):
    @pytest.fixture
    async def harness(self, kafka_harness: KafkaHarness) -> KafkaHarness:  # type: ignore[override]
        return kafka_harness
