"""RTSP 1.0 as a camera speaks it: requests read, replies and session descriptions written.

The client's side of the same text is services/ingest/rtsp_wire.py. No sockets.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from services.ingest import nal
from services.replay.clip import Clip
from services.replay.packets import CLOCK_HZ, PAYLOAD_TYPE
from shared.domain import Codec

MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 16 * 1024
TRACK = "trackID=0"
METHODS = "OPTIONS, DESCRIBE, SETUP, PLAY, GET_PARAMETER, SET_PARAMETER, TEARDOWN"
REALM = "Lamppost replay"
REASONS = {
    200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found",
    454: "Session Not Found", 455: "Method Not Valid in This State",
    461: "Unsupported Transport", 501: "Not Implemented",
}  # fmt: skip
_PAIR = re.compile(r'([a-zA-Z][\w-]*)\s*=\s*(?:"([^"]*)"|([^\s,]+))')
_INTERLEAVED = re.compile(r"interleaved=(\d{1,3})(?:-(\d{1,3}))?")


class Malformed(Exception):
    """The client does not speak RTSP."""


class Request(NamedTuple):
    """One request of a client."""

    method: str
    uri: str
    headers: dict[str, str]
    """Names in lower case."""

    @property
    def cseq(self) -> str:
        return self.headers.get("cseq", "0")[:20]

    @property
    def path(self) -> str:
        """Whose stream it is about: the path without its slashes and without the track."""
        path = unquote(urlsplit(self.uri).path).strip("/")
        return path.removesuffix(TRACK).strip("/")

    @property
    def session(self) -> str:
        return self.headers.get("session", "").partition(";")[0].strip()


def take_request(buffer: bytearray) -> Request | None:
    """The first whole request of the buffer, removed from it; None while it is not whole."""
    end = buffer.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
    if end < 0:
        if len(buffer) >= MAX_HEAD_BYTES:
            raise Malformed("the head of a request is too long")
        return None
    lines = bytes(buffer[:end]).decode("utf-8", "replace").split("\r\n")
    first = lines[0].split(" ")
    if len(first) != 3 or not first[2].startswith("RTSP/"):
        raise Malformed("no request line")
    headers = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    text = headers.get("content-length", "0")
    if not (text.isascii() and text.isdecimal()) or len(text) > 6 or int(text) > MAX_BODY_BYTES:
        raise Malformed("a body of unusable length")
    whole = end + 4 + int(text)
    if len(buffer) < whole:
        return None
    del buffer[:whole]
    return Request(first[0], first[1], headers)


def reply(
    status: int, request: Request, headers: dict[str, str] | None = None, body: bytes = b""
) -> bytes:
    """An answer to a request."""
    lines = [f"RTSP/1.0 {status} {REASONS[status]}", f"CSeq: {request.cseq}"]
    lines.append("Server: Lamppost replay")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def channels(transport: str) -> tuple[int, int] | None:
    """The interleaved channels that a Transport header asks for; None when it wants no TCP."""
    for offer in transport.split(","):
        if not offer.strip().upper().startswith("RTP/AVP/TCP"):
            continue
        found = _INTERLEAVED.search(offer)
        if found is None:
            return 0, 1
        low = int(found[1])
        high = int(found[2]) if found[2] else low + 1
        return (low, high) if max(low, high) <= 255 else None
    return None


def description(clip: Clip, name: str, host: str) -> bytes:
    """The session description of a stream that plays this clip."""
    lines = [
        "v=0",
        f"o=- 1 1 IN IP4 {host}",
        f"s={name}",
        "c=IN IP4 0.0.0.0",
        "t=0 0",
        "a=control:*",
        "a=range:npt=now-",
        f"m=video 0 RTP/AVP {PAYLOAD_TYPE}",
        f"b=AS:{max(1, round(clip.bitrate_bps / 1000))}",
        f"a=rtpmap:{PAYLOAD_TYPE} {'H264' if clip.codec is Codec.H264 else 'H265'}/{CLOCK_HZ}",
        f"a=fmtp:{PAYLOAD_TYPE} {_format(clip)}",
    ]
    if clip.rate_fps:
        lines.append(f"a=framerate:{clip.rate_fps:.3f}")
    return ("\r\n".join([*lines, f"a=control:{TRACK}"]) + "\r\n").encode()


def _format(clip: Clip) -> str:
    def of(*kinds: int) -> str:
        own = [item for item in clip.sets if nal.kind_of(item, clip.codec) in kinds]
        return ",".join(base64.b64encode(item).decode() for item in own)

    if clip.codec is Codec.H264:
        sps = next(item for item in clip.sets if nal.kind_of(item, clip.codec) == 7)
        level = sps[1:4].hex().upper()
        return f"packetization-mode=1; profile-level-id={level}; sprop-parameter-sets={of(7, 8)}"
    return f"sprop-vps={of(32)}; sprop-sps={of(33)}; sprop-pps={of(34)}"


class Guard:
    """Digest authentication with one user, or none."""

    def __init__(self, user: str, password: str) -> None:
        self._user, self._password = user, password
        self._nonce = secrets.token_hex(16)

    @property
    def challenge(self) -> str:
        """Of a WWW-Authenticate header."""
        return f'Digest realm="{REALM}", nonce="{self._nonce}", algorithm=MD5'

    def admits(self, request: Request) -> bool:
        """Whether the request may go on."""
        if not self._user:
            return True
        scheme, _, rest = request.headers.get("authorization", "").partition(" ")
        fields = {m[0].lower(): m[1] or m[2] for m in _PAIR.findall(rest)}
        if scheme.lower() != "digest" or fields.get("nonce") != self._nonce:
            return False

        def digest(text: str) -> str:
            # What the scheme of RFC 2617 asks for, as cameras do it; nothing secret is kept so.
            return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()

        secret = digest(f"{self._user}:{REALM}:{self._password}")
        asked = digest(f"{request.method}:{fields.get('uri', '')}")
        wanted = digest(f"{secret}:{self._nonce}:{asked}")
        return fields.get("username") == self._user and hmac.compare_digest(
            wanted, fields.get("response", "")
        )
