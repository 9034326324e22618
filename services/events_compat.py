"""Whether a change of an event's schema breaks somebody: `breaks(released, current)`.

Two readers count. Other systems read new events with the schema they were given, and ignore what
they do not know: nothing they rely on may go or change. Our own readers read events that an older
release wrote, a day later or in the middle of a rolling upgrade: nothing may be demanded that an
old event lacks. So an optional field, a new value of an enumeration and a new event pass; removing,
renaming, retyping, requiring and narrowing do not. docs/guide/integrator.md, "What stays".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]
LEAST = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
MOST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
FIXED = ("pattern", "format", "contentEncoding", "contentMediaType", "x-topic", "x-key")
UNKNOWN: Schema = {}


def breaking(released: Mapping[str, Schema], current: Mapping[str, Schema]) -> list[str]:
    """What breaks between two sets of schemas by name; sentences without a full stop."""
    found = [f"{name}: the event is gone" for name in sorted(released.keys() - current.keys())]
    for name in sorted(released.keys() & current.keys()):
        found += [f"{name}: {line}" for line in breaks(released[name], current[name])]
    return found


def breaks(old: Schema, new: Schema) -> list[str]:
    """What breaks between two schemas of one event."""
    return list(dict.fromkeys(_Comparison(old, new).between(old, new, "event")))


class _Comparison:
    """Walks two schemas side by side; `$ref` lead into each one's own `$defs`."""

    def __init__(self, old: Schema, new: Schema) -> None:
        self._old, self._new = old, new
        self._open: set[tuple[str, str]] = set()

    def between(self, old: Schema, new: Schema, at: str) -> Iterator[str]:
        pair = str(old.get("$ref", "")), str(new.get("$ref", ""))
        if all(pair):
            if pair in self._open:
                return
            self._open.add(pair)
        before, after = _resolved(self._old, old), _resolved(self._new, new)
        if before.get("default", None) != after.get("default", None):
            yield f"{at} has another default"
        olds, news = _kinds(self._old, before), _kinds(self._new, after)
        for kind in olds.keys() - news.keys():
            yield f"{at} is no longer {kind}"
        for kind in news.keys() - olds.keys():
            yield f"{at} may be {kind} now"
        for kind in sorted(olds.keys() & news.keys()):
            yield from self._alike(olds[kind], news[kind], at)
        self._open.discard(pair)

    def _alike(self, old: Schema, new: Schema, at: str) -> Iterator[str]:
        """Two schemas of the same kind."""
        for word in FIXED:
            if old.get(word) != new.get(word):
                yield f"{at} has another {word}"
        yield from _values(old, new, at)
        yield from _bounds(old, new, at)
        yield from self._members(old, new, at)
        yield from self._items(old, new, at)

    def _members(self, old: Schema, new: Schema, at: str) -> Iterator[str]:
        before, after = old.get("properties", UNKNOWN), new.get("properties", UNKNOWN)
        needed, needs = set(old.get("required", ())), set(new.get("required", ()))
        for name, schema in before.items():
            if name not in after:
                yield f"{at}.{name} is gone"
                continue
            if name in needed - needs:
                yield f"{at}.{name} is not always there any more"
            if name in needs - needed:
                yield f"{at}.{name} is required now"
            yield from self.between(schema, after[name], f"{at}.{name}")
        for name in after.keys() - before.keys():
            if name in needs:
                yield f"{at}.{name} is new and required"
            if old.get("additionalProperties") is False:
                yield f"{at}.{name} is new, and readers were told that nothing more comes"
        rest, more = old.get("additionalProperties", True), new.get("additionalProperties", True)
        if isinstance(rest, Mapping) and isinstance(more, Mapping):
            yield from self.between(rest, more, f"{at}.*")
        elif rest != more:
            yield f"{at} has other further members"

    def _items(self, old: Schema, new: Schema, at: str) -> Iterator[str]:
        before, after = old.get("prefixItems", ()), new.get("prefixItems", ())
        for number, schema in enumerate(before):
            if number >= len(after):
                yield f"{at}[{number}] is gone"
            else:
                yield from self.between(schema, after[number], f"{at}[{number}]")
        items, now = old.get("items", True), new.get("items", True)
        if isinstance(items, Mapping) and isinstance(now, Mapping):
            yield from self.between(items, now, f"{at}[]")
        elif items != now:
            yield f"{at} has other items"


def _values(old: Schema, new: Schema, at: str) -> Iterator[str]:
    """Enumerations may grow: readers are told to expect it."""
    before, after = _enum(old), _enum(new)
    if after is None:
        return
    if before is None:
        yield f"{at} is confined to some values now"
        return
    for value in before:
        if value not in after:
            yield f"{at} no longer allows {value!r}"


def _enum(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    found = schema.get("enum")
    return list(found) if found is not None else None


def _bounds(old: Schema, new: Schema, at: str) -> Iterator[str]:
    for word in LEAST:
        if new.get(word) is not None and (old.get(word) is None or new[word] > old[word]):
            yield f"{at} has a narrower {word}"
    for word in MOST:
        if new.get(word) is not None and (old.get(word) is None or new[word] < old[word]):
            yield f"{at} has a narrower {word}"
    # Readers of a tuple count its items.
    if "maxItems" in old and old["maxItems"] != new.get("maxItems"):
        yield f"{at} has another maxItems"


def _resolved(root: Schema, schema: Schema) -> Schema:
    """What a `$ref` names, with what stands beside it."""
    while "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**root["$defs"][name], **beside}
    return schema


def _kinds(root: Schema, schema: Schema) -> dict[str, Schema]:
    """The alternatives of a schema by their kind: a type's name, or `anything`."""
    found: dict[str, Schema] = {}
    for part in schema.get("anyOf", [schema]):
        part = _resolved(root, part)
        if "anyOf" in part:
            found |= _kinds(root, part)
            continue
        kinds = part.get("type") or sorted({_type_of(value) for value in _enum(part) or ()})
        for kind in [kinds] if isinstance(kinds, str) else kinds or ["anything"]:
            found[kind] = part
    return found


def _type_of(value: object) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    return names.get(type(value), "anything")
