"""The HTTP client of the commands: keys, pages, problems, downloads, exit statuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from services.cli import output
from services.cli.remote import Remote, server_url
from shared.errors import Kind, LamppostError

Handler = Callable[[httpx2.Request], httpx2.Response]


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Callable[[Handler], Remote]:
    monkeypatch.setenv("LAMPPOST_URL", "http://lamppost.test/")
    monkeypatch.setenv("LAMPPOST_KEY", "lp_x_y")
    return lambda handler: Remote(httpx2.MockTransport(handler))


def test_without_a_key_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAMPPOST_KEY", raising=False)
    with pytest.raises(LamppostError, match="key create") as caught:
        Remote()
    assert output.exit_code(caught.value.kind) == output.USAGE


def test_the_key_travels_and_pages_are_followed(remote: Callable[[Handler], Remote]) -> None:
    seen: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.headers["authorization"] == "Bearer lp_x_y"
        seen.append(str(request.url))
        first = "cursor" not in request.url.params
        return httpx2.Response(
            200, json={"items": [1] if first else [2], "next": "c" if first else None}
        )

    with remote(answer) as client:
        assert client.pages("/v1/cameras", {"district": None}) == [1, 2]
    assert seen == [
        "http://lamppost.test/v1/cameras",
        "http://lamppost.test/v1/cameras?cursor=c",
    ]


def test_a_problem_becomes_its_error(remote: Callable[[Handler], Remote]) -> None:
    body = {
        "type": "urn:lamppost:problem:gone",
        "title": "Gone",
        "status": 410,
        "detail": "This footage is past its expiry.",
        "fix": "What is held, its officers see.",
    }
    with (
        remote(lambda _: httpx2.Response(410, text=json.dumps(body))) as client,
        pytest.raises(LamppostError) as caught,
    ):
        client.call("POST", "/v1/playback-sessions", body={})
    assert caught.value.kind is Kind.GONE
    assert str(caught.value) == "This footage is past its expiry. What is held, its officers see."


def test_an_import_names_each_wrong_row(remote: Callable[[Handler], Remote]) -> None:
    rows = [
        {"row": 1, "column": "id", "problem": "too long"},
        {"row": 6, "column": "", "problem": "wrong number of columns."},
    ]
    body = {"status": 422, "detail": "2 problems; nothing was imported.", "errors": rows}
    with (
        remote(lambda _: httpx2.Response(422, text=json.dumps(body))) as client,
        pytest.raises(LamppostError) as caught,
    ):
        client.call("POST", "/v1/cameras:import", content=b"id")
    assert caught.value.message == (
        "2 problems; nothing was imported. row 1 id: too long; row 6: wrong number of columns."
    )


def test_wrong_fields_are_named_once(remote: Callable[[Handler], Remote]) -> None:
    wrong = [{"at": "body.name", "problem": "Field required"}]
    body = {"status": 422, "detail": "body.name: Field required.", "errors": wrong}
    with (
        remote(lambda _: httpx2.Response(422, text=json.dumps(body))) as client,
        pytest.raises(LamppostError) as caught,
    ):
        client.call("POST", "/v1/cameras", body={})
    assert caught.value.message == "body.name: Field required."


@pytest.mark.parametrize(("status", "code"), [(401, 1), (422, 2), (503, 3), (502, 1), (429, 3)])
def test_an_answer_without_a_body_still_has_an_exit_status(
    remote: Callable[[Handler], Remote], status: int, code: int
) -> None:
    with (
        remote(lambda _: httpx2.Response(status, text="<html>")) as client,
        pytest.raises(LamppostError) as caught,
    ):
        client.call("GET", "/v1/cameras")
    assert output.exit_code(caught.value.kind) == code
    assert str(status) in str(caught.value)


def test_a_server_that_is_not_there_is_unavailable(remote: Callable[[Handler], Remote]) -> None:
    def refuse(_request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    with remote(refuse) as client, pytest.raises(LamppostError, match="LAMPPOST_URL") as caught:
        client.call("GET", "/v1/cameras")
    assert output.exit_code(caught.value.kind) == output.UNAVAILABLE


def test_a_broken_download_leaves_no_file(
    remote: Callable[[Handler], Remote], tmp_path: Path
) -> None:
    class Broken(httpx2.SyncByteStream):
        def __iter__(self):  # type: ignore[no-untyped-def]
            yield b"half"
            raise httpx2.ReadError("cut")

    target = tmp_path / "clip.mp4"
    with (
        remote(lambda _: httpx2.Response(200, stream=Broken())) as client,
        pytest.raises(LamppostError),
    ):
        client.download("GET", "/v1/media/t/clips/1.mp4", target)
    assert list(tmp_path.iterdir()) == []
    with remote(lambda _: httpx2.Response(200, content=b"whole")) as client:
        client.download("GET", "/v1/media/t/clips/1.mp4", target)
    assert target.read_bytes() == b"whole"


def test_the_address_comes_from_the_environment_or_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LAMPPOST_URL", raising=False)
    monkeypatch.setenv("LAMPPOST_API__PORT", "8611")
    assert server_url() == "http://127.0.0.1:8611"
    monkeypatch.setenv("LAMPPOST_URL", "lamppost.test")
    with pytest.raises(LamppostError):
        server_url()
