"""A recorded file as what a camera would send: coded pictures with their times, packed once.

Nothing is encoded again. The pictures of a file are demuxed, cut into RTP packets and kept as bytes
that need only three numbers a packet to be a certain camera's: sixty cameras on one file cost its
memory once (services/replay/packets.py). docs/guide/load-testing.md.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
from av.error import FFmpegError

from services.ingest import nal, sps
from services.replay.packets import CLOCK_HZ, Template, packed
from shared.domain import Codec
from shared.errors import Kind, LamppostError

CODECS = {"h264": Codec.H264, "hevc": Codec.H265}
MAX_CLIP_BYTES = 512 * 1024 * 1024
"""Of one file in memory; every process of a replay holds each file once."""
MAX_PICTURES = 1_000_000
SUFFIXES = frozenset({".mp4", ".mkv", ".mov", ".m4v", ".ts"})
_CUT = "Cut it without encoding: ffmpeg -i IN -t 60 -c copy OUT.mp4."
_ENCODE = "Encode it: ffmpeg -i IN -an -c:v libx264 -g 50 OUT.mp4."


class Picture(NamedTuple):
    """One access unit. Times in ticks of 1/90,000 s from the clip's first decode time."""

    pts: int
    send: int
    """When it leaves: its decode time, late by as much as no picture leaves before it is taken."""
    key: bool
    template: Template


class Clip(NamedTuple):
    """A file that is replayed round and round."""

    path: str
    codec: Codec
    width: int
    height: int
    rate_fps: float
    sets: tuple[bytes, ...]
    """Parameter sets in order."""
    pictures: tuple[Picture, ...]
    length: int
    """Ticks until it repeats."""
    sends: tuple[int, ...]
    keys: tuple[int, ...]
    """Indexes of the key pictures; the first picture is one."""

    @property
    def size_bytes(self) -> int:
        return sum(len(picture.template.data) for picture in self.pictures)

    @property
    def bitrate_bps(self) -> float:
        return self.size_bytes * 8 * CLOCK_HZ / self.length

    def following_key(self, index: int) -> int:
        """The index of the first key picture at or after `index`; `len(pictures)` at the end."""
        at = bisect_left(self.keys, index)
        return self.keys[at] if at < len(self.keys) else len(self.pictures)


def files_of(paths: Sequence[Path]) -> list[Path]:
    """The files, with folders replaced by the video files in them; INVALID when there is none."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise LamppostError(
                    Kind.INVALID,
                    f"No video is in {path}.",
                    fix=f"Files that end in {', '.join(sorted(SUFFIXES))} count.",
                )
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise LamppostError(
                Kind.INVALID, f"There is no file {path}.", fix="Name files or folders of video."
            )
    return found


class _Raw(NamedTuple):
    nals: list[bytes]
    pts: int
    dts: int
    key: bool


def read(path: Path) -> Clip:
    """Read and pack a file. INVALID or UNSUPPORTED, with what to do, when it cannot be replayed."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise LamppostError(
                    Kind.INVALID, f"{path.name} has no video.", fix="Name a file with video."
                )
            stream = container.streams.video[0]
            context = stream.codec_context
            codec = CODECS.get(context.name)
            if codec is None:
                raise LamppostError(
                    Kind.UNSUPPORTED,
                    f"{path.name} holds {context.name}; cameras send H.264 or H.265.",
                    fix=_ENCODE,
                )
            extradata = bytes(context.extradata or b"")
            if stream.time_base is None:
                raise _timeless(path)
            raws, length = _demuxed(path, container, stream, codec, extradata)
            rate = float(stream.average_rate or 0)
            size = (context.width, context.height)
            tick = stream.time_base * CLOCK_HZ
    except FFmpegError as error:
        raise LamppostError(
            Kind.INVALID, f"Cannot read {path.name}: {error.strerror}.", fix=_ENCODE
        ) from error
    sets = nal.ParameterSets(codec, extradata)
    for raw in raws:
        sets.update([unit for unit in raw.nals if _is_set(unit, codec)])
    if not sets.complete:
        raise LamppostError(Kind.UNSUPPORTED, f"{path.name} has no parameter sets.", fix=_ENCODE)
    return _clip(path, codec, size, rate, sets.value(), raws, length, tick)


def _timeless(path: Path) -> LamppostError:
    return LamppostError(
        Kind.UNSUPPORTED,
        f"The pictures of {path.name} have no times.",
        fix="Put it into MP4: ffmpeg -i IN -c copy OUT.mp4; or encode it.",
    )


def _demuxed(
    path: Path,
    container: av.container.InputContainer,
    stream: av.VideoStream,
    codec: Codec,
    extradata: bytes,
) -> tuple[list[_Raw], int]:
    """The access units from the first key picture on, and the clip's length, in its own ticks."""
    length_size = nal.length_size_of(extradata, codec)
    raws: list[_Raw] = []
    held = duration = 0
    for packet in container.demux(stream):
        if not packet.size:
            continue
        if packet.pts is None or packet.dts is None:
            raise _timeless(path)
        if not raws and not packet.is_keyframe:
            continue
        unit = nal.to_unit(bytes(packet), codec, length_size)
        if unit is None or not unit.picture:
            continue
        spans = nal.length_spans(unit.data) or []
        held += len(unit.data)
        if held > MAX_CLIP_BYTES or len(raws) >= MAX_PICTURES:
            raise LamppostError(
                Kind.TOO_LARGE, f"{path.name} is too large to be held in memory.", fix=_CUT
            )
        if raws and packet.dts <= raws[-1].dts:
            raise LamppostError(
                Kind.UNSUPPORTED, f"The times of {path.name} run backwards.", fix=_ENCODE
            )
        nals = [unit.data[start:end] for start, end in spans]
        raws.append(_Raw(nals, packet.pts, packet.dts, bool(packet.is_keyframe)))
        duration = packet.duration or 0
    if len(raws) < 2:
        raise LamppostError(
            Kind.INVALID, f"{path.name} has fewer than two pictures.", fix="Name a longer file."
        )
    span = raws[-1].dts - raws[0].dts
    return raws, span + (duration or max(1, span // (len(raws) - 1)))


def _is_set(unit: bytes, codec: Codec) -> bool:
    kinds = (7, 8) if codec is Codec.H264 else (32, 33, 34)
    return bool(unit) and nal.kind_of(unit, codec) in kinds


def _clip(
    path: Path,
    codec: Codec,
    size: tuple[int, int],
    rate: float,
    sets: tuple[bytes, ...],
    raws: list[_Raw],
    length: int,
    tick: Fraction,
) -> Clip:
    first = raws[0].dts
    delay = max(raw.pts - raw.dts for raw in raws)
    pictures = []
    for raw in raws:
        units = raw.nals
        if raw.key and not any(_is_set(unit, codec) for unit in units):
            # As cameras do: whoever joins at a key picture has what a decoder needs.
            units = [*sets, *units]
        pictures.append(
            Picture(
                pts=round((raw.pts - first) * tick),
                send=round((raw.dts - first + delay) * tick),
                key=raw.key,
                template=packed(units, codec),
            )
        )
    picture = next((p for p in (sps.parse(s, codec) for s in sets if _is_sps(s, codec)) if p), None)
    width, height = (picture.width, picture.height) if picture else size
    return Clip(
        path=str(path),
        codec=codec,
        width=width,
        height=height,
        rate_fps=rate if 0 < rate <= 1000 else 0.0,
        sets=sets,
        pictures=tuple(pictures),
        length=round(length * tick),
        sends=tuple(one.send for one in pictures),
        keys=tuple(number for number, one in enumerate(pictures) if one.key),
    )


def _is_sps(unit: bytes, codec: Codec) -> bool:
    return nal.kind_of(unit, codec) == (7 if codec is Codec.H264 else 33)
