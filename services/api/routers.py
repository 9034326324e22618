"""Every router of the api, in the order of its documentation."""

from __future__ import annotations

from fastapi import APIRouter

from services.api import health, keys, sessions, users

ROUTERS: tuple[APIRouter, ...] = (
    health.router,
    sessions.router,
    keys.router,
    users.router,
)
