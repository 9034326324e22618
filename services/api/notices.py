"""The public notice of each camera: who, why, for how long, what is detected, whom to ask.

In English and Traditional Chinese (docs/access-audit-evidence.md, "Privacy at capture"). The
retention figure is the live policy, not a text somebody wrote.
"""

from __future__ import annotations

from html import escape

from fastapi import APIRouter, Depends
from starlette.responses import HTMLResponse

from services.api import html, problems, queries
from services.api.deps import Context, Public
from services.api.models import CameraId
from services.api.segments import policy_of
from shared.domain import Camera, Purpose
from shared.errors import Kind, LamppostError
from shared.retention import Policy
from shared.settings import Site

router = APIRouter(tags=["notices"], responses=problems.RESPONSES)

PURPOSES: dict[Purpose, tuple[str, str]] = {
    Purpose.CRIME_INVESTIGATION: ("crime investigation", "刑事調查"),
    Purpose.PUBLIC_SAFETY: ("public safety", "公眾安全"),
    Purpose.TRAFFIC_INCIDENT: ("traffic incidents", "交通事故"),
    Purpose.COURT_ORDER: ("court orders", "法庭命令"),
    Purpose.COMPLAINT: ("complaints", "投訴"),
    Purpose.DATA_ACCESS_REQUEST: ("data access requests", "查閱資料要求"),
    Purpose.MAINTENANCE: ("maintenance", "維修"),
    Purpose.AUDIT: ("audit", "審計"),
}
NO_DETECTION = (
    "None. No face recognition, no number plate reading, no sound.",
    "沒有。不作人臉辨識，不讀取車牌，不錄音。",
)


def retention_texts(policy: Policy) -> tuple[str, str]:
    """The figure in words, by the policy's basis."""
    days = policy.retention_days
    if policy.basis == "instant":
        return (
            f"Deleted automatically {days} x 24 hours after recording, unless held for an "
            "investigation.",
            f"錄影後 {days} 個 24 小時自動刪除，除非因調查而保留。",
        )
    return (
        f"Deleted automatically after {days} days from the recording date, unless held for an "
        "investigation.",
        f"由錄影日期起計 {days} 日後自動刪除，除非因調查而保留。",
    )


def notice_html(camera: Camera, site: Site, policy: Policy) -> str:
    """The notice in both languages."""
    name = escape(camera.name)
    english, chinese = retention_texts(policy)
    contact = escape(site.contact or site.operator)
    operator = escape(site.operator)
    state = ""
    if camera.deleted_at_us is not None:
        state = (
            "<p><strong>This camera was taken down. "
            '<span lang="zh-Hant">此攝影機已拆除。</span></strong></p>'
        )
    purposes = [PURPOSES[purpose] for purpose in camera.purposes]
    rows = (
        ("Operator", "營運者", operator, operator),
        (
            "Purpose",
            "目的",
            ", ".join(item[0] for item in purposes),
            "、".join(item[1] for item in purposes),
        ),
        ("Retention", "保留期", english, chinese),
        ("Automatic detection", "自動偵測", *NO_DETECTION),
        ("Questions and data access", "查詢及查閱資料", contact, contact),
    )
    parts = [f"<h1>{name}</h1><p class='quiet'>{escape(camera.id)}</p>{state}"]
    for index, (lang, title) in enumerate((("en", "Camera notice"), ("zh-Hant", "攝影機告示"))):
        items = "".join(f"<dt>{row[index]}</dt><dd>{row[2 + index]}</dd>" for row in rows)
        parts.append(f'<section lang="{lang}"><h2>{title}</h2><dl>{items}</dl></section>')
    return "".join(parts)


@router.get(
    "/notices/{camera_id}",
    summary="Public notice of a camera",
    response_class=HTMLResponse,
    dependencies=[Depends(Public("the public is told about each camera"))],
)
async def get_notice(camera_id: CameraId, context: Context) -> HTMLResponse:
    """English and Traditional Chinese; the retention figure is the policy in force."""
    async with context.platform.database.read() as connection:
        camera = await queries.camera(connection, camera_id)
        policy = await policy_of(context, connection)
    if camera is None:
        raise LamppostError(Kind.NOT_FOUND, "There is no such camera.")
    site = context.settings.site
    return html.page(f"{camera.name} · {site.name}", notice_html(camera, site, policy))
