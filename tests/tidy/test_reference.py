"""docs/ref/ is what the code says, and the code says something about everything."""

from __future__ import annotations

from pydantic import BaseModel

from services import docs_ref
from shared import metrics
from shared.settings import Settings


def test_the_reference_is_current() -> None:
    """`make docs` writes it anew."""
    stale = [
        name
        for name, text in docs_ref.pages().items()
        if not (docs_ref.FOLDER / name).exists()
        or (docs_ref.FOLDER / name).read_text("utf-8") != text
    ]
    assert stale == []


def test_every_setting_is_described() -> None:
    silent = []
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            silent += [
                f"{name}.{key}"
                for key, inner in section.model_fields.items()
                if not inner.description
            ]
            assert section.__doc__, name
        elif not field.description:
            silent.append(name)
    assert silent == []


def test_every_metric_is_described_and_named_for_its_unit() -> None:
    wrong = []
    for family in metrics.REGISTRY.collect():
        if not family.documentation.endswith("."):
            wrong.append(f"{family.name}: its help is no sentence")
        if not family.name.startswith("lamppost_"):
            wrong.append(f"{family.name}: foreign name")
    assert wrong == []


def test_every_route_says_what_it_does_and_for_whom() -> None:
    silent = [route.path for route in docs_ref.routes() if not route.summary or not route.who]
    assert silent == []
