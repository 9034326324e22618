"""`lamppost cameras`: list, show, add, import, change, disable, test. Over the HTTP API."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import output
from services.cli.remote import Remote
from shared.errors import Kind, LamppostError

commands = typer.Typer(no_args_is_help=True, help="Cameras of a running Lamppost.")
Camera = Annotated[str, typer.Argument(help="A camera's id, such as mk-argyle-01.")]


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="cameras")


@commands.command("list")
def list_cameras(
    district: Annotated[str | None, typer.Option(help="Only this district.")] = None,
    as_json: output.Json = False,
) -> None:
    """Every camera you may see, with what its recorder does now."""
    with Remote() as remote:
        found = remote.pages("/v1/cameras", {"district": district})
    columns = ["id", "name", "district", "site kind", "state"]
    rows = [
        [item["id"], item["name"], item["district"], item["site_kind"], _state(item)]
        for item in found
    ]
    output.emit(found, as_json, output.table(columns, rows))


def _state(item: dict[str, Any]) -> str:
    state = item.get("state") or {}
    reason = state.get("reason")
    return f"{state.get('state', 'unknown')}{f' ({reason})' if reason else ''}"


@commands.command("show")
def show(camera: Camera, as_json: output.Json = False) -> None:
    """One camera's configuration."""
    with Remote() as remote:
        found = remote.call("GET", f"/v1/cameras/{camera}")
    output.emit(found, as_json, output.fields(found))


@commands.command("add")
def add(
    camera: Camera,
    url: Annotated[str, typer.Argument(help="rtsp://host/path, without a password.")],
    name: Annotated[str | None, typer.Option(help="Name; the id when not given.")] = None,
    sub_url: Annotated[str | None, typer.Option(help="Its small second stream.")] = None,
    secret: Annotated[
        str | None, typer.Option(help="Name of the secret with its password.")
    ] = None,
    district: Annotated[str, typer.Option()] = "",
    site_kind: Annotated[
        str, typer.Option(help="government_building, lamp_post or smart_lamp_post.")
    ] = "lamp_post",
    latitude: Annotated[float | None, typer.Option()] = None,
    longitude: Annotated[float | None, typer.Option()] = None,
    as_json: output.Json = False,
) -> None:
    """Add a camera; recording begins at once."""
    body = {
        "id": camera,
        "name": name or camera,
        "source": {"url": url, "sub_url": sub_url, "secret": secret},
        "district": district,
        "site_kind": site_kind,
        "latitude": latitude,
        "longitude": longitude,
    }
    with Remote() as remote:
        made = remote.call("POST", "/v1/cameras", body=body)
    output.emit(made, as_json, output.fields(made))


@commands.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(help="CSV with a header: id,name,url,…")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check only.")] = False,
    as_json: output.Json = False,
) -> None:
    """Add the cameras of a CSV file: all of them or none."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise LamppostError(Kind.INVALID, f"Cannot read {file}: {error.strerror}.") from error
    with Remote() as remote:
        done = remote.call(
            "POST",
            "/v1/cameras:import",
            content=data,
            params={"dry_run": "true" if dry_run else None},
            headers={"Content-Type": "text/csv"},
        )
    output.emit(done, as_json, output.fields(done))


def _change(method: str, path: str, as_json: bool, body: dict[str, Any] | None = None) -> None:
    with Remote() as remote:
        changed = remote.call(method, path, body=body)
    output.emit(changed, as_json, output.fields(changed))


@commands.command("disable")
def disable(camera: Camera, as_json: output.Json = False) -> None:
    """Stop recording it; the seconds become a gap with the reason `disabled`."""
    _change("POST", f"/v1/cameras/{camera}/disable", as_json)


@commands.command("enable")
def enable(camera: Camera, as_json: output.Json = False) -> None:
    """Record it again."""
    _change("POST", f"/v1/cameras/{camera}/enable", as_json)


@commands.command("rename")
def rename(camera: Camera, name: str, as_json: output.Json = False) -> None:
    """Give it another name; its id stays."""
    _change("PATCH", f"/v1/cameras/{camera}", as_json, {"name": name})


@commands.command("maintain")
def maintain(
    camera: Camera,
    start: Annotated[str, typer.Argument(help="2026-11-26T09:00, local time of the site.")],
    end: Annotated[str, typer.Argument()],
    note: Annotated[str, typer.Option()] = "",
    as_json: output.Json = False,
) -> None:
    """Plan maintenance: what is not recorded then is a gap with that reason."""
    body = {"start": start, "end": end, "note": note}
    _change("POST", f"/v1/cameras/{camera}/maintenance", as_json, body)


@commands.command("test")
def test(
    camera: Camera,
    picture: Annotated[
        Path | None, typer.Option(help="Write the test's picture there (needs a purpose).")
    ] = None,
    purpose: Annotated[str | None, typer.Option(help="Why the picture is looked at.")] = None,
    reason: Annotated[str | None, typer.Option()] = None,
    as_json: output.Json = False,
) -> None:
    """Connect to it now and say what was found."""
    why = {"purpose": purpose, "reason": reason}
    with Remote() as remote:
        found = remote.call("POST", f"/v1/cameras/{camera}/test", params=why)
    encoded = found.pop("jpeg_base64", None)
    if picture is not None:
        if not encoded:
            raise LamppostError(
                Kind.NOT_FOUND,
                "The test gave no picture.",
                fix="Name --purpose and --reason, with a role that may see live.",
            )
        picture.write_bytes(base64.b64decode(encoded))
    output.emit(found, as_json, output.fields(found))
    if not found.get("ok"):
        raise typer.Exit(output.FOUND_WRONG)
