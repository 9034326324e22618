"""A rotated password or authority is taken up by clients that there are, for new connections."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from shared.bus.kafka_reach import HOLD_US, Reach
from shared.bus.kafka_renewal import EVERY_S, Renewal
from shared.bus.kafka_wire import Wire, wire_of
from shared.clock import SECOND_US, SimulatedClock
from shared.errors import LamppostError
from shared.settings import Settings
from tests.support.fake_broker import FakeBroker, broker
from tests.support.servers import certificates
from tests.support.wait import until

OLD, NEW = "the-old-password", "the-new-password"


class Process:
    """A client on a fake broker, and what renews its password and authority."""

    def __init__(self, fake: FakeBroker, folder: Path, **kafka: Any) -> None:
        self.broker = fake
        self.clock = SimulatedClock()
        values = {"servers": (fake.server,), "request_timeout_s": 2.0, **kafka}
        settings = Settings.model_validate({"state_dir": folder, "kafka": values})
        self.wire: Wire = wire_of(settings)
        self.renewal = Renewal(settings, self.wire, self.clock)
        self.client = self.wire.follow(AIOKafkaClient(**self.wire.client_arguments("test")))
        self.task = asyncio.create_task(self.renewal.run())

    async def talks(self) -> bool:
        """Whether the broker answers the client, over a connection that stands or a new one."""
        try:
            await self.client.send(1, MetadataRequest([]))
        except KafkaError:
            return False
        return True

    async def looks(self) -> None:
        """The time of the next look comes."""
        await self.clock.advance(EVERY_S)


@asynccontextmanager
async def running(fake: FakeBroker, folder: Path, **kafka: Any) -> AsyncIterator[Process]:
    made = Process(fake, folder, **kafka)
    try:
        await made.client.bootstrap()
        assert await made.talks()
        yield made
    finally:
        made.task.cancel()
        await asyncio.gather(made.task, return_exceptions=True)
        await made.client.close()


@pytest.fixture
async def signed(tmp_path: Path) -> AsyncIterator[Process]:
    """Signed in with the old password, which stands in file `password`."""
    (tmp_path / "password").write_text(OLD)
    async with broker() as fake:
        fake.password = OLD
        sign_in = {"sasl": "PLAIN", "username": "lamppost", "password_file": "password"}
        async with running(fake, tmp_path, **sign_in) as made:
            yield made


async def test_a_new_password_is_used_by_the_next_connection(
    signed: Process, tmp_path: Path
) -> None:
    signed.broker.password = NEW
    assert await signed.talks(), "a connection that stands is left alone"
    signed.broker.hang_up()
    await until(lambda: _not(signed.talks), what="the old password is refused")
    (tmp_path / "password").write_text(NEW + "\n")
    await signed.looks()
    await until(signed.talks, what="the new password is used")
    later = AIOKafkaClient(**signed.wire.client_arguments("later"))
    await later.bootstrap()
    await later.close()


async def test_a_probe_signs_in_with_the_new_password(signed: Process, tmp_path: Path) -> None:
    reach = Reach(signed.wire, signed.clock, "cameras")
    await reach.ask()
    signed.broker.password = NEW
    signed.broker.hang_up()
    await signed.clock.advance(HOLD_US / SECOND_US)
    with pytest.raises(LamppostError):
        await reach.ask()
    (tmp_path / "password").write_text(NEW)
    await signed.looks()

    async def reached() -> bool:
        await signed.clock.advance(HOLD_US / SECOND_US)
        try:
            await reach.ask()
        except LamppostError:
            return False
        return True

    await until(reached, what="the probe is answered")
    await reach.close()


def _removed(path: Path) -> None:
    path.unlink()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _garbage(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")


@pytest.mark.parametrize("spoil", [_removed, _empty, _garbage])
async def test_a_file_that_cannot_be_used_changes_nothing(
    signed: Process, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(tmp_path / "password")
    await signed.renewal.look()
    await signed.renewal.look()
    signed.broker.hang_up()
    await until(signed.talks, what="the password from before is used on")
    (tmp_path / "password").write_text(NEW)
    signed.broker.password = NEW
    signed.broker.hang_up()
    await signed.renewal.look()
    await until(signed.talks, what="what stands there at last is used")


async def test_a_new_authority_takes_the_place_of_the_old(tmp_path: Path) -> None:
    old, new = (certificates.make(tmp_path / name) for name in ("old", "new"))
    file = tmp_path / "ca.pem"
    file.write_bytes(old.ca.read_bytes())
    async with (
        broker(_served(old)) as fake,
        running(fake, tmp_path, tls=True, ca_file="ca.pem") as process,
    ):
        await process.renewal.look()
        trusts = process.wire.security["ssl_context"]
        await process.renewal.look()
        assert process.wire.security["ssl_context"] is trusts, "what stays is not taken up anew"
        await fake.stop()
        await fake.start(_served(new))
        await until(lambda: _not(process.talks), what="a stranger is refused")
        file.write_bytes(new.ca.read_bytes())
        await process.renewal.look()
        await until(process.talks, what="the new authority is known")
        await fake.stop()
        await fake.start(_served(old))
        await until(lambda: _not(process.talks), what="the old one is known no more")


async def test_without_files_there_is_nothing_to_look_at(tmp_path: Path) -> None:
    async with broker() as fake, running(fake, tmp_path) as process:
        await process.renewal.look()
        await process.task


def _served(identity: certificates.Certificates) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(identity.certificate, identity.key)
    return context


async def _not(condition: Callable[[], Any]) -> bool:
    return not await condition()
