"""The whole program as its user has it: `lamppost run all` on a folder, spoken to over HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from tests.support.servers.rtsp import free_port
from tests.support.wait import until

ROOT = Path(__file__).parents[2]


class Program:
    """A running program: its address, and a client of a person with every role."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._folder = folder
        self._env = {
            **os.environ,
            "LAMPPOST_STATE_DIR": str(folder / "state"),
            "LAMPPOST_API__PORT": str(port),
            "LAMPPOST_SPOOL__MIN_FREE_RATIO": "0",
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.client: httpx2.AsyncClient

    def command(self, *arguments: str, given: str = "") -> str:
        """What a command of the program prints."""
        done = subprocess.run(
            [sys.executable, "-m", "services", *arguments],
            cwd=ROOT,
            env=self._env,
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _launch(self) -> subprocess.Popen[bytes]:
        with (self._folder / "said").open("wb") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "services", "run", "all"],
                cwd=ROOT,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )

    async def start(self) -> None:
        """Start it, and wait until it is ready."""
        self._process = self._launch()
        async with httpx2.AsyncClient(base_url=self.url) as anonymous:

            async def ready() -> bool:
                assert self._process is not None and self._process.poll() is None, "it ended"
                try:
                    return (await anonymous.get("/readyz")).status_code == 200
                except httpx2.HTTPError:
                    return False

            await until(ready, 60, "the program is ready", every_s=0.2)

    def sign_in(self) -> str:
        """A key of a new person who may do everything, made on this machine."""
        self.command("user", "add", "tester", "--all-roles", given="not a secret\n")
        return str(json.loads(self.command("key", "create", "tester", "--json"))["key"])

    async def until_state(self, camera_id: str, state: str, timeout_s: float = 40.0) -> None:
        """Until the camera's recorder says so."""

        async def said() -> bool:
            answer = await self.client.get(f"/v1/cameras/{camera_id}/state")
            return answer.status_code == 200 and answer.json()["state"] == state

        await until(said, timeout_s, f"{camera_id} is {state}", every_s=0.2)

    async def post(self, path: str, **body: Any) -> Any:
        """The answer's JSON."""
        answer = await self.client.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def stop(self) -> int:
        """End it as Ctrl-C does; its exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(signal.SIGINT)
        try:
            return process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@asynccontextmanager
async def program(folder: Path, **settings: str) -> AsyncIterator[Program]:
    """The program, running, on `folder`; `settings` are environment variables' names and values."""
    made = Program(folder, settings)
    try:
        await made.start()
        headers = {"Authorization": f"Bearer {made.sign_in()}"}
        async with httpx2.AsyncClient(
            base_url=made.url, headers=headers, timeout=15
        ) as made.client:
            yield made
        assert made.stop() == 0
    finally:
        made.stop()
