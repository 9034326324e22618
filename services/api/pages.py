"""Sign-in, set-up, a minimal status page and the API's documentation, until the console comes.

Server-rendered, no script, nothing from other hosts; the status page refreshes itself.
"""

from __future__ import annotations

from html import escape
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Query
from pydantic import StringConstraints
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from services.api import auth, html, problems, queries, sessions, times
from services.api.access import Action
from services.api.auth import Principal
from services.api.context import ApiContext
from services.api.deps import Context, Granted, Public, Requires
from services.api.models_cameras import state_out
from shared.domain import Camera
from shared.errors import LamppostError

MAX_ROWS = 200
REFRESH_S = 5
router = APIRouter(tags=["pages"], include_in_schema=False)
Docs = Annotated[Granted, Depends(Requires(Action.DOCS_READ))]
ShortText = Annotated[str, StringConstraints(max_length=200)]


def _message(text: str) -> str:
    return f'<p class="bad" role="alert">{escape(text)}</p>' if text else ""


def sign_in_page(context: ApiContext, message: str = "", status: int = 200) -> HTMLResponse:
    name = escape(context.settings.site.name)
    body = (
        f"<h1>{name}</h1><p class='quiet'>Sign in to see the cameras.</p>{_message(message)}"
        '<form class="card" method="post" action="/sign-in">'
        '<label for="name">Name</label>'
        '<input id="name" name="name" autocomplete="username" autofocus required maxlength="100">'
        '<label for="password">Password</label>'
        '<input id="password" name="password" type="password" autocomplete="current-password" '
        'required maxlength="200"><button>Sign in</button></form>'
    )
    return html.page(f"Sign in · {context.settings.site.name}", body, status=status)


def setup_page(
    context: ApiContext, token: str, roles: list[str], message: str = "", status: int = 200
) -> HTMLResponse:
    every = "every role: this is a demonstration" if len(roles) > 1 else roles[0]
    body = (
        f"<h1>{escape(context.settings.site.name)}: first person</h1>"
        f"<p>This link works once. The account it makes has {escape(every)}.</p>"
        f'{_message(message)}<form class="card" method="post" action="/setup">'
        f'<input type="hidden" name="token" value="{escape(token)}">'
        '<label for="name">Name</label><input id="name" name="name" autocomplete="username" '
        'autofocus required maxlength="100">'
        '<label for="password">Password (10 characters or more)</label>'
        '<input id="password" name="password" type="password" autocomplete="new-password" '
        'required minlength="10" maxlength="200"><button>Add account</button></form>'
    )
    return html.page(f"Set up · {context.settings.site.name}", body, status=status)


@router.get("/", dependencies=[Depends(Public("shows the sign-in form to who is not signed in"))])
async def index(request: Request, context: Context) -> HTMLResponse:
    """The cameras' states to a signed-in person, the sign-in form to others."""
    try:
        principal = await auth.authenticate(context.platform, request)
    except LamppostError:
        principal = None
    if principal is None:
        return sign_in_page(context)
    return await status_page(context, principal)


async def status_page(context: ApiContext, principal: Principal) -> HTMLResponse:
    """Cameras in the person's scope, refreshed every few seconds."""
    async with context.platform.database.read() as connection:
        cameras = await queries.cameras(
            connection, principal.subject, queries.CameraFilter(), None, MAX_ROWS
        )
    rows = [_row(camera, context) for camera in cameras]
    recording = sum(state_out(camera, context).state == "recording" for camera in cameras)
    roles = ", ".join(sorted(role.value for role in principal.roles))
    body = (
        f"<header><div><h1>{escape(context.settings.site.name)}</h1>"
        f"<p class='quiet'>{escape(principal.name)} · {escape(roles)}</p></div>"
        '<form method="post" action="/sign-out"><button>Sign out</button></form></header>'
        f"<p>{recording} of {len(cameras)} cameras recording · "
        f"{escape(times.text(context.now_us() // 1_000_000 * 1_000_000, context.zone))} · "
        '<a href="/docs">API documentation</a></p>'
        + html.table(["Camera", "Name", "District", "State", "Since", "Picture", ""], rows)
        + ("" if rows else "<p>No cameras yet: <code>lamppost cameras add</code>.</p>")
    )
    return html.page(context.settings.site.name, body, refresh_s=REFRESH_S)


def _row(camera: Camera, context: ApiContext) -> list[str]:
    state = state_out(camera, context)
    shade = {"recording": "good", "disabled": "quiet", "maintenance": "quiet"}
    text = state.state + (f": {state.reason}" if state.reason else "")
    picture = f"{state.codec} {state.width}x{state.height}" if state.codec else ""
    return [
        escape(camera.id),
        escape(camera.name),
        escape(camera.district),
        f'<span class="{shade.get(state.state, "bad")}">{escape(text)}</span>',
        escape((state.since or "")[:19].replace("T", " ")),
        escape(picture),
        f'<a href="/notices/{escape(camera.id)}">notice</a>',
    ]


@router.post("/sign-in", dependencies=[Depends(Public("signing in needs it"))])
async def sign_in(
    request: Request,
    context: Context,
    name: Annotated[ShortText, Form()] = "",
    password: Annotated[ShortText, Form()] = "",
) -> Response:
    """The form of the sign-in page."""
    try:
        token = await sessions.sign_in(context, request, name, password)
    except LamppostError as error:
        return sign_in_page(context, str(error), error.status)
    response = RedirectResponse("/", 303)
    sessions.set_cookie(context, response, token)
    return response


@router.post("/sign-out")
async def sign_out(
    granted: Annotated[Granted, Depends(Requires(Action.SESSION_END))],
) -> Response:
    """Ends the session."""
    await sessions.sign_out(granted.context, granted.principal, granted.request_id)
    response = RedirectResponse("/", 303)
    response.delete_cookie(auth.COOKIE, path="/")
    return response


@router.get("/setup", dependencies=[Depends(Public("the one-time link leads here"))])
async def get_setup(context: Context, token: Annotated[ShortText, Query()] = "") -> HTMLResponse:
    """The form of an unused set-up link."""
    roles = await sessions.setup_roles(context.platform, token)
    if roles is None:
        return sign_in_page(context, "This set-up link is used or was replaced.", 410)
    return setup_page(context, token, roles)


@router.post("/setup", dependencies=[Depends(Public("the one-time link leads here"))])
async def post_setup(
    request: Request,
    context: Context,
    token: Annotated[ShortText, Form()] = "",
    name: Annotated[ShortText, Form()] = "",
    password: Annotated[ShortText, Form()] = "",
) -> Response:
    """Adds the first person, and signs them in."""
    auth.check_same_origin(request, required=False)
    roles = await sessions.setup_roles(context.platform, token)
    try:
        await sessions.use_setup_link(
            context,
            token=token,
            name=name,
            password=password,
            request_id=problems.request_id_of(request),
        )
        cookie = await sessions.sign_in(context, request, name, password)
    except LamppostError as error:
        if roles is None:
            return sign_in_page(context, str(error), error.status)
        return setup_page(context, token, roles, str(error), error.status)
    response = RedirectResponse("/", 303)
    sessions.set_cookie(context, response, cookie)
    return response


@router.get("/openapi.json")
async def openapi(request: Request, granted: Docs) -> JSONResponse:
    """The OpenAPI document."""
    return JSONResponse(request.app.openapi())


@router.get("/docs")
async def docs(request: Request, granted: Docs) -> HTMLResponse:
    """Every route in a page that needs nothing from elsewhere."""
    document = request.app.openapi()
    about = escape(document["info"]["description"].replace("`", ""))
    body = (
        f"<h1>{escape(document['info']['title'])} API</h1>"
        '<p><a href="/openapi.json">openapi.json</a> · <a href="/">cameras</a></p>'
        f"<p class='quiet'>{about}</p>{_operations(document)}"
    )
    return html.page("API documentation", body)


def _operations(document: dict[str, Any]) -> str:
    groups: dict[str, list[list[str]]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            names = ", ".join(
                item["name"] + ("" if item.get("required") else "?")
                for item in operation.get("parameters", [])
            )
            row = [
                f"<code>{method.upper()} {escape(path)}</code>",
                escape(operation.get("summary", "")),
                f"<code>{escape(names)}</code>",
            ]
            groups.setdefault((operation.get("tags") or ["other"])[0], []).append(row)
    return "".join(
        f"<h2>{escape(tag)}</h2>{html.table(['Route', 'What', 'Parameters'], rows)}"
        for tag, rows in groups.items()
    )
