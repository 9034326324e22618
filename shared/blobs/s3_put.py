"""Putting an object: read once, hashed on the way, refused by the store where a bit is wrong.

The stated SHA-256 goes with the request twice, as the signed payload hash and as
`x-amz-checksum-sha256`: of the stores that were tried each checks one of the two and none both. It
is known beforehand, so nothing is hashed for it. What is sent is hashed while it is sent, and the
last piece only leaves once the hash is right: a source that is not what was stated never becomes an
object, whatever the store checks.

Objects over `part_limit` go in parts, each checked like an object of its own.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode
from xml.sax.saxutils import escape

from minio.commonconfig import Tags

from shared.blobs.s3_client import BLOCK_BYTES, Client
from shared.blobs.s3_errors import MISMATCH, Refused
from shared.errors import Kind, LamppostError

PART_LIMIT_BYTES = 512 * 1024 * 1024
PART_BYTES = 16 * 1024 * 1024
SHA256 = "x-amz-meta-lamppost-sha256"
STORED_AT = "x-amz-meta-lamppost-stored-us"


class Upload(NamedTuple):
    """One object on its way."""

    key: str
    source: Path | bytes
    sha256: str
    size_bytes: int
    tags: Mapping[str, str]
    stored_at_us: int


class Exists(Exception):
    """There is an object under the key already."""


def checksum(sha256: str) -> str:
    """A hash in hex as S3's headers have it."""
    return base64.b64encode(bytes.fromhex(sha256)).decode("ascii")


def put(
    client: Client,
    bucket: str,
    upload: Upload,
    *,
    conditional: bool,
    part_limit: int = PART_LIMIT_BYTES,
    part_bytes: int = PART_BYTES,
) -> None:
    """Store it; `Exists` where the key is taken and `conditional`; CORRUPT, NOT_FOUND."""
    _check_size(upload)
    if not upload.size_bytes:
        _check_source(upload)  # of nothing there is no last piece to keep back
    if upload.size_bytes > part_limit:
        _in_parts(client, bucket, upload, conditional, part_bytes)
        return
    headers = {
        **_described(upload),
        "x-amz-checksum-sha256": checksum(upload.sha256),
        "x-amz-sdk-checksum-algorithm": "SHA256",
    }
    if conditional:
        headers["If-None-Match"] = "*"
    try:
        client.request(
            "PUT",
            bucket,
            upload.key,
            headers=headers,
            body=lambda: _pieces(upload),
            size_bytes=upload.size_bytes,
            sha256=upload.sha256,
        )
    except Refused as error:
        if error.status == 412 or (error.status == 409 and error.code != "NoSuchBucket"):
            raise Exists from error
        if error.code in MISMATCH:
            _check_source(upload)
        raise


def _described(upload: Upload) -> dict[str, str]:
    boxes = upload.key.endswith(".boxes")
    return {
        "Content-Type": "application/octet-stream" if boxes else "video/mp4",
        "x-amz-tagging": urlencode(sorted(upload.tags.items())),
        SHA256: upload.sha256,
        STORED_AT: str(upload.stored_at_us),
    }


def _check_size(upload: Upload) -> None:
    if isinstance(upload.source, bytes):
        size = len(upload.source)
    else:
        try:
            size = upload.source.stat().st_size
        except OSError as error:
            raise _gone(upload, error) from error
    if size != upload.size_bytes:
        raise _corrupt(f"{size} bytes", f"{upload.size_bytes}")


def _check_source(upload: Upload) -> None:
    """CORRUPT where the source, and not the way to the store, is what is wrong."""
    for _ in _pieces(upload):
        pass


def _blocks(upload: Upload) -> Iterator[memoryview]:
    """The source in blocks of one buffer, each good until the next is asked for."""
    if isinstance(upload.source, bytes):
        whole = memoryview(upload.source)
        for first in range(0, len(whole), BLOCK_BYTES):
            yield whole[first : first + BLOCK_BYTES]
        return
    buffer = memoryview(bytearray(min(BLOCK_BYTES, max(1, upload.size_bytes))))
    try:
        with upload.source.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                yield buffer[:count]
    except OSError as error:
        raise _gone(upload, error) from error


def _pieces(upload: Upload) -> Iterator[memoryview]:
    """The blocks, hashed; the last one only once the whole is known to be right."""
    digest, sent = hashlib.sha256(), 0
    for block in _blocks(upload):
        digest.update(block)
        sent += len(block)
        if sent > upload.size_bytes:
            raise _corrupt(f"more than {upload.size_bytes} bytes", f"{upload.size_bytes}")
        if sent == upload.size_bytes:
            _judge(upload, digest.hexdigest())
        yield block
    if sent < upload.size_bytes:
        raise _corrupt(f"{sent} bytes", f"{upload.size_bytes}")
    if not sent:
        _judge(upload, digest.hexdigest())


def _judge(upload: Upload, got: str) -> None:
    if got != upload.sha256:
        raise _corrupt(f"SHA-256 {got}", upload.sha256)


def _corrupt(got: str, stated: str) -> LamppostError:
    return LamppostError(Kind.CORRUPT, f"The bytes do not match: {got}, stated {stated}.")


def _gone(upload: Upload, error: OSError) -> LamppostError:
    assert isinstance(upload.source, Path)
    if isinstance(error, FileNotFoundError):
        return LamppostError(Kind.NOT_FOUND, f"The file {upload.source.name} is gone.")
    return LamppostError(
        Kind.UNAVAILABLE,
        f"The file {upload.source.name} cannot be read: {error.strerror or error}.",
        fix="See to the disk of the spool.",
    )


# In parts


def _in_parts(
    client: Client, bucket: str, upload: Upload, conditional: bool, part_bytes: int
) -> None:
    if conditional and _is_there(client, bucket, upload.key):
        raise Exists
    query = {"uploads": ""}
    answer = client.request("POST", bucket, upload.key, query=query, headers=_described(upload))
    upload_id = _element(answer.body, b"UploadId")
    try:
        tags = _send_parts(client, bucket, upload, upload_id, part_bytes)
        _complete(client, bucket, upload, upload_id, tags, conditional)
    except BaseException:
        _abort(client, bucket, upload.key, upload_id)
        raise
    given = Tags.new_object_tags()
    given.update(upload.tags)
    # Ceph drops the tags that came with an upload's beginning.
    client.minio.set_object_tags(bucket, upload.key, given)


def _is_there(client: Client, bucket: str, key: str) -> bool:
    try:
        client.request("HEAD", bucket, key)
    except Refused as error:
        if error.status == 404:
            return False
        raise
    return True


def _send_parts(
    client: Client, bucket: str, upload: Upload, upload_id: str, part_bytes: int
) -> list[str]:
    """The entity tags of the parts; each is gathered in memory to be hashed before it is sent."""
    tags: list[str] = []
    part = bytearray()

    def send() -> None:
        query = {"partNumber": str(len(tags) + 1), "uploadId": upload_id}
        data = bytes(part)
        headers = {"Content-MD5": _md5(data)}
        answer = client.request("PUT", bucket, upload.key, query=query, headers=headers, body=data)
        tags.append(answer.headers.get("ETag", ""))
        part.clear()

    for block in _pieces(upload):
        part += block
        if len(part) >= part_bytes:
            send()
    if part:
        send()
    return tags


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode("ascii")


def _complete(
    client: Client,
    bucket: str,
    upload: Upload,
    upload_id: str,
    tags: Sequence[str],
    conditional: bool,
) -> None:
    listed = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(tag)}</ETag></Part>"
        for number, tag in enumerate(tags, 1)
    )
    body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
    headers = {"If-None-Match": "*"} if conditional else {}
    try:
        answer = client.request(
            "POST", bucket, upload.key, query={"uploadId": upload_id}, headers=headers, body=body
        )
    except Refused as error:
        if error.status == 412:
            raise Exists from error
        raise
    if b"<Error>" in answer.body:  # a store may find the fault after it has said 200
        raise Refused(500, _element(answer.body, b"Code"))


def _abort(client: Client, bucket: str, key: str, upload_id: str) -> None:
    try:
        client.request("DELETE", bucket, key, query={"uploadId": upload_id})
    except (Refused, LamppostError):
        return  # the sweep removes it once it is old


def _element(body: bytes, name: bytes) -> str:
    _, _, rest = body.partition(b"<" + name + b">")
    text, found, _ = rest.partition(b"</" + name + b">")
    if not found:
        raise Refused(500, "MalformedAnswer")
    return text.decode("utf-8", "replace")
