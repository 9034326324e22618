"""Coarse colours of clothing and vehicles, by vote over a track's frames.

Never more than a witness would say, and nothing where it cannot be told. docs/tracking.md,
"Colours".
"""

from __future__ import annotations

from collections import Counter

from services.detect.detector import Found, Picture
from shared.sightings import Colour, Colours


class ColourVotes:
    """The votes of one track's frames."""

    def __init__(self, group: str) -> None:
        self._group = group
        self._votes: dict[str, Counter[Colour]] = {}

    def look(self, picture: Picture, found: Found) -> None:
        """Let one frame vote."""

    def colours(self) -> Colours:
        """What the votes say; None where they do not agree."""
        return Colours()
