"""The socket of section `internal` of the settings, and the address that others are told of it."""

from __future__ import annotations

import socket

from shared.settings import Internal


def listen(at: Internal) -> socket.socket:
    """OSError when no port is to be had."""
    family = socket.AF_INET6 if ":" in at.host else socket.AF_INET
    return socket.create_server((at.host, at.port), family=family)


def url_of(at: Internal, listening: socket.socket) -> str:
    """The base URL by which others reach it."""
    host = at.advertised or at.host
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
