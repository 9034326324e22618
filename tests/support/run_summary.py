"""Judges the closing JSON of an unattended run: `... | python -m tests.support.run_summary`."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

KEYS = (
    "cameras_recording",
    "recorded_s",
    "gap_s",
    "unaccounted_s",
    "segments",
    "frames_analysed",
    "sightings",
    "purged",
    "errors",
    "url",
)
START_S = 15.0
"""How long every camera may take to its first packet on a busy machine."""
UNACCOUNTED_S = 1.0


def problems(summary: dict[str, Any], cameras: int, seconds: float) -> list[str]:
    """What is wrong with a run of `seconds` on `cameras` demo cameras; empty when nothing."""
    if sorted(summary) != sorted(KEYS):
        return [f"keys are {sorted(summary)}"]
    least = cameras * max(0.0, seconds - START_S)
    checks = (
        (summary["cameras_recording"] == cameras, "cameras_recording"),
        (summary["recorded_s"] >= least, f"recorded_s is under {least}"),
        (summary["recorded_s"] <= cameras * (seconds + 1), "recorded_s is over the time"),
        (summary["unaccounted_s"] <= UNACCOUNTED_S, "unaccounted_s"),
        (summary["segments"] >= cameras, "segments"),
        (summary["frames_analysed"] > 0, "frames_analysed: detection never began"),
        (summary["sightings"] > 0, "sightings"),
        (summary["errors"] == 0, "errors"),
        (str(summary["url"]).startswith("http://"), "url"),
    )
    return [text for holds, text in checks if not holds]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cameras", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    asked = parser.parse_args()
    line = sys.stdin.readline()
    print(line.strip())
    try:
        summary = json.loads(line)
    except ValueError:
        print("The last line is not JSON.", file=sys.stderr)
        return 1
    wrong = problems(summary, asked.cameras, asked.seconds)
    for text in wrong:
        print(f"wrong: {text}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
