"""Every router of the api, in the order of its documentation."""

from __future__ import annotations

from fastapi import APIRouter

from services.api import clip, health, keys, live, playback, sessions, snapshot, users

ROUTERS: tuple[APIRouter, ...] = (
    health.router,
    sessions.router,
    keys.router,
    users.router,
    playback.router,
    clip.router,
    snapshot.router,
    live.router,
)
