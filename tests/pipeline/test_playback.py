"""Footage goes in as the recorder writes it, and comes out whole through the api's media routes."""

from __future__ import annotations

import io
import re
from collections.abc import AsyncIterator
from pathlib import Path

import av
import httpx2
import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from shared import civil, retention
from shared.clock import DAY_US, SECOND_US
from shared.db import tables
from shared.domain import GapReason, Role
from tests.support.media_store import (
    CAMERA,
    FRAME_US,
    POLICY,
    START_US,
    TICKS,
    Made,
    Rig,
    encoded,
    gap,
    iso,
    record,
    rig,
    shade_of,
)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as found:
        yield found


def frames_of(data: bytes) -> list[tuple[int, int]]:
    """Presentation time in ticks, and mean luma, of each picture."""
    with av.open(io.BytesIO(data), "r", format="mp4") as container:
        stream = container.streams.video[0]
        return [
            (
                round(frame.pts * frame.time_base * 90_000),
                round(frame.to_ndarray()[: frame.height].mean()),
            )
            for frame in container.decode(stream)
        ]


async def fetch_playlist(client: httpx2.AsyncClient, url: str) -> tuple[str, list[bytes]]:
    """The playlist, and for each gap-free stretch the bytes a player would join."""
    text = (await client.get(url)).raise_for_status().text
    base = url.rsplit("/", 1)[0]
    stretches: list[bytes] = []
    ranged = ""
    for line in text.splitlines():
        if found := re.match(r'#EXT-X-MAP:URI="(.+)",BYTERANGE="(\d+)@(\d+)"', line):
            stretches.append(await _range(client, f"{base}/{found[1]}", found[2], found[3]))
        elif line.startswith("#EXT-X-BYTERANGE:"):
            ranged = line.removeprefix("#EXT-X-BYTERANGE:")
        elif line and not line.startswith("#"):
            size, offset = ranged.split("@")
            stretches[-1] += await _range(client, f"{base}/{line}", size, offset)
    return text, stretches


async def _range(client: httpx2.AsyncClient, url: str, size: str, offset: str) -> bytes:
    last = int(offset) + int(size) - 1
    answer = await client.get(url, headers={"Range": f"bytes={offset}-{last}"})
    assert answer.status_code == 206, answer.text
    assert len(answer.content) == int(size)
    return answer.content


async def test_a_range_over_two_segments_plays_every_picture(store: Rig) -> None:
    made = record()
    await store.archive(made)
    opened = (await store.open("playback", START_US, START_US + 12 * SECOND_US)).json()
    assert opened["holes"] == [] and opened["recorded_s"] == 12.0
    async with store.anonymous() as player:
        text, stretches = await fetch_playlist(player, opened["url"])
    assert text.count("#EXT-X-DISCONTINUITY") == 0 and text.endswith("#EXT-X-ENDLIST\n")
    assert len(stretches) == 1
    found = frames_of(stretches[0])
    assert [ticks for ticks, _ in found] == [number * TICKS for number in range(120)]
    assert all(abs(luma - shade_of(number)) < 3 for number, (_, luma) in enumerate(found))


async def test_a_gap_is_named_and_the_media_begins_anew_after_it(store: Rig) -> None:
    before, after = record(), record(start_us=START_US + 20 * SECOND_US)
    await store.archive([*before, *after])
    lost = (START_US + 12 * SECOND_US, START_US + 20 * SECOND_US)
    await store.add_gap(gap(*lost, GapReason.SILENT))
    opened = (await store.open("playback", START_US, START_US + 32 * SECOND_US)).json()
    assert [hole["reason"] for hole in opened["holes"]] == ["silent"]
    async with store.anonymous() as player:
        text, stretches = await fetch_playlist(player, opened["url"])
    assert 'X-REASON="silent"' in text and text.count("#EXT-X-DISCONTINUITY") == 1
    assert f"#EXT-X-PROGRAM-DATE-TIME:{iso(lost[1])}" in text
    assert [len(frames_of(data)) for data in stretches] == [120, 120]
    # A player that joins everything sees one clock: the second run begins 20 s after the first.
    times = [ticks for data in stretches for ticks, _ in frames_of(data)]
    assert times == [number * TICKS for number in (*range(120), *range(200, 320))]


async def test_seconds_without_any_row_are_unaccounted(store: Rig) -> None:
    await store.archive(record())
    opened = (await store.open("playback", START_US, START_US + 15 * SECOND_US)).json()
    assert [hole["reason"] for hole in opened["holes"]] == ["unaccounted"]


async def test_the_recorder_gives_what_is_not_archived_yet(store: Rig) -> None:
    made = record()
    await store.archive(made[:1])
    store.recorder.held = {each.segment.id: each for each in made[1:]}
    store.recorder_says()
    opened = (await store.open("playback", START_US, START_US + 12 * SECOND_US)).json()
    async with store.anonymous() as player:
        _, stretches = await fetch_playlist(player, opened["url"])
        assert len(frames_of(stretches[0])) == 120
        # It moves to the archive between the playlist and the next fetch.
        await store.archive(made[1:])
        store.recorder.held = {}
        _, again = await fetch_playlist(player, opened["url"])
    assert again == stretches


async def test_what_is_archived_between_the_two_questions_is_not_missed(store: Rig) -> None:
    """No row yet when the rows are read, and no file any more when the recorder is asked."""
    made = record()

    async def archived() -> None:
        await store.archive(made)
        store.recorder.held = {}

    store.recorder.held = {each.segment.id: each for each in made}
    store.recorder.meanwhile = archived
    store.recorder_says()
    footage = store.context.media.footage
    line = await footage.timeline(CAMERA, START_US, START_US + 12 * SECOND_US, "user-ada")
    assert not line.holes
    assert sum(piece.end_us - piece.start_us for piece in line.pieces) == 12 * SECOND_US


async def test_a_listing_that_is_out_of_date_still_finds_the_bytes(store: Rig) -> None:
    """The recorder still lists a segment whose file it has given away."""
    made = record()
    store.recorder.held = {each.segment.id: each for each in made}
    store.recorder_says()
    footage = store.context.media.footage
    line = await footage.timeline(CAMERA, START_US, START_US + 12 * SECOND_US, "user-ada")
    store.recorder.held = {}
    await store.archive(made)
    source = line.pieces[0].source
    assert source.url and not source.key
    assert await footage.read(source, 0, 100) == made[0].data[:100]


async def test_footage_of_seconds_ago_grows_and_then_ends(tmp_path: Path) -> None:
    async with rig(tmp_path, START_US + 6_500_000) as store:
        made = record(segment_frames=120)[0]
        store.recorder.held = {made.segment.id: _until(made, 6)}
        store.recorder.open_ids = {made.segment.id}
        store.recorder_says()
        opened = (await store.open("playback", START_US, START_US + 10 * SECOND_US)).json()
        async with store.anonymous() as player:
            first, _ = await fetch_playlist(player, opened["url"])
            assert "EVENT" in first and "ENDLIST" not in first
            assert first.count("#EXTINF") == 2, "the last group is not whole yet"
            store.clock.set_us(START_US + 10_500_000)
            store.recorder.held = {made.segment.id: _until(made, 10)}
            last, stretches = await fetch_playlist(player, opened["url"])
        listed = first.splitlines()[4:]
        assert last.splitlines()[4 : 4 + len(listed)] == listed, "a listed part never changes"
        assert last.endswith("#EXT-X-ENDLIST\n")
        assert len(frames_of(stretches[0])) == 100


def _until(made: Made, seconds: int) -> Made:
    """The open segment when it has so many one-second fragments."""
    fragments = made.segment.fragments[:seconds]
    size = fragments[-1].offset + fragments[-1].size
    segment = replace(
        made.segment, fragments=fragments, end_us=fragments[-1].end_us, size_bytes=size
    )
    return Made(segment, made.data[:size])


async def test_only_the_sessions_range_is_served(store: Rig) -> None:
    made = record(segment_frames=120)
    await store.archive(made)
    start, end = START_US + 5 * SECOND_US, START_US + 7 * SECOND_US
    opened = (await store.open("playback", start, end)).json()
    url = f"/v1/media/{opened['token']}/segments/{made[0].segment.id}.mp4"
    fragments = made[0].segment.fragments
    async with store.anonymous() as player:
        outside = await player.get(url, headers={"Range": f"bytes={fragments[8].offset}-"})
        assert outside.status_code == 403
        assert (await player.get(url)).status_code == 403
        inside = await player.get(url, headers={"Range": f"bytes={fragments[4].offset}-"})
        # From the key frame before (4 s) to the range's end (7 s), and no byte further.
        assert inside.status_code == 206
        assert len(inside.content) == sum(each.size for each in fragments[4:7])
        beyond = await player.get(url, headers={"Range": "bytes=99999999-"})
        assert beyond.status_code == 416
        several = await player.get(url, headers={"Range": "bytes=0-1,5-6"})
        assert several.status_code == 416
        head = await player.head(url, headers={"Range": "bytes=0-9"})
        assert (head.status_code, head.headers["content-length"], head.content) == (206, "10", b"")
        etag = head.headers["etag"]
        assert (await player.get(url, headers={"If-None-Match": etag})).status_code == 304


async def test_a_token_serves_its_camera_person_and_time_only(store: Rig) -> None:
    made, other = record(), record(camera="mk-other-02")
    await store.archive([*made, *other])
    opened = (await store.open("playback", START_US, START_US + 12 * SECOND_US)).json()
    base = f"/v1/media/{opened['token']}"
    async with store.anonymous() as player:
        url = f"{base}/segments/{other[0].segment.id}.mp4"
        assert (await player.get(url, headers={"Range": "bytes=0-9"})).status_code == 404
        assert (await player.get(f"{base}x/index.m3u8")).status_code == 401
        assert (await player.get(f"{base}/clips")).status_code == 403
        assert (await player.get(f"{base}/live.mp4")).status_code == 403
        assert (await player.get(f"{base}/index.m3u8")).status_code == 200
        store.clock.set_us(store.clock.now_us() + 901 * SECOND_US)
        assert (await player.get(f"{base}/index.m3u8")).status_code == 410


async def test_an_account_that_loses_its_role_is_shown_nothing_more(store: Rig) -> None:
    await store.archive(record())
    opened = (await store.open("playback", START_US, START_US + 12 * SECOND_US)).json()
    async with store.platform.database.write() as connection:
        await connection.execute(sa.update(tables.user).values(roles=[Role.OPERATOR.value]))
    async with store.anonymous() as player:
        assert (await player.get(opened["url"])).status_code == 410


async def test_opening_is_audited_first_and_delivery_at_the_close(store: Rig) -> None:
    made = record(segment_frames=120)
    await store.archive(made)
    opened = (await store.open("playback", START_US, START_US + 12 * SECOND_US)).json()
    before = (await store.audit())[-1]
    assert (before["id"], before["action"]) == (opened["record"], "playback.open")
    assert (before["actor_name"], before["case_ref"]) == ("ada", "MK-1")
    assert (before["start_us"], before["end_us"]) == (START_US, START_US + 12 * SECOND_US)
    fragments = made[0].segment.fragments
    url = f"/v1/media/{opened['token']}/segments/{made[0].segment.id}.mp4"
    async with store.anonymous() as player:
        for first, last in ((2, 4), (8, 10)):
            end = fragments[last - 1].offset + fragments[last - 1].size
            wanted = {"Range": f"bytes={fragments[first].offset}-{end - 1}"}
            assert (await player.get(url, headers=wanted)).status_code == 206
        assert (await player.delete(opened["close_url"])).status_code == 204
        assert (await player.get(opened["url"])).status_code == 410
    closed = (await store.audit())[-1]
    assert closed["action"] == "playback.close"
    assert (closed["start_us"], closed["end_us"]) == (
        START_US + 2 * SECOND_US,
        START_US + 10 * SECOND_US,
    )
    assert closed["detail"]["delivered_bytes"] == sum(
        each.size for each in (*fragments[2:4], *fragments[8:10])
    )
    assert len(closed["detail"]["delivered_us"]) == 2, "what lies between was not delivered"


async def test_an_expired_session_is_closed_by_the_sweep_once(store: Rig) -> None:
    await store.archive(record())
    opened = (await store.open("playback", START_US, START_US + 12 * SECOND_US)).json()
    async with store.anonymous() as player:
        await fetch_playlist(player, opened["url"])
    sessions = store.context.media.sessions
    assert await sessions.sweep() == 0
    store.clock.set_us(store.clock.now_us() + 901 * SECOND_US)
    assert (await sessions.sweep(), await sessions.sweep()) == (1, 0)
    closed = [entry for entry in await store.audit() if entry["action"] == "playback.close"]
    assert len(closed) == 1
    assert (closed[0]["start_us"], closed[0]["end_us"]) == (START_US, START_US + 12 * SECOND_US)


async def test_without_a_purpose_or_a_reason_nothing_opens(store: Rig) -> None:
    await store.archive(record())
    end = START_US + 12 * SECOND_US
    assert (await store.open("playback", START_US, end, purpose=None)).status_code == 422
    assert (await store.open("clip", START_US, end, case_ref="")).status_code == 422
    assert not [each for each in await store.audit() if each["action"].endswith(".open")]


async def test_without_an_audit_log_no_video_leaves(store: Rig) -> None:
    await store.archive(record())
    async with store.platform.database.write() as connection:
        await connection.execute(
            sa.text(
                "CREATE TRIGGER no_audit BEFORE INSERT ON audit BEGIN SELECT RAISE(FAIL, 'x'); END"
            )
        )
    for kind in ("playback", "clip"):
        answer = await store.open(kind, START_US, START_US + 12 * SECOND_US)
        assert answer.status_code >= 400 and "token" not in answer.text
    url = f"/v1/cameras/{CAMERA}/snapshot"
    why = {"time": iso(START_US), "purpose": "crime_investigation", "case_ref": "x"}
    answer = await store.client.get(url, params=why)
    assert answer.status_code >= 400 and answer.headers["content-type"] != "image/jpeg"


async def test_past_expiry_nothing_unheld_is_served_whatever_the_token_says(store: Rig) -> None:
    made = record()
    await store.archive(made)
    # The day after recording is Hong Kong's; go to a minute before access stops.
    expires = _expiry(made)
    store.clock.set_us(expires - 60 * SECOND_US)
    span = START_US, START_US + 12 * SECOND_US
    opened = (await store.open("playback", *span)).json()
    clip = (await store.open("clip", *span)).json()
    async with store.anonymous() as player:
        first = await player.get(opened["url"])
        assert "#EXTINF" in first.text
        store.clock.set_us(expires)
        url = f"/v1/media/{opened['token']}/segments/{made[0].segment.id}.mp4"
        assert (await player.get(url, headers={"Range": "bytes=0-9"})).status_code == 410
        assert "#EXTINF" not in (await player.get(opened["url"])).text
        assert (await player.get(clip["parts"][0]["url"])).status_code == 404
    assert (await store.open("playback", *span)).status_code == 410
    refused = (await store.audit())[-1]
    assert (refused["action"], refused["result"]) == ("playback.open", "gone")


def _expiry(made: list[Made]) -> int:
    return retention.expires_at_us(made[0].segment.end_us, POLICY)


async def test_held_footage_past_expiry_is_for_the_holds_officers(store: Rig) -> None:
    made = record()
    await store.archive(made)
    await store.add_hold("user-ada", START_US, START_US + 6 * SECOND_US)
    store.clock.set_us(_expiry(made) + DAY_US)
    span = START_US, START_US + 3 * SECOND_US
    assert (await store.open("playback", *span)).status_code == 201
    async with await store.person("bob", [Role.INVESTIGATOR]) as bob:
        body = {"camera": CAMERA, "start": iso(span[0]), "end": iso(span[1])}
        why = {"purpose": "crime_investigation", "case_ref": "MK-2"}
        assert (await bob.post("/v1/playback-sessions", json=body | why)).status_code == 410


async def test_a_clock_put_back_does_not_reopen_what_expired(store: Rig) -> None:
    made = record()
    await store.archive(made)
    recent = record(start_us=_expiry(made) + DAY_US)
    store.clock.set_us(_expiry(made) + 2 * DAY_US)
    await store.archive(recent)
    store.clock.jump_wall(-5 * DAY_US)
    old = await store.open("playback", START_US, START_US + 3 * SECOND_US)
    assert (old.status_code, "doubt" in old.text) == (503, True)


async def test_a_clip_is_one_exact_file_that_starts_at_the_key_frame_before(store: Rig) -> None:
    made = record(encoded(b_frames=2))
    await store.archive(made)
    start, end = START_US + 3_300_000, START_US + 9_450_000
    opened = (await store.open("clip", start, end)).json()
    assert len(opened["parts"]) == 1
    part = opened["parts"][0]
    async with store.anonymous() as player:
        answer = await player.get(part["url"])
        assert answer.status_code == 200
        assert len(answer.content) == part["size_bytes"] == int(answer.headers["content-length"])
        assert answer.headers["x-lamppost-start"] == iso(START_US + 2 * SECOND_US)
        assert answer.headers["x-lamppost-end"] == iso(START_US + 10 * SECOND_US)
        middle = await player.get(part["url"], headers={"Range": "bytes=700-5000"})
        assert middle.status_code == 206
        assert middle.content == answer.content[700:5001]
        last = await player.get(part["url"], headers={"Range": "bytes=-100"})
        assert last.content == answer.content[-100:]
    found = frames_of(answer.content)
    shift = found[0][0]
    assert [ticks - shift for ticks, _ in found] == [number * TICKS for number in range(80)]
    assert all(abs(luma - shade_of(20 + number)) < 3 for number, (_, luma) in enumerate(found))
    with av.open(io.BytesIO(answer.content), "r") as container:
        assert container.duration is not None
        assert abs(container.duration - 8 * SECOND_US) <= 2 * FRAME_US


async def test_a_clip_over_a_gap_and_a_size_change_comes_in_parts(store: Rig) -> None:
    first = record()
    second = record(encoded(width=96, height=64), start_us=START_US + 12 * SECOND_US)
    third = record(start_us=START_US + 30 * SECOND_US)
    await store.archive([*first, *second, *third])
    opened = (await store.open("clip", START_US, START_US + 42 * SECOND_US)).json()
    assert [(part["width"], part["duration_s"]) for part in opened["parts"]] == [
        (64, 12.0),
        (96, 12.0),
        (64, 12.0),
    ]
    assert len(opened["holes"]) == 1
    async with store.anonymous() as player:
        described = (await player.get(opened["url"])).json()
        assert described["parts"] == opened["parts"]
        for part in opened["parts"]:
            data = (await player.get(part["url"])).content
            assert len(frames_of(data)) == 120 and len(data) == part["size_bytes"]
        missing = opened["parts"][0]["url"].replace("/1.mp4", "/9.mp4")
        assert (await player.get(missing)).status_code == 404


async def test_a_clip_that_is_being_sent_at_expiry_is_kept_and_finishes(store: Rig) -> None:
    made = record()
    await store.archive(made)
    store.clock.set_us(_expiry(made) - 60 * SECOND_US)
    opened = (await store.open("clip", START_US, START_US + 12 * SECOND_US)).json()
    held: list[int] = []

    async def holds() -> int:
        async with store.platform.database.read() as connection:
            query = sa.select(sa.func.count()).select_from(tables.hold)
            return int((await connection.execute(query)).scalar_one())

    blobs = store.platform.blobs
    stream = blobs.stream

    async def spied(key: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        held.append(await holds())
        store.clock.set_us(max(store.clock.now_us(), _expiry(made) + SECOND_US))
        async for piece in stream(key, offset, length):
            yield piece

    blobs.stream = spied  # type: ignore[method-assign]
    async with store.anonymous() as player:
        answer = await player.get(opened["parts"][0]["url"])
    assert answer.status_code == 200 and len(frames_of(answer.content)) == 120
    assert set(held) == {1}, "a system hold stood at every read"
    assert await holds() == 0, "and is gone afterwards"


async def test_a_snapshot_says_when_it_was_taken(store: Rig) -> None:
    source = encoded(b_frames=2)
    await store.archive(record(source))
    # Pictures out of order are shown later than they are decoded; wall time is that of decoding.
    first_us = START_US + source.samples[0].shift * SECOND_US // 90_000
    url = f"/v1/cameras/{CAMERA}/snapshot"
    why = {"purpose": "crime_investigation", "reason": "theft"}
    for number in (0, 25, 39, 40, 77):
        asked = first_us + number * FRAME_US + 30_000
        answer = await store.client.get(url, params={"time": iso(asked), **why})
        assert answer.headers["content-type"] == "image/jpeg", answer.text
        taken = answer.headers["x-lamppost-capture-time"]
        assert taken == iso_local(first_us + number * FRAME_US)
        with av.open(io.BytesIO(answer.content), "r") as picture:
            frame = next(picture.decode(video=0))
        # Full-range JPEG of limited-range video.
        expected = (shade_of(number) - 16) * 255 / 219
        assert abs(frame.to_ndarray(format="gray").mean() - expected) < 6
    entry = (await store.audit())[-1]
    assert (entry["action"], entry["reason"]) == ("snapshot.read", "theft")
    lost = await store.client.get(url, params={"time": iso(START_US + 60 * SECOND_US), **why})
    assert lost.status_code == 404


def iso_local(us: int) -> str:
    return civil.rfc3339(us, POLICY.zone)


async def test_live_passes_the_recorders_bytes_on(store: Rig) -> None:
    made = record()[0]
    store.recorder.codec = made.segment.codec_string
    store.recorder.live = [made.data[: made.segment.init_size], made.data[made.segment.init_size :]]
    body = {"camera": CAMERA, "purpose": "public_safety", "reason": "crowd"}
    opened = (await store.client.post("/v1/live-sessions", json=body)).json()
    async with store.anonymous() as player:
        assert (await player.get(opened["url"])).status_code == 503, "no recorder is known"
        store.recorder_says()
        answer = await player.get(opened["url"])
        assert (answer.status_code, answer.content) == (200, made.data)
        assert answer.headers["x-lamppost-codec"] == made.segment.codec_string
        assert (await player.post(opened["renew_url"])).status_code == 401
    renewed = (await store.client.post(opened["renew_url"])).json()
    assert renewed["token"] != opened["token"] and renewed["record"] > opened["record"]
    async with await store.person("bob", [Role.OPERATOR]) as bob:
        assert (await bob.post(opened["renew_url"])).status_code == 403
    assert store.context.media.live_streams == 0


async def test_a_range_that_lies_ahead_or_is_too_long_is_refused(store: Rig) -> None:
    now = store.clock.now_us()
    hour = 3600 * SECOND_US
    assert (await store.open("playback", now + SECOND_US, now + hour)).status_code == 422
    assert (await store.open("playback", now - hour, now + hour)).status_code == 422
    assert (await store.open("playback", now - 7 * hour, now)).status_code == 422
    assert (await store.open("clip", now - hour, now + SECOND_US)).status_code == 422
    assert (await store.open("clip", now - 3 * hour, now - hour)).status_code == 404
