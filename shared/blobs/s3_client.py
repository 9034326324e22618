"""Signed requests to an S3 store over a small pool of connections; blocking, used from threads.

Two doors to one pool: `Client.request` sends a request as it is told (any header, a body in
pieces, the payload's hash as the caller knows it), which the client library cannot; `Client.minio`
is that library for everything that needs no such control. Nothing is retried here but a request
that met a kept connection which the store had closed meanwhile.

Each connection tells the call of its thread which socket it uses (shared/blobs/s3_pool.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import SplitResult, quote, urlencode, urlsplit, urlunsplit

import urllib3
from minio import Minio
from minio.signer import sign_v4_s3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.response import BaseHTTPResponse

from shared import civil
from shared.blobs.s3_errors import MAX_BODY, Refused, broke_early, code_of, connected
from shared.blobs.s3_keys import Keys
from shared.blobs.s3_pool import current
from shared.clock import SystemClock
from shared.errors import Kind, LamppostError

BLOCK_BYTES = 1024 * 1024
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_LONGEST_CONNECT_S = 5.0
Body = bytes | Callable[[], Iterable[bytes | memoryview]]


def _announce(found: socket.socket | None) -> None:
    call = current()
    if call is not None and found is not None:
        call.uses(found)


def _pools(timeout_s: float) -> dict[str, type[HTTPConnectionPool]]:
    """Pools whose connections tell their call which socket they use, and wait `timeout_s` for the
    store to take a block too: of itself urllib3 sends under the shorter time-out of connecting."""

    class Plain(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            _begin(self.sock)

        def request(self, *args: Any, **options: Any) -> None:
            self.timeout = timeout_s if self.sock is not None else self.timeout
            _announce(self.sock)
            super().request(*args, **options)

    class Secure(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            _begin(self.sock)

        def request(self, *args: Any, **options: Any) -> None:
            self.timeout = timeout_s if self.sock is not None else self.timeout
            _announce(self.sock)
            super().request(*args, **options)

    def _begin(found: socket.socket | None) -> None:
        _announce(found)
        if found is not None:
            found.settimeout(timeout_s)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


class Answer(NamedTuple):
    """An answer that was read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Client:
    """One store and one pair of keys at a time. Safe to use from any thread."""

    def __init__(
        self,
        endpoint: str,
        *,
        keys: Keys,
        region: str = "us-east-1",
        ca_file: Path | None = None,
        connections: int = 16,
        timeout_s: float = 20.0,
    ) -> None:
        url = _endpoint(endpoint)
        self._scheme, self._host = url.scheme, url.netloc
        self._region = region
        self.keys = keys
        self._clock = SystemClock()  # a store judges signatures by real time
        self.timeout_s = timeout_s
        self._pool = urllib3.PoolManager(
            num_pools=1,
            maxsize=connections,
            retries=False,
            timeout=urllib3.Timeout(connect=min(timeout_s, _LONGEST_CONNECT_S), read=timeout_s),
            blocksize=BLOCK_BYTES,
            **_trust(url, ca_file),
        )
        self._pool.pool_classes_by_scheme = _pools(timeout_s)
        self.minio = Minio(
            url.netloc,
            secure=url.scheme == "https",
            region=region,
            http_client=self._pool,
            credentials=keys,
        )

    def close(self) -> None:
        self._pool.clear()

    def request(
        self,
        method: str,
        bucket: str,
        key: str = "",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body = b"",
        size_bytes: int | None = None,
        sha256: str | None = None,
    ) -> Answer:
        """The answer of a request that succeeds; `Refused` with the store's code of any other.

        `body` is bytes, or makes pieces anew at each call; then `size_bytes` and `sha256` state
        what they are. LamppostError where the connection fails.
        """
        with self.open(method, bucket, key, query, headers, body, size_bytes, sha256) as response:
            return Answer(response.status, response.headers, response.read())

    @contextlib.contextmanager
    def open(
        self,
        method: str,
        bucket: str,
        key: str = "",
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body = b"",
        size_bytes: int | None = None,
        sha256: str | None = None,
    ) -> Iterator[BaseHTTPResponse]:
        """The same with the answer's bytes still to be read, inside the block."""
        path = quote(f"/{bucket}/{key}" if key else f"/{bucket}", safe="/-_.~")
        text = urlencode(sorted((query or {}).items()), quote_via=quote, safe="-_.~")
        url = SplitResult(self._scheme, self._host, path, text, "")
        given = dict(headers or {})
        if isinstance(body, bytes):
            size_bytes, sha256 = len(body), hashlib.sha256(body).hexdigest()
        if method in ("PUT", "POST"):
            given["Content-Length"] = str(size_bytes)
        with connected():
            response = self._send(method, url, given, body, sha256 or EMPTY_SHA256)
            done = False
            try:
                if response.status >= 300:
                    text_of = b"" if method == "HEAD" else response.read(MAX_BODY)
                    raise Refused(response.status, code_of(text_of))
                yield response
                done = True
            finally:
                if done or response.status >= 300:
                    response.drain_conn()
                    response.release_conn()
                else:
                    response.close()

    def _send(
        self, method: str, url: SplitResult, given: Mapping[str, str], body: Body, sha256: str
    ) -> BaseHTTPResponse:
        for last in (False, True):
            try:
                return self._pool.urlopen(
                    method,
                    urlunsplit(url),
                    body=(body or None) if isinstance(body, bytes) else body(),
                    headers=self._signed(method, url, given, sha256),
                    preload_content=False,
                    redirect=False,
                )
            except (urllib3.exceptions.HTTPError, OSError) as error:
                call = current()
                if last or not broke_early(error) or (call is not None and call.broken):
                    raise
        raise AssertionError("unreachable")

    def _signed(
        self, method: str, url: SplitResult, given: Mapping[str, str], sha256: str
    ) -> dict[str, str]:
        now = civil.to_datetime(self._clock.now_us())
        headers: dict[str, Any] = {
            **given,
            "Host": self._host,
            "x-amz-content-sha256": sha256,
            "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ"),
        }
        return sign_v4_s3(  # type: ignore[return-value]
            method=method,
            url=url,
            region=self._region,
            headers=headers,
            credentials=self.keys.retrieve(),
            content_sha256=sha256,
            date=now,
        )


def _endpoint(endpoint: str) -> SplitResult:
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https") or not url.hostname or url.path.strip("/") or url.query:
        raise LamppostError(
            Kind.INVALID,
            "s3.endpoint is no address of an object store.",
            fix="Write it as http://host:port or https://host:port.",
        )
    if url.username is not None:
        raise LamppostError(
            Kind.INVALID,
            "s3.endpoint carries a name or password.",
            fix="Put the keys into the files that s3.access_key_file and s3.secret_key_file name.",
        )
    default = {"http": 80, "https": 443}[url.scheme]
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return url._replace(netloc=host if url.port in (None, default) else f"{host}:{url.port}")


def _trust(url: SplitResult, ca_file: Path | None) -> dict[str, Any]:
    if url.scheme == "http":
        return {}
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise LamppostError(
            Kind.INVALID,
            f"s3.ca_file {ca_file} holds no certificate.",
            fix="s3.ca_file names a PEM file of the authority that signs the object store.",
        ) from error
    return {"ssl_context": context}
