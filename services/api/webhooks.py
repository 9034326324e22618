"""Webhooks: subscriptions of other systems to events (docs/guide/integrator.md).

A subscription gives events away for as long as it is there, so that a system administrator names
its purpose, and gets only cameras in scope that serve it. Deliveries are the relay's
(relay_delivery.py); what the administrator sees of them is never their text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query
from pydantic import Field, StringConstraints
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api import problems, queries, times, webhook_signing
from services.api import queries_relay as stored
from services.api.access import Action, Resource, Why
from services.api.context import ApiContext
from services.api.deps import Granted, Requires
from services.api.models import Body, CameraId, Page, Reply, Text100, Text1000, WhyBody, example
from services.api.relay_notices import CloudEvent, EventName
from services.api.webhook_sender import Receiver, Sender, Transport
from shared import audit, civil, ids
from shared.errors import Kind, LamppostError
from shared.sightings import ClassName

MAX_WEBHOOKS = 100
MAX_REPLAY = 10_000
router = APIRouter(tags=["webhooks"], responses=problems.RESPONSES)
Add = Annotated[Granted, Depends(Requires(Action.WEBHOOK_ADD))]
Read = Annotated[Granted, Depends(Requires(Action.WEBHOOK_READ))]
Change = Annotated[Granted, Depends(Requires(Action.WEBHOOK_CHANGE))]
EventId = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class WebhookIn(WhyBody):
    """A new subscription."""

    model_config = example(
        name="traffic desk",
        url="https://events.example.org/lamppost",
        events=["sighting.begun", "sighting.ended", "camera.status"],
        camera_ids=["mk-argyle-01"],
        classes=["car", "bus", "truck"],
        purpose="traffic_incident",
        reason="incident board of the traffic desk",
    )
    name: Text100 = ""
    url: Text1000 = Field(description="Where to; its host must be in `relay.webhook_hosts`.")
    events: Annotated[list[EventName], Field(min_length=1, max_length=7)]
    camera_ids: Annotated[list[CameraId], Field(min_length=1, max_length=1000)] | None = Field(
        None, description="Null: every camera that serves the purpose."
    )
    classes: Annotated[list[ClassName], Field(min_length=1, max_length=11)] | None = Field(
        None, description="Of sightings; null: every class."
    )


class WebhookOut(Reply):
    """A subscription, without its secret, and how it fares."""

    id: str
    name: str
    url: str
    events: list[str]
    camera_ids: list[str] | None
    classes: list[str] | None
    purpose: str
    case_ref: str
    reason: str
    created_at: str
    disabled_at: str | None = Field(description="Set when the receiver answered 410.")
    last_success_at: str | None
    last_failure_at: str | None
    last_error: str
    waiting: int
    set_aside: int


class WebhookCreated(Reply):
    """The secret, shown once: the receiver checks signatures with it."""

    id: str
    secret: str


class WebhookTested(Reply):
    """How the receiver answered to a ping."""

    delivered: bool
    status: int | None
    error: str


class SetAside(Reply):
    """An event that was not taken in time; its text is not shown."""

    event_id: str
    event_type: str
    camera_id: str
    queued_at: str
    expires_at: str
    attempts: int
    last_error: str


class ReplayIn(Body):
    """What to send again."""

    event_ids: Annotated[list[EventId], Field(min_length=1, max_length=500)] | None = Field(
        None, description="Null: everything that was set aside."
    )


class Replayed(Reply):
    """How many events wait to be sent again."""

    events: int


def _out(context: ApiContext, row: RowMapping, counts: dict[tuple[str, str], int]) -> WebhookOut:
    zone = context.zone
    return WebhookOut(
        id=row["id"],
        name=row["name"],
        url=row["url"],
        events=row["events"],
        camera_ids=row["camera_ids"],
        classes=row["classes"],
        purpose=row["purpose"],
        case_ref=row["case_ref"],
        reason=row["reason"],
        created_at=times.text(row["created_at_us"], zone),
        disabled_at=times.maybe_text(row["disabled_at_us"], zone),
        last_success_at=times.maybe_text(row["last_success_us"], zone),
        last_failure_at=times.maybe_text(row["last_failure_us"], zone),
        last_error=row["last_error"],
        waiting=counts.get((row["id"], stored.WAITING), 0),
        set_aside=counts.get((row["id"], stored.DEAD), 0),
    )


async def _allowed(granted: Granted, camera_ids: Sequence[str] | None, why: Why | None) -> None:
    """Raise unless every camera named is there, in scope, and serves the purpose. Who is limited
    to a part of the city names cameras."""
    subject = granted.principal.subject
    if camera_ids is None:
        if subject.districts is not None or subject.camera_ids is not None:
            raise LamppostError(
                Kind.FORBIDDEN,
                "This webhook gets every camera, and you are responsible for some.",
                fix="Name cameras of yours, or ask an administrator without limits.",
            )
        granted.check(Resource(), why)
        return
    for camera_id in camera_ids:
        async with granted.context.platform.database.read() as connection:
            camera = await queries.camera(connection, camera_id)
        if camera is None:
            raise LamppostError(Kind.NOT_FOUND, f"There is no camera {camera_id}.")
        granted.check(Resource(camera.id, camera.district, camera.purposes), why)


async def _find(granted: Granted, webhook_id: str) -> RowMapping:
    """The subscription, once all its cameras are in the person's scope; NOT_FOUND, FORBIDDEN."""
    async with granted.context.platform.database.read() as connection:
        row = await stored.webhook(connection, webhook_id)
    if row is None:
        raise LamppostError(Kind.NOT_FOUND, "There is no such webhook.")
    await _allowed(granted, row["camera_ids"], None)
    return row


async def _audit(
    granted: Granted,
    connection: AsyncConnection,
    row: RowMapping,
    action: str,
    detail: dict[str, Any] | None = None,
) -> None:
    entry = granted.entry(
        resource=f"webhook/{row['id']}",
        camera_ids=tuple(row["camera_ids"] or ()),
        action=action,
        detail=detail,
    )
    await audit.append(connection, entry)


def ping(webhook_id: str, event_id: str, now_us: int) -> bytes:
    """The body of a test."""
    event = CloudEvent(
        id=event_id,
        type="org.lamppost.webhook.ping.v1",
        time=civil.rfc3339(now_us),
        subject=webhook_id,
        data=msgspec.Raw(b"{}"),
    )
    return msgspec.json.encode(event)


@router.post("/v1/webhooks", summary="Add a webhook", status_code=201)
async def post_webhook(body: WebhookIn, granted: Add) -> WebhookCreated:
    """The secret is in this answer and nowhere else."""
    context = granted.context
    why = Why(body.purpose, body.case_ref, body.reason)
    await _allowed(granted, body.camera_ids, why)
    assert body.purpose is not None  # `_allowed` refuses without one.
    transport = Transport(context.platform, context.settings)
    try:
        await transport.hosts.target(body.url)
    finally:
        transport.close()
    webhook_id, secret = ids.new_id(), webhook_signing.new_secret()
    values: dict[str, Any] = body.model_dump(exclude={"purpose"})
    values |= {
        "id": webhook_id,
        "purpose": body.purpose.value,
        "secret": webhook_signing.seal(context.platform.internal_key, webhook_id, secret),
        "created_at_us": context.now_us(),
        "created_by": granted.principal.id,
    }
    async with context.platform.database.write() as connection:
        if len(await stored.webhooks(connection)) >= MAX_WEBHOOKS:
            raise LamppostError(
                Kind.CONFLICT, f"There are {MAX_WEBHOOKS} webhooks.", fix="Delete one first."
            )
        await stored.insert_webhook(connection, values)
        entry = granted.entry(
            resource=f"webhook/{webhook_id}",
            camera_ids=tuple(body.camera_ids or ()),
            why=why,
            detail={"url": body.url, "events": body.events, "classes": body.classes},
        )
        await audit.append(connection, entry)
    return WebhookCreated(id=webhook_id, secret=secret)


@router.get("/v1/webhooks", summary="List webhooks")
async def list_webhooks(granted: Read) -> Page[WebhookOut]:
    """Those whose cameras are all in the person's scope."""
    async with granted.context.platform.database.read() as connection:
        rows = await stored.webhooks(connection)
        counts = await stored.counts(connection)
    items = []
    for row in rows:
        try:
            await _allowed(granted, row["camera_ids"], None)
        except LamppostError:
            continue
        items.append(_out(granted.context, row, counts))
    return Page(items=items)


@router.get("/v1/webhooks/{webhook_id}", summary="Get a webhook")
async def get_webhook(webhook_id: Text100, granted: Read) -> WebhookOut:
    """How it fares: what waits, what was set aside, the last error."""
    row = await _find(granted, webhook_id)
    async with granted.context.platform.database.read() as connection:
        counts = await stored.counts(connection)
    return _out(granted.context, row, counts)


@router.delete("/v1/webhooks/{webhook_id}", summary="Delete a webhook", status_code=204)
async def delete_webhook(webhook_id: Text100, granted: Change) -> None:
    """With all that waits for it. What is on its way at this moment may still arrive."""
    row = await _find(granted, webhook_id)
    async with granted.context.platform.database.write() as connection:
        await stored.delete_webhook(connection, webhook_id)
        await _audit(granted, connection, row, "webhook.delete")


@router.post("/v1/webhooks/{webhook_id}/test", summary="Send a ping to a webhook")
async def test_webhook(webhook_id: Text100, granted: Change) -> WebhookTested:
    """An event `org.lamppost.webhook.ping.v1` without data, sent at once and once."""
    context = granted.context
    row = await _find(granted, webhook_id)
    async with context.platform.database.write() as connection:
        await _audit(granted, connection, row, "webhook.test")
    event_id = ids.new_id()
    body = ping(webhook_id, event_id, context.now_us())
    transport = Transport(context.platform, context.settings)
    try:
        async with Sender(transport, Receiver(row["id"], row["url"], row["secret"])) as sender:
            outcome = await sender.send(event_id, body)
    finally:
        transport.close()
    return WebhookTested(delivered=outcome.delivered, status=outcome.status, error=outcome.error)


@router.post("/v1/webhooks/{webhook_id}/enable", summary="Enable a webhook", status_code=204)
async def enable_webhook(webhook_id: Text100, granted: Change) -> None:
    """Again, after its receiver said that it was gone. What was missed meanwhile stays missed."""
    row = await _find(granted, webhook_id)
    async with granted.context.platform.database.write() as connection:
        await stored.change_webhook(connection, webhook_id, {"disabled_at_us": None})
        await _audit(granted, connection, row, "webhook.enable")


@router.get("/v1/webhooks/{webhook_id}/set-aside", summary="List events that were not taken")
async def set_aside(
    webhook_id: Text100,
    granted: Read,
    cursor: Annotated[int | None, Query(ge=0, lt=1 << 62)] = None,
) -> Page[SetAside]:
    """The oldest first, 500 a page. Each goes when its footage expires."""
    await _find(granted, webhook_id)
    async with granted.context.platform.database.read() as connection:
        rows = await stored.set_aside(connection, webhook_id, cursor or 0, 500)
    zone = granted.context.zone
    items = [
        SetAside(
            event_id=row["event_id"],
            event_type=row["event_type"],
            camera_id=row["camera_id"],
            queued_at=times.text(row["created_at_us"], zone),
            expires_at=times.text(row["expires_at_us"], zone),
            attempts=row["attempts"],
            last_error=row["last_error"],
        )
        for row in rows
    ]
    return Page(items=items, next=str(rows[-1]["id"]) if len(rows) == 500 else None)


@router.post("/v1/webhooks/{webhook_id}/replay", summary="Send again what was not taken")
async def replay(webhook_id: Text100, body: ReplayIn, granted: Change) -> Replayed:
    """Under the same ids, in the same order; never what has expired."""
    row = await _find(granted, webhook_id)
    context = granted.context
    async with context.platform.database.write() as connection:
        count = await stored.replay(
            connection, webhook_id, context.now_us(), MAX_REPLAY, body.event_ids
        )
        await _audit(granted, connection, row, "webhook.replay", {"events": count})
    return Replayed(events=count)
