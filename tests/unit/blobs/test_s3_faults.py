"""The S3 adapter against answers that no real server gives when asked to."""

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from services import doctor
from shared import ids
from shared.blobs.s3 import DELETE_LANES, S3Blobs, open_blobs
from shared.blobs.s3_keys import Pair
from shared.clock import SimulatedClock, SystemClock
from shared.errors import Kind, LamppostError
from shared.settings import Settings, load
from tests.support.fake_s3 import FakeS3, Request, error, serving, settings_of

MIB = 1024 * 1024
KEY = ids.object_key(date(2024, 4, 16), "cam", 1_713_225_600_000_000, str(ids.derived_id(1)))
OTHER = ids.object_key(date(2024, 4, 16), "cam", 1_713_225_600_000_001, str(ids.derived_id(2)))


@pytest.fixture
def store() -> Iterator[FakeS3]:
    with serving(FakeS3()) as found:
        yield found


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[S3Blobs]:
    blobs = await open_blobs(settings, SystemClock())
    try:
        yield blobs
    finally:
        await blobs.close()


async def put(blobs: S3Blobs, key: str, data: bytes) -> None:
    await blobs.put(key, data, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


async def error_of(awaitable: Any) -> LamppostError:
    with pytest.raises(LamppostError) as caught:
        await awaitable
    return caught.value


SHORT = {"Content-Length": "2000", "Connection": "close"}
REFUSALS = (
    (503, "SlowDown", Kind.UNAVAILABLE, "log"),
    (500, "InternalError", Kind.UNAVAILABLE, "log"),
    (403, "RequestTimeTooSkewed", Kind.DOUBT, "clocks"),
    (403, "SignatureDoesNotMatch", Kind.UNAVAILABLE, "s3.secret_key_file"),
    (403, "", Kind.UNAVAILABLE, "s3.access_key_file"),
    (404, "NoSuchBucket", Kind.UNAVAILABLE, "s3.bucket"),
    (301, "PermanentRedirect", Kind.UNAVAILABLE, "s3.endpoint"),
    (507, "", Kind.FULL, "room"),
    (403, "QuotaExceeded", Kind.FULL, "quota"),
    (400, "BadDigest", Kind.UNAVAILABLE, "network"),
)


async def test_a_refusal_is_named_with_its_cure(store: FakeS3, tmp_path: Path) -> None:
    async with opened(settings_of(store, tmp_path)) as blobs:
        for status, code, kind, fix in REFUSALS:
            store.answer = lambda _, answer=error(status, code): answer  # type: ignore[misc]
            for call in (put(blobs, KEY, b"x"), blobs.read(KEY), blobs.delete([KEY])):
                told = await error_of(call)
                assert (told.kind, told.retryable) == (kind, True), (status, code)
                assert fix in told.fix, (status, code)
                assert "secret words" not in str(told)


def asked_to_delete(store: FakeS3) -> list[set[str]]:
    """The keys of each request."""
    return [
        {key.decode() for key in re.findall(rb"<Key>(.*?)</Key>", request.body)}
        for request in store.requests
        if "delete" in request.query
    ]


async def test_many_keys_are_several_requests_and_each_is_in_one(
    store: FakeS3, tmp_path: Path
) -> None:
    keys = [ids.object_key(date(2024, 4, 16), "cam", n, str(ids.derived_id(n))) for n in range(210)]
    async with opened(settings_of(store, tmp_path)) as blobs:
        already = len(asked_to_delete(store))
        await blobs.delete(keys[:90])
        await blobs.delete(keys)
    few, *many = asked_to_delete(store)[already:]
    assert few == set(keys[:90])
    assert len(many) == DELETE_LANES and sum(map(len, many)) == len(keys)
    assert set().union(*many) == set(keys)


async def test_a_delete_of_which_a_part_failed_has_failed(store: FakeS3, tmp_path: Path) -> None:
    keys = [ids.object_key(date(2024, 4, 16), "cam", n, str(ids.derived_id(n))) for n in range(210)]
    async with opened(settings_of(store, tmp_path)) as blobs:
        for key in keys:
            await put(blobs, key, b"x")
        last = keys[-1].encode()
        store.answer = lambda request: error(503, "SlowDown") if last in request.body else None
        assert (await error_of(blobs.delete(keys))).retryable
        assert keys[-1] in store.objects
        store.answer = lambda _: None
        await blobs.delete(keys)
        assert not store.objects.keys() & set(keys)


async def test_a_page_of_something_else_is_no_store(store: FakeS3, tmp_path: Path) -> None:
    store.answer = lambda _: (200, {}, b"<html>It works!</html>")
    async with opened(settings_of(store, tmp_path)) as blobs:
        told = await error_of(blobs.read(KEY))
        assert told.kind is Kind.UNAVAILABLE and "s3.endpoint" in told.fix


async def test_an_answer_that_is_cut_is_no_object(store: FakeS3, tmp_path: Path) -> None:
    async with opened(settings_of(store, tmp_path)) as blobs:
        await put(blobs, KEY, b"x" * 1000)

        def cut(request: Request) -> Any:
            return (200, SHORT, b"x" * 1000) if request.key == KEY else None

        store.answer = cut
        told = await error_of(blobs.read(KEY))
        assert told.kind is Kind.UNAVAILABLE
        assert (await error_of(blobs.verify(KEY))).kind is Kind.UNAVAILABLE


async def test_a_connection_that_was_closed_meanwhile_is_made_again(
    store: FakeS3, tmp_path: Path
) -> None:
    async with opened(settings_of(store, tmp_path)) as blobs:
        hangs = iter(["hang up"])
        store.answer = lambda request: next(hangs, None) if request.key else None  # type: ignore[assignment, return-value]
        await put(blobs, KEY, b"x")
        assert store.objects[KEY][0] == b"x"
        store.answer = lambda _: "hang up"
        asked = len(store.requests)
        told = await error_of(blobs.time_us())
        assert told.kind is Kind.UNAVAILABLE
        assert len(store.requests) - asked == 2, "a request is repeated once, no more"


async def test_wrong_bytes_never_leave_whole(store: FakeS3, tmp_path: Path) -> None:
    # Even a store that checks nothing keeps nothing: the last piece is held back.
    source = tmp_path / "video"
    source.write_bytes(os.urandom(3 * MIB))
    async with opened(settings_of(store, tmp_path)) as blobs:
        store.checks = False
        call = blobs.put(KEY, source, sha256="0" * 64, size_bytes=3 * MIB)
        assert (await error_of(call)).kind is Kind.CORRUPT
        assert KEY not in store.objects
        assert (await error_of(blobs.put(KEY, b"", sha256="0" * 64, size_bytes=0))).kind is (
            Kind.CORRUPT
        )
        assert KEY not in store.objects


async def test_damage_on_the_way_is_not_the_source_s(store: FakeS3, tmp_path: Path) -> None:
    async with opened(settings_of(store, tmp_path)) as blobs:
        store.answer = lambda request: (
            error(400, "XAmzContentSHA256Mismatch") if request.method == "PUT" else None
        )
        assert (await error_of(put(blobs, KEY, b"x"))).kind is Kind.UNAVAILABLE


async def test_a_store_that_checks_nothing_is_refused(store: FakeS3, tmp_path: Path) -> None:
    store.checks = False
    told = await error_of(open_blobs(settings_of(store, tmp_path), SystemClock()))
    assert told.kind is Kind.UNSUPPORTED and "checksum" in told.message
    assert not any(key.startswith("lamppost-probe/") for key in store.objects)


async def test_a_store_with_versions_is_refused(store: FakeS3, tmp_path: Path) -> None:
    store.versioned = True
    told = await error_of(open_blobs(settings_of(store, tmp_path), SystemClock()))
    assert told.kind is Kind.UNSUPPORTED and "versions" in told.message


async def test_without_conditional_puts_each_looks_first(store: FakeS3, tmp_path: Path) -> None:
    store.conditional = False
    async with opened(settings_of(store, tmp_path)) as blobs:
        assert "conditional put" in (await blobs.ready()).lacks[0]
        await put(blobs, KEY, b"x")
        await put(blobs, KEY, b"x")
        assert (await error_of(put(blobs, KEY, b"y"))).kind is Kind.CONFLICT
        assert store.objects[KEY][0] == b"x"


async def test_a_date_that_is_none_is_doubt(store: FakeS3, tmp_path: Path) -> None:
    async with opened(settings_of(store, tmp_path)) as blobs:
        assert abs(await blobs.time_us() - SystemClock().now_us()) < 3_000_000
        store.answer = lambda _: (200, {"Date": "yesterday"}, b"")
        told = await error_of(blobs.time_us())
        assert told.kind in (Kind.DOUBT, Kind.UNAVAILABLE)


async def test_an_object_of_others_has_the_store_s_time_and_no_hash(
    store: FakeS3, tmp_path: Path
) -> None:
    async with opened(settings_of(store, tmp_path)) as blobs:
        store.objects[KEY] = (b"x", {}, {})
        found = await blobs.stat(KEY)
        assert found is not None and found.sha256 == ""
        assert abs(found.stored_at_us - SystemClock().now_us()) < 3_000_000
        await put(blobs, KEY, b"x")
        assert (await error_of(put(blobs, KEY, b"y"))).kind is Kind.CONFLICT


@pytest.mark.parametrize(
    "endpoint", ["", "store:9000", "ftp://store", "http://store/path", "http://name:hunter2@store"]
)
async def test_a_wrong_address_stops_the_start(
    store: FakeS3, tmp_path: Path, endpoint: str
) -> None:
    settings = settings_of(store, tmp_path, endpoint=endpoint)
    told = await error_of(open_blobs(settings, SystemClock()))
    assert told.kind is Kind.INVALID and "s3.endpoint" in told.message
    assert "hunter2" not in told.message


async def test_a_key_that_cannot_be_read_stops_the_start(store: FakeS3, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    for file in (tmp_path / "none", empty):
        settings = settings_of(store, tmp_path, secret_key_file=file)
        told = await error_of(open_blobs(settings, SystemClock()))
        assert told.kind is Kind.INVALID and "s3.secret_key_file" in told.message
    told = await error_of(
        open_blobs(load({"LAMPPOST_S3__ENDPOINT": store.endpoint}), SystemClock())
    )
    assert "s3.access_key_file is not set" in told.message


async def test_a_recorder_does_not_ask_the_store_at_its_start(
    store: FakeS3, tmp_path: Path
) -> None:
    blobs = await open_blobs(settings_of(store, tmp_path), SystemClock(), probe=False)
    assert store.requests == []
    await blobs.close()


def test_doctor_says_what_the_store_is_and_what_is_wrong(store: FakeS3, tmp_path: Path) -> None:
    store.conditional = False
    settings = settings_of(store, tmp_path)
    found = doctor.object_store(settings)
    assert found.verdict == "ok" and "conditional put" in found.detail
    store.answer = lambda _: error(403, "InvalidAccessKeyId")
    found = doctor.object_store(settings)
    assert found.verdict == "wrong" and "InvalidAccessKeyId" in found.detail
    assert "s3.access_key_file" in found.fix
    store.answer = lambda _: None
    vault = doctor.object_store(settings_of(store, tmp_path, vault_bucket="vault"))
    assert vault.verdict == "wrong" and "evidence vault" in vault.detail
    assert doctor.object_store(load({})).verdict == "ok"


def signed_by(request: Request) -> str:
    """The access key of a request."""
    found = re.search(r"Credential=([^/]+)/", request.headers.get("authorization", ""))
    return found[1] if found else ""


async def test_a_refused_key_is_read_again_from_its_files(store: FakeS3, tmp_path: Path) -> None:
    """Half a pair is refused too, and read again after a while; nothing is asked without end."""
    settings, clock = settings_of(store, tmp_path), SimulatedClock(SystemClock().now_us())
    files = settings.s3.access_key_file, settings.s3.secret_key_file
    access, secret = (settings.path(file) for file in files if file is not None)
    blobs = await open_blobs(settings, clock)
    try:
        await put(blobs, KEY, b"x")
        store.answer = lambda request: (
            None if signed_by(request) == "fresh" else error(403, "InvalidAccessKeyId")
        )
        refusal = await error_of(blobs.read(KEY))
        assert refusal.retryable and "s3.access_key_file" in refusal.fix
        access.write_text("fresh")
        asked = len(store.requests)
        assert (await error_of(blobs.read(KEY))).retryable, "looked at a moment ago"
        assert len(store.requests) == asked + 1
        await clock.advance(3)
        secret.write_text("")
        assert (await error_of(blobs.read(KEY))).retryable, "no pair"
        await clock.advance(3)
        secret.write_text("another")
        assert await blobs.read(KEY) == b"x", "the caller sees nothing of it"
        assert await blobs.stat(KEY) is not None
    finally:
        await blobs.close()


async def test_calls_that_were_refused_together_all_go_on(store: FakeS3, tmp_path: Path) -> None:
    settings = settings_of(store, tmp_path)
    assert settings.s3.access_key_file is not None
    async with opened(settings) as blobs:
        await put(blobs, KEY, b"x")
        store.answer = lambda request: (
            None if signed_by(request) == "fresh" else error(403, "InvalidAccessKeyId")
        )
        settings.path(settings.s3.access_key_file).write_text("fresh")
        assert await asyncio.gather(*(blobs.read(KEY) for _ in range(8))) == [b"x"] * 8


def test_a_pair_prints_as_nothing() -> None:
    assert "secret" not in repr(Pair("access", "secret"))
