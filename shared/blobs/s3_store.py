"""One bucket of an S3 store as our objects have it: blocking calls for threads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from minio.commonconfig import Tags
from minio.datatypes import Object
from minio.deleteobjects import DeleteObject
from minio.error import S3Error
from minio.tagging import Tagging
from minio.xml import unmarshal

from shared import civil
from shared.blobs import BlobInfo
from shared.blobs.disk import byte_range
from shared.blobs.s3_client import BLOCK_BYTES, Client
from shared.blobs.s3_errors import NO_SUCH_OBJECT, NO_TAGS, Refused, refusal, translated
from shared.blobs.s3_probe import RGW_USED, Capabilities
from shared.blobs.s3_put import SHA256, STORED_AT, Exists, Upload, put
from shared.blobs.s3_room import Room
from shared.errors import Kind, LamppostError

PAGE = 1_000
HALF_SECOND_US = 500_000


class Piece(NamedTuple):
    """A range of an object as it was read."""

    data: bytes
    size_bytes: int
    """Of the whole object."""
    sha256: str
    etag: str


class Store:
    """Safe to use from any thread. Every error is one of ours."""

    def __init__(self, client: Client, bucket: str, found: Capabilities, room: Room) -> None:
        self.client = client
        self.bucket = bucket
        self.capabilities = found
        self.room = room

    # Writing

    def put(
        self,
        key: str,
        source: Path | bytes,
        sha256: str,
        size_bytes: int,
        tags: Mapping[str, str],
        stored_at_us: int,
    ) -> BlobInfo:
        upload = Upload(key, source, sha256, size_bytes, tags, stored_at_us)
        self.room.admit(upload.size_bytes)
        conditional = self.capabilities.conditional_put
        with translated(upload.key):
            if not conditional and (there := self._same(upload)) is not None:
                return there
            try:
                put(self.client, self.bucket, upload, conditional=conditional)
            except Exists:
                there = self._same(upload)
                if there is None:
                    raise LamppostError(
                        Kind.UNAVAILABLE,
                        "The object was put and deleted by others meanwhile.",
                        fix="It is tried again.",
                    ) from None
                return there
            except LamppostError as error:
                raise self._explained(error) from error
        self.room.stored(upload.size_bytes)
        return BlobInfo(
            upload.key, upload.size_bytes, upload.sha256, upload.tags, upload.stored_at_us
        )

    def _same(self, upload: Upload) -> BlobInfo | None:
        """What is there already when it is the same; CONFLICT when it is another."""
        found = self.stat(upload.key)
        if found is None:
            return None
        known = found.sha256 or self.verify(upload.key)
        if (known, found.size_bytes) != (upload.sha256, upload.size_bytes):
            raise LamppostError(
                Kind.CONFLICT,
                f"Another object stands under {upload.key}.",
                details={"key": upload.key},
            )
        return found._replace(sha256=known)

    def _explained(self, error: LamppostError) -> LamppostError:
        """A store may refuse a put and hang up before its answer could be read: ask again, cheaply,
        for the cause."""
        if error.kind is not Kind.UNAVAILABLE or "broke" not in error.message:
            return error
        try:
            self.client.request("GET", self.bucket, query={"list-type": "2", "max-keys": "1"})
        except Refused as refused:
            return refusal(refused)
        except LamppostError:
            return error
        return error

    def delete(self, keys: Sequence[str]) -> None:
        with translated():
            if not keys:
                return
            if not self.capabilities.batch_delete:
                for key in keys:
                    self._delete_one(key)
                return
            asked = [DeleteObject(key) for key in keys]
            for error in self.client.minio.remove_objects(self.bucket, asked):
                if error.code not in NO_SUCH_OBJECT:
                    raise refusal(Refused(500, error.code or ""), error.name or "")

    def _delete_one(self, key: str) -> None:
        try:
            self.client.request("DELETE", self.bucket, key)
        except Refused as error:
            if error.code not in NO_SUCH_OBJECT:
                raise

    def set_tags(self, keys: Sequence[str], tags: Mapping[str, str]) -> list[str]:
        given = Tags.new_object_tags()
        given.update(tags)
        gone: list[str] = []
        for key in keys:
            with translated(key):
                try:
                    self.client.minio.set_object_tags(self.bucket, key, given)
                except S3Error as error:
                    if error.code not in NO_SUCH_OBJECT:
                        raise
                    gone.append(key)
        return gone

    # Reading

    def stat(self, key: str) -> BlobInfo | None:
        """Tags first: an answer to HEAD has no body that tells a missing object from a missing
        bucket."""
        with translated(key):
            try:
                tags = self._tags(key)
                headers = self.client.request("HEAD", self.bucket, key).headers
            except Refused as error:
                # A HEAD without a code: it was deleted in between.
                if error.code in NO_SUCH_OBJECT or (error.status == 404 and not error.code):
                    return None
                raise
        return BlobInfo(
            key,
            int(headers.get("Content-Length", 0)),
            headers.get(SHA256, ""),
            tags,
            _stored_at_us(headers),
        )

    def _tags(self, key: str) -> dict[str, str]:
        try:
            body = self.client.request("GET", self.bucket, key, query={"tagging": ""}).body
        except Refused as error:
            if error.code == NO_TAGS:
                return {}
            raise
        # Of an object without tags Ceph answers nothing at all.
        return dict(unmarshal(Tagging, body.decode()).tags or {}) if body else {}

    def fetch(self, key: str, offset: int, length: int | None, etag: str = "") -> Piece:
        """A range, cut at the object's end. `etag`: only of the object that had it."""
        if offset < 0 or (length is not None and length < 0):
            byte_range(key, 0, offset, length)
        headers = {"If-Match": etag} if etag else {}
        if offset or length is not None:
            last = "" if length is None else str(offset + max(1, length) - 1)
            headers["Range"] = f"bytes={offset}-{last}"
        with translated(key):
            try:
                with self.client.open("GET", self.bucket, key, headers=headers) as response:
                    data, found = response.read(), response.headers
            except Refused as error:
                if error.status != 416:
                    raise
                return self._past_the_end(key, offset, length)
        size = int((found.get("Content-Range") or f"/{len(data)}").rpartition("/")[2])
        if length == 0:
            data = b""
        piece = Piece(data, size, found.get(SHA256, ""), found.get("ETag", ""))
        if len(data) == size and piece.sha256:
            self.check(key, hashlib.sha256(data).hexdigest(), piece.sha256)
        return piece

    def _past_the_end(self, key: str, offset: int, length: int | None) -> Piece:
        headers = self.client.request("HEAD", self.bucket, key).headers
        size = int(headers.get("Content-Length", 0))
        byte_range(key, size, offset, length)
        return Piece(b"", size, headers.get(SHA256, ""), headers.get("ETag", ""))

    @staticmethod
    def check(key: str, got: str, stored: str) -> None:
        """CORRUPT where a whole read does not have the hash that was put."""
        if got != stored:
            raise LamppostError(
                Kind.CORRUPT,
                f"{key} is damaged: its bytes no longer have the hash they were stored with.",
                fix="Find out what the store lost: lamppost check --depth hash.",
                details={"key": key},
            )

    def verify(self, key: str) -> str:
        digest = hashlib.sha256()
        with translated(key), self.client.open("GET", self.bucket, key) as response:
            while block := response.read(BLOCK_BYTES):
                digest.update(block)
        return digest.hexdigest()

    def page(self, walk: Iterator[BlobInfo]) -> list[BlobInfo]:
        """The next objects of a walk; none at its end."""
        with translated():
            return list(islice(walk, PAGE))

    def walk(self, prefix: str, start_after: str) -> Iterator[BlobInfo]:
        """Every object under a prefix and after a key, in order, a request for each thousand."""
        if self.capabilities.ordered_listing:
            return self._flat(prefix, start_after)
        return self._folders("v1/", prefix, start_after)

    def _flat(self, prefix: str, start_after: str) -> Iterator[BlobInfo]:
        while True:
            last = ""
            listed = self.client.minio.list_objects(
                self.bucket, prefix, recursive=True, start_after=start_after or None
            )
            # A new listing for each page: a page may be asked for long after the one before.
            for one in islice(listed, PAGE):
                last = str(one.object_name)
                yield _info(one)
            if not last:
                return
            start_after = last

    def _folders(self, folder: str, prefix: str, start_after: str) -> Iterator[BlobInfo]:
        """The same where a store sorts by folder and not by key: there `cam/x` comes before
        `cam-1/x`. One folder's names are in memory at a time."""
        # The store may skip only where names are files: it would skip folders in its own order.
        leaf = start_after.rpartition("/")[0] + "/" == folder
        begin = start_after if leaf else None
        listed = self.client.minio.list_objects(self.bucket, folder, start_after=begin)
        for one in sorted(listed, key=lambda found: str(found.object_name)):
            name = str(one.object_name)
            if name == folder:
                continue  # SeaweedFS lists an emptied folder inside itself until it removes it
            if not one.is_dir:
                if name.startswith(prefix) and name > start_after:
                    yield _info(one)
            elif (name.startswith(prefix) or prefix.startswith(name)) and (
                name > start_after or start_after.startswith(name)
            ):
                yield from self._folders(name, prefix, start_after)

    # The house

    def sweep(self, older_than_us: int) -> int:
        count, key_marker, id_marker = 0, None, None
        minio = self.client.minio
        with translated():
            while True:
                found = minio._list_multipart_uploads(
                    self.bucket, prefix="v1/", key_marker=key_marker, upload_id_marker=id_marker
                )
                for one in found.uploads:
                    begun_us = _microseconds(one.initiated_time)
                    if one.upload_id and begun_us and begun_us < older_than_us:
                        query = {"uploadId": one.upload_id}
                        self._abort(one.object_name, query)
                        count += 1
                key_marker, id_marker = found.next_key_marker, found.next_upload_id_marker
                if not found.is_truncated or not key_marker:
                    return count

    def _abort(self, key: str, query: Mapping[str, str]) -> None:
        try:
            self.client.request("DELETE", self.bucket, key, query=query)
        except Refused as error:
            if error.status != 404:
                raise

    def time_us(self) -> int:
        """From the date of an answer, which has whole seconds: the middle of that second."""
        with translated():
            headers = self.client.request("HEAD", self.bucket).headers
        try:
            date_us = civil.to_us(parsedate_to_datetime(headers.get("Date", "")))
        except ValueError:
            raise LamppostError(
                Kind.DOUBT, "The object store's answers carry no usable date."
            ) from None
        return date_us + HALF_SECOND_US

    def count(self) -> None:
        """Tell `room` what lies there."""
        self.room.begin()
        with translated():
            headers = self.client.request("HEAD", self.bucket).headers
        used = headers.get(RGW_USED, "")
        if used.isdecimal():
            self.room.counted(int(used))
            return
        with translated():
            self.room.counted(sum(one.size_bytes for one in self._flat("", "")))


def _info(found: Object) -> BlobInfo:
    when_us = _microseconds(found.last_modified)
    return BlobInfo(str(found.object_name), found.size or 0, "", {}, when_us)


def _microseconds(moment: datetime | None) -> int:
    return 0 if moment is None else civil.to_us(moment)


def _stored_at_us(headers: Mapping[str, str]) -> int:
    """As recorded at the put; of foreign objects what the store says."""
    recorded = headers.get(STORED_AT, "")
    if recorded.isdecimal():
        return int(recorded)
    return civil.to_us(parsedate_to_datetime(headers["Last-Modified"]))
