"""A walk by folders ends, whatever a store says of folders that were emptied."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from shared.blobs.s3_store import Store

TREE = {
    "v1/": ["v1/2024-04-16/", "v1/2024-04-17/"],
    "v1/2024-04-16/": ["v1/2024-04-16/"],  # emptied: SeaweedFS names it inside itself
    "v1/2024-04-17/": ["v1/2024-04-17/a.mp4"],
}


class Minio:
    """The one call of a client that a walk makes."""

    def list_objects(self, _bucket: str, folder: str, **_: Any) -> list[Any]:
        return [
            SimpleNamespace(
                object_name=name,
                is_dir=name.endswith("/"),
                size=1,
                last_modified=datetime(2024, 4, 17, tzinfo=UTC),
                etag="",
                metadata=None,
                tags=None,
            )
            for name in TREE[folder]
        ]


def test_an_emptied_folder_is_passed_over() -> None:
    client = SimpleNamespace(minio=Minio())
    store = Store(client, "bucket", SimpleNamespace(ordered_listing=False), None)  # type: ignore[arg-type]
    assert [one.key for one in store.walk("", "")] == ["v1/2024-04-17/a.mp4"]
