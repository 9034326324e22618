"""When an S3 store counts as full, and how its threads are shared."""

import asyncio
import threading

import pytest

from shared.blobs import Usage
from shared.blobs.s3_pool import Pool
from shared.blobs.s3_room import Room
from shared.clock import SimulatedClock
from shared.errors import Kind, LamppostError
from tests.support.wait import until


def test_without_a_capacity_nothing_is_counted() -> None:
    room = Room(None, SimulatedClock())
    room.admit(2**60)
    assert not room.due
    assert room.usage() == Usage(None, None)


async def test_full_leaves_a_twentieth_and_is_counted_again_soon() -> None:
    clock = SimulatedClock()
    room = Room(1_000, clock)
    assert room.due
    room.begin()
    room.stored(100)  # while the count ran: it may have missed it
    room.counted(800)
    assert room.usage() == Usage(1_000, 100)
    room.admit(50)
    with pytest.raises(LamppostError) as caught:
        room.admit(51)
    assert caught.value.kind is Kind.FULL
    assert not room.due
    await clock.advance(30)
    assert room.due
    room.begin()
    room.counted(100)
    room.admit(800)
    await clock.advance(599)
    assert not room.due
    await clock.advance(1)
    assert room.due


async def test_no_more_threads_than_asked_and_the_rest_wait() -> None:
    pool, gate, inside = Pool(2), threading.Event(), []

    def work(number: int) -> int:
        inside.append(number)
        gate.wait(10)
        return number

    calls = [asyncio.create_task(pool.run(work, number)) for number in range(5)]
    await until(lambda: len(inside) == 2)
    calls[4].cancel()
    gate.set()
    assert await asyncio.gather(*calls[:4]) == [0, 1, 2, 3]
    assert len(inside) == 4, "a call that was cancelled while it waited never began"
    await pool.close()
    with pytest.raises(LamppostError) as caught:
        await pool.run(work, 9)
    assert caught.value.kind is Kind.CLOSED


async def test_a_cancelled_call_keeps_its_thread_until_it_ends() -> None:
    pool, gate, began = Pool(1), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        gate.wait(10)

    first = asyncio.create_task(pool.run(work))
    await until(began.is_set)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = asyncio.create_task(pool.run(threading.get_ident))
    await asyncio.sleep(0)
    assert not second.done(), "one thread cannot carry out two calls"
    gate.set()
    assert await second
    await pool.close()
