"""Building blocks of the HTTP models: text without control characters, times as people write them.

Text that a database or a log could choke on (NUL, lone surrogates) is refused at the edge.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from shared.domain import Purpose

T = TypeVar("T")


def clean(text: str) -> str:
    """The text itself; ValueError when it holds control characters or is not valid Unicode."""
    for character in text:
        code = ord(character)
        if (code < 32 and character not in "\n\t") or code == 127 or 0xD800 <= code <= 0xDFFF:
            raise ValueError("control characters are not allowed")
    return text


Text = Annotated[str, StringConstraints(max_length=200), AfterValidator(clean)]
Text40 = Annotated[str, StringConstraints(max_length=40), AfterValidator(clean)]
Text100 = Annotated[str, StringConstraints(max_length=100), AfterValidator(clean)]
Text1000 = Annotated[str, StringConstraints(max_length=1000), AfterValidator(clean)]
CameraId = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$"),
    Field(examples=["mk-argyle-01"], description="1 to 63 lower-case letters, digits, hyphens."),
]
TimeText = Annotated[
    str,
    StringConstraints(min_length=1, max_length=40),
    AfterValidator(clean),
    Field(
        examples=["2026-11-25T14:02:00+08:00", "2026-11-25T14:02"],
        description="RFC 3339, or local time of the site without offset.",
    ),
]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Body(BaseModel):
    """A request body: unknown members are refused, so that a typing error is not ignored."""

    model_config = ConfigDict(extra="forbid")


class Reply(BaseModel):
    """A response body."""


class Page(BaseModel, Generic[T]):
    """One keyset page: `next` is the cursor of the page after it, null at the end."""

    items: list[T]
    next: str | None = None


class WhyBody(Body):
    """Purpose and case or reason of a session or hold, in a body."""

    purpose: Purpose | None = Field(None, description="Why: one of the camera's purposes.")
    case_ref: Text100 = Field("", description="Case reference; it or `reason` is required.")
    reason: Text1000 = Field("", description="Reason where there is no case.")


def example(**values: Any) -> ConfigDict:
    """A model configuration that carries one OpenAPI example."""
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [values]})
