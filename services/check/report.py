"""What `check` says."""

from __future__ import annotations

from typing import Literal

import msgspec

Depth = Literal["presence", "size", "hash"]
"""Whether bytes are there; also their size and stated hash; also every byte read and hashed."""
MAX_FINDINGS = 1_000


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong."""

    invariant: int
    what: str
    fix: str
    camera: str = ""
    segment: str = ""
    key: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All that was looked at and found; at most `MAX_FINDINGS` in full, all of them counted."""

    depth: Depth
    at_us: int
    segments: int
    objects: int
    size_bytes: int
    findings: tuple[Finding, ...]
    counts: dict[int, int]
    """Findings by invariant."""

    @property
    def clean(self) -> bool:
        return not self.counts


class Notes:
    """Collects findings within the bound."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.counts: dict[int, int] = {}
        self.segments = 0
        self.objects = 0
        self.size_bytes = 0

    def add(
        self,
        invariant: int,
        what: str,
        fix: str,
        *,
        camera: str = "",
        segment: str = "",
        key: str = "",
    ) -> None:
        self.counts[invariant] = self.counts.get(invariant, 0) + 1
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(
                Finding(
                    invariant=invariant, what=what, fix=fix, camera=camera, segment=segment, key=key
                )
            )
