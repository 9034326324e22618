"""Threads for blocking requests to the object store, and how a request is broken off.

There are as many threads as connections; a call waits for a free one as a task, not in a queue. A
call whose caller is cancelled, and every call at close, has its socket shut down: the thread wakes
with an error at once, whatever the store does or does not do.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from shared.errors import Kind, LamppostError

_LONGEST_GOODBYE_S = 6.0
"""A little longer than a connection may take to be made, which nothing can break off."""
_here = threading.local()
P = ParamSpec("P")
T = TypeVar("T")


class Call:
    """One call that a thread carries out; any thread may break it off."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.broken = False

    def uses(self, found: socket.socket | None) -> None:
        with self._lock:
            self._socket = found
            if self.broken:
                self._shut()

    def break_off(self) -> None:
        with self._lock:
            self.broken = True
            self._shut()

    def _shut(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # Of a TLS connection too the plain shutdown: nobody waits for its goodbye.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """This thread's requests belong to this call."""
        _here.call = self
        try:
            yield
        finally:
            _here.call = None
            self.uses(None)


def current() -> Call | None:
    """The call of this thread."""
    call: Call | None = getattr(_here, "call", None)
    return call


def closed() -> LamppostError:
    return LamppostError(Kind.CLOSED, "The object store is closed.")


class Pool:
    """`size` threads. All methods belong to one event loop."""

    def __init__(self, size: int) -> None:
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="s3")
        self._slots = asyncio.Semaphore(size)
        self._calls: set[Call] = set()
        self.closed = False

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `work` in a thread; CLOSED once the pool is."""
        if self.closed:
            raise closed()
        await self._slots.acquire()
        if self.closed:
            self._slots.release()
            raise closed()
        loop, call = asyncio.get_running_loop(), Call()

        def carry_out() -> T:
            try:
                with call.here():
                    if self.closed:
                        raise closed()
                    return work(*args, **kwargs)
            except Exception as error:
                if self.closed:
                    raise closed() from error
                raise
            finally:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(self._end, call)

        self._calls.add(call)
        future = self._threads.submit(carry_out)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            call.break_off()
            if future.cancelled():  # it had not begun, and will not end either
                self._end(call)
            raise

    def _end(self, call: Call) -> None:
        if call in self._calls:
            self._calls.discard(call)
            self._slots.release()

    async def close(self) -> None:
        """Break off what runs; returns when the threads are gone, or soon in any case."""
        if self.closed:
            return
        self.closed = True
        for call in list(self._calls):
            call.break_off()
        gone = asyncio.ensure_future(asyncio.to_thread(self._threads.shutdown, wait=True))
        await asyncio.wait({gone}, timeout=_LONGEST_GOODBYE_S)
