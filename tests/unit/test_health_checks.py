"""The containers' health is asked after for as long as podman's service runs."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

from tests.support.containers.engine import Done, Engine
from tests.support.wait import until_sync


class Busy(Engine):
    """Two containers on a machine where podman's first answers come too late."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.late = ["ps", "healthcheck"]
        self.checked: list[str] = []

    def attempt(self, *arguments: str | Path, timeout_s: float = 120, given: str = "") -> Done:
        if arguments[0] in self.late:
            self.late.remove(str(arguments[0]))
            raise subprocess.TimeoutExpired("podman", timeout_s)
        if arguments[0] == "ps":
            return Done(0, "one Up 1 second (starting)\ntwo Up 1 second (starting)\n")
        self.checked.append(str(arguments[-1]))
        return Done(0, "")


def test_a_late_answer_ends_no_checks(tmp_path: Path) -> None:
    engine, ended = Busy(tmp_path), threading.Event()
    thread = threading.Thread(target=engine.check_health, args=(ended,), daemon=True)
    thread.start()
    try:
        until_sync(lambda: {"one", "two"} <= set(engine.checked), 30, "both were asked after")
    finally:
        ended.set()
        thread.join(10)
    assert not engine.late
