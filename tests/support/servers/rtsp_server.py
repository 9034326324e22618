"""A real RTSP camera on GStreamer, with faults on command. Run by the system's Python (gi).

First line of standard input: a JSON object with the configuration; then one JSON command a line,
each answered with one JSON line on standard output. Started and driven by
tests/support/servers/rtsp.py, which lists the commands. Clock readings come from GLib because the
system's Python does not see this project.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
from pathlib import Path
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gio, GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

NS_PER_US = 1000
TICK_MS = 4
START_CODE = re.compile(rb"\x00\x00\x00?\x01")
PARSE = {"h264": "h264parse", "h265": "h265parse"}
PAY = {
    "h264": "h264parse ! rtph264pay name=pay0 pt=96 config-interval=-1",
    "h265": "h265parse ! rtph265pay name=pay0 pt=96 config-interval=-1",
}
AUDIO = "audiotestsrc is-live=true wave=silence ! audio/x-raw,rate=8000,channels=1 ! alawenc"


class AccessUnit:
    """One coded picture of a clip: bytes, times in ns from the clip's first decode time."""

    def __init__(self, data: bytes, pts: int, dts: int, key: bool, codec: str) -> None:
        self.data, self.pts, self.dts, self.key = data, pts, dts, key
        self.vcl = vcl_digest(data, codec)


def vcl_digest(data: bytes, codec: str) -> str:
    """SHA-256 (16 hex digits) of the coded slices alone: what no payloader may change."""
    digest = hashlib.sha256()
    for nal in START_CODE.split(data):
        nal = nal.rstrip(b"\x00")
        if not nal:
            continue
        kind = nal[0] & 31 if codec == "h264" else nal[0] >> 1 & 63
        if (codec == "h264" and 1 <= kind <= 5) or (codec == "h265" and kind < 32):
            digest.update(nal)
    return digest.hexdigest()[:16]


class Clip:
    """A file as access units; `length` ns until it repeats."""

    def __init__(self, path: str, codec: str) -> None:
        demux = "matroskademux" if path.endswith(".mkv") else "qtdemux"
        pipe = Gst.parse_launch(
            f'filesrc location="{path}" ! {demux} ! {PARSE[codec]} config-interval=-1 ! '
            f"video/x-{codec},stream-format=byte-stream,alignment=au ! appsink name=s sync=false"
        )
        pipe.set_state(Gst.State.PLAYING)
        sink = pipe.get_by_name("s")
        raw = []
        while (sample := sink.emit("pull-sample")) is not None:
            buffer = sample.get_buffer()
            delta = bool(buffer.get_flags() & Gst.BufferFlags.DELTA_UNIT)
            dts = buffer.dts if buffer.dts != Gst.CLOCK_TIME_NONE else buffer.pts
            raw.append((buffer.extract_dup(0, buffer.get_size()), buffer.pts, dts, not delta))
        pipe.set_state(Gst.State.NULL)
        if len(raw) < 2:
            raise ValueError(f"no video in {path}")
        first = raw[0][2]
        self.units = [AccessUnit(d, p - first, t - first, k, codec) for d, p, t, k in raw]
        step = (self.units[-1].dts - self.units[0].dts) // (len(raw) - 1)
        self.length = self.units[-1].dts + step
        # A camera sends a picture after taking it: the times on the wire lie in the past.
        self.delay = max(unit.pts - unit.dts for unit in self.units)


class Mount:
    """One camera: pushes a clip's access units at their decode time while a client is there."""

    def __init__(self, server: Server, spec: dict[str, Any]) -> None:
        self.server, self.name, self.spec = server, spec["name"], spec
        self.codec = spec.get("codec", "h264")
        self.clip = Clip(spec["file"], self.codec) if spec.get("file") else None
        self.mode = spec.get("mode", "play")
        self.rtcp, self.skew_s = spec.get("rtcp", "right"), float(spec.get("skew_s", 0))
        self.source: Any = None
        self.sessions: list[Any] = []
        self.started_us = self.base_ns = self.index = self.sent = 0
        self.fresh = True
        self.waiting_key = True
        self.last_key: AccessUnit | None = None
        log = server.config.get("log_dir")
        self.log = (Path(log) / f"{self.name}.jsonl").open("a", buffering=1) if log else None
        self.publish()

    def publish(self) -> None:
        """(Re)make the factory: video, or audio alone."""
        factory = GstRtspServer.RTSPMediaFactory()
        video = f"appsrc name=src is-live=true format=time max-bytes=0 ! {PAY[self.codec]}"
        if self.mode == "audio_only":
            factory.set_launch(f"( {AUDIO} ! rtppcmapay name=pay0 pt=8 )")
        elif self.spec.get("launch"):
            factory.set_launch(self.spec["launch"])
        elif self.spec.get("audio"):
            factory.set_launch(f"( {video} {AUDIO} ! rtppcmapay name=pay1 pt=8 )")
        else:
            factory.set_launch(f"( {video} )")
        factory.set_shared(True)
        factory.set_latency(0)
        factory.connect("media-configure", self._configure)
        if self.server.config.get("users"):
            permissions = GstRtspServer.RTSPPermissions()
            permissions.add_permission_for_role("viewer", "media.factory.access", True)
            permissions.add_permission_for_role("viewer", "media.factory.construct", True)
            factory.set_permissions(permissions)
        self.server.rtsp.get_mount_points().add_factory("/" + self.name, factory)

    def _configure(self, _factory: Any, media: Any) -> None:
        # Reports must be in our hands before the first one is sent: at "prepared" it may be.
        self.sessions.clear()
        media.connect("target-state", self._take_reports)
        source = media.get_element().get_child_by_name("src")
        if source is None or self.clip is None:
            return
        source.set_property(
            "caps",
            Gst.Caps.from_string(f"video/x-{self.codec},stream-format=byte-stream,alignment=au"),
        )
        media.connect("unprepared", self._unprepared, source)
        self.source, self.index, self.waiting_key, self.fresh = source, 0, True, True
        self.started_us, self.base_ns = GLib.get_monotonic_time(), self.clip.delay

    def _unprepared(self, _media: Any, source: Any) -> None:
        if self.source is source:
            self.source = None

    def _take_reports(self, media: Any, _state: int) -> None:
        for number in range(media.n_streams()):
            session = media.get_stream(number).get_rtpsession()
            if session is not None and session not in self.sessions:
                self.sessions.append(session)
                session.set_property("rtcp-min-interval", Gst.SECOND)
                session.connect("on-sending-rtcp", self._rtcp)

    def _rtcp(self, _session: Any, buffer: Any, _early: bool) -> bool:
        """Spoil the sender report as asked: none at all, or another wall clock."""
        if buffer.get_size() < 20 or buffer.extract_dup(1, 1)[0] != 200:
            return False
        if self.rtcp == "none":
            buffer.fill(1, bytes([204]))
        elif self.rtcp == "zero":
            buffer.fill(8, bytes(8))
        elif self.skew_s:
            seconds = int.from_bytes(buffer.extract_dup(8, 4), "big") + int(self.skew_s)
            buffer.fill(8, (seconds & 0xFFFFFFFF).to_bytes(4, "big"))
        return False

    def tick(self, now_us: int) -> None:
        """Push everything that is due."""
        if self.source is not None and self.fresh:
            # Between the making of the media and the first tick a busy machine may spend seconds;
            # the clip begins when it can be sent, else the log names pictures that leave later.
            self.started_us, self.fresh = now_us, False
        while self.source is not None and self.clip is not None:
            unit = self.clip.units[self.index]
            elapsed_ns = (now_us - self.started_us) * NS_PER_US
            if self.base_ns + unit.dts > elapsed_ns:
                return
            self._push(unit)
            self.index += 1
            if self.index == len(self.clip.units):
                self.index, self.base_ns = 0, self.base_ns + self.clip.length

    def _push(self, unit: AccessUnit) -> None:
        if self.mode == "silent":
            self.waiting_key = True
            return
        pts = self.base_ns + unit.pts - self.clip.delay
        dts = self.base_ns + unit.dts - self.clip.delay
        if self.mode == "frozen" and self.last_key is not None:
            unit, pts = self.last_key, dts
        elif self.waiting_key and not unit.key:
            return
        self.waiting_key = False
        if unit.key:
            self.last_key = unit
        buffer = Gst.Buffer.new_wrapped(unit.data)
        buffer.pts, buffer.dts = pts, dts
        if not unit.key:
            buffer.set_flags(Gst.BufferFlags.DELTA_UNIT)
        self.source.emit("push-buffer", buffer)
        self.sent += 1
        if self.log is not None:
            line = {
                "n": self.sent,
                "au": self.index,
                "vcl": unit.vcl,
                "key": unit.key,
                "t_us": GLib.get_real_time(),
            }
            self.log.write(json.dumps(line) + "\n")

    def play(self, clip: Clip) -> None:
        """Another clip from now on, in the same session: a size change is just that."""
        elapsed_ns = (GLib.get_monotonic_time() - self.started_us) * NS_PER_US
        self.clip, self.index, self.base_ns, self.waiting_key = clip, 0, elapsed_ns, True

    def set_mode(self, mode: str) -> None:
        """`play`, `silent`, `frozen`, `audio_only`; the last drops the clients to be seen."""
        remake = "audio_only" in (mode, self.mode) and mode != self.mode
        if self.mode == "frozen" and mode != "frozen":
            self.waiting_key = True
        self.mode = mode
        if remake:
            self.publish()
            self.server.drop()


class Server:
    """The RTSP server and its mounts, on GLib's main loop."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        host = config.get("host", "127.0.0.1")
        self.rtsp = GstRtspServer.RTSPServer(address=host, service=str(config["port"]))
        self.auth = self.basic_token = None
        if config.get("users") or config.get("cert"):
            self.auth = GstRtspServer.RTSPAuth()
            self.rtsp.set_auth(self.auth)
        if config.get("cert"):
            certificate = Gio.TlsCertificate.new_from_files(config["cert"], config["key"])
            self.auth.set_tls_certificate(certificate)
        if config.get("users"):
            self._users(config["users"])
        elif self.auth is not None:
            token = GstRtspServer.RTSPToken()
            token.set_string("media.factory.role", "anonymous")
            self.auth.set_default_token(token)
        self.mounts = {spec["name"]: Mount(self, spec) for spec in config["mounts"]}
        if self.auth is not None and not config.get("users"):
            for name in self.mounts:
                self._open_to_anonymous(name)
        self.rtsp.attach(None)
        self.port = self.rtsp.get_bound_port()
        GLib.timeout_add(TICK_MS, self._tick)

    def _open_to_anonymous(self, name: str) -> None:
        permissions = GstRtspServer.RTSPPermissions()
        for right in ("media.factory.access", "media.factory.construct"):
            permissions.add_permission_for_role("anonymous", right, True)
        factory = self.rtsp.get_mount_points().match("/" + name)[0]
        factory.set_permissions(permissions)

    def _users(self, users: dict[str, str]) -> None:
        basic = self.config.get("auth") == "basic"
        method = GstRtsp.RTSPAuthMethod
        self.auth.set_supported_methods(method.BASIC if basic else method.DIGEST)
        for user, password in users.items():
            token = GstRtspServer.RTSPToken()
            token.set_string("media.factory.role", "viewer")
            if basic:
                made = GstRtspServer.RTSPAuth.make_basic(user, password)
                self.auth.add_basic(made, token)
            else:
                self.auth.add_digest(user, password, token)

    def _tick(self) -> bool:
        now_us = GLib.get_monotonic_time()
        for mount in self.mounts.values():
            mount.tick(now_us)
        return True

    def drop(self) -> int:
        """Close every client's connection."""
        clients = self.rtsp.client_filter(lambda *_: GstRtspServer.RTSPFilterResult.REF) or []
        for client in clients:
            client.close()
        return len(clients)

    def clients(self) -> int:
        """How many connections there are."""
        return len(self.rtsp.client_filter(lambda *_: GstRtspServer.RTSPFilterResult.REF) or [])

    def command(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command."""
        name = request["cmd"]
        if name == "mode":
            self.mounts[request["mount"]].set_mode(request["mode"])
        elif name == "play":
            mount = self.mounts[request["mount"]]
            mount.play(Clip(request["file"], mount.codec))
        elif name == "rtcp":
            mount = self.mounts[request["mount"]]
            mount.rtcp, mount.skew_s = request["rtcp"], float(request.get("skew_s", 0))
        elif name == "users":
            for user in self.config.get("users", {}):
                self.auth.remove_digest(user)
            self.config["users"] = request["users"]
            self._users(request["users"])
        elif name == "add":
            self.mounts[request["name"]] = Mount(self, request)
        elif name == "remove":
            self.mounts.pop(request["mount"])
            self.rtsp.get_mount_points().remove_factory("/" + request["mount"])
        elif name == "drop":
            return {"dropped": self.drop()}
        elif name == "sent":
            return {"sent": {key: mount.sent for key, mount in self.mounts.items()}}
        elif name == "clients":
            return {"clients": self.clients()}
        else:
            raise ValueError(f"unknown command {name}")
        return {}


def answer(line: str) -> None:
    """Print one JSON line."""
    print(line, flush=True)


def run_command(server: Server, request: dict[str, Any]) -> bool:
    """On the main loop: run a command, answer it."""
    try:
        answer(json.dumps({"ok": True, **server.command(request)}))
    except Exception as error:
        answer(json.dumps({"ok": False, "error": f"{type(error).__name__}: {error}"}))
    return False


def main() -> None:
    """Serve until standard input ends."""
    Gst.init(None)
    loop = GLib.MainLoop()
    server = Server(json.loads(sys.stdin.readline()))
    answer(json.dumps({"ok": True, "port": server.port}))

    def listen() -> None:
        for line in sys.stdin:
            GLib.idle_add(run_command, server, json.loads(line))
        GLib.idle_add(loop.quit)

    threading.Thread(target=listen, daemon=True).start()
    loop.run()


main()
