"""From packets to fragments and segments: a pure state machine, no file, no clock.

`push` and `finish` return what is to be done, in order. Cuts: fragments at key frames and by time;
segments at a key frame once they are long enough (at an IDR where the stream has them), at the
first key frame after local midnight, at changed parameter sets, and where timestamps jump. Within
one run everything abuts: an end is the next start. See docs/architecture.md, "ingest".
"""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from services.ingest import fmp4, nal, sps
from services.ingest.fmp4 import TIMESCALE, Init, Sample
from services.ingest.source import Packet, SourceError, StreamInfo
from services.ingest.timeline import ClockFacts, Timeline
from shared import civil
from shared.domain import Codec, GapReason

JUMP = 2 * TIMESCALE
BACKWARD_REPAIRABLE = TIMESCALE
MAX_SHIFT = 10 * TIMESCALE
MAX_PACKET_BYTES = 64 * 1024 * 1024
MAX_FRAGMENT_BYTES = 16 * 1024 * 1024
MAX_GOP = 600 * TIMESCALE
MAX_GOP_BYTES = 512 * 1024 * 1024
IDR_PATIENCE = 1.5
"""A stream with IDRs may run this much over a segment's length to be cut at one."""


class Open(NamedTuple):
    """Begin a segment; `run` changes where media time does not run on."""

    init: Init
    start_us: int
    run: int
    clock: ClockFacts


class Write(NamedTuple):
    """Append one fragment: these bytes, one part after the other."""

    parts: tuple[bytes, ...]
    start_us: int
    end_us: int
    key: bool
    samples: int
    base_time: int


class Close(NamedTuple):
    """The segment is whole and ends here."""

    end_us: int


class Hole(NamedTuple):
    """What follows is not recorded for this reason until the next `Open`."""

    reason: GapReason
    detail: str


Action = Open | Write | Close | Hole


class Segmenter:
    """One connection's packets in, actions out."""

    def __init__(
        self,
        info: StreamInfo,
        *,
        segment_s: float,
        fragment_s: float,
        zone: ZoneInfo,
        floor_us: int | None = None,
    ) -> None:
        self._info = info
        self._zone = zone
        self._segment_len = round(segment_s * TIMESCALE)
        self._fragment_len = round(fragment_s * TIMESCALE)
        self._codec: Codec = info.codec
        self._length_size = nal.length_size_of(info.extradata, info.codec)
        self._sets = nal.ParameterSets(info.codec, info.extradata)
        self._config = info.extradata if self._length_size == 4 else None
        self._config_sets = self._sets.value()
        rate = info.rate_fps if 0.01 <= info.rate_fps <= 1_000 else 25.0
        self._usual = max(1, round(TIMESCALE / rate))
        self._scale = (info.time_base.numerator * TIMESCALE, info.time_base.denominator)
        self._floor_us = floor_us
        self._prefix = b""
        self._run = 0
        self._sequence = 0
        self._segment_open = False
        self._segment_sets: tuple[bytes, ...] = ()
        self._segment_base = 0
        self._midnight_us = 0
        self._fragments = 0
        self._idr_seen = False
        self._new_run()

    def _new_run(self) -> None:
        """Media time begins anew with the next packet."""
        self._run += 1
        self._timeline = Timeline(self._info.clock_source, self._floor_us)
        self._origin: int | None = None
        self._last = 0
        self._delta = self._usual
        self._samples: list[Sample] = []
        self._bytes = 0
        self._wall_us: int | None = None
        self._started = False
        self._gop_base = 0
        self._gop_bytes = 0

    @property
    def waiting(self) -> bool:
        """No key frame was met yet in this run."""
        return not self._started

    def push(self, packet: Packet) -> list[Action]:
        """Take one packet; raises SourceError when the stream has to be begun anew, after which
        `finish` closes what is open."""
        if packet.new_extradata:
            self._take_extradata(packet.new_extradata)
        if len(packet.data) > MAX_PACKET_BYTES:
            raise SourceError(GapReason.BROKEN_STREAM, "a picture of more than 64 MiB")
        unit = nal.to_unit(packet.data, self._codec, self._length_size)
        if unit is None:
            return []
        if unit.sets:
            self._sets.update(unit.sets)
        if not unit.picture:
            self._prefix = (self._prefix + unit.data)[:MAX_PACKET_BYTES]
            return []
        data = self._prefix + unit.data if self._prefix else unit.data
        self._prefix = b""
        out: list[Action] = []
        dts, pts = self._times(packet, out)
        key = packet.key or unit.key
        media_us = dts * 100 // 9
        self._timeline.observe(media_us, packet.received_us, packet.capture_us)
        if not self._started and not self._may_start(key, dts, len(data)):
            return out
        if key:
            self._gop_base, self._gop_bytes = dts, 0
        self._gop_bytes += len(data)
        if self._gop_bytes > MAX_GOP_BYTES or dts - self._gop_base > MAX_GOP:
            raise SourceError(GapReason.NO_KEY_FRAME, "no key frame for too long")
        if self._samples and self._fragment_ends(key, dts, len(data)):
            self._close_fragment(dts, out)
            if not self._started:
                return [*out, *self._restart(packet, data, key)]
        if key and self._segment_open and self._segment_ends(dts, unit.idr):
            self._close_segment(out)
            self._segment_sets = self._sets.value()
        if unit.idr and self._fragments:
            self._idr_seen = True
        self._samples.append(Sample(data, dts, pts - dts, key))
        self._bytes += len(data)
        return out

    def finish(self, now_us: int) -> list[Action]:
        """The connection is over: close what is open. The last picture lasts as long as the one
        before it, but never beyond now (invariant 10)."""
        out: list[Action] = []
        if self._samples:
            self._close_fragment(self._last + self._delta, out, now_us)
        if self._segment_open:
            self._close_segment(out)
        self._floor_us = self._wall_us if self._wall_us is not None else self._floor_us
        self._new_run()
        return out

    def _take_extradata(self, extradata: bytes) -> None:
        self._length_size = nal.length_size_of(extradata, self._codec)
        if self._sets.update(nal.sets_of_extradata(extradata, self._codec)):
            self._config = None

    def _times(self, packet: Packet, out: list[Action]) -> tuple[int, int]:
        """Decode and presentation time from the run's first packet on, repaired; starts a new run
        where they jump."""
        factor, base = self._scale
        raw = packet.dts if packet.dts is not None else packet.pts
        if raw is None or abs(raw) > 1 << 62:
            raw_dts = (self._origin or 0) + self._last + self._delta
        else:
            raw_dts = raw * factor // base
        if self._origin is None:
            self._origin = raw_dts
            self._last = -self._delta
            dts = 0
        else:
            dts = raw_dts - self._origin
        step = dts - self._last
        if step > max(JUMP, 4 * self._delta) or step < -BACKWARD_REPAIRABLE:
            out += self._jump(f"timestamps jumped by {step / TIMESCALE:.3f} s", packet.received_us)
            return self._times(packet, out)
        if step <= 0:
            dts = self._last + 1
        elif self._last >= 0:
            self._delta = step
        self._last = dts
        pts = dts
        if packet.pts is not None:
            pts = packet.pts * factor // base - self._origin
            if abs(pts - dts) > MAX_SHIFT:
                pts = dts
        return dts, pts

    def _jump(self, detail: str, now_us: int) -> list[Action]:
        return [*self.finish(now_us), Hole(GapReason.TIMESTAMP_JUMP, detail)]

    def _restart(self, packet: Packet, data: bytes, key: bool) -> list[Action]:
        """The clocks parted: the packet in hand begins a new run."""
        out: list[Action] = []
        dts, pts = self._times(packet, out)
        self._timeline.observe(dts * 100 // 9, packet.received_us, packet.capture_us)
        if self._may_start(key, dts, len(data)):
            self._samples.append(Sample(data, dts, pts - dts, key))
            self._bytes = len(data)
        return out

    def _may_start(self, key: bool, dts: int, size: int) -> bool:
        if key and self._sets.complete:
            self._started = True
            self._segment_sets = self._sets.value()
            self._gop_base, self._gop_bytes = dts, 0
            return True
        self._gop_bytes += size
        if self._gop_bytes > MAX_GOP_BYTES or dts > MAX_GOP:
            raise SourceError(GapReason.NO_KEY_FRAME, "no key frame for too long")
        return False

    def _fragment_ends(self, key: bool, dts: int, size: int) -> bool:
        return (
            key
            or dts + self._delta - self._samples[0].dts > self._fragment_len + 1
            or self._bytes + size > MAX_FRAGMENT_BYTES
            or len(self._samples) >= fmp4.MAX_FRAGMENT_SAMPLES
        )

    def _segment_ends(self, dts: int, idr: bool) -> bool:
        """Whether this key frame ends the open segment."""
        if self._sets.value() != self._segment_sets or self._end_us() >= self._midnight_us:
            return True
        length = dts - self._segment_base + self._delta // 2
        if length < self._segment_len:
            return False
        return idr or not self._idr_seen or length >= IDR_PATIENCE * self._segment_len

    def _close_fragment(self, end: int, out: list[Action], limit_us: int | None = None) -> None:
        """Write the samples in hand, opening a segment for them where none is open."""
        samples = self._samples
        first = samples[0].dts
        clock = None if self._segment_open else self._timeline.facts()
        fine = self._timeline.settle(end * 100 // 9)
        if self._wall_us is None:
            self._wall_us = self._timeline.start_us(first * 100 // 9)
        if clock is not None:
            self._open(first, clock, out)
        end_us = self._timeline.wall_us(end * 100 // 9)
        if not fine:
            end_us = self._wall_us + (end - first) * 100 // 9
        if limit_us is not None:
            end_us = min(end_us, limit_us)
        end_us = max(self._wall_us + 1, end_us)
        self._sequence += 1
        parts = fmp4.make_fragment(self._sequence, samples, end)
        out.append(Write(parts, self._wall_us, end_us, samples[0].key, len(samples), first))
        self._wall_us = end_us
        self._samples, self._bytes = [], 0
        self._fragments += 1
        if not fine:
            self._close_segment(out)
            self._floor_us = None
            self._new_run()
            out.append(Hole(GapReason.TIMESTAMP_JUMP, "the clock was set"))

    def _open(self, base: int, clock: ClockFacts, out: list[Action]) -> None:
        self._segment_open = True
        self._segment_base = base
        self._fragments = 0
        self._idr_seen = False
        start_us = self._end_us()
        day = civil.local_date(start_us, self._zone)
        self._midnight_us = civil.midnight_us(day + timedelta(days=1), self._zone)
        out.append(Open(self._init(), start_us, self._run, clock))

    def _close_segment(self, out: list[Action]) -> None:
        out.append(Close(self._end_us()))
        self._segment_open = False
        self._fragments = 0

    def _end_us(self) -> int:
        if self._wall_us is None:
            raise ValueError("nothing was written yet")
        return self._wall_us

    def _init(self) -> Init:
        """The init section of the parameter sets in force at the segment's first key frame."""
        value = self._segment_sets
        config = self._config if value == self._config_sets else None
        if config is None:
            sets = nal.ParameterSets(self._codec)
            sets.update(value)
            config = fmp4.decoder_config(sets)
        kind = 7 if self._codec is Codec.H264 else 33
        first = next((item for item in value if nal.kind_of(item, self._codec) == kind), b"")
        picture = sps.parse(first, self._codec) if first else None
        width = picture.width if picture else self._info.width
        height = picture.height if picture else self._info.height
        return fmp4.make_init(self._codec, config, width, height)
