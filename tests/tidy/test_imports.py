"""Services are leaves: the contracts of pyproject.toml, kept by import-linter."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from tests.tidy.tree import ROOT, code

TOOL = Path(sys.executable).parent / "lint-imports"
INFERENCE = {
    "torch": "services/detect/yolo_detector.py",
    "ultralytics": "services/detect/yolo_detector.py",
    "openvino": "services/detect/openvino_runtime.py",
    "onnxruntime": "services/detect/onnxruntime_runtime.py",
}


def test_import_contracts_hold() -> None:
    done = subprocess.run(
        [str(TOOL), "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _imported(tree: ast.Module) -> set[str]:
    """Top-level names of what a module imports, by statement or by `import_module("…")`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            if name in ("import_module", "__import__"):
                found |= {a.value for a in node.args if isinstance(a, ast.Constant)}
    return {str(name).partition(".")[0] for name in found}


def test_each_inference_library_has_one_importer() -> None:
    """torch and ultralytics are an extra; OpenVINO is imported where its telemetry is cut off."""
    found = {
        (path, name)
        for path, _, tree in code()
        if path.startswith(("services/", "shared/"))
        for name in _imported(tree) & INFERENCE.keys()
    }
    assert {name for _, name in found} == INFERENCE.keys()
    assert {(path, name) for path, name in found if path != INFERENCE[name]} == set()
