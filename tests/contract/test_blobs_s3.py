"""What an S3 store's adapter promises beyond the port: faults on real servers, one after the other.

Each test has a bucket of its own; those that stop, starve or revoke put things right again. They
start servers from the main thread, because a server ends with the thread that started it.
"""

import asyncio
import hashlib
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from minio.error import S3Error
from minio.versioningconfig import ENABLED, VersioningConfig

from shared.blobs import HELD, Blobs
from shared.blobs.s3 import S3Blobs, open_blobs
from shared.blobs.s3_client import Client
from shared.blobs.s3_errors import Refused
from shared.blobs.s3_keys import Keys, Pair
from shared.blobs.s3_put import SHA256, Upload, checksum
from shared.blobs.s3_put import put as put_upload
from shared.clock import SECOND_US, SimulatedClock, SystemClock
from shared.errors import Kind, LamppostError
from shared.settings import Settings
from tests.contract.test_blobs import key_of, keys_of, kind_of, put, sha
from tests.support.servers.ceph import Ceph
from tests.support.servers.process import free_ports
from tests.support.servers.rtsp import make_certificates
from tests.support.servers.seaweed import Seaweed, Store, client, joined, write_keys
from tests.support.servers.toxiproxy import Door, Toxiproxy
from tests.support.wait import until

CLOCK = SystemClock()
MIB = 1024 * 1024
pytestmark = pytest.mark.servers


@pytest.fixture(params=["seaweed", "ceph"])
def server(request: pytest.FixtureRequest) -> Store:
    found: Store = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def door(server: Store, toxiproxy: Toxiproxy) -> Door:
    return toxiproxy.before(server.port)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[S3Blobs]:
    blobs = await open_blobs(settings, CLOCK)
    try:
        yield blobs
    finally:
        await blobs.close()


def client_of(server: Store) -> Client:
    section = joined(server).s3
    assert section.access_key_file is not None and section.secret_key_file is not None
    pair = Pair(
        section.access_key_file.read_text().strip(), section.secret_key_file.read_text().strip()
    )
    return Client(section.endpoint, keys=Keys(lambda: pair, CLOCK), timeout_s=5)


async def refused(awaitable: Any) -> tuple[LamppostError, float]:
    """The error, and after how many seconds it came."""
    began_us = CLOCK.monotonic_us()
    with pytest.raises(LamppostError) as caught:
        await awaitable
    return caught.value, (CLOCK.monotonic_us() - began_us) / SECOND_US


async def works_again(blobs: Blobs) -> None:
    async def tried() -> bool:
        try:
            await blobs.time_us()
        except LamppostError as error:
            assert error.retryable, error
            return False
        return True

    await until(tried, 60, "the store answers again", every_s=0.2)


# Integrity


async def test_the_store_itself_refuses_bytes_of_another_hash(server: Store) -> None:
    # Our own check never lets such bytes out; damage on the way is the store's to find.
    settings = joined(server)
    async with opened(settings):
        client, wrong = client_of(server), sha(b"other")
        headers = {"x-amz-checksum-sha256": checksum(wrong)}
        with pytest.raises(Refused) as caught:
            client.request(
                "PUT", settings.s3.bucket, key_of(1), headers=headers,
                body=lambda: [b"bytes"], size_bytes=5, sha256=wrong,
            )  # fmt: skip
        assert caught.value.status == 400
        with pytest.raises(Refused) as caught:
            client.request("HEAD", settings.s3.bucket, key_of(1))
        assert caught.value.status == 404
        client.close()


async def test_damage_in_the_store_is_found_by_a_whole_read(server: Store) -> None:
    settings = joined(server)
    async with opened(settings) as blobs:
        client, data = client_of(server), os.urandom(3 * MIB)
        headers = {SHA256: sha(data)}
        damaged = b"\0" + data[1:]
        client.request("PUT", settings.s3.bucket, key_of(1), headers=headers, body=damaged)
        client.close()
        assert await kind_of(blobs.read(key_of(1))) is Kind.CORRUPT
        pieces = []
        with pytest.raises(LamppostError) as caught:
            async for piece in blobs.stream(key_of(1)):
                pieces.append(piece)  # noqa: PERF401
        assert caught.value.kind is Kind.CORRUPT
        assert sum(map(len, pieces)) < len(data)
        assert await blobs.verify(key_of(1)) == sha(damaged)
        assert await blobs.read(key_of(1), 1, 9) == data[1:10]


async def test_a_large_object_goes_in_parts(server: Store, tmp_path: Path) -> None:
    settings = joined(server)
    async with opened(settings) as blobs:
        source, data = tmp_path / "large", os.urandom(12 * MIB)
        source.write_bytes(data)
        client = client_of(server)
        parts = {"conditional": True, "part_limit": MIB, "part_bytes": 5 * MIB}
        upload = Upload(key_of(1), source, sha(data), len(data), HELD, 1_700_000_000_000_000)
        put_upload(client, settings.s3.bucket, upload, **parts)
        found = await blobs.stat(key_of(1))
        assert found == (key_of(1), len(data), sha(data), HELD, upload.stored_at_us)
        assert await blobs.verify(key_of(1)) == sha(data)
        assert await kind_of(put(blobs, key_of(1), b"other")) is Kind.CONFLICT
        wrong = upload._replace(key=key_of(2), sha256=sha(b"other"))
        with pytest.raises(LamppostError) as caught:
            put_upload(client, settings.s3.bucket, wrong, **parts)
        assert caught.value.kind is Kind.CORRUPT
        assert await keys_of(blobs) == [key_of(1)]
        assert await blobs.sweep(2**62) == 0, "the upload was not aborted"
        client.close()


async def test_uploads_left_unfinished_are_swept_when_old(server: Store) -> None:
    settings = joined(server)
    async with opened(settings) as blobs:
        server.admin()._create_multipart_upload(settings.s3.bucket, key_of(1), {})
        assert await blobs.sweep(CLOCK.now_us() - 3600 * SECOND_US) == 0
        assert await blobs.sweep(CLOCK.now_us() + 60 * SECOND_US) == 1
        assert await blobs.sweep(CLOCK.now_us() + 60 * SECOND_US) == 0


# The server goes and comes


async def test_a_restart_in_the_middle(server: Store) -> None:
    async with opened(joined(server, timeout_s=5)) as blobs:
        data = os.urandom(6 * MIB)
        await put(blobs, key_of(1), data)
        stream = blobs.stream(key_of(1))
        first = await anext(stream)
        server.restart()
        await works_again(blobs)
        rest = [piece async for piece in stream]
        assert first + b"".join(rest) == data
        await put(blobs, key_of(1), data)
        assert await keys_of(blobs) == [key_of(1)]


async def test_kill_9_under_load_loses_nothing_acknowledged(server: Store) -> None:
    async with opened(joined(server, timeout_s=5)) as blobs:
        acknowledged: dict[str, str] = {}
        ends = asyncio.Event()

        async def writer(lane: int) -> None:
            for number in range(100_000):
                if ends.is_set():
                    return
                data = os.urandom(200_000)
                key = key_of(number * 10 + lane)
                try:
                    await put(blobs, key, data)
                    acknowledged[key] = sha(data)
                except LamppostError as error:
                    assert error.retryable, error
                    return

        writers = [asyncio.create_task(writer(lane)) for lane in range(4)]
        await until(lambda: len(acknowledged) >= 40, 60, "forty objects are acknowledged")
        server.kill()
        ends.set()
        await asyncio.gather(*writers)
        assert (await refused(blobs.time_us()))[0].kind is Kind.UNAVAILABLE
        server.start()
        await works_again(blobs)
        for key, digest in acknowledged.items():
            assert await blobs.verify(key) == digest
        assert set(acknowledged) <= set(await keys_of(blobs))


async def test_a_store_that_is_away_at_start_is_joined_when_it_is_back(
    server: Store, door: Door
) -> None:
    door.cut()
    async with opened(joined(server, f"http://{door.endpoint}", timeout_s=10)) as blobs:
        assert await kind_of(put(blobs, key_of(1), b"x")) is Kind.UNAVAILABLE
        assert await kind_of(blobs.stat(key_of(1))) is Kind.UNAVAILABLE
        door.heal()
        await works_again(blobs)
        await put(blobs, key_of(1), b"x")
        assert await blobs.read(key_of(1)) == b"x"


async def test_an_outage_is_unavailable_and_silence_a_timeout(server: Store, door: Door) -> None:
    async with opened(joined(server, f"http://{door.endpoint}", timeout_s=4)) as blobs:
        data = os.urandom(3 * MIB)
        await put(blobs, key_of(1), data)
        with door.away():
            for call in (blobs.read(key_of(1)), put(blobs, key_of(2), data), blobs.stat(key_of(1))):
                error, took_s = await refused(call)
                assert (error.kind, took_s < 3) == (Kind.UNAVAILABLE, True)
        with door.half_open():
            for call in (blobs.read(key_of(1)), put(blobs, key_of(2), data), blobs.time_us()):
                error, took_s = await refused(call)
                assert (error.kind, took_s < 8) == (Kind.TIMEOUT, True)
        with door.resets():
            error, _ = await refused(put(blobs, key_of(3), data))
            assert error.kind is Kind.UNAVAILABLE
        with door.cuts_after(MIB):
            error, _ = await refused(put(blobs, key_of(4), data))
            assert error.kind is Kind.UNAVAILABLE
        with door.latency(200):
            assert await blobs.read(key_of(1)) == data
        assert await blobs.stat(key_of(4)) is None
        await put(blobs, key_of(2), data)
        await put(blobs, key_of(3), data)


async def test_a_hung_store_holds_up_neither_a_cancelled_caller_nor_the_end(
    server: Store, door: Door
) -> None:
    settings = joined(server, f"http://{door.endpoint}", timeout_s=60, connections=1)
    async with opened(settings) as blobs:
        with door.half_open():
            began_us = CLOCK.monotonic_us()
            hung = asyncio.create_task(put(blobs, key_of(1), b"x" * MIB))
            waiting = asyncio.create_task(blobs.stat(key_of(1)))
            await until(lambda: blobs._pool._calls, what="the call has begun")
            hung.cancel()
            with pytest.raises(asyncio.CancelledError):
                await hung
            await until(lambda: blobs._pool._calls, what="the one who waited has the thread")
            await blobs.close()
            assert await kind_of(waiting) is Kind.CLOSED
            assert CLOCK.monotonic_us() - began_us < 10 * SECOND_US


async def test_a_stream_that_is_left_early_gives_its_connection_back(server: Store) -> None:
    async with opened(joined(server, connections=1)) as blobs:
        await put(blobs, key_of(1), os.urandom(5 * MIB))
        streams = [blobs.stream(key_of(1)) for _ in range(3)]
        for stream in streams:
            await anext(stream)
        for stream in streams:
            await stream.aclose()  # type: ignore[attr-defined]
        assert len(await blobs.read(key_of(1))) == 5 * MIB


# Keys, buckets, room


async def test_a_revoked_key_is_named_and_nothing_secret_is(server: Store, tmp_path: Path) -> None:
    settings = joined(server)
    async with opened(settings) as blobs:
        await put(blobs, key_of(1), b"x")
        source = tmp_path / "video"
        source.write_bytes(os.urandom(8 * MIB))
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        server.revoke()
        try:

            async def told() -> bool:
                try:
                    await blobs.read(key_of(1))
                except LamppostError:
                    return True
                return False

            await until(told, 30, "the key is refused")
            for call in (
                blobs.read(key_of(1)),
                blobs.delete([key_of(1)]),
                blobs.stat(key_of(1)),
                blobs.set_tags([key_of(1)], HELD),
                blobs.put(key_of(2), source, sha256=digest, size_bytes=8 * MIB),
                keys_of(blobs),
            ):
                error, _ = await refused(call)
                assert error.kind is Kind.UNAVAILABLE
                assert "access key" in error.message and "s3.access_key_file" in error.fix
                for file in (settings.s3.access_key_file, settings.s3.secret_key_file):
                    assert file is not None and file.read_text().strip() not in str(error)
        finally:
            server.allow()
        await works_again(blobs)
        await blobs.put(key_of(2), source, sha256=digest, size_bytes=8 * MIB)


async def test_a_rotated_key_needs_no_start(seaweed: Seaweed, tmp_path: Path) -> None:
    """The key of another user stands in the same files, and the old one opens nothing."""
    settings = joined(seaweed)
    access_file, secret_file = write_keys(tmp_path, seaweed.access, seaweed.secret)
    files = {"access_key_file": access_file, "secret_key_file": secret_file}
    settings = settings.model_copy(update={"s3": settings.s3.model_copy(update=files)})
    old = client(seaweed.endpoint, seaweed.access, seaweed.secret)

    def refused_now() -> bool:
        try:
            old.list_buckets()
        except S3Error:
            return True
        return False

    async with opened(settings) as blobs:
        await put(blobs, key_of(1), b"x")
        fresh = seaweed.another()
        seaweed.revoke()
        try:
            await until(refused_now, 30, "the old key is refused")
            write_keys(tmp_path, *fresh)
            await works_again(blobs)
            await put(blobs, key_of(2), b"y")
            assert await blobs.read(key_of(1)) == b"x"
        finally:
            seaweed.allow()


async def test_a_bucket_that_is_gone_does_not_pass_for_an_empty_one(server: Store) -> None:
    settings = joined(server)
    async with opened(settings) as blobs:
        server.admin().remove_bucket(settings.s3.bucket)
        for call in (
            blobs.stat(key_of(1)),
            blobs.read(key_of(1)),
            blobs.delete([key_of(1)]),
            blobs.set_tags([key_of(1)], HELD),
            put(blobs, key_of(1), b"x"),
            keys_of(blobs),
        ):
            error, _ = await refused(call)
            assert error.kind is Kind.UNAVAILABLE


async def test_a_missing_bucket_is_named_where_it_may_not_be_made(server: Store) -> None:
    async with opened(joined(server, make_buckets="false")) as blobs:
        error, _ = await refused(blobs.time_us())
        assert error.kind is Kind.UNAVAILABLE and "s3.make_buckets" in error.fix


async def test_a_versioned_bucket_is_refused_at_start(server: Store) -> None:
    settings = joined(server)
    server.admin().make_bucket(settings.s3.bucket)
    server.admin().set_bucket_versioning(settings.s3.bucket, VersioningConfig(ENABLED))
    error, _ = await refused(open_blobs(settings, CLOCK))
    assert error.kind is Kind.UNSUPPORTED and "versions" in error.message


async def test_the_probe_finds_a_vault_and_leaves_nothing(server: Store) -> None:
    settings = joined(server, vault_bucket=f"v-{uuid.uuid4()}")
    async with opened(settings) as blobs:
        assert (await blobs.ready()).vault == "ready"
    for bucket in (settings.s3.bucket, settings.s3.vault_bucket):
        assert list(server.admin().list_objects(bucket, recursive=True)) == []


async def test_the_backstop_is_set_only_where_it_is_safe(seaweed: Seaweed, ceph: Ceph) -> None:
    settings = joined(ceph)
    for _ in range(2):
        async with opened(settings):
            found = ceph.admin().get_bucket_lifecycle(settings.s3.bucket)
    assert found is not None
    (rule,) = found.rules
    assert rule.expiration.days == settings.retention.backstop_days
    assert (rule.rule_filter.tag.key, rule.rule_filter.tag.value) == ("lamppost", "standard")
    settings = joined(seaweed)
    async with opened(settings) as blobs:
        assert "none set" in (await blobs.ready()).lifecycle
        assert seaweed.admin().get_bucket_lifecycle(settings.s3.bucket) is None


async def test_full_comes_before_the_store_is_full(server: Store) -> None:
    settings = joined(server, capacity_bytes=40 * MIB)
    clock = SimulatedClock(CLOCK.now_us())
    blobs = await open_blobs(settings, clock)
    try:
        data = os.urandom(4 * MIB)
        stored = 0
        while True:
            try:
                await put(blobs, key_of(stored), data)
            except LamppostError as error:
                assert error.kind is Kind.FULL and error.retryable
                break
            stored += 1
        assert stored == 9
        usage = await blobs.usage()
        assert (usage.total_bytes, usage.free_bytes) == (40 * MIB, 4 * MIB)
        await blobs.delete([key_of(number) for number in range(5)])

        async def room() -> bool:
            await clock.advance(31)
            try:
                await put(blobs, key_of(100), data)
            except LamppostError as error:
                assert error.kind is Kind.FULL
                return False
            return True

        await until(room, 60, "room that was made is found", every_s=0.5)
    finally:
        await blobs.close()


async def test_a_quota_of_the_store_is_full(ceph: Ceph) -> None:
    async with opened(joined(ceph)) as blobs:
        await put(blobs, key_of(1), b"x")
        ceph.limit(4096)
        try:

            async def told() -> bool:
                try:
                    await put(blobs, key_of(CLOCK.monotonic_us()), os.urandom(MIB))
                except LamppostError as error:
                    assert error.kind is Kind.FULL
                    return True
                return False

            await until(told, 60, "the quota is kept", every_s=0.2)
        finally:
            ceph.limit(-1)


# TLS


async def test_tls_with_an_authority_of_our_own(tmp_path: Path) -> None:
    with Seaweed(tmp_path / "store", tls=True) as server:
        async with opened(joined(server)) as blobs:
            data = os.urandom(3 * MIB)
            await put(blobs, key_of(1), data)
            assert await blobs.read(key_of(1)) == data
        (tmp_path / "other").mkdir()
        other, _ = make_certificates(tmp_path / "other")
        async with opened(joined(server, ca_file=other)) as blobs:
            error, _ = await refused(blobs.time_us())
            assert error.kind is Kind.UNAVAILABLE and "certificate" in error.message
        plain = f"http://127.0.0.1:{server.port}"
        async with opened(joined(server, plain)) as blobs:
            error, _ = await refused(blobs.time_us())
            assert error.kind is Kind.UNAVAILABLE and "s3.endpoint" in error.fix


async def test_nobody_listens(seaweed: Seaweed) -> None:
    nowhere = f"http://127.0.0.1:{free_ports(1)[0]}"
    async with opened(joined(seaweed, nowhere)) as blobs:
        error, took_s = await refused(blobs.read(key_of(1)))
        assert error.kind is Kind.UNAVAILABLE and took_s < 2
