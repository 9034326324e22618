"""A search's hits as a file: CSV for tables, GeoJSON for maps, streamed page by page.

GeoJSON places a hit where its camera stands: that is all that is known. A table's program must not
take a name that somebody gave a zone for a formula, so cells that could be one begin with an
apostrophe (docs/guide/analyst.md, "Files").
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any, Literal, NamedTuple

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from services.api import problems, sighting_query
from services.api.access import Action
from services.api.deps import Granted, Requires, WhyQuery
from services.api.media_response import MediaStream
from services.api.models_sightings import Show, encode
from services.api.queries_sightings import Place, Position
from services.api.sighting_filters import AskedQuery
from services.api.sighting_query import Hit, Search, Since, Until, when_of
from shared import civil
from shared.clock import SECOND_US

MAX_ROWS = 50_000
PAGE = 500
LIMIT_S = 600.0
LIMIT_HEADER = "X-Lamppost-Limit"
router = APIRouter(tags=["sightings"], responses=problems.RESPONSES)

COLUMNS = (
    "id",
    "camera_id",
    "camera_name",
    "district",
    "latitude",
    "longitude",
    "class",
    "start",
    "end",
    "ended",
    "dwell_s",
    "confidence",
    "speed",
    "colour_upper",
    "colour_lower",
    "colour_vehicle",
    "zones",
    "lines",
    "held",
)


class Batch(NamedTuple):
    """Some hits; `cut` on the last where the limit ended the file."""

    hits: list[tuple[Hit, bool]]
    """Each with whether only a hold opens it."""
    cut: Position | None = None


@router.get(
    "/v1/sightings/export",
    summary="Export sightings as CSV or GeoJSON",
    response_class=Response,
    responses={
        200: {
            "content": {"text/csv": {}, "application/geo+json": {}},
            "description": "The file, as it is made.",
        }
    },
)
async def export(
    asked: AskedQuery,
    granted: Annotated[Granted, Depends(Requires(Action.SIGHTING_EXPORT))],
    why: WhyQuery,
    format: Annotated[Literal["csv", "geojson"], Query(description="Of the file.")] = "csv",
    since: Since = None,
    until: Until = None,
) -> Response:
    """The hits of the same search, newest first, 50,000 at most (header `X-Lamppost-Limit`). A file
    that the limit cut says so in its last row (CSV) or in `complete` and `go_on_until` (GeoJSON).
    """
    when = when_of(granted.context, since, until)
    search = await sighting_query.begin(granted, asked, why, when.span)
    show = Show(granted.context, why)
    batches = _batches(search, when.after)
    body = _csv(search, show, batches) if format == "csv" else _geojson(search, show, batches)
    stamp = civil.to_datetime(granted.context.now_us()).strftime("%Y%m%dT%H%M%SZ")
    headers = {
        LIMIT_HEADER: str(MAX_ROWS),
        "Content-Disposition": f'attachment; filename="sightings-{stamp}.{format}"',
    }
    kind = "text/csv; charset=utf-8" if format == "csv" else "application/geo+json"
    return MediaStream(body, status_code=200, headers=headers, media_type=kind, limit_s=LIMIT_S)


async def _batches(search: Search, after: Position) -> AsyncGenerator[Batch, None]:
    """Pages, each read and judged at its own moment, until the end or the limit."""
    left = MAX_ROWS
    position: Position | None = after
    while position is not None:
        async with search.context.platform.database.read() as connection:
            found = await sighting_query.page(search, connection, position, min(PAGE, left))
        left -= len(found.hits)
        position = found.next
        hits = [(hit, found.view.expired(hit.row)) for hit in found.hits]
        if left <= 0:
            yield Batch(hits, position)
            return
        yield Batch(hits)


def safe(cell: str) -> str:
    """The text, so that no table's program takes it for a formula."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r", "\n") else cell


def facts(show: Show, place: Place, hit: Hit, held: bool) -> dict[str, Any]:
    """The columns of a hit."""
    of = hit.sighting
    lines = (f"{line.name}:{line.direction} {show.text(line.at_us)}" for line in of.lines)
    return {
        "id": of.id,
        "camera_id": of.camera_id,
        "camera_name": place.name,
        "district": place.district,
        "latitude": place.latitude,
        "longitude": place.longitude,
        "class": of.class_name,
        "start": show.text(of.start_us),
        "end": show.text(of.end_us),
        "ended": hit.row.ended,
        "dwell_s": (of.end_us - of.start_us) / SECOND_US,
        "confidence": of.confidence,
        "speed": of.speed,
        "colour_upper": of.colours.upper,
        "colour_lower": of.colours.lower,
        "colour_vehicle": of.colours.vehicle,
        "zones": "; ".join(dict.fromkeys(visit.name for visit in of.zones)),
        "lines": "; ".join(lines),
        "held": held,
    }


def _row(values: list[Any]) -> list[Any]:
    return [safe(value) if isinstance(value, str) else value for value in values]


async def _csv(
    search: Search, show: Show, batches: AsyncIterator[Batch]
) -> AsyncGenerator[bytes, None]:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    async for batch in batches:
        for hit, held in batch.hits:
            place = search.scope.places[hit.row.camera_id]
            writer.writerow(_row(list(facts(show, place, hit, held).values())))
        if batch.cut is not None:
            until = show.text(batch.cut.start_us + 1)
            writer.writerow([f"not all: {MAX_ROWS} rows are the limit; go on with until={until}"])
        yield text.getvalue().encode()
        text.seek(0)
        text.truncate()


async def _geojson(
    search: Search, show: Show, batches: AsyncIterator[Batch]
) -> AsyncGenerator[bytes, None]:
    yield b'{"type":"FeatureCollection","features":['
    cut: Position | None = None
    comma = b""
    async for batch in batches:
        features = []
        for hit, held in batch.hits:
            place = search.scope.places[hit.row.camera_id]
            features.append(encode(_feature(place, facts(show, place, hit, held))))
        if features:
            yield comma + b",".join(features)
            comma = b","
        cut = batch.cut
    until = None if cut is None else show.text(cut.start_us + 1)
    yield b'],"complete":' + encode(cut is None) + b',"go_on_until":' + encode(until) + b"}"


def _feature(place: Place, properties: dict[str, Any]) -> dict[str, Any]:
    """A camera without a position gives a feature without a place (RFC 7946, 3.2)."""
    placed = place.longitude is not None and place.latitude is not None
    point = {"type": "Point", "coordinates": [place.longitude, place.latitude]}
    return {
        "type": "Feature",
        "id": properties["id"],
        "geometry": point if placed else None,
        "properties": properties,
    }
