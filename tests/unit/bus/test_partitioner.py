"""Keys lie where Kafka's default partitioner puts them."""

import pytest

from shared.bus.partitioner import murmur2, partition_of


@pytest.mark.parametrize(
    ("data", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_the_hash_is_kafkas(data: bytes, signed: int) -> None:
    """Values from the tests of Kafka's own client."""
    assert murmur2(data) == signed & 0xFFFFFFFF


def test_partitions_are_used_evenly() -> None:
    counts = [0] * 16
    for number in range(1_600):
        counts[partition_of(f"mk-argyle-{number:02d}", 16)] += 1
    assert min(counts) > 50 and max(counts) < 170
