"""Connecting to a camera: TCP and TLS in small steps, so that an interrupt is never far."""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
from collections.abc import Callable

POLL_S = 0.25
"""Longest wait before an interrupt is looked for."""
Check = Callable[[], None]
"""Raises when the connection shall not be waited for any longer."""


class ConnectionFailed(Exception):
    """Nobody answers, or the connection ended."""


class Interrupted(ConnectionFailed):
    """`interrupt` was called."""


def dial(addresses: list[str], port: int, check: Check) -> socket.socket:
    """A socket to the first address that answers; ConnectionFailed when none does."""
    problem = "nobody answers"
    for address in addresses:
        try:
            return _tcp(address, port, check)
        except OSError as error:
            problem = plain(error)
    raise ConnectionFailed(f"cannot connect: {problem}")


def _tcp(address: str, port: int, check: Check) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = made.connect_ex((address.strip("[]"), port))
        if code == errno.EINPROGRESS:
            poll = select.poll()
            poll.register(made, select.POLLOUT)
            while not poll.poll(POLL_S * 1000):
                check()
            code = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        made.settimeout(POLL_S)
        return made
    except BaseException:
        made.close()
        raise


def shake_hands(
    plain_socket: socket.socket, context: ssl.SSLContext, host: str, check: Check
) -> ssl.SSLSocket:
    """TLS over a connected socket; ConnectionFailed says what is wrong with a certificate."""
    secure = context.wrap_socket(plain_socket, server_hostname=host, do_handshake_on_connect=False)
    try:
        while True:
            try:
                secure.do_handshake()
                return secure
            except (TimeoutError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                check()
    except ssl.SSLCertVerificationError as error:
        why = error.verify_message or "not trusted"
        secure.close()
        raise ConnectionFailed(f"the camera's certificate is refused: {why}") from None
    except OSError as error:
        secure.close()
        raise ConnectionFailed(f"TLS failed: {plain(error)}") from None
    except BaseException:
        secure.close()
        raise


def plain(error: OSError) -> str:
    """A system's error in words, without addresses."""
    return (error.strerror or type(error).__name__).lower()
