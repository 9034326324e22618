"""Whether a list of parts is what CycloneDX's schema of its version says it must be.

The schema is that of the standard, which the standard's own Python package carries; nothing is
fetched. Strict: a field that the schema does not know is wrong. What the schema leaves to the
reader is looked at too: that each licence expression is one of SPDX.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.spdx import is_expression
from cyclonedx.validation.json import JsonStrictValidator

OWN = re.compile(r"\bLicenseRef-[A-Za-z0-9.-]+")
"""A licence that SPDX does not list, under a name of its owner's."""


def wrong(text: str) -> str:
    """What is wrong with a JSON document, and where; empty when nothing is."""
    document = json.loads(text)
    version = SchemaVersion.from_version(document["specVersion"])
    found = JsonStrictValidator(version).validate_str(text)
    if found is not None:
        return f"{found}"[:2000]
    unknown = [said for said in _expressions(document) if not is_expression(OWN.sub("MIT", said))]
    return f"no expressions of SPDX: {unknown}" if unknown else ""


def _expressions(part: Any) -> Iterator[str]:
    for inner in part.get("components", ()):
        yield from (one["expression"] for one in inner.get("licenses", ()) if "expression" in one)
        yield from _expressions(inner)
