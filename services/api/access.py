"""Who may do what: one pure function over a table (docs/access-audit-evidence.md).

Every route names an `Action`; `RULES` says which roles may do it, whether it needs a purpose and a
case or reason, and whether it is bound to the cameras a person is responsible for. A route without
a rule stops the start of the api (services/api/app.py) and fails a test.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from shared.domain import Purpose, Role
from shared.errors import Kind


class Action(StrEnum):
    """What a route does, noun and verb; also the name in the audit log."""

    ME_READ = "me.read"
    SESSION_END = "session.end"
    DOCS_READ = "docs.read"
    KEY_OWN = "key.own"
    USER_READ = "user.read"
    USER_WRITE = "user.write"
    CAMERA_READ = "camera.read"
    CAMERA_WRITE = "camera.write"
    CAMERA_TEST = "camera.test"
    CAMERA_STATUS = "camera.status"
    ZONE_READ = "zone.read"
    ZONE_WRITE = "zone.write"
    SEGMENT_SEARCH = "segment.search"
    SEGMENT_READ = "segment.read"
    SIGHTING_SEARCH = "sighting.search"
    SIGHTING_READ = "sighting.read"
    SIGHTING_EXPORT = "sighting.export"
    SIGHTING_LIVE = "sighting.live"
    LEDGER_READ = "ledger.read"
    PLAYBACK_OPEN = "playback.open"
    LIVE_OPEN = "live.open"
    CLIP_OPEN = "clip.open"
    SNAPSHOT_READ = "snapshot.read"
    HOLD_PLACE = "hold.place"
    HOLD_READ = "hold.read"
    HOLD_RENEW = "hold.renew"
    HOLD_RELEASE = "hold.release"
    RETENTION_READ = "retention.read"
    STATUS_READ = "status.read"
    AUDIT_READ = "audit.read"
    WEBHOOK_ADD = "webhook.add"
    WEBHOOK_READ = "webhook.read"
    WEBHOOK_CHANGE = "webhook.change"


class Grant(NamedTuple):
    """One row of the table."""

    roles: frozenset[Role]
    needs_why: bool = False
    """Whether a purpose and a case reference or reason must be named."""


ANYBODY = frozenset(Role)
_ADMIN = frozenset({Role.SYSADMIN})
_SEARCH = frozenset({Role.ANALYST, Role.INVESTIGATOR})
_HOLDER = frozenset({Role.INVESTIGATOR})
_HOLD_READERS = frozenset({Role.APPROVER, Role.PRIVACY_OFFICER, Role.AUDITOR})

RULES: dict[Action, Grant] = {
    Action.ME_READ: Grant(ANYBODY),
    Action.SESSION_END: Grant(ANYBODY),
    Action.DOCS_READ: Grant(ANYBODY),
    Action.KEY_OWN: Grant(ANYBODY),
    Action.USER_READ: Grant(_ADMIN),
    Action.USER_WRITE: Grant(_ADMIN),
    Action.CAMERA_READ: Grant(ANYBODY),
    Action.CAMERA_WRITE: Grant(_ADMIN),
    Action.CAMERA_TEST: Grant(_ADMIN),
    Action.CAMERA_STATUS: Grant(ANYBODY),
    Action.ZONE_READ: Grant(ANYBODY),
    Action.ZONE_WRITE: Grant(_ADMIN),
    Action.SEGMENT_SEARCH: Grant(_SEARCH, needs_why=True),
    Action.SEGMENT_READ: Grant(_SEARCH, needs_why=True),
    Action.SIGHTING_SEARCH: Grant(_SEARCH, needs_why=True),
    Action.SIGHTING_READ: Grant(_SEARCH, needs_why=True),
    Action.SIGHTING_EXPORT: Grant(_SEARCH, needs_why=True),
    # Who watches the picture live may be told what is in it; the past stays the analysts'.
    Action.SIGHTING_LIVE: Grant(_SEARCH | {Role.OPERATOR}, needs_why=True),
    # The ledger says when something was recorded and why not, never what: it needs no purpose.
    Action.LEDGER_READ: Grant(ANYBODY - {Role.OPERATOR}),
    Action.PLAYBACK_OPEN: Grant(_SEARCH, needs_why=True),
    Action.LIVE_OPEN: Grant(frozenset({Role.OPERATOR}), needs_why=True),
    Action.CLIP_OPEN: Grant(_SEARCH, needs_why=True),
    Action.SNAPSHOT_READ: Grant(_SEARCH, needs_why=True),
    Action.HOLD_PLACE: Grant(_HOLDER, needs_why=True),
    Action.HOLD_READ: Grant(_HOLDER | _HOLD_READERS),
    Action.HOLD_RENEW: Grant(_HOLDER, needs_why=True),
    Action.HOLD_RELEASE: Grant(_HOLDER, needs_why=True),
    Action.RETENTION_READ: Grant(ANYBODY),
    # The whole at a glance, for who keeps it running and who answers for it. Never what was seen.
    Action.STATUS_READ: Grant(
        _ADMIN | {Role.OPERATOR, Role.SERVICE, Role.AUDITOR, Role.PRIVACY_OFFICER}
    ),
    Action.AUDIT_READ: Grant(frozenset({Role.AUDITOR})),
    # A webhook gives events away for good: who adds one says what for.
    Action.WEBHOOK_ADD: Grant(_ADMIN, needs_why=True),
    Action.WEBHOOK_READ: Grant(_ADMIN),
    Action.WEBHOOK_CHANGE: Grant(_ADMIN),
}

PAST = frozenset(
    {
        Action.SEGMENT_SEARCH,
        Action.SEGMENT_READ,
        Action.SIGHTING_SEARCH,
        Action.SIGHTING_READ,
        Action.SIGHTING_EXPORT,
        Action.PLAYBACK_OPEN,
        Action.CLIP_OPEN,
        Action.SNAPSHOT_READ,
    }
)
"""What shows something that was recorded."""

_OFFICERS_ONLY = frozenset({Action.HOLD_RENEW, Action.HOLD_RELEASE})


class Subject(NamedTuple):
    """Who asks. `districts` and `camera_ids` None: not limited; either set: their union."""

    id: str
    roles: frozenset[Role]
    districts: tuple[str, ...] | None = None
    camera_ids: tuple[str, ...] | None = None


class Resource(NamedTuple):
    """What is asked for. Without a camera only the role is judged."""

    camera_id: str | None = None
    district: str = ""
    purposes: tuple[Purpose, ...] | None = None
    """The purposes the camera may serve."""
    officers: tuple[str, ...] | None = None
    """The officers of a hold."""


class Why(NamedTuple):
    """The purpose, and the case reference or reason, of a search, session or hold."""

    purpose: Purpose | None = None
    case_ref: str = ""
    reason: str = ""


class Decision(NamedTuple):
    """The answer, with the sentence for the person who is refused."""

    allowed: bool
    kind: Kind = Kind.FORBIDDEN
    message: str = ""
    fix: str = ""


ALLOWED = Decision(True)


def sees_camera(subject: Subject, camera_id: str, district: str) -> bool:
    """Whether a camera lies inside the part of the city that the person is responsible for."""
    if subject.districts is None and subject.camera_ids is None:
        return True
    return district in (subject.districts or ()) or camera_id in (subject.camera_ids or ())


def decide(
    subject: Subject, action: Action, resource: Resource | None = None, why: Why | None = None
) -> Decision:
    """Whether `subject` may do `action` to `resource` for the purpose named.

    `resource` None asks about the role alone, before the resource is known; `why` is judged only
    together with a resource, so that a missing purpose is never reported to somebody without the
    role.
    """
    rule = RULES[action]
    if not subject.roles & rule.roles:
        needed = ", ".join(sorted(role.value for role in rule.roles))
        return Decision(
            False,
            message=f"Your roles do not allow {action.value}.",
            fix=f"Ask for one of: {needed}.",
        )
    if resource is None:
        return ALLOWED
    if resource.camera_id is not None and not sees_camera(
        subject, resource.camera_id, resource.district
    ):
        return Decision(
            False,
            message=f"Camera {resource.camera_id} is outside your districts and cameras.",
            fix="Ask a system administrator to widen your scope.",
        )
    officers = _officers(subject, action, resource)
    return _purpose(rule, resource, why or Why()) if officers is ALLOWED else officers


def _officers(subject: Subject, action: Action, resource: Resource) -> Decision:
    """Holds belong to their officers; approvers, privacy officers and auditors may read all."""
    if resource.officers is None or subject.id in resource.officers:
        return ALLOWED
    if action in _OFFICERS_ONLY:
        return Decision(
            False, message="Only an officer of this hold may do that.", fix="Ask one of them."
        )
    if action is Action.HOLD_READ and not subject.roles & _HOLD_READERS:
        return Decision(False, message="This hold belongs to another case.")
    return ALLOWED


def _purpose(rule: Grant, resource: Resource, why: Why) -> Decision:
    """A purpose the camera may serve, and a case reference or a reason."""
    if not rule.needs_why:
        return ALLOWED
    if why.purpose is None:
        names = ", ".join(purpose.value for purpose in Purpose)
        return Decision(
            False, Kind.INVALID, "A purpose is required.", f"Name `purpose`, one of: {names}."
        )
    if not why.case_ref.strip() and not why.reason.strip():
        return Decision(
            False,
            Kind.INVALID,
            "A case reference or a reason is required.",
            "Name `case_ref` or `reason`.",
        )
    if resource.purposes is not None and why.purpose not in resource.purposes:
        served = ", ".join(purpose.value for purpose in resource.purposes) or "none"
        return Decision(
            False,
            message=f"Camera {resource.camera_id} may not serve {why.purpose.value}.",
            fix=f"It serves: {served}.",
        )
    return ALLOWED
