"""The list of hosts that cameras and webhooks share."""

from __future__ import annotations

import pytest

from shared.hosts import Allowed


@pytest.mark.parametrize(
    ("entries", "address", "named", "allowed"),
    [
        (("localhost",), "127.0.0.1", True, True),
        (("localhost",), "169.254.169.254", True, False),
        (("cam",), "127.0.0.1", True, False),
        (("cam",), "10.0.0.7", True, True),
        (("cam",), "10.0.0.7", False, False),
        (("10.0.0.0/8",), "10.0.0.7", False, True),
        (("10.0.0.0/8",), "::ffff:10.0.0.7", False, True),
        (("10.0.0.0/8",), "11.0.0.7", False, False),
        (("224.0.0.0/4",), "224.0.0.1", True, False),
        (("0.0.0.0/0",), "0.0.0.0", True, False),
        (("cam",), "nonsense", True, False),
    ],
)
def test_an_address_is_judged(
    entries: tuple[str, ...], address: str, named: bool, allowed: bool
) -> None:
    assert Allowed(entries).allows(address, named) is allowed


def test_names_are_compared_as_hosts_are() -> None:
    some = Allowed(("Cam.Example.", "[fe80::1]"))
    assert some.names("cam.example") and not some.names("other") and not some.empty
    assert Allowed(()).empty
