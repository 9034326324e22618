"""RTSP 1.0 as text: requests, replies, digest authentication, session descriptions. No sockets.

Why our own: see docs/decisions, "RTSP is our own client". Used by services/ingest/rtsp_source.py;
docs/architecture.md, "ingest".
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from services.ingest.camera_secrets import Credentials

MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024
MAX_DIGITS = 18
USER_AGENT = "Lamppost"
_PARAMETER = re.compile(r'([a-zA-Z][\w-]*)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))')
_HASHES = {"md5": hashlib.md5, "sha-256": hashlib.sha256}
STATIC_PAYLOADS = {"0": "PCMU", "8": "PCMA", "26": "JPEG", "32": "MPV"}


class WireError(Exception):
    """The other side does not speak RTSP as we understand it."""


class Reply(NamedTuple):
    """A reply, or a request of the server's own (`status` 0, `reason` its method)."""

    status: int
    reason: str
    headers: dict[str, str]
    """Names in lower case."""
    challenges: tuple[str, ...]
    """Every WWW-Authenticate header."""
    body: bytes


class Url(NamedTuple):
    """Where a camera is. `text` is what goes on the wire: never with credentials."""

    host: str
    port: int
    tls: bool
    text: str

    @classmethod
    def of(cls, url: str) -> Url:
        """Take a camera's address apart; ValueError when it is none or carries a password."""
        parts = urlsplit(url)
        if parts.scheme not in ("rtsp", "rtsps") or not parts.hostname:
            raise ValueError("not an rtsp:// or rtsps:// address")
        if parts.username is not None or parts.password is not None:
            raise ValueError("the address carries credentials; use a secret")
        if re.search(r"[\x00-\x20\x7f]", url):
            raise ValueError("the address contains a space or control character")
        tls = parts.scheme == "rtsps"
        port = parts.port if parts.port is not None else (322 if tls else 554)
        return cls(parts.hostname, port, tls, parts._replace(fragment="").geturl())


def whole_number(text: str) -> int | None:
    """The number a camera wrote, or None. `str.isdigit` would pass what `int` refuses, such as a
    superscript two, and digits without end."""
    if not (text.isascii() and text.isdecimal()) or len(text) > MAX_DIGITS:
        return None
    return int(text)


def parse_head(head: bytes) -> Reply:
    """A reply's or request's head (up to and without the empty line), body still missing."""
    lines = head.decode("utf-8", "replace").split("\r\n" if b"\r\n" in head else "\n")
    first = lines[0].split(" ", 2)
    if len(first) < 2:
        raise WireError("no status line")
    if first[0].startswith("RTSP/"):
        code = whole_number(first[1])
        if code is None:
            raise WireError("no status code")
        status, reason = code, first[2] if len(first) > 2 else ""
    elif len(first) == 3 and first[2].startswith("RTSP/"):
        status, reason = 0, first[0]
    else:
        raise WireError("neither a reply nor a request")
    headers: dict[str, str] = {}
    challenges = []
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            continue
        key = name.strip().lower()
        if key == "www-authenticate":
            challenges.append(value.strip())
        headers[key] = value.strip()
    return Reply(status, reason, headers, tuple(challenges), b"")


def body_length(reply: Reply) -> int:
    """Content-Length, within the limit."""
    length = whole_number(reply.headers.get("content-length", "0"))
    if length is None or length > MAX_BODY_BYTES:
        raise WireError("a body of unusable length")
    return length


class Authorizer:
    """Answers Digest (MD5, SHA-256) and Basic challenges; keeps nonce and count."""

    def __init__(self, credentials: Credentials | None) -> None:
        self._credentials = credentials
        self._scheme = ""
        self._fields: dict[str, str] = {}
        self._count = 0

    def challenged(self, challenges: tuple[str, ...]) -> bool:
        """Take the best challenge; false when there is none that we may answer.

        Basic sends the password itself, so it is answered only where the camera offers nothing
        else.
        """
        best: tuple[int, str, dict[str, str]] | None = None
        for text in challenges:
            scheme, _, rest = text.partition(" ")
            fields = {m[0].lower(): m[1] or m[2] for m in _PARAMETER.findall(rest)}
            algorithm = fields.get("algorithm", "md5").lower()
            rank = 1
            if scheme.lower() == "digest" and algorithm in _HASHES:
                rank = 3 if algorithm == "sha-256" else 2
            elif scheme.lower() != "basic":
                continue
            if best is None or rank > best[0]:
                best = (rank, scheme.lower(), fields)
        if best is None or self._credentials is None:
            return False
        self._scheme, self._fields, self._count = best[1], best[2], 0
        return True

    def header(self, method: str, uri: str) -> str | None:
        """The Authorization header's value for one request."""
        who = self._credentials
        if who is None or not self._scheme:
            return None
        if self._scheme == "basic":
            return "Basic " + base64.b64encode(f"{who.user}:{who.password}".encode()).decode()
        fields = self._fields
        algorithm = fields.get("algorithm", "MD5")
        made = _HASHES[algorithm.lower()]

        def digest(text: str) -> str:
            return made(text.encode()).hexdigest()

        realm, nonce = fields.get("realm", ""), fields.get("nonce", "")
        secret, request = digest(f"{who.user}:{realm}:{who.password}"), digest(f"{method}:{uri}")
        parts = [
            f'username="{_quoted(who.user)}"',
            f'realm="{realm}"',
            f'nonce="{nonce}"',
            f'uri="{uri}"',
        ]
        if "auth" in fields.get("qop", "").replace(" ", "").split(","):
            self._count += 1
            count, own = f"{self._count:08x}", secrets.token_hex(8)
            response = digest(f"{secret}:{nonce}:{count}:{own}:auth:{request}")
            parts += ["qop=auth", f"nc={count}", f'cnonce="{own}"']
        else:
            response = digest(f"{secret}:{nonce}:{request}")
        parts.append(f'response="{response}"')
        if "algorithm" in fields:
            parts.append(f"algorithm={algorithm}")
        if "opaque" in fields:
            parts.append(f'opaque="{fields["opaque"]}"')
        return "Digest " + ", ".join(parts)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def request(method: str, uri: str, cseq: int, headers: dict[str, str]) -> bytes:
    """A request without a body."""
    lines = [f"{method} {uri} RTSP/1.0", f"CSeq: {cseq}", f"User-Agent: {USER_AGENT}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class VideoTrack(NamedTuple):
    """The video stream that a session description offers."""

    payload: int
    encoding: str
    """Upper case, such as `H264`; what it is called when we cannot record it."""
    clock_hz: int
    control: str
    fmtp: dict[str, str]
    rate_fps: float
    encrypted: bool


class Description(NamedTuple):
    """What a camera offers: its first usable video stream, and whether it has sound."""

    video: VideoTrack | None
    audio: bool
    control: str


def parse_sdp(text: str) -> Description:
    """The parts of a session description that matter."""
    session: list[str] = []
    media: list[tuple[str, list[str]]] = []
    for line in text.replace("\r", "").split("\n"):
        if line.startswith("m="):
            media.append((line[2:], []))
        elif len(line) > 2 and line[1] == "=":
            (media[-1][1] if media else session).append(line)
    videos = [_video(head, lines) for head, lines in media if head.startswith("video ")]
    usable = [video for video in videos if video.encoding in ("H264", "H265")]
    return Description(
        video=next(iter(usable or videos), None),
        audio=any(head.startswith("audio ") for head, _ in media),
        control=_attribute(session, "control"),
    )


def _attribute(lines: list[str], name: str) -> str:
    prefix = f"a={name}:"
    return next((line[len(prefix) :].strip() for line in lines if line.startswith(prefix)), "")


def _video(head: str, lines: list[str]) -> VideoTrack:
    fields = head.split()
    profile = fields[2] if len(fields) > 2 else ""
    payload = fields[3] if len(fields) > 3 else "96"
    encoding, clock_hz, fmtp = STATIC_PAYLOADS.get(payload, ""), 90_000, {}
    for line in lines:
        name, _, rest = line.partition(":")
        number, _, value = rest.strip().partition(" ")
        if number != payload:
            continue
        if name == "a=rtpmap":
            parts = value.strip().split("/")
            encoding = parts[0].upper()
            clock_hz = (whole_number(parts[1]) if len(parts) > 1 else None) or clock_hz
        elif name == "a=fmtp":
            pairs = (item.strip().partition("=") for item in value.split(";"))
            fmtp = {key.strip().lower(): val.strip() for key, _, val in pairs if key}
    kind = whole_number(payload)
    return VideoTrack(
        payload=96 if kind is None else kind,
        encoding={"HEVC": "H265"}.get(encoding, encoding),
        clock_hz=clock_hz,
        control=_attribute(lines, "control"),
        fmtp=fmtp,
        rate_fps=_rate(_attribute(lines, "framerate")),
        encrypted="SAVP" in profile or any(line.startswith("a=crypto:") for line in lines),
    )


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        return 0.0
    return rate if 0 < rate <= 1000 else 0.0


def sprop_nals(fmtp: dict[str, str]) -> list[bytes]:
    """Parameter sets of the description, in order; broken ones are left out."""
    found = []
    for key in ("sprop-vps", "sprop-sps", "sprop-pps", "sprop-parameter-sets"):
        for item in fmtp.get(key, "").split(","):
            try:
                nal = base64.b64decode(item + "=" * (-len(item) % 4), validate=True)
            except ValueError:
                continue
            if nal:
                found.append(nal.removeprefix(b"\x00\x00\x00\x01"))
    return found


def control_url(base: str, control: str) -> str:
    """The address of a track: absolute, or joined to the base as cameras expect it."""
    if not control or control == "*":
        return base
    if control.lower().startswith(("rtsp://", "rtsps://")):
        return control
    if control.startswith("/"):
        return urljoin(base, control)
    return base.rstrip("/") + "/" + control


def transport_fields(header: str) -> dict[str, str]:
    """A Transport header's parameters, such as `interleaved` and `server_port`."""
    pairs = (item.strip().partition("=") for item in header.split(",")[0].split(";"))
    return {key.lower(): value for key, _, value in pairs}
