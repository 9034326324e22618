"""Writes what of the chart follows from other files: `python -m tests.chart.reference` (make docs).

- `settings` in helm/lamppost/values.schema.json, out of shared/settings.py;
- the table of values in helm/lamppost/README.md, out of the schema and values.yaml.

tests/chart/test_reference.py holds both current.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from shared.settings import Settings

CHART = Path(__file__).resolve().parents[2] / "helm" / "lamppost"
SCHEMA, README = CHART / "values.schema.json", CHART / "README.md"
BEGIN = "<!-- Written by `make docs` out of values.schema.json and values.yaml. -->\n"
END = "<!-- End of the table. -->"
OWN_SECTIONS = frozenset({"metrics", "internal", "demo"})
"""Sections that the chart sets itself, or that mean nothing there."""
OWN_KEYS = {
    "api": {"host", "port"},
    "detect": {"models_dir", "adapter", "device"},
    "stores": {"bus", "database", "blobs", "blobs_dir", "internal_key_file"},
    "spool": {"dir"},
    "ingest": {"footage_dirs", "secrets_dir", "rtsps_ca_file"},
    "kafka": {"password_file", "ca_file"},
    "postgres": {"password_file", "ca_file"},
    "s3": {"access_key_file", "secret_key_file", "ca_file"},
    "relay": {"mqtt_password_file", "mqtt_ca_file", "webhook_ca_file"},
}
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
KEPT = ("type", "enum", "pattern", "items", *BOUNDS)


def settings_schema() -> dict[str, Any]:
    """Which settings the values may name, each with its description."""
    sections: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if name in OWN_SECTIONS or not (
            isinstance(section, type) and issubclass(section, BaseModel)
        ):
            continue
        found = section.model_json_schema()
        sections[name] = {
            "type": "object",
            "description": (section.__doc__ or "").strip(),
            "additionalProperties": False,
            "properties": {
                key: _property(value)
                for key, value in found["properties"].items()
                if key not in OWN_KEYS.get(name, ())
            },
        }
    return sections


def _property(found: Mapping[str, Any]) -> dict[str, Any]:
    """One key, as much of it as Helm checks; null means the default."""
    kinds = [one for one in found.get("anyOf", [found]) if one.get("type") != "null"]
    [kind] = kinds
    value: dict[str, Any] = {name: kind[name] for name in KEPT if name in kind}
    if "type" in value:
        value["type"] = [value["type"], "null"]
    if "enum" in value:
        value["enum"] = [*value["enum"], None]
    if "items" in value:
        value["items"] = {name: value["items"][name] for name in KEPT if name in value["items"]}
    return {"description": found["description"], **value}


def schema() -> str:
    """The whole schema, its settings as the code has them."""
    found = json.loads(SCHEMA.read_text("utf-8"))
    found["properties"]["settings"] = {
        "type": "object",
        "description": found["properties"]["settings"]["description"],
        "additionalProperties": False,
        "properties": settings_schema(),
    }
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def table() -> str:
    """Every value with its default."""
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    lines = ["| value | what | default |", "|---|---|---|"]
    lines += _rows("", json.loads(SCHEMA.read_text("utf-8")), values)
    return "\n".join(lines) + "\n"


def _rows(prefix: str, found: Mapping[str, Any], values: Any) -> Iterator[str]:
    for name, inner in found["properties"].items():
        path = f"{prefix}{name}"
        if path == "global":
            continue
        value = values.get(name) if isinstance(values, dict) else None
        what = inner["description"].replace("|", "\\|")
        if inner.get("properties") and path != "settings":
            yield f"| **`{path}`** | {what} | |"
            yield from _rows(f"{path}.", inner, value)
        else:
            yield f"| `{path}` | {what} | `{json.dumps(value)}` |"


def readme() -> str:
    """The page with its table anew."""
    text = README.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main() -> int:
    """Write what has changed; its names."""
    for path, make in ((SCHEMA, schema), (README, readme)):
        text = make()
        if path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            print(path.relative_to(CHART.parents[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
