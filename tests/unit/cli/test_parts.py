"""The small parts of a run: lock, log file, accounting, table, the layout of the demo."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from services import demo, footage, table
from services.logfile import LogFile
from services.statelock import StateLock
from services.summary import CameraFacts, Facts, account, days_left
from shared.clock import SECOND_US, SystemClock
from shared.errors import Kind, LamppostError
from shared.settings import Settings
from tests.support.run_summary import problems

ROOT = Path(__file__).parents[3]


def test_a_second_program_is_told_who_has_the_folder(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from services.statelock import StateLock\n"
            "lock = StateLock(Path(sys.argv[1]), 'It'); lock.acquire()\n"
            "print('held', flush=True)\n"
            "sys.stdin.read()",
            str(tmp_path / "lock"),
        ],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        mine = StateLock(tmp_path / "lock", "The state folder x")
        with pytest.raises(LamppostError) as caught:
            mine.acquire()
        assert caught.value.kind is Kind.CONFLICT
        assert f"process {holder.pid}" in str(caught.value)
        holder.kill()
        mine.acquire_within(SystemClock(), 5)
    mine.release()


def test_the_log_file_is_bounded_and_counts_errors(tmp_path: Path) -> None:
    logs = LogFile(tmp_path / "logs" / "x.log", max_bytes=1000)
    for _ in range(100):
        logs.write('{"level": "info"} 0123456789 0123456789\n')
    logs.write('{"level": "error"}\n')
    logs.write("2026 [\x1b[31m\x1b[1merror    \x1b[0m] text\n")
    logs.close()
    files = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert files == ["x.log", "x.log.1"]
    assert all(path.stat().st_size < 1100 for path in (tmp_path / "logs").iterdir())
    assert logs.errors == 2


def test_each_second_is_counted_once() -> None:
    second = SECOND_US
    video = [(10 * second, 20 * second), (15 * second, 30 * second)]
    gaps = [(0, 12 * second), (40 * second, 50 * second)]
    assert account(video, gaps, 0, 50 * second) == (20 * second, 20 * second, 10 * second)


def test_the_last_moments_may_still_be_on_their_way_but_no_more() -> None:
    second = SECOND_US
    assert account([(0, 96 * second)], [], 0, 100 * second)[2] == 0
    assert account([(0, 94 * second)], [], 0, 100 * second)[2] == 6 * second
    assert account([(5 * second, 100 * second)], [], 0, 100 * second)[2] == 5 * second


def test_days_left_stop_where_recording_stops() -> None:
    assert days_left(1000, 600, 100, 0.1) == 5
    assert days_left(1000, 50, 100, 0.1) == 0
    assert days_left(1000, 600, 0, 0.1) is None


def _facts(count: int, **changes: object) -> Facts:
    cameras = tuple(
        CameraFacts(
            f"cam-{n:02}", f"Street {n}", "lamp_post", "recording", "", 3_723 * SECOND_US, 0,
            5_000_000_000, 1_795_000_000_000_000, 10.0,
        )
        for n in range(count)
    )  # fmt: skip
    facts = Facts(
        1_795_000_000_000_000, cameras, 3, 1_000_000, 100_000_000_000, 50_000_000_000,
        5_000_000_000 * count, 8.0, 1_795_000_000_000_000, 2, 7, 11, 10_000, 0, 0, "",
    )  # fmt: skip
    return facts._replace(**changes)


def test_the_table_shows_what_a_person_needs_and_fits_the_screen() -> None:
    console = Console(file=io.StringIO(), width=120, height=20, record=True)
    facts = _facts(15, stopped="breaker: too much is due")
    console.print(table.cameras_table(facts.cameras, "Asia/Hong_Kong", 5))
    console.print(table.footer(facts, "Asia/Hong_Kong", 0.1))
    text = console.export_text()
    for part in ("cam-04", "1:02:03", "5.0 GB", "and 10 more", "15 of 15 cameras recording",
                 "8.0 days left", "holds 2", "purged 11 segments", "Deletion is stopped: breaker",
                 "spool 3 files"):  # fmt: skip
        assert part in text, part
    assert "cam-05" not in text


@pytest.mark.parametrize(
    ("width", "whole", "dropped"),
    [
        (120, ("where", "Prince Edward Road West at Nathan Road", "oldest"), ()),
        (80, ("recording", "1:02:03", "gaps 24 h", "5.0 GB", "18 Nov 19:06"), ("where",)),
        (45, ("mk-princeedward-01", "recording", "1:02:03"), ("a day", "oldest")),
    ],
)
def test_a_narrow_table_leaves_columns_out_and_cuts_none(
    width: int, whole: tuple[str, ...], dropped: tuple[str, ...]
) -> None:
    console = Console(file=io.StringIO(), width=width, height=20, record=True)
    long = (
        _facts(1)
        .cameras[0]
        ._replace(id="mk-princeedward-01", name="Prince Edward Road West at Nathan Road")
    )
    console.print(table.cameras_table([long], "Asia/Hong_Kong", 5, width))
    text = console.export_text()
    assert all(part in text for part in whole), text
    assert not any(part in text for part in (*dropped, "…")), text
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 24), (200, 60)])
def test_the_totals_are_on_the_screen_whatever_its_size(width: int, height: int) -> None:
    console = Console(file=io.StringIO(), width=width, height=height, record=True)
    signs = table.Signs(
        "http://127.0.0.1:8600",
        ["First sign-in, one time only (every role):", "  http://127.0.0.1:8600/setup?token=xyz"],
        ["Demo: every camera replays campus CCTV (vtest.avi); the places are illustrative."],
        "Asia/Hong_Kong",
        ".lamppost/logs/lamppost.log",
    )
    console.print(table.picture(console, _facts(15), signs, 0.1))
    lines = console.export_text().splitlines()
    assert len(lines) < height
    assert "purged 11 segments" in " ".join(lines)


def test_a_full_disk_and_silent_cameras_are_said_plainly() -> None:
    facts = _facts(2, disk_free=5_000_000_000)
    assert "Recording is stopped" in table.footer(facts, "UTC", 0.1).plain
    silent = facts.cameras[0]._replace(state="retrying", reason="unreachable")
    line = table.plain_line(facts._replace(cameras=(silent, facts.cameras[1])))
    assert "1/2 cameras recording" in line and "cam-00 retrying unreachable" in line


def test_sizes_and_lengths() -> None:
    assert [table.size(n) for n in (0, 999, 1000, 123_456, 76_100_000_000)] == [
        "0 B", "999 B", "1.0 kB", "123 kB", "76.1 GB",
    ]  # fmt: skip
    assert table.duration(100 * 3600 * SECOND_US) == "100:00:00"


def _clip(name: str, bitrate: float, duration_s: float = 80.0) -> footage.Clip:
    return footage.Clip(Path("/footage") / name, duration_s, bitrate, name)


def test_fifteen_cameras_start_at_fifteen_places_of_one_clip() -> None:
    cameras = demo.lay_out([_clip("a.mp4", 4e5)], 15)
    assert len({camera.id for camera in cameras}) == 15
    assert len({camera.source.offset_s for camera in cameras}) == 15
    assert len({camera.site_kind for camera in cameras}) == 3
    assert all(camera.source.offset_s < 80 for camera in cameras)
    for camera in cameras:
        assert 22.31 < (camera.latitude or 0) < 22.33 and 114.16 < (camera.longitude or 0) < 114.18


def test_own_clips_are_dealt_in_turn() -> None:
    cameras = demo.lay_out([_clip("a.mp4", 1e6), _clip("b.mp4", 1e6)], 24)
    assert len({(camera.source.url, camera.source.offset_s) for camera in cameras}) == 24
    assert len({camera.id for camera in cameras}) == 24


def test_a_day_of_the_demo_stays_under_its_bound() -> None:
    bound = Settings().demo.max_day_bytes
    for count in (1, 15, 24):
        bitrate = demo.demo_bitrate(count, bound)
        assert count * bitrate / 8 * 86_400 * demo.CONTAINER_OVERHEAD <= bound
        assert bitrate <= 500_000
    assert demo.fit([_clip("a.mp4", 4e6)], 15, bound) == 1
    with pytest.raises(LamppostError, match="GB a day"):
        demo.fit([_clip("a.mp4", 40e6)], 15, bound)
    with pytest.raises(LamppostError):
        demo.demo_bitrate(24, 1_000_000)


def test_the_generated_street_is_h264_without_b_frames_and_says_so(tmp_path: Path) -> None:
    """Half a minute of drawing is not needed to see its form."""
    target = tmp_path / "street.mp4"
    seen: list[str] = []
    frames, footage.STREET_FRAMES = footage.STREET_FRAMES, 60
    try:
        footage.draw_street(target, 300_000, lambda what, *_: seen.append(what))
    finally:
        footage.STREET_FRAMES = frames
    assert footage.is_whole(target) and seen[0] == "drawing a street"
    import av

    with av.open(str(target)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.pts is not None]
    assert [packet.is_keyframe for packet in packets] == [n % 20 == 0 for n in range(60)]
    assert all(packet.pts == packet.dts for packet in packets)
    target.write_bytes(target.read_bytes()[:-1])
    assert not footage.is_whole(target)


def test_without_apt_the_demo_draws_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footage.shutil, "which", lambda _name: None)
    monkeypatch.setattr(footage, "STREET_FRAMES", 40)
    clip = footage.demo_clip(tmp_path, 300_000, SystemClock(), lambda *_: None)
    assert clip.generated and "generated street" in clip.label and "apt" in clip.label


def test_a_folder_without_usable_clips_says_which_and_why(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(LamppostError, match=r"broken\.mp4"):
        footage.own_clips(tmp_path)
    with pytest.raises(LamppostError, match="no folder"):
        footage.own_clips(tmp_path / "missing")


def test_the_judge_of_a_run_notices_each_shortfall() -> None:
    good = {
        "cameras_recording": 15, "recorded_s": 800.0, "gap_s": 50.0, "unaccounted_s": 0.0,
        "segments": 30, "frames_analysed": 400, "sightings": 90, "purged": 0, "errors": 0,
        "url": "http://127.0.0.1:8600",
    }  # fmt: skip
    assert problems(good, 15, 60) == []
    for name, value in (
        ("cameras_recording", 14), ("recorded_s", 100.0), ("recorded_s", 1e6),
        ("unaccounted_s", 5.0), ("segments", 3), ("errors", 1), ("url", ""),
        ("frames_analysed", 0), ("sightings", 0),
    ):  # fmt: skip
        assert problems({**good, name: value}, 15, 60), name
    assert problems({"url": "x"}, 15, 60)
