"""Which cameras have holes, since when and why, and what expires: as the api tells Prometheus."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
from prometheus_client import Gauge

from services.api.accounting import Accountant, missing_s
from services.api.expiry import Expiry, certificate_of
from services.api.gauges import Gauges
from shared import metrics
from shared.clock import DAY_US, HOUR_US, SECOND_US
from shared.db import tables
from shared.domain import GapReason, RecordingState
from shared.ledger import Entry, Kind, Ledger
from shared.messages import StatusChanged
from tests.support.api import NOW_US, Api, opened
from tests.support.servers import certificates

NOW_S = NOW_US / SECOND_US


def said(camera_id: str, state: RecordingState, at_us: int, **more: object) -> StatusChanged:
    first = StatusChanged(camera_id, state, at_us, at_us, "rec-1", 1)
    return msgspec.structs.replace(first, **more)


def holes() -> dict[tuple[str, ...], float]:
    return _samples(metrics.CAMERA_HOLE_SINCE, "camera", "reason")


def states() -> dict[tuple[str, ...], float]:
    found = _samples(metrics.CAMERAS, "state")
    return {state: count for state, count in found.items() if count}


def _samples(gauge: Gauge, *labels: str) -> dict[tuple[str, ...], float]:
    [family] = gauge.collect()
    return {tuple(one.labels[name] for name in labels): one.value for one in family.samples}


@contextlib.asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[tuple[Api, Gauges]]:
    """An api with its gauges. They are the process's: what other tests set is gone before, and
    what this one sets is gone afterwards."""
    _clear()
    async with opened(folder) as api:
        try:
            yield api, Gauges(api.context)
        finally:
            _clear()


def _clear() -> None:
    for gauge in (metrics.CAMERA_HOLE_SINCE, metrics.CAMERA_MISSING, metrics.CAMERAS):
        gauge.clear()


async def test_a_hole_has_a_beginning_and_a_reason_and_an_end(tmp_path: Path) -> None:
    async with watched(tmp_path) as (api, gauges):
        await api.cameras("mk-1")
        recorders = api.context.recorders
        recorders.apply(said("mk-1", RecordingState.RECORDING, NOW_US))
        await gauges.run_once()
        assert holes() == {} and states() == {("recording",): 1}

        lost_us = NOW_US + SECOND_US
        reason = GapReason.CONNECTION_LOST
        recorders.apply(said("mk-1", RecordingState.RETRYING, lost_us, reason=reason))
        await gauges.run_once()
        assert holes() == {("mk-1", "connection_lost"): NOW_S + 1}

        # It tries again, and meets another reason: the same hole.
        again_us = lost_us + 5 * SECOND_US
        reason = GapReason.UNREACHABLE
        recorders.apply(said("mk-1", RecordingState.RETRYING, again_us, reason=reason))
        await gauges.run_once()
        assert holes() == {("mk-1", "unreachable"): NOW_S + 1}
        assert states() == {("retrying",): 1}

        recorders.apply(said("mk-1", RecordingState.RECORDING, again_us + SECOND_US))
        await gauges.run_once()
        assert holes() == {}


async def test_a_camera_of_which_nobody_tells_is_a_hole_too(tmp_path: Path) -> None:
    """Its recorder fell silent, or there was none."""
    async with watched(tmp_path) as (api, gauges):
        await api.cameras("never", "silent", "off")
        async with api.platform.database.write() as connection:
            off = tables.camera.c.id == "off"
            await connection.execute(tables.camera.update().where(off).values(enabled=False))
        api.context.recorders.apply(said("silent", RecordingState.RECORDING, NOW_US))
        api.clock.set_us(NOW_US + 60 * SECOND_US)
        await gauges.run_once()
        assert holes() == {
            ("never", "recorder_down"): NOW_S + 60,
            ("silent", "recorder_down"): NOW_S,
        }
        assert states() == {("unknown",): 2, ("disabled",): 1}
        api.clock.set_us(NOW_US + 120 * SECOND_US)
        await gauges.run_once()
        assert holes()["never", "recorder_down"] == NOW_S + 60, "it began where it was first seen"


async def test_a_database_that_is_away_hides_no_hole(tmp_path: Path) -> None:
    async with watched(tmp_path) as (api, gauges):
        await api.cameras("mk-1")
        api.context.recorders.apply(said("mk-1", RecordingState.RECORDING, NOW_US))
        await gauges.run_once()
        await api.platform.database.close()
        reason = GapReason.SILENT
        api.context.recorders.apply(said("mk-1", RecordingState.RETRYING, NOW_US, reason=reason))
        await gauges.run_once()
        assert holes() == {("mk-1", "silent"): NOW_S}


def test_missing_time_names_the_longest_reasons_and_adds_up_the_rest() -> None:
    lengths = [("silent", 5), ("frozen", 4), ("moved", 1), ("disk_low", 3), ("spool_full", 2)]
    entries, at = [], 0
    for reason, seconds in lengths:
        entries.append(Entry(at, at + seconds * SECOND_US, Kind.GAP, reason))
        at += seconds * SECOND_US
    entries.append(Entry(at, at + 7 * SECOND_US, Kind.UNACCOUNTED))
    found = missing_s(Ledger(0, at + 7 * SECOND_US, tuple(entries)))
    assert found == {"silent": 5, "frozen": 4, "disk_low": 3, "other": 3, "unaccounted": 7}


async def test_a_deleted_cameras_missing_time_is_shown_no_more(tmp_path: Path) -> None:
    async with watched(tmp_path) as (api, _):
        await api.cameras("mk-1")
        api.clock.set_us(NOW_US + HOUR_US)
        accountant = Accountant(api.context)
        await accountant.run_once()
        shown = _samples(metrics.CAMERA_MISSING, "camera", "reason")
        assert shown == {("mk-1", "unaccounted"): 3450}
        async with api.platform.database.write() as connection:
            await connection.execute(tables.camera.update().values(deleted_at_us=NOW_US + HOUR_US))
        await accountant.run_once()
        assert _samples(metrics.CAMERA_MISSING, "camera", "reason") == {}


def expiries() -> dict[tuple[str, ...], float]:
    return _samples(metrics.EXPIRY, "what")


async def test_certificates_and_keys_say_when_they_end(tmp_path: Path) -> None:
    made = certificates.make(tmp_path / "tls", life_years=20)
    section = {"ca_file": made.ca, "servers": ("127.0.0.1:1",)}
    async with opened(tmp_path, kafka=section, s3={"ca_file": tmp_path / "none.pem"}) as api:
        await api.user("ann")
        for days in (30, 9):
            await _key(api, f"key-{days}", NOW_US + days * DAY_US)
        await _key(api, "key-old", NOW_US - DAY_US)
        expiry = Expiry(api.platform, api.context.settings)
        try:
            assert await expiry.run_once()
            found = expiries()
            assert found.keys() == {("kafka.ca_file",), ("api_key",)}, "no file, no expiry"
            assert found["api_key",] == NOW_S + 9 * DAY_US / SECOND_US
            assert found["kafka.ca_file",] > NOW_S + 10 * 365 * 86_400
            made.ca.unlink()
            await expiry.run_once()
            assert expiries().keys() == {("api_key",)}
        finally:
            metrics.EXPIRY.clear()


async def _key(api: Api, name: str, expires_us: int) -> None:
    [person] = await api.rows(tables.user)
    await api.insert(
        tables.api_key,
        {
            "id": name,
            "user_id": person["id"],
            "name": name,
            "secret_sha256": name.ljust(64, "0"),
            "roles": [],
            "created_at_us": NOW_US,
            "expires_at_us": expires_us,
        },
    )


@contextlib.contextmanager
def speaking_tls(made: certificates.Certificates) -> Iterator[int]:
    """A server that shakes hands once, and hangs up."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)

    def serve(listening: socket.socket) -> None:
        raw, _ = listening.accept()
        with contextlib.suppress(OSError), context.wrap_socket(raw, server_side=True):
            pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)


def test_what_a_server_shows_is_read_whoever_signed_it(tmp_path: Path) -> None:
    made = certificates.make(tmp_path)
    with speaking_tls(made) as port:
        shown = certificate_of("kafka.server", "127.0.0.1", port)
    pem = ssl.DER_cert_to_PEM_cert(shown)
    assert pem.strip() == made.certificate.read_text().strip()


async def test_a_server_that_is_away_is_asked_again_soon(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    sections = {
        "stores": {"bus": "kafka"},
        "kafka": {"servers": (f"127.0.0.1:{port}",), "tls": True},
    }
    async with opened(tmp_path, **sections) as api:
        assert not await Expiry(api.platform, api.context.settings).run_once()
        assert expiries() == {}
