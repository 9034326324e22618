"""Writes docs/ref/ out of the code: `python -m services.docs_ref` (make docs).

A test holds the pages current, so that no setting, metric, route or command is undocumented.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from services import events_ref
from shared import metrics
from shared.settings import PREFIX, Settings

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "ref"
NOTE = "<!-- Written by `make docs` out of the code. Do not edit. -->\n\n"


def pages() -> dict[str, str]:
    """Every page by its file name."""
    return {
        "settings.md": settings_page(),
        "metrics.md": metrics_page(),
        "api.md": api_page(),
        "cli.md": cli_page(),
        **events_ref.pages(),
    }


def settings_page() -> str:
    """Sections of settings with type, default and environment variable."""
    lines = [
        "# Settings\n",
        NOTE.rstrip() + "\n",
        "Later wins: the default, the TOML file that `LAMPPOST_CONFIG` names, the environment. A "
        "relative path lies below `state_dir`. A wrong or unknown key ends the start with a "
        "sentence that names it.\n",
        "## Top level\n",
        *_rows("", Settings, sections=False),
    ]
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            lines += [f"\n## `[{name}]`\n", f"{(section.__doc__ or '').strip()}\n"]
            lines += _rows(f"{name}__", section, sections=True)
    return "\n".join(lines).rstrip() + "\n"


def _rows(prefix: str, model: type[BaseModel], *, sections: bool) -> Iterator[str]:
    yield "| key | environment | what | type | default |"
    yield "|---|---|---|---|---|"
    for name, field in model.model_fields.items():
        inner = field.annotation
        if not sections and isinstance(inner, type) and issubclass(inner, BaseModel):
            continue
        variable = f"{PREFIX}{prefix}{name}".upper()
        kind = _kind(field)
        default = _default(field)
        what = (field.description or "").replace("|", "\\|")
        yield f"| `{name}` | `{variable}` | {what} | {kind} | {default} |"


def _kind(field: FieldInfo) -> str:
    """The type with its bounds, in words."""
    text = _type_name(field.annotation)
    words = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [
        f"{sign} {getattr(item, name):g}"
        for item in field.metadata
        for name, sign in words.items()
        if getattr(item, name, None) is not None
    ]
    return f"{text} {', '.join(bounds)}".strip().replace("|", "\\|")


def _type_name(annotation: Any) -> str:
    origin = getattr(annotation, "__origin__", None)
    arguments: tuple[Any, ...] = getattr(annotation, "__args__", ())
    if origin is tuple:
        return f"list of {_type_name(arguments[0])}"
    if arguments and origin is None:  # a union
        return " or ".join("none" if item is type(None) else _type_name(item) for item in arguments)
    if arguments:  # a literal
        return ", ".join(f"`{item}`" for item in arguments)
    words = {"str": "text", "int": "integer", "float": "number", "bool": "true, false"}
    name = str(annotation.__name__)
    return words.get(name, name.lower())


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined or value is None or value == ():
        return "none"
    if value == "":
        return "empty"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def metrics_page() -> str:
    """Every metric with its type and labels, as `/metrics` shows them."""
    lines = [
        "# Metrics\n",
        NOTE.rstrip() + "\n",
        "`GET /metrics` of the api; in Prometheus' format. Counters end in `_total` there. What a"
        " recorder or detect worker counts has its name as label `process`.\n",
        "| metric | type | labels | what |",
        "|---|---|---|---|",
    ]
    for name, metric in sorted(vars(metrics).items()):
        if name.isupper() and hasattr(metric, "_labelnames"):
            family = metric.describe()[0]
            labels = ", ".join(f"`{label}`" for label in metric._labelnames) or "-"
            lines.append(f"| `{family.name}` | {family.type} | {labels} | {family.documentation} |")
    return "\n".join(lines) + "\n"


class Route(NamedTuple):
    """One line of the api's page."""

    tag: str
    path: str
    method: str
    summary: str
    who: str


def routes() -> list[Route]:
    """Every route of the api, without starting it."""
    from fastapi import FastAPI
    from fastapi.routing import APIRoute, iter_route_contexts

    from services.api.app import rules_of
    from services.api.routers import ROUTERS

    app = FastAPI()
    for router in ROUTERS:
        app.include_router(router)
    rules = rules_of(app)
    found = []
    for context in iter_route_contexts(app.routes):
        route = context.route
        if not isinstance(route, APIRoute) or not route.include_in_schema:
            continue
        tag = str(route.tags[0]) if route.tags else "other"
        summary = route.summary or route.name.replace("_", " ")
        for method in context.methods or ():
            who = _who(rules[f"{method} {context.path}"])
            found.append(Route(tag, str(context.path), method, summary, who))
    return sorted(found)


def _who(rules: Iterable[Any]) -> str:
    """Who may: a role's action, the holder of a token, everybody for a reason."""
    words = []
    for rule in rules:
        action = getattr(rule, "action", None)
        kind = type(rule).__name__
        if action is None:
            words.append(f"everybody: {rule.description}" if rule.description else kind)
        elif kind.endswith("Token"):
            words.append(f"holder of a token of `{action.value}`")
        else:
            words.append(f"`{action.value}`")
    return "; ".join(words)


def api_page() -> str:
    """Every route with its rule; the schemas are in the api's own OpenAPI document."""
    lines = [
        "# HTTP API\n",
        NOTE.rstrip() + "\n",
        "The running api documents itself with schemas and examples at `/docs`. The last column "
        "names the action that a role must allow (docs/access-audit-evidence.md).",
    ]
    group = ""
    for route in routes():
        if route.tag != group:
            group = route.tag
            lines += [f"\n## {group}\n", "| method | path | what | who |", "|---|---|---|---|"]
        lines.append(f"| {route.method} | `{route.path}` | {route.summary} | {route.who} |")
    return "\n".join(lines) + "\n"


def cli_page() -> str:
    """Every command with its arguments and options."""
    import typer

    from services.cli.app import app

    root: Any = typer.main.get_command(app)
    lines = [
        "# Command line\n",
        NOTE.rstrip() + "\n",
        f"{root.help}\n",
        "Every command takes `--json`. Commands that work over HTTP read `LAMPPOST_URL` and "
        "`LAMPPOST_KEY`; the others open the state folder (`--state-dir`, `LAMPPOST_STATE_DIR`).\n",
        "Exit status: 0 well; 1 something is wrong and was found; 2 wrong usage or input; "
        "3 something needed is not there.\n",
    ]
    for path, command in _commands(root, ("lamppost",)):
        lines += _command(path, command)
    return "\n".join(lines).rstrip() + "\n"


def _commands(group: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name, command in sorted(group.commands.items()):
        if getattr(command, "commands", None):
            yield from _commands(command, (*path, name))
        elif not command.hidden:
            yield " ".join((*path, name)), command


def _command(path: str, command: Any) -> Iterator[str]:
    shown = [item for item in command.params if not getattr(item, "hidden", False)]
    arguments = [item for item in shown if item.param_type_name == "argument"]
    options = [item for item in shown if item.param_type_name == "option" and item.name != "help"]
    words = "".join(f" {_metavar(item)}" for item in arguments)
    yield f"\n## `{path}{words}`\n"
    yield f"{(command.help or '').strip()}\n"
    if not arguments and not options:
        return
    yield "| | |"
    yield "|---|---|"
    for item in arguments:
        yield f"| `{_metavar(item)}` | {getattr(item, 'help', '') or ''} |"
    for item in options:
        needed = " Required." if item.required else ""
        yield f"| `{', '.join(item.opts)}` | {(item.help or '').replace('|', '/')}{needed} |"


def _metavar(item: Any) -> str:
    name = item.name.upper()
    return name if item.required else f"[{name}]"


def main() -> int:
    """Write the pages; the names of those that changed."""
    for name, text in pages().items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            print(f"docs/ref/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
