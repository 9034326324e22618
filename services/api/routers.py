"""Every router of the api, in the order of its documentation."""

from __future__ import annotations

from fastapi import APIRouter

from services.api import (
    camera_tools,
    cameras,
    clip,
    events,
    health,
    hold_routes,
    keys,
    ledger_routes,
    live,
    notices,
    pages,
    playback,
    retention_routes,
    segments,
    sessions,
    sighting_export,
    sighting_live,
    sightings,
    snapshot,
    status_routes,
    users,
    webhooks,
    zones,
)

ROUTERS: tuple[APIRouter, ...] = (
    cameras.router,
    camera_tools.router,
    zones.router,
    segments.router,
    sighting_export.router,
    sightings.router,
    sighting_live.router,
    ledger_routes.router,
    playback.router,
    clip.router,
    snapshot.router,
    live.router,
    hold_routes.router,
    retention_routes.router,
    status_routes.router,
    events.router,
    webhooks.router,
    sessions.router,
    keys.router,
    users.router,
    notices.router,
    pages.router,
    health.router,
)
