"""The text of a playlist, and how it grows."""

from __future__ import annotations

from msgspec.structs import replace

from services.api import hls
from services.api.timeline import Recorded, build
from tests.unit.api_media.test_media_timeline import GOP2, S, archived, gap, segment


def test_a_playlist_reads_as_the_standard_says() -> None:
    items = [
        archived(segment("a", 0, GOP2[:4])),
        archived(segment("b", 10, GOP2[:4], connection="c2")),
    ]
    assert hls.playlist(build(items, [gap(4, 10)], 0, 14 * S), ended=True) == "\n".join(
        [
            "#EXTM3U",
            "#EXT-X-VERSION:7",
            "#EXT-X-PLAYLIST-TYPE:VOD",
            "#EXT-X-TARGETDURATION:6",
            "#EXT-X-MEDIA-SEQUENCE:0",
            "#EXT-X-INDEPENDENT-SEGMENTS",
            '#EXT-X-MAP:URI="segments/a.mp4",BYTERANGE="700@0"',
            "#EXT-X-PROGRAM-DATE-TIME:1970-01-01T00:00:00.000Z",
            "#EXTINF:2.000000,",
            "#EXT-X-BYTERANGE:200@700",
            "segments/a.mp4",
            "#EXT-X-PROGRAM-DATE-TIME:1970-01-01T00:00:02.000Z",
            "#EXTINF:2.000000,",
            "#EXT-X-BYTERANGE:200@900",
            "segments/a.mp4",
            '#EXT-X-DATERANGE:ID="gap-4000000",CLASS="org.lamppost.gap",'
            'START-DATE="1970-01-01T00:00:04.000Z",DURATION=6.000000,X-REASON="silent"',
            "#EXT-X-DISCONTINUITY",
            '#EXT-X-MAP:URI="segments/b.mp4",BYTERANGE="700@0"',
            "#EXT-X-PROGRAM-DATE-TIME:1970-01-01T00:00:10.000Z",
            "#EXTINF:2.000000,",
            "#EXT-X-BYTERANGE:200@700",
            "segments/b.mp4",
            "#EXT-X-PROGRAM-DATE-TIME:1970-01-01T00:00:12.000Z",
            "#EXTINF:2.000000,",
            "#EXT-X-BYTERANGE:200@900",
            "segments/b.mp4",
            "#EXT-X-ENDLIST",
            "",
        ]
    )


def test_each_part_says_its_wall_time_where_media_time_runs_apart_from_it() -> None:
    """As in the first seconds of a camera, whose line in wall time is still being laid."""
    found = segment("a", 0, GOP2[:6])
    late = tuple(
        replace(each, start_us=each.start_us + us, end_us=each.end_us + us)
        for each, us in zip(found.fragments, (0, 0, *[110_000] * 2, *[160_000] * 2), strict=True)
    )
    items = [archived(replace(found, fragments=late, end_us=late[-1].end_us))]
    lines = hls.playlist(build(items, [], 0, 6 * S), ended=True).splitlines()
    times = [line.partition(":")[2] for line in lines if "PROGRAM-DATE-TIME" in line]
    assert times == [f"1970-01-01T00:00:{at}Z" for at in ("00.000", "02.110", "04.160")]
    assert [line for line in lines if "EXTINF" in line] == ["#EXTINF:2.000000,"] * 3


def test_a_long_group_of_pictures_stays_one_part_and_sets_the_target() -> None:
    items = [archived(segment("a", 0, [True] + [False] * 9))]
    text = hls.playlist(build(items, [], 0, 10 * S), ended=True)
    assert text.count("#EXTINF:10.000000,") == 1 and "TARGETDURATION:10" in text


def test_a_playlist_that_is_read_while_footage_arrives_only_grows() -> None:
    """Line by line, each reading is the beginning of the next (a target may only be declared
    once, and stays)."""
    keys = [True, False, True, False, True, True, False, True, False, True]
    before: list[str] = []
    for count in range(1, 11):
        found = segment("a", 0, keys[:count])
        item = Recorded(found, (0, count * S), url="http://r", growing=count < 10)
        text = hls.playlist(build([item], [], 0, 60 * S, count * S), ended=False, grows=True)
        lines = text.splitlines()
        assert lines[: len(before)] == before
        assert "#EXT-X-ENDLIST" not in lines
        before = lines
    final = hls.playlist(build([archived(found)], [], 0, 10 * S), ended=True, grows=True)
    assert final.splitlines() == [*before, "#EXT-X-ENDLIST"]


def test_a_hole_that_still_grows_is_not_listed_yet() -> None:
    items = [archived(segment("a", 0, GOP2))]
    line = build(items, [], 0, 100 * S, until_us=20 * S)
    assert len(line.holes) == 1
    assert "DATERANGE" not in hls.playlist(line, ended=False)


def test_nothing_recorded_yet_is_a_valid_empty_playlist() -> None:
    text = hls.playlist(build([], [], 0, 100 * S, until_us=0), ended=False)
    assert text.startswith("#EXTM3U\n") and "#EXTINF" not in text
