"""The metrics of recorders and detect workers, added to the api's own under a label `process`.

They are other processes with registries of their own, each behind a port that nobody but the api
knows. One scrape of `/metrics` shows them all. Everybody may scrape: so all are asked at most once
a second, in bounded time and memory, and one that does not answer is left out, with
`lamppost_process_up` at 0. See docs/guide/operator.md, "What to watch".
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import NamedTuple

import httpx2
from prometheus_client import generate_latest

from services.api.recorders import RecorderDirectory
from shared import log, metrics
from shared.clock import SECOND_US

MAX_PROCESSES = 256
MAX_ANSWER_BYTES = 1024 * 1024
MAX_TOTAL_BYTES = 16 * 1024 * 1024
TIMEOUT_S = 2.0
FRESH_US = SECOND_US
PATH = "/internal/metrics"
LABEL = "process"
PREFIX = "lamppost_"

_HEAD = re.compile(r"# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.*)")
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? ([0-9eE+.-]+|[+-]Inf|NaN)")


class Family(NamedTuple):
    """One metric of a text."""

    heads: dict[str, str]
    """What HELP and TYPE say."""
    samples: dict[str, str]
    """Series and value: a series is there once."""


class ProcessMetrics:
    """Asks the live processes of the directory, with the installation's internal key."""

    def __init__(
        self,
        directory: RecorderDirectory,
        internal_key: str,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._directory = directory
        self._key = internal_key
        self._transport = transport
        self._made: httpx2.AsyncClient | None = None
        self._asking = asyncio.Lock()
        self._text = b""
        self._asked_us: int | None = None
        self._missing: set[str] = set()
        self._bytes = 0
        """Of the answers to the present question."""
        self._log = log.get("api.metrics")

    async def read(self) -> bytes:
        """The text of all processes, a second old at most."""
        async with self._asking:
            now_us = self._directory.clock.monotonic_us()
            if self._asked_us is None or now_us - self._asked_us >= FRESH_US:
                self._text = await self._gather()
                self._asked_us = now_us
            return self._text

    async def close(self) -> None:
        """Let the connections go."""
        made, self._made = self._made, None
        if made is not None:
            await made.aclose()

    async def _gather(self) -> bytes:
        self._bytes = 0
        alive = dict(sorted(self._directory.processes().items()))
        asked = list(alive.items())[:MAX_PROCESSES]
        answers = dict(
            zip(
                (name for name, _ in asked),
                await asyncio.gather(*(self._ask(name, url) for name, url in asked)),
                strict=True,
            )
        )
        self._missing = {name for name, text in answers.items() if text is None}
        return await asyncio.to_thread(_together, list(alive), answers)

    async def _ask(self, name: str, url: str) -> str | None:
        """One process's text; None when it has none to give."""
        if not url:
            return None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._text_of(url)
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, ValueError) as error:
            if name not in self._missing:  # once, not at each scrape
                self._log.warning("no metrics", process=name, cause=repr(error))
            return None

    async def _text_of(self, url: str) -> str:
        """ValueError for an answer that is none, or too long."""
        found = bytearray()
        async with self._client.stream("GET", url + PATH) as answer:
            if answer.status_code != 200:
                raise ValueError(f"status {answer.status_code}")
            async for piece in answer.aiter_bytes():
                found += piece
                self._bytes += len(piece)
                if len(found) > MAX_ANSWER_BYTES or self._bytes > MAX_TOTAL_BYTES:
                    raise ValueError("too long")
        return found.decode()

    @property
    def _client(self) -> httpx2.AsyncClient:
        if self._made is None:
            self._made = httpx2.AsyncClient(
                headers={"Authorization": f"Bearer {self._key}", "Accept-Encoding": "identity"},
                timeout=TIMEOUT_S,
                follow_redirects=False,
                trust_env=False,
                transport=self._transport,
                limits=httpx2.Limits(max_connections=MAX_PROCESSES, max_keepalive_connections=0),
            )
        return self._made


def _together(alive: list[str], answers: Mapping[str, str | None]) -> bytes:
    """The api's own metrics and what was answered; `lamppost_process_up` says what is missing."""
    families: dict[str, dict[str, Family]] = {}
    for name, text in answers.items():
        if text is None:
            continue
        try:
            families[name] = families_of(text, name)
        except ValueError:
            log.get("api.metrics").warning("unreadable metrics", process=name)
    metrics.PROCESS_UP.clear()
    for name in alive[: 2 * MAX_PROCESSES]:
        metrics.PROCESS_UP.labels(name).set(name in families)
    return merged(generate_latest(metrics.REGISTRY).decode(), families).encode()


def merged(own: str, others: Mapping[str, dict[str, Family]]) -> str:
    """One text: each metric has one HELP and one TYPE, then everybody's samples. What another
    process calls by the same name but counts differently (another version) is left out."""
    found = families_of(own)
    for name in sorted(others):
        for metric, family in others[name].items():
            known = found.setdefault(metric, Family(family.heads, {}))
            if known.heads.get("TYPE") == family.heads.get("TYPE"):
                known.samples.update(family.samples)
    lines = []
    for metric, (heads, samples) in found.items():
        lines += [f"# {word} {metric} {text}" for word, text in heads.items()]
        lines += [f"{series} {value}" for series, value in samples.items()]
    return "".join(f"{line}\n" for line in lines)


def families_of(text: str, process: str = "") -> dict[str, Family]:
    """The metrics of a text, in its order. With a process its name becomes the first label of each
    sample; then only ours are taken, without the times at which series began, and none that names
    a process itself. ValueError for a text that Prometheus would not take."""
    found: dict[str, Family] = {}
    current = ""
    for line in text.split("\n"):
        if head := _HEAD.fullmatch(line):
            word, current, said = head.groups()
            found.setdefault(current, Family({}, {})).heads[word] = said
        elif line and not line.startswith("#"):
            sample = _SAMPLE.fullmatch(line)
            if sample is None or not current or not sample[1].startswith(current):
                raise ValueError("not a sample")
            name, labels, value = sample.groups()
            found[current].samples[_series(name, labels, process)] = value
    if not process:
        return found
    return {
        name: family
        for name, family in found.items()
        if name.startswith(PREFIX)
        and not name.endswith("_created")
        and name != "lamppost_process_up"
        and family.samples
    }


def _series(name: str, labels: str | None, process: str) -> str:
    """The sample's name and labels, the process first."""
    if not process:
        return f"{name}{{{labels}}}" if labels else name
    escaped = process.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    own = f'{LABEL}="{escaped}"'
    return f"{name}{{{own},{labels}}}" if labels else f"{name}{{{own}}}"
