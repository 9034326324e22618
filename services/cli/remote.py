"""The HTTP API as the commands call it: LAMPPOST_URL and LAMPPOST_KEY, problems as errors."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx2

from shared.errors import STATUS, Kind, LamppostError
from shared.settings import load

TIMEOUT_S = 30.0
MAX_ROWS = 20
MAX_PAGES = 10_000


class Remote:
    """A client of one server with one key."""

    def __init__(self, transport: httpx2.BaseTransport | None = None) -> None:
        key = os.environ.get("LAMPPOST_KEY", "")
        if not key:
            raise LamppostError(
                Kind.INVALID,
                "LAMPPOST_KEY is not set.",
                fix="Make a key with `lamppost key create NAME` and put it there.",
            )
        self.url = server_url()
        self._client = httpx2.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=TIMEOUT_S,
            transport=transport,
        )

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        content: bytes | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The JSON of an answer, None without a body; a problem becomes an error of its kind."""
        try:
            answer = self._client.request(
                method,
                path,
                json=body,
                content=content,
                params=_given(params),
                headers=dict(headers or {}),
            )
        except httpx2.HTTPError as error:
            raise _unreachable(self.url, error) from error
        check(answer)
        return answer.json() if answer.content else None

    def pages(self, path: str, params: Mapping[str, Any] | None = None) -> list[Any]:
        """Every item of a list."""
        found: list[Any] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            page = self.call("GET", path, params={**(params or {}), "cursor": cursor})
            found += page["items"]
            cursor = page.get("next")
            if not cursor:
                return found
        raise LamppostError(Kind.TOO_LARGE, f"{path} has more than {MAX_PAGES} pages.")

    def download(
        self, method: str, path: str, target: Path, *, params: Mapping[str, Any] | None = None
    ) -> Mapping[str, str]:
        """An answer's bytes into a file that exists only when they are all there; its headers."""
        part = target.with_name(target.name + ".part")
        try:
            with (
                self._client.stream(method, path, params=_given(params)) as answer,
                part.open("wb") as file,
            ):
                if answer.status_code >= 400:
                    answer.read()
                check(answer)
                for piece in answer.iter_bytes():
                    file.write(piece)
            part.replace(target)
            return dict(answer.headers)
        except httpx2.HTTPError as error:
            raise _unreachable(self.url, error) from error
        except OSError as error:
            raise LamppostError(
                Kind.UNAVAILABLE, f"Cannot write {target}: {error.strerror}."
            ) from error
        finally:
            part.unlink(missing_ok=True)

    def lines(
        self,
        path: str,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[str]:
        """The lines of an event stream, until it ends."""
        try:
            with self._client.stream(
                "GET", path, params=_given(params), headers=dict(headers or {}), timeout=None
            ) as answer:
                if answer.status_code >= 400:
                    answer.read()
                check(answer)
                yield from answer.iter_lines()
        except httpx2.HTTPError as error:
            raise _unreachable(self.url, error) from error


def server_url() -> str:
    """LAMPPOST_URL, else where the settings of this machine let the api listen."""
    url = os.environ.get("LAMPPOST_URL", "").rstrip("/")
    if url:
        if not url.startswith(("http://", "https://")):
            raise LamppostError(
                Kind.INVALID, f"LAMPPOST_URL is {url!r}.", fix="Write http://host:8600."
            )
        return url
    settings = load()
    return f"http://{settings.api.host}:{settings.api.port}"


def check(answer: httpx2.Response) -> None:
    """Raise the error that an RFC 9457 problem tells of."""
    if answer.status_code < 400:
        return
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    kind = _kind(problem, answer.status_code)
    message = str(problem.get("detail") or problem.get("title") or "")
    message = " ".join(filter(None, [message, _rows(problem.get("errors"))]))
    raise LamppostError(
        kind,
        message.strip() or f"The server answered {answer.status_code}.",
        fix=str(problem.get("fix") or ""),
    )


def _rows(errors: Any) -> str:
    """What is wrong in which row of a file; other problems name their fields in their detail."""
    rows = [item for item in errors or () if isinstance(item, dict) and "row" in item]
    said = [
        f"row {item['row']} {item.get('column') or ''}".rstrip() + f": {item.get('problem')}"
        for item in rows[:MAX_ROWS]
    ]
    more = [f"{len(rows) - MAX_ROWS} more"] if len(rows) > MAX_ROWS else []
    return "; ".join([text.rstrip(".") for text in said] + more) + "." if rows else ""


def _kind(problem: Mapping[str, Any], status: int) -> Kind:
    """The problem's own kind where it names one, else the first of that HTTP status."""
    named = problem.get("kind") or str(problem.get("type") or "").rsplit("/", 1)[-1].rsplit(":")[-1]
    for kind in Kind:
        if named in (kind.value, kind.value.replace("_", "-")):
            return kind
    for kind, code in STATUS.items():
        if code == status:
            return kind
    return Kind.INVALID if status < 500 else Kind.INTERNAL


def _given(params: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (params or {}).items() if value is not None}


def _unreachable(url: str, error: Exception) -> LamppostError:
    reason = str(error) or type(error).__name__
    return LamppostError(
        Kind.UNAVAILABLE,
        f"Cannot reach {url}: {reason}.",
        fix="Is it running (lamppost run)? LAMPPOST_URL names another server.",
    )
