"""`lamppost webhook`: subscriptions of other systems, over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from services.cli import output
from services.cli.remote import Remote

webhooks = typer.Typer(no_args_is_help=True, help="Webhooks: events for other systems.")


def register(app: typer.Typer) -> None:
    app.add_typer(webhooks, name="webhook")


@webhooks.command("add")
def add(
    url: str,
    event: Annotated[list[str], typer.Option(help="Such as sighting.begun; given again.")],
    purpose: Annotated[str, typer.Option(help="What the events are for.")],
    reason: Annotated[str, typer.Option(help="Why, where there is no case.")] = "",
    case: Annotated[str, typer.Option(help="Case reference.")] = "",
    name: Annotated[str, typer.Option(help="Whose system it is.")] = "",
    camera: Annotated[
        list[str] | None, typer.Option(help="Only this camera; may be given again.")
    ] = None,
    class_name: Annotated[
        list[str] | None, typer.Option("--class", help="Only this class; may be given again.")
    ] = None,
    as_json: output.Json = False,
) -> None:
    """Add a webhook. Its secret is printed once and never again."""
    body = {
        "url": url,
        "name": name,
        "events": event,
        "purpose": purpose,
        "case_ref": case,
        "reason": reason,
        "camera_ids": camera or None,
        "classes": class_name or None,
    }
    with Remote() as remote:
        made = remote.call("POST", "/v1/webhooks", body=body)
    output.emit(made, as_json, output.fields(made))


@webhooks.command("list")
def list_webhooks(as_json: output.Json = False) -> None:
    """Every webhook and how it fares."""
    with Remote() as remote:
        rows = remote.pages("/v1/webhooks")
    columns = ["id", "name", "url", "events", "waiting", "set_aside", "last_error"]
    shown = [[_shown(row[name]) for name in columns] for row in rows]
    output.emit(rows, as_json, output.table(columns, shown))


@webhooks.command("remove")
def remove(webhook_id: str, as_json: output.Json = False) -> None:
    """Delete a webhook, with all that waits for it."""
    with Remote() as remote:
        remote.call("DELETE", f"/v1/webhooks/{webhook_id}")
    value = {"id": webhook_id, "removed": True}
    output.emit(value, as_json, output.fields(value))


@webhooks.command("test")
def test(webhook_id: str, as_json: output.Json = False) -> None:
    """Send a ping; exit status 1 when it was not taken."""
    with Remote() as remote:
        value = remote.call("POST", f"/v1/webhooks/{webhook_id}/test")
    output.emit(value, as_json, output.fields(value))
    if not value["delivered"]:
        raise typer.Exit(output.FOUND_WRONG)


@webhooks.command("set-aside")
def set_aside(webhook_id: str, as_json: output.Json = False) -> None:
    """List the events that were not taken in time."""
    with Remote() as remote:
        rows = remote.pages(f"/v1/webhooks/{webhook_id}/set-aside")
    columns = ["event_id", "event_type", "camera_id", "queued_at", "attempts", "last_error"]
    shown = [[_shown(row[name]) for name in columns] for row in rows]
    output.emit(rows, as_json, output.table(columns, shown))


@webhooks.command("replay")
def replay(
    webhook_id: str,
    event_id: Annotated[
        list[str] | None, typer.Option("--event", help="Only this event; may be given again.")
    ] = None,
    as_json: output.Json = False,
) -> None:
    """Send again what was not taken, under the same ids."""
    with Remote() as remote:
        value = remote.call(
            "POST", f"/v1/webhooks/{webhook_id}/replay", body={"event_ids": event_id or None}
        )
    output.emit(value, as_json, output.fields(value))


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
