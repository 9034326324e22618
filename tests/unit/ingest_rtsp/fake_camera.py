"""A scripted RTSP peer on a thread: answers as told, for what a real server will not do."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable

SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\na=control:*\r\n"
    "m=video 0 {profile} 96\r\na=rtpmap:96 {codec}/90000\r\na=control:track1\r\n"
)
Answer = Callable[[str, str, dict[str, str]], bytes | None]
"""Method, address, headers to the whole reply; None says nothing at all."""


def reply(status: int, cseq: str, body: str = "", **headers: str) -> bytes:
    """A reply; header names are written with underscores."""
    lines = [f"RTSP/1.0 {status} Whatever", f"CSeq: {cseq}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body:
        lines += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


class FakeCamera:
    """Listens on a free port of 127.0.0.1; `requests` is everything that was asked."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, name="fake-camera", daemon=True)
        self._thread.start()

    def __enter__(self) -> FakeCamera:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for item in self._open:
            item.close()
        self._thread.join(5)

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/stream"

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(client)
            threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        data = b""
        while True:
            try:
                more = client.recv(65_536)
            except OSError:
                return
            if not more:
                return
            data += more
            while b"\r\n\r\n" in data:
                head, _, data = data.partition(b"\r\n\r\n")
                head = re.sub(rb"\A(?:\$.{3})+", b"", head, flags=re.DOTALL)
                lines = head.decode("latin-1").split("\r\n")
                method, uri, _ = lines[0].split(" ", 2)
                pairs = (line.partition(":") for line in lines[1:])
                headers = {name.lower(): value.strip() for name, _, value in pairs}
                self.requests.append((method, uri, headers))
                answer = self._answer(method, uri, headers)
                if answer is not None:
                    try:
                        client.sendall(answer)
                    except OSError:
                        return
