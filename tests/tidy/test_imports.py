"""Services are leaves: the contracts of pyproject.toml, kept by import-linter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.tidy.tree import ROOT, code

TOOL = Path(sys.executable).parent / "lint-imports"
INFERENCE = ("torch", "ultralytics", "openvino", "onnxruntime")


def test_import_contracts_hold() -> None:
    done = subprocess.run(
        [str(TOOL), "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_needs_an_inference_library_yet() -> None:
    found = [
        path
        for path, text, _ in code()
        if path.startswith(("services/", "shared/"))
        and any(f"import {name}" in text for name in INFERENCE)
    ]
    assert found == []
