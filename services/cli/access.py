"""`lamppost user` and `lamppost key`: accounts and keys, directly on this machine's database."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated, Any

import typer

from services.cli import local, output
from shared import civil
from shared.audit import LOCAL, Entry, append
from shared.domain import Role
from shared.errors import Kind, LamppostError
from shared.platform import Platform
from shared.settings import Settings

users = typer.Typer(no_args_is_help=True, help="Accounts of this installation.")
keys = typer.Typer(no_args_is_help=True, help="API keys of this installation.")
Roles = Annotated[list[str] | None, typer.Option("--role", help="A role; may be given again.")]


def register(app: typer.Typer) -> None:
    app.add_typer(users, name="user")
    app.add_typer(keys, name="key")


def parse_roles(names: list[str] | None) -> list[Role]:
    """Roles by name, separated by commas or given again."""
    words = [word.strip() for name in names or [] for word in name.split(",") if word.strip()]
    try:
        return [Role(word) for word in words]
    except ValueError as error:
        raise LamppostError(
            Kind.INVALID, f"{error}.", fix=f"Roles: {', '.join(role.value for role in Role)}."
        ) from error


def read_password() -> str:
    """From the terminal, twice and unseen; else the first line of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    first = getpass.getpass("Password: ")
    if first != getpass.getpass("Again: "):
        raise LamppostError(Kind.INVALID, "The two passwords differ.")
    return first


@users.command("add")
def user_add(
    name: str,
    role: Roles = None,
    all_roles: Annotated[bool, typer.Option("--all-roles", help="Every person's role.")] = False,
    display_name: Annotated[str, typer.Option(help="The person's name.")] = "",
    district: Annotated[
        list[str] | None, typer.Option(help="Only this district; may be given again.")
    ] = None,
    camera: Annotated[
        list[str] | None, typer.Option(help="Only this camera; may be given again.")
    ] = None,
    as_json: output.Json = False,
) -> None:
    """Add an account; the password is asked for, or read from standard input."""
    from services.api.users import add_user

    roles: list[Role] = parse_roles(role)
    if all_roles:
        roles = [item for item in Role if item is not Role.SERVICE]
    if not roles:
        raise LamppostError(
            Kind.INVALID, "An account needs a role.", fix="For example --role analyst."
        )
    password = read_password()

    async def work(platform: Platform, _settings: Settings) -> str:
        return await add_user(
            platform,
            name=name,
            password=password,
            roles=roles,
            display_name=display_name,
            districts=district or None,
            camera_ids=camera or None,
        )

    value = {
        "id": local.with_platform(work),
        "name": name,
        "roles": [item.value for item in roles],
    }
    output.emit(value, as_json, output.fields(value))


@users.command("list")
def user_list(as_json: output.Json = False) -> None:
    """Every account with its roles and scope."""
    from services.api import queries_accounts as queries

    async def work(platform: Platform, _settings: Settings) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        after: str | None = None
        async with platform.database.read() as connection:
            while page := await queries.users(connection, after, 500):
                found += [_user(dict(row)) for row in page]
                after = page[-1]["name"]
        return found

    rows = local.with_platform(work)
    columns = ["name", "roles", "districts", "cameras", "disabled"]
    text = output.table(columns, [[_shown(row[name]) for name in columns] for row in rows])
    output.emit(rows, as_json, text)


def _user(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "name": row["name"],
        "display_name": row["display_name"],
        "roles": row["roles"],
        "districts": row["districts"],
        "cameras": row["camera_ids"],
        "disabled": bool(row["disabled"]),
        "created_at": civil.rfc3339(row["created_at_us"]),
    }


def _shown(value: Any) -> str:
    if value is None:
        return "all"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, list) else str(value)


@users.command("disable")
def user_disable(
    name: str,
    enable: Annotated[bool, typer.Option("--enable", help="Enable it again.")] = False,
    as_json: output.Json = False,
) -> None:
    """Disable an account: its sign-ins end and its keys stop working."""
    from services.api import queries_accounts as queries

    async def work(platform: Platform, _settings: Settings) -> None:
        async with platform.database.write() as connection:
            row = await queries.user_by_name(connection, name)
            if row is None:
                raise LamppostError(Kind.NOT_FOUND, f"There is no account {name!r}.")
            now_us = platform.clock.now_us()
            await queries.update_user(connection, row["id"], {"disabled": not enable})
            if not enable:
                await queries.end_sessions_of(connection, row["id"], now_us)
            entry = Entry(
                at_us=now_us,
                actor=LOCAL,
                action="user.change",
                resource=f"user/{row['id']}",
                detail={"disabled": not enable},
            )
            await append(connection, entry)

    local.with_platform(work)
    value = {"name": name, "disabled": not enable}
    output.emit(value, as_json, output.fields(value))


@keys.command("create")
def key_create(
    user: str,
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    role: Roles = None,
    days: Annotated[int, typer.Option(min=1, max=366, help="Days until it expires.")] = 90,
    as_json: output.Json = False,
) -> None:
    """Make a key of a person's account. It is printed once and never again."""
    from services.api.keys import create_key

    roles = parse_roles(role) or None

    async def work(platform: Platform, _settings: Settings) -> dict[str, Any]:
        made = await create_key(platform, user_name=user, name=name, roles=roles, days=days)
        return {"id": made.id, "key": made.token}

    value = local.with_platform(work)
    output.emit(value, as_json, lambda console: console.print(value["key"], soft_wrap=True))


@keys.command("list")
def key_list(user: str, as_json: output.Json = False) -> None:
    """A person's keys, without their secrets."""
    from services.api import queries_accounts as queries

    async def work(platform: Platform, _settings: Settings) -> list[dict[str, Any]]:
        async with platform.database.read() as connection:
            row = await queries.user_by_name(connection, user)
            if row is None:
                raise LamppostError(Kind.NOT_FOUND, f"There is no account {user!r}.")
            return [_key(dict(item)) for item in await queries.keys_of(connection, row["id"])]

    rows = local.with_platform(work)
    columns = ["id", "name", "roles", "created_at", "expires_at", "revoked_at"]
    shown = [["-" if row[name] is None else _shown(row[name]) for name in columns] for row in rows]
    output.emit(rows, as_json, output.table(columns, shown))


def _key(row: dict[str, Any]) -> dict[str, Any]:
    times = {
        name: civil.rfc3339(row[f"{name}_us"]) if row[f"{name}_us"] is not None else None
        for name in ("created_at", "expires_at", "revoked_at")
    }
    return {"id": row["id"], "name": row["name"], "roles": row["roles"], **times}


@keys.command("revoke")
def key_revoke(user: str, key_id: str, as_json: output.Json = False) -> None:
    """The key stops working at once."""
    from services.api import queries_accounts as queries

    async def work(platform: Platform, _settings: Settings) -> None:
        async with platform.database.write() as connection:
            row = await queries.user_by_name(connection, user)
            now_us = platform.clock.now_us()
            if row is None or not await queries.revoke_key(connection, key_id, row["id"], now_us):
                raise LamppostError(Kind.NOT_FOUND, f"{user!r} has no such key in use.")
            entry = Entry(at_us=now_us, actor=LOCAL, action="key.revoke", resource=f"key/{key_id}")
            await append(connection, entry)

    local.with_platform(work)
    value = {"id": key_id, "revoked": True}
    output.emit(value, as_json, output.fields(value))
