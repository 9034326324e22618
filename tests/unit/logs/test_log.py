"""What is logged: no secret however it got there, and not the same of a camera twice a second."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.api.webhook_signing import new_secret
from services.ingest.camera_secrets import CameraSecrets
from shared import log, redaction
from shared.clock import SECOND_US, SimulatedClock
from shared.platform import internal_key
from shared.settings import Log, Settings

KEY = "lp_0f3a9c_Zk3Ue8xP0w2lQvT7yBn4Rs6d"
TOKEN = "q7Jf0aXkUe2mZr9bVtYc3LhWs8NdPg1iKoE5uQxR"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    log.configure(Log(format="json"), stream=stream)
    yield stream
    log.configure(Log())


def said(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


LEAKS = (
    "rtsp://admin:hunter22@10.0.0.1/main",
    "rtsp://admin:hunt@er22@10.0.0.1:554/main?x=1",
    "rtsps://:hunter22@host/main",
    "postgresql+asyncpg://lamppost:hunter22@db/lamppost",
    "password=hunter22",
    "sasl_plain_password='hunter22'",
    "{'password': 'hunter22', 'user': 'admin'}",
    '{"secret_key": "hunter22"}',
    "http://s3/bucket/k?X-Amz-Signature=hunter22&X-Amz-Date=1",
    "Authorization: hunter22",
    f"GET /v1/media/{TOKEN}/main.m3u8",
    f"http://localhost:8600/setup?token={TOKEN}",
    f"Bearer {KEY}",
    f"the key {KEY} was refused",
    "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJodW50ZXIyMiJ9.c2lnbmF0dXJlaHVudGVyMjI",
    "-----BEGIN PRIVATE KEY-----\nhunter22\n-----END PRIVATE KEY-----",
    "Basic YWRtaW46aHVudGVyMjI=",
)
WORDS = ("hunter22", "hunt@er22", "er22", KEY, KEY.rpartition("_")[2], TOKEN, "YWRtaW46", "eyJzdWI")


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("place", ["event", "value", "nested", "bytes", "object", "exception"])
def test_what_looks_like_a_secret_is_in_no_line(lines: io.StringIO, leak: str, place: str) -> None:
    logger = log.get("ingest")
    if place == "event":
        logger.warning(leak)
    elif place == "value":
        logger.info("refused", cause=leak)
    elif place == "nested":
        logger.info("refused", facts={"tried": [leak, {"again": (leak,)}]})
    elif place == "bytes":
        logger.info("refused", answer=leak.encode())
    elif place == "object":
        logger.info("refused", error=ValueError(leak))
    else:
        try:
            raise ValueError(leak)
        except ValueError:
            logger.exception("failed")
    [line] = said(lines)
    assert not [word for word in WORDS if word in json.dumps(line)]
    assert line["component"] == "ingest"


def test_members_named_like_a_secret_are_blank(lines: io.StringIO) -> None:
    values = {"password": "abc", "media_token": "abc", "options": {"api_key": "abc"}}
    log.get("x").info("opened", **values, camera="c-1", secret="c-1", key="v1/2026/c-1")
    [line] = said(lines)
    assert "abc" not in json.dumps(line)
    assert (line["camera"], line["secret"], line["key"]) == ("c-1", "c-1", "v1/2026/c-1")


@pytest.mark.parametrize(
    "harmless",
    [
        "Cannot reach http://127.0.0.1:8600/v1/cameras?district=Mong%20Kok: refused.",
        "rtsp://10.0.0.1/main: Basic authentication refused",
        "the password of the bus cannot be read",
        "frames dropped: 12, mail to operator@example.org",
    ],
)
def test_what_is_none_stays_as_it_is(harmless: str) -> None:
    assert redaction.redact(harmless) == harmless


def test_a_secret_that_was_read_from_a_file_is_known_from_then_on(
    lines: io.StringIO, tmp_path: Path
) -> None:
    """Whatever form an error gives it: these words look like nothing."""
    folder = tmp_path / "secrets" / "cameras"
    folder.mkdir(parents=True)
    (folder / "c-1").write_text("admin:correct horse battery")
    (folder / "c-1").chmod(0o600)
    settings = Settings(state_dir=tmp_path)
    credentials = CameraSecrets.of(settings).read("c-1")
    key = internal_key(tmp_path / "secrets" / "internal.key")
    log.get("x").error("odd", cause=f"server said {credentials.password!r}, {key}", more=[key])
    [line] = said(lines)
    assert line["cause"] == "server said '***', ***"
    assert line["more"] == ["***"]


def test_a_webhooks_secret_is_none_of_the_logs_business() -> None:
    assert redaction.redact(f"signed with {new_secret()}") == "signed with whsec_***"


def test_every_file_with_a_secret_that_the_settings_name_is_hidden_where_it_is_read() -> None:
    """A setting that names a secret's file must have a reader that calls `hide`."""
    root = Path(__file__).parents[3]
    readers = {
        "stores.internal_key_file": "shared/platform.py",
        "kafka.password_file": "shared/bus/kafka_wire.py",
        "postgres.password_file": "shared/db/postgres.py",
        "s3.access_key_file": "shared/blobs/s3.py",
        "s3.secret_key_file": "shared/blobs/s3.py",
        "ingest.secrets_dir": "services/ingest/camera_secrets.py",
    }
    found = {
        f"{section}.{name}"
        for section, field in Settings.model_fields.items()
        if hasattr(field.annotation, "model_fields")
        for name in field.annotation.model_fields  # type: ignore[union-attr]
        if name.endswith(("password_file", "key_file", "secrets_dir", "secret_file", "token_file"))
    }
    relay = {name for name in found if name.startswith("relay.")}
    assert found - relay == set(readers)
    for place in readers.values():
        assert "hide(" in (root / place).read_text("utf-8"), place


def test_one_warning_a_second_for_each_camera_and_event() -> None:
    clock = SimulatedClock()
    limit = log._PerCamera(log.Limiter(clock))

    def passes(event: str, camera: str | None, level: str = "warning") -> dict[str, Any] | None:
        given: dict[str, Any] = {"event": event, "level": level, "component": "x"}
        if camera is not None:
            given["camera"] = camera
        try:
            return dict(limit(None, "", given))
        except log.structlog.DropEvent:
            return None

    assert passes("lost", "a-1") is not None
    assert [passes("lost", "a-1") for _ in range(5)] == [None] * 5
    assert passes("lost", "b-1") is not None
    assert passes("refused", "a-1") is not None
    assert passes("lost", "a-1", "error") is None
    assert [passes("begun", "a-1", "info") is None for _ in range(3)] == [False] * 3
    assert [passes("retrying", None) is None for _ in range(3)] == [False] * 3
    clock.set_us(clock.now_us() + SECOND_US)
    again = passes("lost", "a-1")
    assert again is not None
    assert again["withheld"] == 6


def test_a_flapping_city_is_some_lines_a_second(lines: io.StringIO) -> None:
    logger = log.get("ingest")
    for number in range(2_000):
        logger.warning("connection lost", camera=f"c-{number % 20}", cause="reset")
    assert 20 <= len(said(lines)) <= 100


def test_what_libraries_log_is_structured_and_clean(lines: io.StringIO) -> None:
    other = logging.getLogger("somebody.elses")
    other.warning("cannot reach %s", "http://u:hunter22@host/")
    other.warning("cannot reach %s", "http://u:hunter22@host/")
    other.info("nothing")
    try:
        raise OSError("password=hunter22")
    except OSError:
        other.exception("failed")
    first, second = said(lines)
    assert (first["component"], first["level"]) == ("somebody.elses", "warning")
    assert first["event"] == "cannot reach http://***@host/"
    assert second["level"] == "error"
    assert "hunter22" not in lines.getvalue()


def test_a_closed_stream_ends_nobody() -> None:
    stream = io.StringIO()
    log.configure(Log(format="json"), stream=stream)
    stream.close()
    logging.getLogger("somebody.elses").warning("late")
    log.configure(Log())


def test_a_long_value_is_cut(lines: io.StringIO) -> None:
    log.get("x").info("odd", cause="a" * 100_000)
    [line] = said(lines)
    assert len(line["cause"]) == log.MAX_TEXT + 1
