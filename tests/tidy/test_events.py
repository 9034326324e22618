"""Events for other systems: documents that hold together, examples that are valid, and no change
that breaks who reads them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from services import events_compat, events_examples, events_ref
from services.events_ref import Event
from shared.messages import TOPICS

Schema = dict[str, Any]
EVENTS = events_ref.events()


def valid(schema: Schema, value: Any) -> bool:
    return bool(jsonschema_rs.Draft202012Validator(schema).is_valid(value))


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.name)
def test_examples_are_valid_and_the_types_own(event: Event) -> None:
    schema = events_ref.schema_of(event)
    jsonschema_rs.meta.validate(schema)
    [example] = schema["examples"]
    assert valid(schema, example)
    msgspec.json.decode(json.dumps(example), type=event.type)
    for name in schema_of_top(schema)["required"]:
        assert not valid(schema, {k: v for k, v in example.items() if k != name}), name


def schema_of_top(schema: Schema) -> Schema:
    found: Schema = schema["$defs"][schema["$ref"].rpartition("/")[2]]
    return found


def test_every_topic_and_notice_is_described() -> None:
    document = events_ref.asyncapi()
    channels = document["channels"]
    assert channels.keys() == TOPICS.keys() | events_ref.WAYS.keys() | {"webhook"}
    for name, topic in TOPICS.items():
        kafka = channels[name]["bindings"]["kafka"]
        assert kafka["topic"] == topic.name
        for message in channels[name]["messages"]:
            part = document["components"]["messages"][message]
            assert part["bindings"]["kafka"]["key"]["description"]
    assert len(channels["webhook"]["messages"]) == len(events_examples.OUTSIDE)


def test_the_asyncapi_document_holds_together() -> None:
    document = events_ref.asyncapi()
    assert document["asyncapi"] == "3.0.0"
    assert document["info"]["title"] and document["info"]["version"]
    for reference in references(document):
        if reference.startswith("./"):
            assert reference.removeprefix("./") in events_ref.pages(), reference
            continue
        node: Any = document
        for step in reference.removeprefix("#/").split("/"):
            assert step in node, reference
            node = node[step]
    for operation in document["operations"].values():
        assert operation["action"] in ("send", "receive")
    used = {ref for channel in document["channels"].values() for ref in references(channel)}
    for name, message in document["components"]["messages"].items():
        assert f"#/components/messages/{name}" in used
        jsonschema_rs.meta.validate(message["headers"])
        for example in message.get("examples", ()):
            schema = dict(message["payload"]["schema"])
            inner = schema.get("$ref") or schema["properties"]["data"]["$ref"]
            notice = events_ref.schemas()[inner.rpartition("/")[2]]
            if "$ref" in schema:
                assert valid(notice, example["payload"])
                continue
            assert valid(notice, example["payload"]["data"])
            schema["properties"] = {**schema["properties"], "data": {"type": "object"}}
            assert valid(schema, example["payload"])


def test_a_notice_has_no_member_that_must_stay_inside() -> None:
    inside = ("thumbnail", "url", "source", "secret", "detail", "recorder", "path", "jpeg")
    for event in EVENTS:
        if not event.topic:
            text = json.dumps(events_ref.schema_of(event)["$defs"])
            assert not [word for word in inside if f'"{word}"' in text], event.name


def test_nothing_that_was_released_breaks() -> None:
    """A wanted break is a new event; what was never released is made anew by
    `python -m services.events_ref release` in an empty folder."""
    assert events_ref.released(), "there is no released schema to compare with"
    assert events_compat.breaking(events_ref.released(), events_ref.schemas()) == []


# The judge itself. Both readers are asked: the old schema about a new event, and the other way.

OLD: Schema = {
    "$ref": "#/$defs/E",
    "x-topic": "t",
    "$defs": {
        "E": {
            "type": "object",
            "properties": {
                "id": {"type": "string"},
                "count": {"type": "integer", "minimum": 0},
                "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
                "speed": {"$ref": "#/$defs/Speed"},
                "box": {"type": "array", "prefixItems": [{"type": "number"}], "minItems": 1},
                "names": {"type": "object", "additionalProperties": {"type": "string"}},
            },
            "required": ["id", "speed"],
        },
        "Speed": {"enum": ["still", "fast"]},
    },
}
EXAMPLE = {"id": "1", "count": 2, "note": None, "speed": "fast", "box": [0.5], "names": {"a": "b"}}
Change = Callable[[Schema, Schema], None]


def members(change: Callable[[dict[str, Any]], None]) -> Change:
    return lambda of, _: change(of["properties"])


def put(name: str, schema: Schema) -> Change:
    return members(lambda properties: properties.update({name: schema}))


def require(name: str) -> Change:
    return lambda of, _: of["required"].append(name)


def speeds(*values: str) -> Change:
    return lambda _, defs: defs.update({"Speed": {"enum": list(values)}})


def both(*changes: Change) -> Change:
    def change(of: Schema, defs: Schema) -> None:
        for one in changes:
            one(of, defs)

    return change


def changed(change: Change) -> Schema:
    found = copy.deepcopy(OLD)
    change(found["$defs"]["E"], found["$defs"])
    return found


PASSES: dict[str, tuple[Change, dict[str, Any]]] = {
    "nothing": (lambda *_: None, EXAMPLE),
    "an optional member": (put("more", {"type": "string"}), {**EXAMPLE, "more": "x"}),
    "an optional member with a default": (
        put("more", {"type": "integer", "default": 0}),
        {**EXAMPLE, "more": 1},
    ),
    "an item at the end of a list of fields": (
        put(
            "box",
            {
                "type": "array",
                "prefixItems": [{"type": "number"}, {"type": "string", "default": ""}],
                "minItems": 1,
            },
        ),
        {**EXAMPLE, "box": [0.5, "x"]},
    ),
    "a definition of another name": (
        both(
            put("speed", {"$ref": "#/$defs/Pace"}),
            lambda _, defs: defs.update({"Pace": defs.pop("Speed")}),
        ),
        EXAMPLE,
    ),
}
BREAKS: dict[str, Change] = {
    "removed": members(lambda of: of.pop("count")),
    "renamed": members(lambda of: of.update({"number": of.pop("count")})),
    "retyped": put("count", {"type": "string"}),
    "widened type": put("count", {"type": "number", "minimum": 0}),
    "now null": put("count", {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]}),
    "never null": put("note", {"type": "string", "default": None}),
    "required": require("count"),
    "new and required": both(put("more", {"type": "string"}), require("more")),
    "not always there": lambda of, _: of["required"].remove("id"),
    "enumeration narrowed": speeds("still"),
    "enumeration renamed": speeds("still", "quick"),
    "made an enumeration": put("id", {"type": "string", "enum": ["1"]}),
    "bound": put("count", {"type": "integer", "minimum": 1}),
    "new bound": put("count", {"type": "integer", "minimum": 0, "maximum": 9}),
    "default": put("note", {"anyOf": [{"type": "string"}, {"type": "null"}], "default": "unknown"}),
    "shorter list of fields": put("box", {"type": "array", "minItems": 1}),
    "longer least list": put(
        "box",
        {"type": "array", "prefixItems": [{"type": "number"}, {"type": "number"}], "minItems": 2},
    ),
    "values of a mapping": put(
        "names", {"type": "object", "additionalProperties": {"type": "integer"}}
    ),
    "format": put("id", {"type": "string", "format": "uuid"}),
    "closed": lambda of, _: of.update({"additionalProperties": False}),
}


@pytest.mark.parametrize("name", PASSES)
def test_what_adds_passes_and_both_readers_can_read(name: str) -> None:
    change, new_example = PASSES[name]
    new = changed(change)
    assert events_compat.breaks(OLD, new) == []
    assert valid(new, EXAMPLE), "we read old events"
    assert valid(OLD, new_example), "others read new ones with the schema they have"


def test_a_new_value_of_an_enumeration_passes() -> None:
    """Its readers are told to expect it; we read the old ones."""
    new = changed(speeds("still", "fast", "walking"))
    assert events_compat.breaks(OLD, new) == []
    assert valid(new, EXAMPLE)


@pytest.mark.parametrize("name", BREAKS)
def test_what_removes_or_retypes_fails(name: str) -> None:
    assert events_compat.breaks(OLD, changed(BREAKS[name])) != []


def test_a_new_event_passes_and_a_lost_or_moved_one_fails() -> None:
    old = {"a.json": OLD, "b.json": OLD}
    assert events_compat.breaking(old, {**old, "c.json": OLD}) == []
    assert events_compat.breaking(old, {"a.json": OLD}) == ["b.json: the event is gone"]
    moved = {**OLD, "x-topic": "elsewhere"}
    assert events_compat.breaking(old, {**old, "b.json": moved}) != []


def test_every_real_event_would_notice_a_lost_member() -> None:
    for event in EVENTS:
        schema = events_ref.schema_of(event)
        for name in list(schema_of_top(schema)["properties"]):
            less = copy.deepcopy(schema)
            del schema_of_top(less)["properties"][name]
            assert events_compat.breaks(schema, less) != [], (event.name, name)
