"""The end of a group of pictures that nobody will look at, left undecoded.

A sampled stream is decoded from its key frame on, since each picture refers to those before it.
Behind the last picture that is due before the next key frame there is nothing to look at: such
packets are held back, and forgotten once that key frame comes. When it comes is taken from the
group before; where a group is longer than that one, what was held back is decoded after all, in
order, so that no picture that is due is lost. docs/architecture.md, "ingest", analysis frames.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from services.ingest import nal
from services.ingest.source import Packet, StreamInfo

HELD_PACKETS = 300
HELD_BYTES = 4 * 1024 * 1024


class Offer(NamedTuple):
    """A packet of a stream, and when it was offered, by the monotonic clock."""

    packet: Packet
    info: StreamInfo
    offered_us: int


class Tail:
    """Decides which packets are decoded now. One thread."""

    def __init__(self) -> None:
        self._held: list[Offer] = []
        self._bytes = 0
        self._begun_us: int | None = None
        self._length_us: int | None = None

    def ready(self, offer: Offer, idle: Callable[[int, int], bool]) -> list[Offer]:
        """What to decode now, in order: the packet with all that was held back before it, or
        nothing. `idle(at_us, until_us)` tells whether a picture of `at_us` is not due, nor any
        other before a key frame at `until_us`."""
        packet = offer.packet
        if packet.key:
            if self._held and closes(offer):
                self.forget()
            if self._begun_us is not None:
                length_us = packet.received_us - self._begun_us
                self._length_us = length_us if length_us > 0 else None
            self._begun_us = packet.received_us
        if self._may_wait(packet, idle):
            self._held.append(offer)
            self._bytes += len(packet.data)
            return []
        ready = [*self._held, offer]
        self.forget()
        return ready

    def forget(self) -> None:
        """Nothing held back is decoded any more."""
        self._held = []
        self._bytes = 0

    def _may_wait(self, packet: Packet, idle: Callable[[int, int], bool]) -> bool:
        if self._begun_us is None or self._length_us is None or packet.new_extradata:
            return False
        if len(self._held) >= HELD_PACKETS or self._bytes + len(packet.data) > HELD_BYTES:
            return False
        return idle(packet.received_us, self._begun_us + self._length_us)


def closes(offer: Offer) -> bool:
    """Whether nothing from this key frame on refers to anything before it."""
    info = offer.info
    size = nal.length_size_of(info.extradata, info.codec)
    unit = nal.to_unit(offer.packet.data, info.codec, size)
    return unit is not None and unit.idr
