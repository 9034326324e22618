"""A timeline shows everything that was recorded once, in order, and names the rest."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from services.api import hls
from services.api.timeline import EXPIRED, UNACCOUNTED, Recorded, Timeline, build, window
from shared import intervals
from shared.clock import SECOND_US
from shared.domain import ClockSource, Codec, Fragment, Gap, GapReason, Segment

S = SECOND_US
INIT = 700


def segment(
    name: str,
    start_s: int,
    keys: Sequence[bool],
    *,
    connection: str = "c1",
    init: str = "i1",
    epoch: int = 1,
    tfdt_s: int | None = None,
) -> Segment:
    """One-second fragments of 100 bytes; `keys` says which begin with a key frame."""
    first = start_s if tfdt_s is None else tfdt_s
    fragments = tuple(
        Fragment(
            offset=INIT + index * 100,
            size=100,
            start_us=(start_s + index) * S,
            end_us=(start_s + index + 1) * S,
            key=key,
            sha256=b"x" * 32,
            samples=10,
            base_time=(first + index) * 90_000,
        )
        for index, key in enumerate(keys)
    )
    return Segment(
        id=name,
        camera_id="cam",
        start_us=start_s * S,
        end_us=(start_s + len(keys)) * S,
        size_bytes=INIT + 100 * len(keys),
        sha256="0" * 64,
        codec=Codec.H264,
        width=640,
        height=360,
        timescale=90_000,
        init_size=INIT,
        init_sha256=init,
        connection_id=connection,
        recorder="r",
        epoch=epoch,
        clock_source=ClockSource.RECEIPT,
        clock_uncertainty_us=0,
        fragments=fragments,
    )


def archived(found: Segment, **more: object) -> Recorded:
    item = Recorded(found, (found.start_us, found.end_us), key=f"v1/{found.id}")
    return item._replace(**more)  # type: ignore[arg-type]


def gap(start_s: int, end_s: int, reason: GapReason = GapReason.SILENT, epoch: int = 0) -> Gap:
    return Gap(
        id=f"g{start_s}",
        camera_id="cam",
        start_us=start_s * S,
        end_us=end_s * S,
        reason=reason,
        epoch=epoch,
    )


GOP2 = [True, False] * 5


def spans(line: Timeline) -> list[tuple[str, float, float]]:
    return [
        (piece.source.segment.id, piece.start_us / S, piece.end_us / S) for piece in line.pieces
    ]


def test_segments_of_one_connection_run_on() -> None:
    line = build([archived(segment("a", 0, GOP2)), archived(segment("b", 10, GOP2))], [], 0, 20 * S)
    assert [piece.continues for piece in line.pieces] == [False, True]
    assert len(line.runs()) == 1 and line.holes == ()


def test_another_connection_or_init_section_begins_a_new_run() -> None:
    for other in ({"connection": "c2"}, {"init": "i2"}):
        line = build(
            [archived(segment("a", 0, GOP2)), archived(segment("b", 10, GOP2, **other))],  # type: ignore[arg-type]
            [],
            0,
            20 * S,
        )
        assert len(line.runs()) == 2 and line.holes == ()


def test_a_range_inside_begins_at_the_key_frame_before() -> None:
    line = build([archived(segment("a", 0, GOP2))], [], 3 * S + 1, 5 * S)
    piece = line.pieces[0]
    assert (piece.media_start_us, piece.start_us, piece.end_us) == (2 * S, 3 * S + 1, 5 * S)
    assert piece.media_end_us == 5 * S


def test_a_file_that_begins_without_a_key_frame_is_entered_at_its_first() -> None:
    line = build([archived(segment("a", 0, [False, False, True, False]))], [], 0, 4 * S)
    assert spans(line) == [("a", 2, 4)]
    assert [(hole.end_us, hole.reason) for hole in line.holes] == [(2 * S, UNACCOUNTED)]


def test_the_higher_epoch_has_the_seconds_that_two_recorders_recorded() -> None:
    old = archived(segment("old", 0, GOP2, epoch=1))
    new = archived(segment("new", 4, [True, False], connection="c2", epoch=2))
    line = build([old, new], [], 0, 10 * S)
    assert spans(line) == [("old", 0, 4), ("new", 4, 6), ("old", 6, 10)]
    assert len(line.runs()) == 3


def test_an_effective_interval_is_obeyed() -> None:
    item = archived(segment("a", 0, GOP2), effective=(0, 4 * S))
    line = build([item], [], 0, 10 * S)
    assert spans(line) == [("a", 0, 4)]


def test_a_segment_in_both_places_counts_once_and_keeps_both() -> None:
    found = segment("a", 0, GOP2)
    spooled = Recorded(found, (0, 10 * S), url="http://r", growing=True)
    for order in ([spooled, archived(found)], [archived(found), spooled]):
        line = build(order, [], 0, 10 * S)
        (piece,) = line.pieces
        assert (piece.source.key, piece.source.url) == ("v1/a", "http://r")
        assert not piece.source.growing


def test_closed_footage_is_a_hole_of_its_own_reason() -> None:
    items = [archived(segment("a", 0, GOP2), closed=EXPIRED), archived(segment("b", 10, GOP2))]
    line = build(items, [gap(0, 5)], 0, 20 * S)
    assert spans(line) == [("b", 10, 20)]
    assert [(hole.start_us, hole.end_us, hole.reason) for hole in line.holes] == [
        (0, 10 * S, EXPIRED)
    ]


def test_the_time_to_come_is_no_hole() -> None:
    line = build([archived(segment("a", 0, GOP2))], [], 0, 100 * S, until_us=12 * S)
    assert [(hole.start_us, hole.end_us) for hole in line.holes] == [(10 * S, 12 * S)]


def test_a_rounding_error_inside_a_connection_is_no_hole() -> None:
    later = segment("b", 10, GOP2)
    moved = replace(
        later,
        start_us=later.start_us + 40,
        fragments=(
            replace(later.fragments[0], start_us=later.start_us + 40),
            *later.fragments[1:],
        ),
    )
    line = build([archived(segment("a", 0, GOP2)), archived(moved)], [], 0, 20 * S)
    assert line.holes == ()


def test_window_of_nothing_is_empty() -> None:
    assert window((), (0, 1)) == (0, 0)
    assert window(segment("a", 0, [False]).fragments, (0, S)) == (1, 1)


@st.composite
def recordings(draw: st.DrawFn) -> tuple[list[Recorded], list[Gap]]:
    """Segments of a few connections and epochs, over each other or apart, and gap rows."""
    items = []
    for number in range(draw(st.integers(0, 6))):
        keys = [True, *draw(st.lists(st.booleans(), min_size=0, max_size=9))]
        found = segment(
            f"s{number}",
            draw(st.integers(0, 40)),
            keys,
            connection=draw(st.sampled_from(["c1", "c2"])),
            init=draw(st.sampled_from(["i1", "i2"])),
            epoch=draw(st.integers(1, 3)),
        )
        closed = draw(st.sampled_from(["", "", "", EXPIRED]))
        items.append(archived(found, closed=closed))
    gaps = [
        gap(start, start + draw(st.integers(1, 8)), epoch=draw(st.integers(0, 2)))
        for start in draw(st.lists(st.integers(0, 45), max_size=4))
    ]
    return items, gaps


@settings(max_examples=200, deadline=None)
@given(recordings(), st.integers(0, 30 * S), st.integers(1, 30 * S))
def test_each_instant_is_shown_or_named_exactly_once(
    made: tuple[list[Recorded], list[Gap]], start: int, length: int
) -> None:
    items, gaps = made
    line = build(items, gaps, start, start + length)
    shown = [(piece.start_us, piece.end_us) for piece in line.pieces]
    named = [(hole.start_us, hole.end_us) for hole in line.holes]
    assert sum(b - a for a, b in shown) == intervals.total(shown), "pieces never overlap"
    assert shown == sorted(shown)
    assert intervals.union([*shown, *named]) == [(start, start + length)]
    assert intervals.intersect(shown, named) == []
    open_spans = [item.effective for item in items if not item.closed]
    closed_spans = [item.effective for item in items if item.closed]
    anything = intervals.intersect(open_spans, [(start, start + length)])
    assert intervals.subtract(shown, anything) == []
    # Nothing that only open segments recorded is left out.
    assert intervals.subtract(intervals.subtract(anything, closed_spans), shown) == []


@settings(max_examples=200, deadline=None)
@given(recordings(), st.integers(0, 30 * S), st.integers(1, 30 * S))
def test_pieces_can_be_decoded_and_lie_within_their_files(
    made: tuple[list[Recorded], list[Gap]], start: int, length: int
) -> None:
    items, gaps = made
    for piece in build(items, gaps, start, start + length).pieces:
        segment_ = piece.source.segment
        assert piece.fragments[0].key
        first = segment_.fragments.index(piece.fragments[0])
        assert piece.fragments == segment_.fragments[first : first + len(piece.fragments)]
        assert piece.media_start_us <= piece.start_us < piece.end_us <= piece.media_end_us


@settings(max_examples=200, deadline=None)
@given(recordings(), st.integers(0, 30 * S), st.integers(1, 30 * S))
def test_a_playlist_names_every_byte_of_every_piece_once(
    made: tuple[list[Recorded], list[Gap]], start: int, length: int
) -> None:
    items, gaps = made
    line = build(items, gaps, start, start + length)
    for piece in line.pieces:
        parts = hls.parts(piece)
        assert all(part.key for part in parts)
        assert [part.offset + part.size for part in parts[:-1]] == [p.offset for p in parts[1:]]
        assert sum(part.size for part in parts) == sum(each.size for each in piece.fragments)
        assert sum(part.duration_us for part in parts) == piece.media_end_us - piece.media_start_us
    text = hls.playlist(line, ended=True)
    durations = [float(row[8:-1]) for row in text.splitlines() if row.startswith("#EXTINF:")]
    media = sum(piece.media_end_us - piece.media_start_us for piece in line.pieces)
    assert abs(sum(durations) - media / S) < 1e-3
    target = next(int(row[22:]) for row in text.splitlines() if "TARGETDURATION" in row)
    assert all(duration <= target for duration in durations)
    assert text.count("#EXT-X-DISCONTINUITY") == max(0, len(line.runs()) - 1)
    assert text.count("#EXT-X-DATERANGE") == len(line.holes)
