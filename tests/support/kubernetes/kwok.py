"""Many pretended nodes under a real control plane: schedule, spread and budgets are the real ones.

kwok answers for every kubelet: a pod that is bound runs at once, and no container is started.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.kubernetes import programs
from tests.support.kubernetes.control import ControlPlane

ZONE = "topology.kubernetes.io/zone"


class Pretended(ControlPlane):
    """A control plane whose nodes kwok pretends. Use as a context manager."""

    def start(self) -> None:
        super().start()
        self.run_program("kwok", self._command())

    def _command(self) -> list[str | Path]:
        stages = [f"--config={path}" for path in sorted(programs.STAGES.glob("*.yaml"))]
        return [
            f"--kubeconfig={self.kubeconfig}",
            "--manage-all-nodes=true",
            "--node-lease-duration-seconds=40",
            *stages,
        ]

    def add_nodes(
        self, count: int, zones: Sequence[str], resources: Mapping[str, str], **labels: str
    ) -> None:
        """`node-1` and on, dealt to the zones in turn."""
        nodes = [
            _node(f"node-{number}", {ZONE: zones[number % len(zones)], **labels}, resources)
            for number in range(1, count + 1)
        ]
        self.apply("\n---\n".join(map(json.dumps, nodes)))


def _node(name: str, labels: Mapping[str, str], resources: Mapping[str, str]) -> dict[str, Any]:
    room = {"pods": "110", **resources}
    hostname = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {**hostname, **labels}},
        "spec": {},
        "status": {"allocatable": room, "capacity": room},
    }
