"""Sixty cameras, every service a process of its own, on real servers: what is lost, what it costs.

The cameras are `lamppost replay`'s: 1080p at 2 Mbit/s with a sub stream of 360p, so frames for
analysis cost no decoding of the main stream. Detection is held to half a core: it may be late and
leave frames out, and may take nothing from recording. Recorders have the weight that
docs/guide/scale.md gives them. The replay's own report judges; there is no peer.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from shared.clock import SECOND_US
from tests.bench import measure, watching
from tests.bench.footage import Look, make_clip
from tests.bench.measure import CLOCK, Figure, Row
from tests.stack.city import City
from tests.stack.servers import NAMES, Servers
from tests.support.servers.process import ROOT, free_ports

MAIN = Look(1920, 1080, 30, 10, 2_000_000)
SUB = Look(640, 360, 5, 10, 200_000)
TURN_S = 0.05
MIB = 1024 * 1024


class Plan(NamedTuple):
    """The size of it."""

    cameras: int
    recorders: int
    seconds: int
    main: Look
    sub: Look


FULL = Plan(60, 3, 600, MAIN, SUB)
SMALL = Plan(3, 2, 15, Look(320, 240, 10, 4, 200_000), Look(160, 120, 5, 4, 50_000))


def run(folder: Path, *, small: bool) -> Row:
    """The row."""
    plan = SMALL if small else FULL
    row = Row(f"whole stack: {plan.cameras} cameras for {plan.seconds} s, detect on half a core")
    main = make_clip(folder / "main.mp4", plan.main)
    sub = make_clip(folder / "sub.mp4", plan.sub)
    (folder / "city").mkdir()
    settings = {"LAMPPOST_DETECT__MODEL": watching.tiny(folder / "model")["model"]}
    with (
        Servers(folder / "servers") as servers,
        City(
            folder / "city",
            servers.environment(),
            recorders=plan.recorders,
            settings=settings,
            recorders_first=os.geteuid() == 0,
        ) as city,
        half_a_core(city.services["detect-1"].process.pid),
    ):
        report = replay(city, servers, plan, [main, sub], folder / "report.json")
    archive = report["archive"]
    row.figures = [
        Figure("seconds lost", "s", 0.0, [archive["lost_s"]]),
        Figure("CPU a camera, all services", "% of a core", None, [100 * cores(report)]),
        Figure("memory a camera, all services", "MiB", None, [memory(report) / MIB]),
    ]
    row.notes += [
        f"{item['name']}: {item['processes']} processes, {item['cores']:.3f} cores, "
        f"{item['pss_max_bytes'] / MIB:.0f} MiB"
        for item in report["services"]
    ]
    row.notes.append(f"recorded {archive['recorded_s']:.0f} s; {measure.load()}")
    row.notes += lacking(report)
    row.expect(archive["recorded_s"] > 0, "nothing was recorded")
    if small:
        row.expect(archive["lost_s"] == 0, f"{archive['lost_s']} s were lost")
    return row


def lacking(report: dict[str, Any]) -> list[str]:
    """Which cameras lost something, the worst first, and when: seconds after the first of them."""
    lost = sorted((c for c in report["cameras"] if c["lost_s"]), key=lambda c: -c["lost_s"])
    began_us = min((start for c in lost for start, _ in c["lost_spans"]), default=0)
    return [
        f"{c['camera']} lost {c['lost_s']:.1f} s: "
        + ", ".join(
            f"{(start - began_us) / SECOND_US:.0f} to {(end - began_us) / SECOND_US:.0f}"
            for start, end in c["lost_spans"][:5]
        )
        for c in lost[:20]
    ]


def cores(report: dict[str, Any]) -> float:
    """Of our services, a camera."""
    return sum(
        item["cores_per_camera"] for item in report["services"] if item["name"] not in NOT_OURS
    )


def memory(report: dict[str, Any]) -> float:
    """The same in bytes."""
    return sum(
        item["pss_per_camera_bytes"] for item in report["services"] if item["name"] not in NOT_OURS
    )


NOT_OURS = {*NAMES, "replay"}


def replay(
    city: City, servers: Servers, plan: Plan, files: list[Path], report: Path
) -> dict[str, Any]:
    """`lamppost replay` against the city; its report."""
    pids = {
        "kafka": servers.kafka.process.pid,
        "seaweed": servers.seaweed.process.pid,
    }
    watched = [f"--watch={name}={pid}" for name, pid in pids.items()]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "services", "replay", str(files[0])),
            *("--sub", str(files[1]), "--cameras", str(plan.cameras), "--processes", "1"),
            *("--port", str(free_ports(1)[0]), "--for", f"{plan.seconds}s"),
            *("--register", city.url(), "--report", str(report), "--json"),
            *watched,
        ],
        cwd=ROOT,
        env={**city.base, "LAMPPOST_KEY": city.key},
        capture_output=True,
        text=True,
        timeout=plan.seconds + 400,
        check=False,
    )
    if not report.exists():
        raise AssertionError(f"no report, exit {done.returncode}: {done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(report.read_text("utf-8"))
    return found


@contextmanager
def half_a_core(pid: int) -> Iterator[None]:
    """Stop the process for every other twentieth of a second."""
    over = threading.Event()

    def throttle() -> None:
        while not over.is_set():
            for number in (signal.SIGSTOP, signal.SIGCONT):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
                CLOCK.wait(over, TURN_S)

    thread = threading.Thread(target=throttle, name="half a core")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
