"""A small S3 in this process, for answers that no real server gives when asked to.

It keeps objects in memory, checks no signature, and has switches for what a store may lack.
`answer` is asked first for each request and may give another answer: (status, headers, body), or
"hang up" to close the connection without one.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from shared.settings import Settings, load
from tests.support.servers.seaweed import write_keys

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Request:
    """One that came in, its body as far as it came."""

    method: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    whole: bool


@dataclass
class FakeS3:
    """See the module."""

    conditional: bool = True
    checks: bool = True
    """Whether a put with a wrong hash is refused."""
    versioned: bool = False
    answer: Callable[[Request], Answer | Literal["hang up"] | None] = lambda _: None
    objects: dict[str, tuple[bytes, dict[str, str], dict[str, str]]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    uploads: dict[str, str] = field(default_factory=dict)
    endpoint: str = ""

    def respond(self, request: Request) -> Answer:
        if not request.key:
            return self._bucket(request)
        if "tagging" in request.query:
            return self._tagging(request)
        if "uploads" in request.query:
            self.uploads["u1"] = request.key
            return 200, {}, b"<R><Bucket>b</Bucket><Key>k</Key><UploadId>u1</UploadId></R>"
        if "uploadId" in request.query:
            self.uploads.pop(request.query["uploadId"], None)
            return 204, {}, b""
        return getattr(self, f"_{request.method.lower()}")(request)  # type: ignore[no-any-return]

    def _bucket(self, request: Request) -> Answer:
        if "versioning" in request.query:
            status = "<Status>Enabled</Status>" if self.versioned else ""
            return 200, {}, f"<VersioningConfiguration>{status}</VersioningConfiguration>".encode()
        if "delete" in request.query:
            for key in re.findall(rb"<Key>(.*?)</Key>", request.body):
                self.objects.pop(key.decode(), None)
            return 200, {}, b"<DeleteResult></DeleteResult>"
        if "uploads" in request.query:
            listed = "".join(
                f"<Upload><Key>{key}</Key><UploadId>{one}</UploadId>"
                "<Initiated>2024-01-01T00:00:00.000Z</Initiated></Upload>"
                for one, key in self.uploads.items()
            )
            return (
                200,
                {},
                f"<ListMultipartUploadsResult>{listed}</ListMultipartUploadsResult>".encode(),
            )
        if "list-type" in request.query:
            return self._list(request)
        return 200, {}, b""

    def _list(self, request: Request) -> Answer:
        after = request.query.get("start-after", "")
        keys = [
            key
            for key in sorted(self.objects)
            if key.startswith(request.query.get("prefix", "")) and key > after
        ]
        listed = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2024-01-01T00:00:00.000Z"
            f"</LastModified><Size>{len(self.objects[key][0])}</Size></Contents>"
            for key in keys
        )
        return 200, {}, f"<ListBucketResult><Name>b</Name>{listed}</ListBucketResult>".encode()

    def _tagging(self, request: Request) -> Answer:
        if request.key not in self.objects:
            return error(404, "NoSuchKey")
        data, headers, tags = self.objects[request.key]
        if request.method == "PUT":
            pairs = re.findall(rb"<Key>(.*?)</Key><Value>(.*?)</Value>", request.body)
            found = {key.decode(): value.decode() for key, value in pairs}
            self.objects[request.key] = data, headers, found
            return 200, {}, b""
        listed = "".join(
            f"<Tag><Key>{key}</Key><Value>{value}</Value></Tag>" for key, value in tags.items()
        )
        return 200, {}, f"<Tagging><TagSet>{listed}</TagSet></Tagging>".encode()

    def _put(self, request: Request) -> Answer:
        if not request.whole:
            return error(400, "IncompleteBody")
        if self.conditional and "if-none-match" in request.headers and request.key in self.objects:
            return error(412, "PreconditionFailed")
        stated = request.headers["x-amz-content-sha256"]
        if self.checks and stated != hashlib.sha256(request.body).hexdigest():
            return error(400, "XAmzContentSHA256Mismatch")
        meta = {name: text for name, text in request.headers.items() if name.startswith("x-amz-me")}
        tags = {name: values[0] for name, values in parse_qs(
            request.headers.get("x-amz-tagging", "")).items()}  # fmt: skip
        self.objects[request.key] = request.body, meta, tags
        return 200, {"ETag": '"etag"'}, b""

    def _get(self, request: Request) -> Answer:
        if request.key not in self.objects:
            return error(404, "NoSuchKey")
        data, headers, _ = self.objects[request.key]
        given = {**headers, "ETag": '"etag"', "Last-Modified": formatdate(usegmt=True)}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if not wanted:
            return 200, given, data
        first = int(wanted[1])
        if first >= len(data):
            return error(416, "InvalidRange")
        part = data[first : int(wanted[2]) + 1 if wanted[2] else None]
        given["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(data)}"
        return 206, given, part

    _head = _get

    def _delete(self, request: Request) -> Answer:
        self.objects.pop(request.key, None)
        return 204, {}, b""


def error(status: int, code: str) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>secret words</Message></Error>".encode()
    return status, {"Content-Type": "application/xml"}, body


@contextmanager
def serving(store: FakeS3) -> Iterator[FakeS3]:
    """The store behind a port of this machine, `store.endpoint`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 5

        def _any(self) -> None:
            url = urlsplit(self.path)
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            query = {name: values[0] for name, values in parse_qs(
                url.query, keep_blank_values=True).items()}  # fmt: skip
            request = Request(
                self.command,
                unquote(url.path).lstrip("/").partition("/")[2],
                query,
                {name.lower(): text for name, text in self.headers.items()},
                body,
                len(body) == length,
            )
            store.requests.append(request)
            answer = store.answer(request) or store.respond(request)
            if answer == "hang up":
                self.close_connection = True
                return
            status, headers, data = answer
            self.send_response(status)
            for name, text in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, text)
            self.end_headers()
            self.close_connection |= headers.get("Connection") == "close"
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _any

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """A client that hangs up is what some tests are about."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    store.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def settings_of(store: FakeS3, folder: Path, **more: object) -> Settings:
    """Settings that join it; `more` are settings of section s3."""
    access, secret = write_keys(folder / "keys", "an-access-key", "a-secret-key")
    given = {
        "endpoint": store.endpoint,
        "access_key_file": access,
        "secret_key_file": secret,
        "timeout_s": 1,
        **more,
    }
    environment = {f"LAMPPOST_S3__{name.upper()}": str(value) for name, value in given.items()}
    return load({"LAMPPOST_STORES__BLOBS": "s3", **environment})
