"""Every promise of port `Blobs`, run on every adapter: an adapter's class only says how to open it.

A later adapter subclasses `BlobsContract` and overrides `blobs`.
"""

import asyncio
import errno
import hashlib
import os
import threading
from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import ids
from shared.blobs import HELD, STANDARD, Blobs, disk, metadata
from shared.blobs.files import FileBlobs
from shared.blobs.s3 import S3Blobs, open_blobs
from shared.clock import HOUR_US, SimulatedClock, SystemClock
from shared.errors import Kind, LamppostError
from tests.support.servers.seaweed import joined

DAY = date(2024, 4, 16)


def key_of(number: int, camera: str = "cam", day: date = DAY) -> str:
    return ids.object_key(day, camera, 1_713_225_600_000_000 + number, str(ids.derived_id(number)))


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def put(blobs: Blobs, key: str, data: bytes) -> None:
    await blobs.put(key, data, sha256=sha(data), size_bytes=len(data))


async def keys_of(blobs: Blobs, **kw: str) -> list[str]:
    return [found.key async for found in blobs.list(**kw)]


async def kind_of(awaitable: object) -> Kind:
    with pytest.raises(LamppostError) as caught:
        await awaitable  # type: ignore[misc]
    return caught.value.kind


class BlobsContract:
    """What every adapter does."""

    @pytest.fixture
    def clock(self) -> SimulatedClock:
        return SimulatedClock()

    @pytest.fixture
    async def blobs(self, tmp_path: Path, clock: SimulatedClock) -> AsyncIterator[Blobs]:
        raise NotImplementedError
        yield

    async def test_what_is_put_is_read_back(self, blobs: Blobs, clock: SimulatedClock) -> None:
        info = await blobs.put(key_of(1), b"hello", sha256=sha(b"hello"), size_bytes=5)
        assert info == (key_of(1), 5, sha(b"hello"), STANDARD, clock.now_us())
        assert await blobs.stat(key_of(1)) == info
        assert await blobs.read(key_of(1)) == b"hello"
        assert await blobs.verify(key_of(1)) == sha(b"hello")

    async def test_a_file_is_put_and_stays_when_its_source_goes(
        self, blobs: Blobs, tmp_path: Path
    ) -> None:
        source = tmp_path / "video"
        source.write_bytes(b"x" * 300_000)
        digest = sha(b"x" * 300_000)
        await blobs.put(key_of(1), source, sha256=digest, size_bytes=300_000, tags=HELD)
        source.unlink()
        assert await blobs.verify(key_of(1)) == digest
        assert (await blobs.stat(key_of(1))).tags == HELD  # type: ignore[union-attr]

    async def test_a_source_that_is_gone_is_not_found(self, blobs: Blobs, tmp_path: Path) -> None:
        call = blobs.put(key_of(1), tmp_path / "none", sha256=sha(b""), size_bytes=0)
        assert await kind_of(call) is Kind.NOT_FOUND
        assert await blobs.stat(key_of(1)) is None

    @pytest.mark.parametrize("as_file", [True, False])
    @pytest.mark.parametrize(("stated", "size"), [(sha(b"other"), 5), (sha(b"hello"), 6)])
    async def test_wrong_bytes_are_corrupt_and_leave_nothing(
        self, blobs: Blobs, tmp_path: Path, as_file: bool, stated: str, size: int
    ) -> None:
        source = tmp_path / "video"
        source.write_bytes(b"hello")
        call = blobs.put(key_of(1), source if as_file else b"hello", sha256=stated, size_bytes=size)
        assert await kind_of(call) is Kind.CORRUPT
        assert await blobs.stat(key_of(1)) is None
        assert await keys_of(blobs) == []
        assert source.read_bytes() == b"hello"

    async def test_putting_again_changes_nothing(self, blobs: Blobs, clock: SimulatedClock) -> None:
        first = await blobs.put(key_of(1), b"a", sha256=sha(b"a"), size_bytes=1, tags=HELD)
        await clock.advance(5)
        again = await blobs.put(key_of(1), b"a", sha256=sha(b"a"), size_bytes=1, tags=STANDARD)
        assert again == first == await blobs.stat(key_of(1))

    async def test_another_object_under_the_key_is_a_conflict(self, blobs: Blobs) -> None:
        await put(blobs, key_of(1), b"a")
        assert await kind_of(put(blobs, key_of(1), b"b")) is Kind.CONFLICT
        assert await blobs.read(key_of(1)) == b"a"

    async def test_of_many_writers_of_one_key_one_wins(self, blobs: Blobs) -> None:
        results = await asyncio.gather(
            *(put(blobs, key_of(1), bytes([number])) for number in range(12)),
            return_exceptions=True,
        )
        losers = [result for result in results if isinstance(result, LamppostError)]
        assert len(losers) == 11
        assert {error.kind for error in losers} == {Kind.CONFLICT}
        stored = await blobs.read(key_of(1))
        assert await blobs.verify(key_of(1)) == sha(stored)
        assert (await blobs.stat(key_of(1))).sha256 == sha(stored)  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        "key",
        [
            "",
            "v1/../../etc/passwd",
            "/etc/passwd",
            "v2" + key_of(1)[2:],
            key_of(1) + "\n",
            key_of(1) + ".meta",
            key_of(1).replace("cam", "CAM"),
            key_of(1).replace("cam", ".."),
        ],
    )
    async def test_a_key_of_another_form_is_invalid(self, blobs: Blobs, key: str) -> None:
        assert await kind_of(put(blobs, key, b"")) is Kind.INVALID
        assert await kind_of(blobs.read(key)) is Kind.INVALID
        assert await kind_of(blobs.stat(key)) is Kind.INVALID
        assert await kind_of(blobs.delete([key])) is Kind.INVALID
        assert await kind_of(blobs.set_tags([key], HELD)) is Kind.INVALID

    async def test_ranges_are_cut_at_the_end_and_refused_past_it(self, blobs: Blobs) -> None:
        await put(blobs, key_of(1), b"0123456789")
        assert await blobs.read(key_of(1), 2, 3) == b"234"
        assert await blobs.read(key_of(1), 7) == b"789"
        assert await blobs.read(key_of(1), 7, 100) == b"789"
        assert await blobs.read(key_of(1), 3, 0) == b""
        for offset, length in ((10, None), (11, 1), (-1, 2), (0, -1)):
            call = blobs.read(key_of(1), offset, length)
            assert await kind_of(call) is Kind.RANGE_NOT_SATISFIABLE

    async def test_a_stream_gives_the_same_bytes_in_small_pieces(self, blobs: Blobs) -> None:
        data = os.urandom(700_001)
        await put(blobs, key_of(1), data)
        whole = [piece async for piece in blobs.stream(key_of(1))]
        assert b"".join(whole) == data
        assert max(map(len, whole)) <= 256 * 1024
        part = [piece async for piece in blobs.stream(key_of(1), 100_000, 500_000)]
        assert b"".join(part) == data[100_000:600_000]

    async def test_an_object_that_is_not_there(self, blobs: Blobs) -> None:
        assert await blobs.stat(key_of(1)) is None
        assert await kind_of(blobs.read(key_of(1))) is Kind.NOT_FOUND
        assert await kind_of(blobs.verify(key_of(1))) is Kind.NOT_FOUND
        assert await kind_of(anext(blobs.stream(key_of(1)))) is Kind.NOT_FOUND

    async def test_deleted_means_gone_and_missing_is_fine(self, blobs: Blobs) -> None:
        for number in range(3):
            await put(blobs, key_of(number), b"x")
        await blobs.delete([key_of(0), key_of(1), key_of(9)])
        await blobs.delete([key_of(0)])
        assert await keys_of(blobs) == [key_of(2)]
        await put(blobs, key_of(0), b"y")
        assert await blobs.read(key_of(0)) == b"y"

    async def test_a_call_takes_at_most_a_thousand_keys(self, blobs: Blobs) -> None:
        keys = [key_of(number) for number in range(1_001)]
        assert await kind_of(blobs.delete(keys)) is Kind.TOO_LARGE
        assert await kind_of(blobs.set_tags(keys, HELD)) is Kind.TOO_LARGE
        await blobs.delete(keys[:1_000])

    async def test_tags_are_replaced_and_missing_objects_named(self, blobs: Blobs) -> None:
        await put(blobs, key_of(1), b"x")
        assert await blobs.set_tags([key_of(1), key_of(2)], HELD) == [key_of(2)]
        info = await blobs.stat(key_of(1))
        assert info is not None
        assert (info.tags, info.sha256) == (HELD, sha(b"x"))
        assert await blobs.set_tags([key_of(1)], {"lamppost": "standard", "more": "é"}) == []
        assert (await blobs.stat(key_of(1))).tags == {"lamppost": "standard", "more": "é"}  # type: ignore[union-attr]

    async def test_the_listing_is_sorted_and_can_be_resumed(self, blobs: Blobs) -> None:
        keys = [
            key_of(number, camera, day)
            for day in (DAY, date(2024, 4, 15))
            for camera in ("cam", "cam-1", "cam0")
            for number in range(3)
        ]
        for key in keys:
            await put(blobs, key, b"x")
        assert await keys_of(blobs) == sorted(keys)
        day = [key for key in sorted(keys) if key.startswith("v1/2024-04-16/cam")]
        assert await keys_of(blobs, prefix="v1/2024-04-16/cam") == day
        assert await keys_of(blobs, prefix="v1/2024-04-16/cam/") == [
            key for key in day if key.startswith("v1/2024-04-16/cam/")
        ]
        assert await keys_of(blobs, prefix="v1/2023") == []
        for index, key in enumerate(sorted(keys)):
            assert await keys_of(blobs, start_after=key) == sorted(keys)[index + 1 :]
        assert await keys_of(blobs, start_after="v1/2024-04-16/") == sorted(keys)[9:]

    async def test_the_listing_goes_on_while_objects_are_deleted(self, blobs: Blobs) -> None:
        await asyncio.gather(*(put(blobs, key_of(number), b"x") for number in range(300)))
        listing = blobs.list()
        first = (await anext(listing)).key
        await blobs.delete([key_of(number) for number in range(1, 300)])
        rest = [found.key async for found in listing]
        assert first == key_of(0)
        assert set(rest) <= {key_of(number) for number in range(1, 300)}

    async def test_an_empty_object(self, blobs: Blobs) -> None:
        await put(blobs, key_of(1), b"")
        assert await blobs.read(key_of(1)) == b""
        assert [piece async for piece in blobs.stream(key_of(1))] == []

    async def test_usage_and_time(self, blobs: Blobs, clock: SimulatedClock) -> None:
        usage = await blobs.usage()
        assert usage.free_bytes is None or usage.free_bytes > 0
        assert abs(await blobs.time_us() - clock.now_us()) < 5_000_000

    async def test_a_sweep_of_a_quiet_store_removes_nothing(
        self, blobs: Blobs, clock: SimulatedClock
    ) -> None:
        await put(blobs, key_of(1), b"x")
        await clock.advance(48 * 3600)
        assert await blobs.sweep(clock.now_us()) == 0
        assert await blobs.read(key_of(1)) == b"x"

    async def test_closed_is_closed(self, blobs: Blobs) -> None:
        await blobs.close()
        assert await kind_of(blobs.read(key_of(1))) is Kind.CLOSED
        assert await kind_of(put(blobs, key_of(1), b"")) is Kind.CLOSED
        assert await kind_of(blobs.usage()) is Kind.CLOSED
        await blobs.close()


class FilesContract(BlobsContract):
    """What local files promise beyond the port."""

    keeper: metadata.Keeper

    @pytest.fixture
    async def blobs(self, tmp_path: Path, clock: SimulatedClock) -> AsyncIterator[FileBlobs]:  # type: ignore[override]
        found = FileBlobs(tmp_path / "blobs", clock=clock, keeper=self.keeper)
        yield found
        await found.close()

    async def test_damage_is_found_by_a_whole_read(self, blobs: FileBlobs) -> None:
        data = b"x" * 300_000
        await put(blobs, key_of(1), data)
        with (blobs.root / key_of(1)).open("r+b") as file:
            file.write(b"y")
        assert await kind_of(blobs.read(key_of(1))) is Kind.CORRUPT
        assert await blobs.verify(key_of(1)) != sha(data)
        pieces = []
        with pytest.raises(LamppostError) as caught:
            async for piece in blobs.stream(key_of(1)):
                pieces.append(piece)  # noqa: PERF401
        assert caught.value.kind is Kind.CORRUPT
        assert sum(map(len, pieces)) < len(data)

    async def test_abandoned_unfinished_files_are_swept_when_old(
        self, blobs: FileBlobs, clock: SimulatedClock
    ) -> None:
        # Edge case 17: what a killed put leaves is older than 24 h when it is swept.
        folder = blobs.root / ".unfinished"
        (folder / f"{clock.now_us():020d}-left-over").write_bytes(b"half")
        await clock.advance(23 * 3600)
        assert await blobs.sweep(clock.now_us() - 24 * HOUR_US) == 0
        await clock.advance(2 * 3600)
        assert await blobs.sweep(clock.now_us() - 24 * HOUR_US) == 1
        assert list(folder.iterdir()) == []

    async def test_no_put_leaves_an_unfinished_file(self, blobs: FileBlobs, tmp_path: Path) -> None:
        source = tmp_path / "video"
        source.write_bytes(b"hello")
        await blobs.put(key_of(1), source, sha256=sha(b"hello"), size_bytes=5)
        await kind_of(blobs.put(key_of(2), source, sha256=sha(b"hallo"), size_bytes=5))
        assert list((blobs.root / ".unfinished").iterdir()) == []

    async def test_empty_folders_go_with_their_last_object(self, blobs: FileBlobs) -> None:
        await put(blobs, key_of(1), b"x")
        await blobs.delete([key_of(1)])
        assert not (blobs.root / "v1").exists()

    async def test_puts_and_deletes_in_one_folder_do_not_trip_over_each_other(
        self, blobs: FileBlobs
    ) -> None:
        async def one(number: int) -> None:
            for turn in range(5):
                key = key_of(number * 10 + turn)
                await put(blobs, key, b"x")
                await blobs.delete([key])

        await asyncio.gather(*(one(number) for number in range(8)))
        assert await keys_of(blobs) == []

    async def test_a_full_disk_is_full_and_leaves_nothing(
        self, blobs: FileBlobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(LamppostError) as caught:
            await put(blobs, key_of(1), b"x")
        assert (caught.value.kind, caught.value.retryable) == (Kind.FULL, True)
        monkeypatch.undo()
        assert await blobs.stat(key_of(1)) is None
        await put(blobs, key_of(1), b"x")

    async def test_a_store_that_is_away_is_unavailable(
        self, blobs: FileBlobs, tmp_path: Path
    ) -> None:
        blobs.root.rename(tmp_path / "elsewhere")
        assert await kind_of(put(blobs, key_of(1), b"x")) is Kind.UNAVAILABLE
        assert await kind_of(blobs.usage()) is Kind.UNAVAILABLE
        # A missing object of a missing store must not pass for a purge that is done.
        assert await kind_of(blobs.delete([key_of(1)])) is Kind.UNAVAILABLE
        assert await kind_of(blobs.read(key_of(1))) is Kind.UNAVAILABLE
        assert await kind_of(blobs.stat(key_of(1))) is Kind.UNAVAILABLE
        (tmp_path / "elsewhere").rename(blobs.root)
        await put(blobs, key_of(1), b"x")

    async def test_a_source_elsewhere_is_copied(
        self, blobs: FileBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = tmp_path / "video"
        source.write_bytes(b"hello")
        link = os.link

        def refuse(a: Path, b: Path) -> None:
            if a == source:
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            link(a, b)

        monkeypatch.setattr(os, "link", refuse)
        await blobs.put(key_of(1), source, sha256=sha(b"hello"), size_bytes=5)
        assert (blobs.root / key_of(1)).stat().st_nlink == 1
        assert await blobs.read(key_of(1)) == b"hello"

    async def test_blocking_work_stays_on_the_stores_own_threads(self, blobs: FileBlobs) -> None:
        await asyncio.gather(*(put(blobs, key_of(number), b"x") for number in range(50)))
        names = [thread.name for thread in threading.enumerate() if "blobs" in thread.name]
        assert 0 < len(names) <= 8


@given(size=st.integers(0, 64), offset=st.integers(0, 70), length=st.integers(0, 70))
def test_a_range_is_a_slice(size: int, offset: int, length: int) -> None:
    data = bytes(range(size))
    if offset and offset >= size:
        with pytest.raises(LamppostError):
            disk.byte_range("key", size, offset, length)
    else:
        start, end = disk.byte_range("key", size, offset, length)
        assert data[start:end] == data[offset : offset + length]


class S3Contract(BlobsContract):
    """The same on a real store, in a bucket of its own for each test."""

    door: str

    @pytest.fixture
    def clock(self) -> SimulatedClock:
        """The store's clock is the machine's, so the test's begins there."""
        return SimulatedClock(SystemClock().now_us())

    @pytest.fixture
    async def blobs(
        self, request: pytest.FixtureRequest, clock: SimulatedClock
    ) -> AsyncIterator[S3Blobs]:
        server = request.getfixturevalue(self.door)
        found = await open_blobs(joined(server), clock)
        yield found
        await found.close()


@pytest.mark.servers
class TestS3SeaweedBlobs(S3Contract):
    door = "seaweed"


@pytest.mark.servers
class TestS3CephBlobs(S3Contract):
    door = "ceph"


class TestFilesWithAttributes(FilesContract):
    keeper = metadata.Attributes()

    @pytest.fixture(autouse=True)
    def _possible(self, tmp_path: Path) -> None:
        if metadata.probe(tmp_path).separate:
            pytest.skip("this filesystem has no user attributes")

    async def test_a_file_on_the_same_disk_is_linked_not_copied(
        self, blobs: FileBlobs, tmp_path: Path
    ) -> None:
        source = tmp_path / "video"
        source.write_bytes(b"hello")
        await blobs.put(key_of(1), source, sha256=sha(b"hello"), size_bytes=5)
        assert source.stat().st_ino == (blobs.root / key_of(1)).stat().st_ino

    async def test_a_store_copied_without_attributes_still_reads(self, blobs: FileBlobs) -> None:
        await put(blobs, key_of(1), b"hello")
        os.removexattr(blobs.root / key_of(1), metadata.ATTRIBUTE)
        assert await blobs.read(key_of(1)) == b"hello"
        await put(blobs, key_of(1), b"hello")
        assert await kind_of(put(blobs, key_of(1), b"hallo")) is Kind.CONFLICT
        assert await blobs.set_tags([key_of(1)], HELD) == []
        assert (await blobs.stat(key_of(1))).sha256 == sha(b"hello")  # type: ignore[union-attr]


class TestFilesWithSidecars(FilesContract):
    keeper = metadata.Sidecars()

    async def test_a_sidecar_without_its_object_is_swept(self, blobs: FileBlobs) -> None:
        await put(blobs, key_of(1), b"x")
        (blobs.root / key_of(1)).unlink()
        assert await keys_of(blobs) == []
        assert await blobs.sweep(2**62) == 1
        assert list((blobs.root / "v1").rglob("*.meta")) == []


def test_the_usual_metadata_fits_into_an_inode() -> None:
    # 256-byte ext4 inodes leave 96 bytes: 4 of header, 16 an entry, the name, an end of 4.
    packed = metadata.pack(metadata.Metadata("0" * 64, 2**50, STANDARD))
    assert 4 + 16 + len("lamppost") + len(packed) + 4 <= 96
    assert metadata.unpack(packed) == ("0" * 64, 2**50, STANDARD)
    assert metadata.unpack(b"\x02" + packed[1:]) is None
    assert metadata.unpack(b"") is None
