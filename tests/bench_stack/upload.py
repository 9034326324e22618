"""Row "upload": segments of 30 MB put with their hash checked, against boto3's defaults.

Both sides put the same files into the same real SeaweedFS over plain HTTP and over TLS. Ours reads
each once, hashes it on the way, states its SHA-256 for the store to check, and puts it only if the
key is free; the peer is `upload_file` as it comes, which checks a CRC-32 of each part. Counted is
the CPU of the client's process; the store's is another. After each round every object of both sides
is read back and hashed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from shared import ids
from shared.blobs.s3 import open_blobs
from shared.clock import SystemClock
from shared.settings import load
from tests.bench.measure import Cost, Figure, Row, costing, isolated
from tests.support.servers.seaweed import Seaweed

SEGMENT_BYTES = 30_000_000
REACH = 0.6
AT_A_TIME = 4
"""Uploads at a time, as the archive has (`archive.workers`)."""


def run(folder: Path, *, small: bool) -> Row:
    """The figures, from rounds that alternate which side begins."""
    row = Row("Upload of 30 MB segments to S3, verified")
    files = [_segment(folder / f"{number}.mp4") for number in range(4 if small else 12)]
    for tls in (False, True):
        words = "over TLS" if tls else "over HTTP"
        cpu = Figure(f"CPU a segment, {words}", "s", REACH)
        wall = Figure(f"time a segment, {words}", "s", None)
        with Seaweed(folder / f"store-{tls}", tls=tls) as store:
            environment = dict(store.environment())
            for number in range(1 if small else 5):
                sides = [_ours, _boto3] if number % 2 else [_boto3, _ours]
                costs = {side: isolated(side, environment, files, number) for side in sides}
                for side, (cost, right) in costs.items():
                    to = side is _ours
                    (cpu.ours if to else cpu.peer).append(cost.cpu_s / len(files))
                    (wall.ours if to else wall.peer).append(cost.wall_s / len(files))
                    row.expect(right, f"{side.__name__} {words}: what was put is not there")
        row.figures += [cpu, wall]
    row.notes.append(f"{len(files)} segments of {SEGMENT_BYTES} bytes a round, {AT_A_TIME} at once")
    return row


def _segment(path: Path) -> Path:
    path.write_bytes(os.urandom(SEGMENT_BYTES))
    return path


def _ours(environment: dict[str, str], files: Sequence[Path], number: int) -> tuple[Cost, bool]:
    settings = load(environment | {"LAMPPOST_S3__BUCKET": f"ours-{number}"})
    # The recorder hashes while it writes: the archive knows the hash and never makes it.
    hashes = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    keys = {path: ids.object_key(date(2024, 4, 16), "cam", 0, ids.new_id()) for path in files}

    async def work() -> tuple[Cost, bool]:
        blobs = await open_blobs(settings, SystemClock())
        slots = asyncio.Semaphore(AT_A_TIME)

        async def put(path: Path) -> None:
            async with slots:
                await blobs.put(keys[path], path, sha256=hashes[path], size_bytes=SEGMENT_BYTES)

        try:
            with costing() as cost:
                await asyncio.gather(*map(put, files))
            right = [await blobs.verify(keys[path]) == hashes[path] for path in files]
            await blobs.delete(list(keys.values()))
        finally:
            await blobs.close()
        return cost[0], all(right)

    return asyncio.run(work())


def _boto3(environment: dict[str, str], files: Sequence[Path], number: int) -> tuple[Cost, bool]:
    from concurrent.futures import ThreadPoolExecutor

    import boto3

    section = load(environment).s3
    assert section.access_key_file is not None and section.secret_key_file is not None
    client = boto3.client(
        "s3",
        endpoint_url=section.endpoint,
        aws_access_key_id=section.access_key_file.read_text().strip(),
        aws_secret_access_key=section.secret_key_file.read_text().strip(),
        region_name=section.region,
        verify=str(section.ca_file) if section.ca_file else None,
    )
    bucket = f"boto3-{number}"
    client.create_bucket(Bucket=bucket)
    with ThreadPoolExecutor(AT_A_TIME) as threads, costing() as cost:
        list(threads.map(lambda path: client.upload_file(str(path), bucket, path.name), files))
    right = []
    for path in files:
        got = client.get_object(Bucket=bucket, Key=path.name)["Body"].read()
        right.append(got == path.read_bytes())
        client.delete_object(Bucket=bucket, Key=path.name)
    return cost[0], all(right)
