"""`lamppost health`: an exit status for a HEALTHCHECK, from this process's own port."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from services import health
from shared.errors import Kind, LamppostError
from tests.support.servers.process import free_ports

ROOT = Path(__file__).parents[3]


@contextmanager
def answering(answers: dict[str, tuple[int, Any]]) -> Iterator[int]:
    """A port of this machine with these answers by path; 404 for every other."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, "nothing"))
            data = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def alone(port: int, host: str = "127.0.0.1") -> health.Place:
    return health.Place(host, port, alone=True)


def together(port: int) -> health.Place:
    return health.Place("127.0.0.1", port, alone=False)


@pytest.mark.parametrize(
    ("probe", "path"), [("live", "/healthz"), ("ready", "/readyz"), ("startup", "/startupz")]
)
def test_a_service_alone_is_asked_on_its_metrics_port(probe: health.Probe, path: str) -> None:
    with answering({path: (200, {"status": "fine"})}) as port:
        assert health.ask(alone(port, "0.0.0.0"), probe) == health.Answer(True, "fine.")


@pytest.mark.parametrize("probe", ["live", "startup"])
def test_run_all_is_asked_on_the_port_of_its_api(probe: health.Probe) -> None:
    with answering({"/healthz": (200, {"status": "ok"})}) as port:
        assert health.ask(together(port), probe).ok


def test_what_is_missing_is_named() -> None:
    checks = {"database": "ok", "bus": "timeout", "blobs": "unavailable"}
    with answering({"/readyz": (503, {"status": "not ready", "checks": checks})}) as port:
        found = health.ask(alone(port), "ready")
    assert found == health.Answer(
        False, f"/readyz on port {port} says 503 not ready: bus timeout, blobs unavailable."
    )


@pytest.mark.parametrize("body", ["[]", "not JSON", '{"status": null, "checks": 3}'])
def test_a_strange_answer_is_not_health(body: str) -> None:
    with answering({"/healthz": (500, body)}) as port:
        assert not health.ask(alone(port), "live").ok


def test_nobody_listens() -> None:
    [port] = free_ports(1)
    one, all_ = health.ask(alone(port), "live"), health.ask(together(port), "live")
    assert not one.ok and f"nobody listens on port {port}" in one.why
    assert not all_.ok and "LAMPPOST_METRICS__PORT" in all_.why


def test_who_listens_and_says_nothing_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(health, "TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        found = health.ask(alone(port), "live")
    assert not found.ok and "does not answer" in found.why


def test_where_to_ask_is_what_the_settings_say(tmp_path: Path) -> None:
    config = tmp_path / "lamppost.toml"
    config.write_text("[metrics]\nport = 9101\n[api]\nport = 8700\n")
    files = {"LAMPPOST_CONFIG": str(config)}
    assert health.place({}) == together(8600)
    assert health.place({"LAMPPOST_API__PORT": "81"}) == together(81)
    assert health.place(files) == alone(9101)
    assert health.place({**files, "LAMPPOST_METRICS__PORT": "0"}) == together(8700)
    said = {"LAMPPOST_METRICS__PORT": "9100", "LAMPPOST_METRICS__HOST": "::"}
    assert health.place({**files, **said}) == alone(9100, "::")
    with pytest.raises(LamppostError) as caught:
        health.place({**said, "LAMPPOST_METRICS__PORT": "many"})
    assert caught.value.kind is Kind.INVALID


def command(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services", "health", *arguments],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_needs_no_command_line_library_and_no_driver() -> None:
    with answering({"/readyz": (200, {"status": "ready", "checks": {}})}) as port:
        program = (
            "import sys; sys.argv = ['lamppost', 'health', '--ready']\n"
            "from services.__main__ import main\n"
            "try: main()\n"
            "except SystemExit as done: status = done.code\n"
            "heavy = {'typer', 'pydantic', 'sqlalchemy', 'aiokafka', 'cv2', 'uvicorn'}\n"
            "print(status, sorted(heavy & sys.modules.keys()))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={
                **os.environ,
                "LAMPPOST_METRICS__PORT": str(port),
                "LAMPPOST_METRICS__HOST": "0.0.0.0",
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    assert done.stdout == "lamppost: ready.\n0 []\n"


def test_the_command_has_json_and_an_exit_status() -> None:
    [port] = free_ports(1)
    done = command("--json", LAMPPOST_METRICS__PORT=str(port))
    assert done.returncode == 1 and json.loads(done.stdout)["ok"] is False
    assert command("--ready", "--startup").returncode == 2
    wrong = command(LAMPPOST_METRICS__PORT="many")
    assert wrong.returncode == 1 and "metrics.port" in wrong.stderr
