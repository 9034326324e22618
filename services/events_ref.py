"""JSON Schemas and the AsyncAPI 3.0 document of every event, made out of the message types.

`python -m services.docs_ref` writes them to docs/ref with the other pages. `python -m
services.events_ref release` makes the present schemas the released ones, and refuses when somebody
who reads events would break (services/events_compat.py); a test compares the two.
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple, get_args

import msgspec

from services import events_compat, events_examples
from services.api.relay_notices import NOTICES, CloudEvent
from shared import messages
from shared.errors import Kind, LamppostError
from shared.messages import TOPICS, Topic

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "ref"
RELEASED = FOLDER / "schemas" / "released"
DRAFT = "https://json-schema.org/draft/2020-12/schema"
FORMAT = "application/schema+json;version=2020-12"
KEYS = {
    "cameras": "camera id",
    "frames": "camera id",
    "detections": "camera id",
    "sightings": "camera id",
    "segments": "camera id",
    "camera-status": "camera id; of recorder.status the recorder, of detector.status the worker",
}
MEMBERS: dict[str, Any] = {
    "cameras": messages.CameraChanged,
    "detections": messages.DetectionEvent,
    "sightings": messages.SightingUpdated,
    "segments": messages.SegmentEvent,
    "camera-status": messages.StatusEvent,
}
"""What each topic carries; `frames` carries pictures."""
WAYS = {
    "mqttSighting": ("{prefix}/{camera}/sighting", "sighting."),
    "mqttStatus": ("{prefix}/{camera}/status", "camera.status"),
}


class Event(NamedTuple):
    """One kind of event: of the bus, or a notice for the outside."""

    name: str
    type: type[msgspec.Struct]
    topic: str
    """Empty: a notice."""

    @property
    def file(self) -> str:
        return f"schemas/{self.name}.json"


def events() -> list[Event]:
    """Every event of the bus by its tag, and every notice."""
    found = [
        Event(str(kind.__struct_config__.tag), kind, topic)
        for topic, members in MEMBERS.items()
        for kind in get_args(members) or (members,)
    ]
    return found + [Event(f"notice.{name}", kind, "") for name, kind in NOTICES.items()]


def schema_of(event: Event) -> dict[str, Any]:
    """The JSON Schema of the event's value (of a notice: of its `data`)."""
    (top,), parts = msgspec.json.schema_components([event.type], ref_template="#/$defs/{name}")
    found = {
        "$schema": DRAFT,
        "$id": f"urn:lamppost:schema:{event.name}:v1",
        **top,
        "$defs": {name: _tidied(part) for name, part in parts.items()},
        "examples": [events_examples.value_of(event.name)],
    }
    if event.topic:
        found |= {"x-topic": event.topic, "x-key": KEYS[event.topic]}
    plain: dict[str, Any] = json.loads(json.dumps(found))  # tuples of defaults become lists
    return plain


def _tidied(part: dict[str, Any]) -> dict[str, Any]:
    """Descriptions on one line; readers ignore members that they do not know, whatever our own
    input checks refuse."""
    found = {key: value for key, value in part.items() if key != "additionalProperties"}
    if isinstance(part.get("additionalProperties"), dict):
        found["additionalProperties"] = part["additionalProperties"]
    if "description" in found:
        found["description"] = " ".join(inspect.cleandoc(found["description"]).split())
    return found


def schemas() -> dict[str, dict[str, Any]]:
    """Every schema by its file's name."""
    return {f"{event.name}.json": schema_of(event) for event in events()}


def pages() -> dict[str, str]:
    """Every file below docs/ref, as text."""
    found = {f"schemas/{name}": _text(schema) for name, schema in schemas().items()}
    return {**found, "asyncapi.json": _text(asyncapi())}


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def headers_schema(event: Event) -> dict[str, Any]:
    """CloudEvents 1.0 in Kafka's headers, or in MQTT's user properties."""
    kind = event.name.removeprefix("notice.")
    words = {
        "ce_specversion": {"type": "string", "const": "1.0"},
        "ce_type": {"type": "string", "const": f"org.lamppost.{kind}.v1"},
        "ce_source": {"type": "string", "description": "Which service of ours."},
        "ce_id": {"type": "string", "description": "The same when the event comes again."},
        "ce_time": {"type": "string", "format": "date-time"},
    }
    return {"type": "object", "properties": words, "required": sorted(words)}


def _message(event: Event) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": event.name,
        "title": event.name,
        "summary": " ".join(inspect.cleandoc(event.type.__doc__ or "").split()),
        "contentType": "application/json",
        "headers": headers_schema(event),
        "payload": {"schemaFormat": FORMAT, "schema": {"$ref": f"./{event.file}"}},
        "examples": [{"payload": events_examples.value_of(event.name)}],
    }
    if event.topic:
        key = {"type": "string", "description": KEYS[event.topic]}
        found["bindings"] = {"kafka": {"key": key, "bindingVersion": "0.5.0"}}
    return found


def _frame_message() -> dict[str, Any]:
    names = [f"lp_{name}" for name in messages.FrameMeta._fields]
    words = {name: {"type": "string", "description": "Decimal text."} for name in names}
    words["lp_camera_id"] = {"type": "string", "description": "The camera."}
    return {
        "name": "frame",
        "title": "frame",
        "summary": "A picture for detection: JPEG; what it is stands in the headers.",
        "contentType": "image/jpeg",
        "headers": {"type": "object", "properties": words, "required": names},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": KEYS["frames"]},
                "bindingVersion": "0.5.0",
            }
        },
    }


def _webhook_message(event: Event) -> dict[str, Any]:
    """A notice inside its envelope, as a webhook's body."""
    (top,), parts = msgspec.json.schema_components([CloudEvent], ref_template="#/$defs/{name}")
    envelope = dict(parts[top["$ref"].rpartition("/")[2]])
    envelope["properties"] = {
        **envelope["properties"],
        "type": {"const": f"org.lamppost.{event.name.removeprefix('notice.')}.v1"},
        "data": {"$ref": f"./{event.file}"},
    }
    signed = ("webhook-id", "webhook-timestamp", "webhook-signature")
    return {
        "name": f"webhook.{event.name.removeprefix('notice.')}",
        "contentType": "application/cloudevents+json",
        "summary": "A signed POST (Standard Webhooks 1.0); its body is the CloudEvent.",
        "headers": {
            "type": "object",
            "properties": {name: {"type": "string"} for name in signed},
            "required": list(signed),
        },
        "payload": {"schemaFormat": FORMAT, "schema": _tidied(envelope)},
        "examples": [{"payload": events_examples.envelope_of(event.name)}],
    }


def _topic_channel(topic: Topic, names: list[str]) -> dict[str, Any]:
    policy = ["compact"] if topic.compacted else ["delete"]
    config: dict[str, Any] = {"cleanup.policy": policy, "max.message.bytes": topic.max_bytes}
    if topic.kept_s is not None:
        config["retention.ms"] = topic.kept_s * 1000
    return {
        "address": topic.name,
        "servers": [{"$ref": "#/servers/kafka"}],
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "topicConfiguration": config,
                "bindingVersion": "0.5.0",
            }
        },
    }


def _channels(found: list[Event]) -> dict[str, Any]:
    channels: dict[str, Any] = {}
    for topic in TOPICS.values():
        names = [event.name for event in found if event.topic == topic.name] or ["frame"]
        channels[topic.name] = _topic_channel(topic, names)
    notices = [event.name for event in found if not event.topic]
    for way, (address, start) in WAYS.items():
        names = [name for name in notices if name.startswith(f"notice.{start}")]
        channels[way] = {
            "address": address,
            "servers": [{"$ref": "#/servers/mqtt"}],
            "parameters": {
                "prefix": {"description": "Setting relay.mqtt_prefix.", "default": "lamppost"},
                "camera": {"description": "The camera's id."},
            },
            "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        }
    hooks = [f"webhook.{name.removeprefix('notice.')}" for name in notices]
    channels["webhook"] = {
        "address": None,
        "description": "The address that a subscription names (POST /v1/webhooks).",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in hooks},
    }
    return channels


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3.0 document: topics, MQTT and webhooks, all sent by Lamppost."""
    found = events()
    channels = _channels(found)
    sent = {name for channel in channels.values() for name in channel["messages"]}
    parts = {event.name: _message(event) for event in found if event.name in sent}
    parts["frame"] = _frame_message()
    for event in found:
        if not event.topic:
            part = _webhook_message(event)
            parts[part["name"]] = part
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Lamppost events",
            "version": "1.0.0",
            "description": "Written by `make docs` out of the code. docs/guide/integrator.md "
            "tells how to get them. Members may be added; nothing is removed or retyped.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "kafka": {"host": "kafka.example.org:9092", "protocol": "kafka"},
            "mqtt": {
                "host": "mqtt.example.org:8883",
                "protocol": "mqtts",
                "protocolVersion": "5.0",
            },
        },
        "channels": channels,
        "operations": {
            f"send.{name}": {"action": "send", "channel": {"$ref": f"#/channels/{name}"}}
            for name in channels
        },
        "components": {"messages": parts},
    }


def released() -> dict[str, dict[str, Any]]:
    """The schemas of the last release."""
    return {
        path.name: json.loads(path.read_text("utf-8")) for path in sorted(RELEASED.glob("*.json"))
    }


def release() -> None:
    """Make the present schemas the released ones; CONFLICT when that would break a reader."""
    wrong = events_compat.breaking(released(), schemas())
    if wrong:
        raise LamppostError(
            Kind.CONFLICT,
            "Readers would break: " + "; ".join(wrong) + ".",
            fix="Give the changed event a new name, and send the old one beside it for a release.",
        )
    RELEASED.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas().items():
        (RELEASED / name).write_text(_text(schema), "utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["release"]:
        sys.exit("usage: python -m services.events_ref release")
    release()
