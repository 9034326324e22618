"""What every test gets: the repository on the path, and none of the caller's settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

# How long an example takes says something of the machine, which others use, and not of the code.
hypothesis.settings.register_profile("lamppost", deadline=None)
hypothesis.settings.load_profile("lamppost")

# The data folder may be named by the caller; every other setting would change what is tested.
for name in list(os.environ):
    if name.startswith("LAMPPOST_") and name != "LAMPPOST_DATA":
        del os.environ[name]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures that tests measured (`record_property("figure", text)`), for docs/measured.md."""
    found = [
        (report.nodeid.rpartition("/")[2], value)
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == "figure"
    ]
    if found:
        terminalreporter.section("figures")
    for test, value in found:
        terminalreporter.write_line(f"{test}: {value}")


@pytest.fixture(autouse=True)
def _plain_logs() -> Iterator[None]:
    """A test that configures logs leaves nothing behind."""
    import structlog

    yield
    structlog.reset_defaults()
