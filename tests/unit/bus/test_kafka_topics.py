"""What is asked of topics at the brokers, and settings that no broker need see to be refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared.bus.kafka_topics import LIMIT_BYTES, check, configuration
from shared.bus.kafka_wire import wire_of
from shared.errors import Kind, LamppostError
from shared.messages import CAMERAS, FRAMES, SIGHTINGS, Topic
from shared.settings import Settings, load

SETTINGS = load(
    {
        "LAMPPOST_STORES__BUS": "kafka",
        "LAMPPOST_STORES__BUS_PARTITIONS": "2",
        "LAMPPOST_KAFKA__SERVERS": '["one:9092"]',
        "LAMPPOST_KAFKA__REPLICATION": "3",
        "LAMPPOST_KAFKA__MIN_IN_SYNC": "2",
    }
)


def parts(count: int = 2, replicas: int = 3) -> list[dict[str, Any]]:
    return [{"replicas": list(range(replicas))} for _ in range(count)]


@pytest.mark.parametrize("topic", [CAMERAS, FRAMES, SIGHTINGS])
def test_what_is_made_is_what_is_asked_for(topic: Topic) -> None:
    replicas = 3 if topic.durable else 1
    check(topic, SETTINGS, parts(replicas=replicas), configuration(topic, SETTINGS))


def test_durable_topics_need_several_replicas_and_frames_none() -> None:
    assert configuration(SIGHTINGS, SETTINGS)["min.insync.replicas"] == "2"
    assert "min.insync.replicas" not in configuration(FRAMES, SETTINGS)
    assert configuration(FRAMES, SETTINGS)["retention.ms"] == "60000"
    assert configuration(CAMERAS, SETTINGS)["cleanup.policy"] == "compact"


@pytest.mark.parametrize(
    ("topic", "there", "values", "said"),
    [
        (SIGHTINGS, parts(count=3), {}, "Set stores.bus_partitions to 3"),
        (SIGHTINGS, parts(replicas=1), {}, "replicas 1; it must be at least 3"),
        (SIGHTINGS, parts(), {"max.message.bytes": "1000"}, f"at least {LIMIT_BYTES}"),
        (SIGHTINGS, parts(), {"retention.ms": "3600000"}, "retention.ms 3600000"),
        (SIGHTINGS, parts(), {"cleanup.policy": "compact"}, "it must be delete"),
        (CAMERAS, parts(), {"cleanup.policy": "delete"}, "it must be compact"),
        (FRAMES, parts(replicas=1), {"retention.ms": "604800000"}, "it must be 60000"),
        (FRAMES, parts(replicas=1), {"retention.ms": "-1"}, "it must be 60000"),
    ],
)
def test_a_topic_that_breaks_a_promise_is_refused_with_what_to_do(
    topic: Topic, there: list[dict[str, Any]], values: dict[str, str], said: str
) -> None:
    with pytest.raises(LamppostError, match=said) as caught:
        check(topic, SETTINGS, there, {**configuration(topic, SETTINGS), **values})
    assert caught.value.kind is Kind.INVALID and caught.value.fix


def test_events_may_be_kept_longer() -> None:
    values = configuration(SIGHTINGS, SETTINGS)
    for kept in ("604800000", "-1"):
        check(SIGHTINGS, SETTINGS, parts(), {**values, "retention.ms": kept})


def test_what_this_user_may_not_read_is_not_judged() -> None:
    check(SIGHTINGS, SETTINGS, parts(), {})


def changed(**values: Any) -> Settings:
    return SETTINGS.model_copy(update={"kafka": SETTINGS.kafka.model_copy(update=values)})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"servers": ()}, "names no broker"),
        ({"servers": ("one",)}, "host:port"),
        ({"servers": ("one:x",)}, "host:port"),
        ({"tls": True, "ca_file": Path("/nowhere/ca.pem")}, "holds no certificate"),
        ({"sasl": "PLAIN"}, "needs kafka.username"),
        (
            {"sasl": "PLAIN", "username": "u", "password_file": Path("/nowhere/password")},
            "Cannot read the password",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(values: dict[str, Any], said: str) -> None:
    with pytest.raises(LamppostError, match=said) as caught:
        wire_of(changed(**values))
    assert caught.value.kind is Kind.INVALID


def test_a_password_is_read_without_its_line_end(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("p w \n")
    wire = wire_of(changed(sasl="SCRAM-SHA-256", username="u", password_file=file))
    assert wire.security["sasl_plain_password"] == "p w "
    assert wire.security["security_protocol"] == "SASL_PLAINTEXT"
