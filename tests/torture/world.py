"""Four RTSP cameras, the whole program in a state folder of its own, and a hand that kills."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import psutil

from shared.clock import SystemClock
from tests.support.servers.rtsp import RtspServer, free_port
from tests.support.video import write_video
from tests.support.wait import until_sync

RATE_FPS = 10
CLIP_FRAMES = 1_200
STARTED_WITHIN_S = 60.0
RECORDING_WITHIN_S = 45.0
ENDED_WITHIN_S = 10.0
CLOCK = SystemClock()
_never = threading.Event()


class Kill(NamedTuple):
    """One `kill -9`: when it began, what it hit, and when its victims were gone."""

    at_us: int
    target: str
    gone_us: int


def rest(seconds: float) -> None:
    """A fault driver may wait at random."""
    CLOCK.wait(_never, seconds)


class World:
    """The program under torture. `kills` is what was done to it so far."""

    def __init__(self, folder: Path, cameras: int, seed: int) -> None:
        self.folder, self.state = folder, folder / "state"
        self.random = random.Random(seed)
        self.kills: list[Kill] = []
        self.cameras = [f"torture-{number}" for number in range(1, cameras + 1)]
        self.port = free_port()
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("LAMPPOST_")},
            "LAMPPOST_STATE_DIR": str(self.state),
            "LAMPPOST_API__PORT": str(self.port),
            "LAMPPOST_INGEST__SEGMENT_S": "10",
            "LAMPPOST_LOG__FORMAT": "json",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._key = ""
        clip = write_video(
            folder / "clip.mp4",
            frames=CLIP_FRAMES,
            rate=RATE_FPS,
            gop=2 * RATE_FPS,
            width=320,
            height=240,
        )
        (folder / "sent").mkdir()
        self.server = RtspServer(
            [{"name": name, "file": str(clip)} for name in self.cameras],
            log_dir=folder / "sent",
        )

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Cameras and program up, cameras added; both gone afterwards whatever happens."""
        with self.server:
            self.start()
            try:
                until_sync(self._answers, STARTED_WITHIN_S, "the API answers", every_s=0.2)
                password = "torture-passphrase-1\n"
                self.cli("user", "add", "torturer", "--all-roles", "--json", text=password)
                self._key = json.loads(self.cli("key", "create", "torturer", "--json"))["key"]
                for name in self.cameras:
                    self._add(name)
                self.wait_recording(0)
                yield
            finally:
                self.end_hard()

    def cli(self, *arguments: str, text: str = "") -> str:
        """Run the command line to its end; its standard output."""
        done = subprocess.run(
            [sys.executable, "-m", "services", *arguments],
            env=self.env,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        if done.returncode != 0:
            raise AssertionError(f"{arguments}: exit {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    def start(self) -> None:
        """`lamppost run all`, as a user would."""
        with (self.folder / "program.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services", "run", "all"],
                env=self.env,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def stop_cleanly(self) -> int:
        """Ctrl-C; the exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(ENDED_WITHIN_S)

    def end_hard(self) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self._process is not None:
            self._process.wait(ENDED_WITHIN_S)

    def processes(self) -> list[psutil.Process]:
        """The supervisor first, then its recorders."""
        assert self._process is not None
        try:
            parent = psutil.Process(self._process.pid)
            if parent.status() == psutil.STATUS_ZOMBIE:
                return []
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill_once(self) -> Kill:
        """Kill one process of ours, or all, and start what does not start itself."""
        found = self.processes()
        target = self.random.choice(("recorder", "supervisor", "all"))
        victims = {"recorder": found[1:], "supervisor": found[:1], "all": found}[target]
        at_us = CLOCK.now_us()
        for process in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        ending = victims if target == "recorder" else found
        until_sync(
            lambda: not any(_alive(process) for process in ending),
            ENDED_WITHIN_S,
            "what was killed ends, and recorders with their supervisor",
        )
        kill = Kill(at_us, target, CLOCK.now_us())
        self.kills.append(kill)
        if target != "recorder" and found:
            assert self._process is not None
            self._process.wait(ENDED_WITHIN_S)
            self.start()
        return kill

    def wait_recording(self, after_us: int) -> None:
        """Until each camera wrote something after that instant."""
        waiting = set(self.cameras)

        def all_recording() -> bool:
            for path in self.state.glob("spool/*/tmp/*.mp4"):
                with contextlib.suppress(FileNotFoundError):
                    stat = path.stat()
                    if stat.st_size > 0 and stat.st_mtime_ns // 1_000 > after_us:
                        waiting.difference_update(
                            name for name in self.cameras if f"-{name}-" in path.name
                        )
            return not waiting

        until_sync(all_recording, RECORDING_WITHIN_S, f"recording again: {waiting}")

    def _answers(self) -> bool:
        try:
            return self._request("GET", "/readyz").status_code == 200
        except httpx2.TransportError:
            return False

    def _add(self, name: str) -> None:
        """Through the API, once it answers."""
        body = {"id": name, "name": name, "source": {"url": self.server.url(name)}}

        def added() -> bool:
            try:
                answer = self._request("POST", "/v1/cameras", body)
            except httpx2.TransportError:
                return False
            if answer.status_code not in (201, 409, 503):
                raise AssertionError(f"adding {name}: {answer.status_code} {answer.text}")
            return answer.status_code != 503

        until_sync(added, STARTED_WITHIN_S, "the API takes cameras", every_s=0.2)

    def _request(self, method: str, path: str, body: Any = None) -> httpx2.Response:
        with httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=10) as client:
            headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            return client.request(method, path, json=body, headers=headers)


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
