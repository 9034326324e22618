"""A relay's parts on temporary stores, and a receiver of webhooks that answers as it is told."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.api import camera_store, queries_relay, webhook_signing
from services.api.relay_delivery import Delivery
from services.api.relay_intake import Intake
from shared.bus import Message
from shared.domain import Camera, GapReason, RecordingState, Role, Source
from shared.messages import CAMERA_STATUS, GapRecorded, StatusChanged, cloud_headers, encode
from shared.platform import Platform
from shared.runtime import Stop
from shared.settings import Settings
from shared.sightings import Sighting
from tests.support.api import NOW_US, Api, opened
from tests.support.http_server import serve
from tests.support.sightings import sighting, updated

HOSTS = {"webhook_hosts": ["127.0.0.1"], "webhook_http": True}
PURPOSE = {"purpose": "public_safety", "reason": "incident board"}
ALL_EVENTS = ["sighting.begun", "sighting.ended", "camera.status", "camera.gap"]


@dataclass
class Receiver:
    """Another system: what it was sent, and how it answers."""

    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answer: Callable[[dict[str, Any]], Response] = lambda _: Response(status_code=204)
    url: str = ""

    async def take(self, request: Request) -> Response:
        body = await request.body()
        self.got.append((dict(request.headers), body))
        return self.answer(json.loads(body))

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.got]

    @property
    def kinds(self) -> list[str]:
        return [event["type"].removeprefix("org.lamppost.") for event in self.events]

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/hook", self.take, methods=["POST"])])


def is_signed(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """Standard Webhooks' check, written apart from the product's."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    text = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    wanted = base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()
    return f"v1,{wanted}" in headers["webhook-signature"].split()


@dataclass
class Relaying:
    """An api, a receiver, and a relay driven by hand."""

    api: Api
    admin: httpx2.AsyncClient
    receiver: Receiver
    intake: Intake
    delivery: Delivery
    stop: Stop = field(default_factory=Stop)

    async def subscribe(self, **changes: Any) -> dict[str, str]:
        """A new webhook of the receiver: id and secret."""
        body = {"url": self.receiver.url, "events": ALL_EVENTS, **PURPOSE, **changes}
        answer = await self.admin.post("/v1/webhooks", json=body)
        assert answer.status_code == 201, answer.text
        found: dict[str, str] = answer.json()
        return found

    async def publish(self, *messages: Message) -> None:
        await self.api.platform.bus.publish(messages)

    async def take_in(self) -> None:
        """From the bus into the table."""
        while await self.intake.feed.once(wait_s=0):
            pass

    async def deliver(self) -> None:
        """One look, and all that it begins."""
        await self.delivery.run_once(self.stop)
        await self.delivery.idle()

    async def relay(self, *messages: Message) -> None:
        await self.publish(*messages)
        await self.take_in()
        await self.deliver()

    async def hook(self, webhook_id: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self.admin.get(f"/v1/webhooks/{webhook_id}")).json()
        return found

    async def new_relay(self, name: str = "") -> None:
        """Another process: nothing of the former one's memory is there."""
        await self.intake.feed.leave()
        platform, settings = self.api.platform, self.api.context.settings
        self.delivery = Delivery(platform, settings, random.Random(2), name)
        self.intake = Intake(platform, settings, self.delivery.wake)


@asynccontextmanager
async def relaying(folder: Path, **relay: Any) -> AsyncIterator[Relaying]:
    """A world with cameras mk-1 and mk-2."""
    receiver = Receiver()
    async with (
        serve(receiver.app()) as url,
        opened(folder, relay={**HOSTS, **relay}) as api,
    ):
        receiver.url = f"{url}/hook"
        await api.cameras("mk-1", "mk-2")
        admin = await api.person(Role.SYSADMIN)
        platform, settings = api.platform, api.context.settings
        delivery = Delivery(platform, settings, random.Random(1))
        intake = Intake(platform, settings, delivery.wake)
        world = Relaying(api, admin, receiver, intake, delivery)
        try:
            yield world
        finally:
            await world.intake.feed.leave()
            await world.delivery.close()


def seen(name: str, camera_id: str = "mk-1", *, ended: bool = False, **changes: Any) -> Message:
    """An update of a sighting that is seen now, with a picture, as the detector tells it."""
    of: Sighting = sighting(name, camera_id, NOW_US, **changes)
    return updated(of, ended=ended, thumbnail=b"\xff\xd8\xff picture")


def status(
    camera_id: str = "mk-1",
    state: RecordingState = RecordingState.RECORDING,
    since_us: int = NOW_US,
    at_us: int = NOW_US,
    **changes: Any,
) -> Message:
    """A recorder's word on a camera, with an address and an error text that stay inside."""
    event = StatusChanged(
        **{
            "camera_id": camera_id,
            "state": state,
            "since_us": since_us,
            "at_us": at_us,
            "recorder": "r-1",
            "epoch": 1,
            "detail": "rtsp://10.0.0.1/main refused",
            "recorder_url": "http://10.9.9.9:1",
            **changes,
        }
    )
    return Message(CAMERA_STATUS.name, camera_id, encode(event))


def gap(camera_id: str = "mk-1") -> Message:
    event = GapRecorded("g-1", camera_id, NOW_US, NOW_US + 5, GapReason.SILENT, "10.0.0.1 silent")
    headers = cloud_headers("camera.gap", "test", "2026-11-25T07:00:00Z", "gap-event-1")
    return Message(CAMERA_STATUS.name, camera_id, encode(event), headers)


async def subscribed(platform: Platform, settings: Settings, url: str) -> str:
    """A camera, and a webhook that wants its sightings; its secret."""
    camera = Camera(id="mk-1", name="mk-1", source=Source(url="rtsp://10.0.0.1/main"))
    await camera_store.add_cameras(platform, settings, [camera])
    secret = webhook_signing.new_secret()
    values = {
        "id": "w-1",
        "url": url,
        "secret": webhook_signing.seal(platform.internal_key, "w-1", secret),
        "events": ["sighting.begun", "sighting.ended"],
        "camera_ids": None,
        "classes": None,
        "purpose": "public_safety",
        "created_at_us": 0,
        "created_by": "test",
    }
    async with platform.database.write() as connection:
        await queries_relay.insert_webhook(connection, values)
    return secret
