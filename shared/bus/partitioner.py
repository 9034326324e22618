"""Which partition a key is in: murmur2 as Kafka's default partitioner, so that a move to Kafka
keeps every key where it is."""

from __future__ import annotations

from functools import lru_cache

_M = 0x5BD1E995
_SEED = 0x9747B28C
_WORD = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """The 32-bit hash, unsigned."""
    length = len(data)
    h = (_SEED ^ length) & _WORD
    whole = length & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little")
        k = (k * _M) & _WORD
        k ^= k >> 24
        k = (k * _M) & _WORD
        h = ((h * _M) & _WORD) ^ k
    if tail := data[whole:]:
        h ^= int.from_bytes(tail, "little")
        h = (h * _M) & _WORD
    h ^= h >> 13
    h = (h * _M) & _WORD
    return h ^ (h >> 15)


@lru_cache(maxsize=16_384)
def partition_of(key: str, partitions: int) -> int:
    """The partition of a key among `partitions`. Keys are cameras, said thousands of times each."""
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions
