"""Who sends a request: cookie sessions and API keys (docs/access-audit-evidence.md, "Who").

Tokens and secrets are random, only their SHA-256 is stored; passwords are argon2 hashes. Nothing
here has a default. Roles are read from the database at each request, so that a person who loses a
role, or is disabled, loses it at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import RowMapping
from starlette.requests import Request

from services.api import queries_accounts as queries
from services.api.access import Subject
from shared.audit import Actor
from shared.domain import Role
from shared.errors import Kind, LamppostError
from shared.platform import Platform

COOKIE = "lamppost_session"
KEY_PREFIX = "lp_"
PASSWORD_MIN = 10
PASSWORD_MAX = 200
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
_NOBODY = _hasher.hash(secrets.token_urlsafe(16))
_hashing = asyncio.Semaphore(2)


class Principal(NamedTuple):
    """The person or machine account behind a request."""

    subject: Subject
    name: str
    via: Literal["session", "key"]
    credential_id: str
    expires_at_us: int | None = None

    @property
    def id(self) -> str:
        return self.subject.id

    @property
    def roles(self) -> frozenset[Role]:
        return self.subject.roles

    @property
    def actor(self) -> Actor:
        return Actor(self.subject.id, self.name)


def digest(token: str) -> str:
    """What is stored of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def roles_of(names: list[str]) -> frozenset[Role]:
    """Stored role names; one that this version does not know grants nothing."""
    known = {role.value for role in Role}
    return frozenset(Role(name) for name in names if name in known)


async def hash_password(password: str, name: str = "") -> str:
    """The argon2 hash; INVALID when the password is too short, too long or the name itself."""
    if not PASSWORD_MIN <= len(password) <= PASSWORD_MAX:
        raise LamppostError(
            Kind.INVALID,
            f"A password has {PASSWORD_MIN} to {PASSWORD_MAX} characters.",
            fix="Choose a longer one; four random words are good.",
        )
    if name and password.casefold() == name.casefold():
        raise LamppostError(
            Kind.INVALID, "The password is the name.", fix="Choose another password."
        )
    try:
        async with _hashing:
            return await asyncio.to_thread(_hasher.hash, password)
    except UnicodeEncodeError as error:
        raise LamppostError(
            Kind.INVALID, "The password is not valid Unicode.", fix="Choose another password."
        ) from error


async def verify_password(stored: str | None, password: str) -> bool:
    """Whether it is the password; takes as long for an account that does not exist."""
    if len(password) > PASSWORD_MAX:
        return False
    async with _hashing:
        matches = await asyncio.to_thread(_matches, stored or _NOBODY, password)
    return matches and stored is not None


def _matches(stored: str, password: str) -> bool:
    try:
        return _hasher.verify(stored, password)
    except (VerificationError, InvalidHashError, UnicodeEncodeError):
        return False


def _subject(row: RowMapping, roles: frozenset[Role]) -> Subject:
    districts, cameras = row["districts"], row["camera_ids"]
    return Subject(
        row["id"],
        roles,
        None if districts is None else tuple(districts),
        None if cameras is None else tuple(cameras),
    )


async def authenticate(platform: Platform, request: Request) -> Principal | None:
    """The principal of a request, None when it brings no credential; UNAUTHENTICATED when it
    brings one that is not valid. A key wins over a cookie."""
    header = request.headers.get("authorization", "")
    if header:
        scheme, _, token = header.partition(" ")
        found = None
        if scheme.lower() == "bearer" and token.startswith(KEY_PREFIX):
            found = await _of_key(platform, token.strip())
        if found is None:
            raise LamppostError(
                Kind.UNAUTHENTICATED,
                "This API key is not valid.",
                fix="Make another with `lamppost key create`.",
            )
        return found
    token = request.cookies.get(COOKIE, "")
    if not token:
        return None
    found = await _of_session(platform, token)
    if found is not None and request.method not in SAFE_METHODS:
        check_same_origin(request, required=True)
    return found


async def _of_key(platform: Platform, token: str) -> Principal | None:
    key_id, _, secret = token.removeprefix(KEY_PREFIX).partition("_")
    if not key_id or not secret or len(token) > 200:
        return None
    async with platform.database.read() as connection:
        row = await queries.key_user(connection, key_id, platform.clock.now_us())
    if row is None or not hmac.compare_digest(digest(secret), row["key_secret_sha256"]):
        return None
    # A key never has a role that its person lost meanwhile.
    roles = roles_of(row["key_roles"]) & roles_of(row["roles"])
    return Principal(_subject(row, roles), row["name"], "key", key_id, row["key_expires_at_us"])


async def _of_session(platform: Platform, token: str) -> Principal | None:
    hashed = digest(token)
    async with platform.database.read() as connection:
        row = await queries.session_user(connection, hashed, platform.clock.now_us())
    if row is None:
        return None
    subject = _subject(row, roles_of(row["roles"]))
    return Principal(subject, row["name"], "session", hashed, row["session_expires_at_us"])


def check_same_origin(request: Request, *, required: bool) -> None:
    """Refuse a change that another site sends with this site's cookie.

    Browsers say where a request comes from in `Sec-Fetch-Site` or `Origin`. With a cookie one of
    them is `required`; programs use an API key instead.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        allowed = site in ("same-origin", "none")
    elif origin is not None:
        allowed = _host_of(origin) == request.headers.get("host", "").lower()
    else:
        allowed = not required
    if not allowed:
        raise LamppostError(
            Kind.FORBIDDEN,
            "This change does not come from this site's own pages.",
            fix="Send an Origin header of this site, or use an API key.",
        )


def _host_of(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
