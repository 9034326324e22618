"""What a store can do, found by trying it at start on objects of our own.

Stores that call themselves S3 differ where it matters: whether a wrong checksum is refused, a put
can be conditional, a delete deletes, a lifecycle is harmless. What is missing is named, and the use
that needs it is refused: the bulk bucket at start, the evidence vault alone with a word in the log
and in `lamppost doctor`. Canaries lie under `lamppost-probe/`, away from recordings' `v1/`, and are
removed; what a killed probe leaves is a few bytes, which one an hour later removes.
"""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from minio.commonconfig import ENABLED, Filter, Tag, Tags
from minio.deleteobjects import DeleteObject
from minio.error import S3Error
from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule

from shared import civil
from shared.blobs.s3_client import Client
from shared.blobs.s3_errors import Refused, translated
from shared.blobs.s3_put import checksum
from shared.clock import HOUR_US, SystemClock
from shared.errors import Kind, LamppostError
from shared.settings import S3

PREFIX = "lamppost-probe/"
RULE = "lamppost-backstop"
SAFE_LIFECYCLE = ("Ceph Object Gateway", "AmazonS3")
"""Servers, as they name themselves, whose lifecycle was seen to leave retagged objects alone.
SeaweedFS stamps an irreversible end into what is written while a rule stands."""
ORDERED = ("a-1/x", "a/x", "a0/x")
RGW_USED = "X-RGW-Bytes-Used"
_DATA = b"lamppost probe"
_WRONG = hashlib.sha256(b"something else").hexdigest()


@dataclass
class Capabilities:
    """What was found. `lacks` of the bulk bucket are worked around, or `refused`."""

    server: str = ""
    conditional_put: bool = False
    batch_delete: bool = False
    ordered_listing: bool = False
    lifecycle: str = "not looked at"
    vault: str = "there is none"
    """"ready", or why it is none."""
    lacks: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def probe(client: Client, settings: S3, backstop_days: int) -> Capabilities:
    """Try everything; UNSUPPORTED where the bulk bucket cannot be used, else what was found."""
    with translated():
        found = Capabilities()
        _bucket(client, settings)
        _Bulk(client, settings.bucket, found).look()
        if found.refused:
            raise LamppostError(
                Kind.UNSUPPORTED,
                f"The bucket {settings.bucket} cannot keep recordings: {'; '.join(found.refused)}.",
                fix="Use an unversioned bucket without object lock on a store that "
                "docs/guide/scale.md names, or correct the bucket.",
            )
        found.lifecycle = _backstop(client, settings, found.server, backstop_days)
        if settings.vault_bucket:
            found.vault = _vault(client, settings)
    return found


def _bucket(client: Client, settings: S3) -> None:
    try:
        # Not a HEAD, whose answer has no code that would name what is wrong with the key.
        client.request("GET", settings.bucket, query={"list-type": "2", "max-keys": "1"})
        return
    except Refused as error:
        if error.code != "NoSuchBucket":
            raise
    if not settings.make_buckets:
        raise LamppostError(
            Kind.UNAVAILABLE,
            f"The object store has no bucket {settings.bucket}.",
            fix="Make it, or let Lamppost: s3.make_buckets=true.",
        )
    _make(client, settings.bucket)


def _make(client: Client, bucket: str, *, locked: bool = False) -> None:
    try:
        client.minio.make_bucket(bucket, object_lock=locked)
    except S3Error as error:
        if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
            raise


class _Bulk:
    """One look at the bulk bucket."""

    def __init__(self, client: Client, bucket: str, found: Capabilities) -> None:
        self._client, self._bucket, self._found = client, bucket, found
        self._prefix = f"{PREFIX}{uuid.uuid4()}/"

    def look(self) -> None:
        try:
            self._versions()
            self._leftovers()
            self._puts()
            self._tags()
            self._ranges()
            self._uploads()
            self._order()
            self._deletes()
        finally:
            with contextlib.suppress(LamppostError, Refused, S3Error):
                for key in ("checked", "plain", "other", "parts", *ORDERED):
                    self._client.request("DELETE", self._bucket, self._prefix + key)

    def _need(self, what: str, holds: bool) -> None:
        if not holds:
            self._found.refused.append(what)

    def _put(self, name: str, headers: Mapping[str, str] | None = None, wrong: bool = False) -> int:
        """The status of a put whose stated hash may be wrong."""
        sha256 = _WRONG if wrong else hashlib.sha256(_DATA).hexdigest()
        given = {"x-amz-checksum-sha256": checksum(sha256), **(headers or {})}
        given["x-amz-sdk-checksum-algorithm"] = "SHA256"
        try:
            return self._client.request(
                "PUT",
                self._bucket,
                self._prefix + name,
                headers=given,
                body=lambda: [_DATA],
                size_bytes=len(_DATA),
                sha256=sha256,
            ).status
        except Refused as error:
            if error.status in (401, 403) or error.status >= 500:
                raise
            return error.status

    def _status(self, method: str, name: str, query: Mapping[str, str] | None = None) -> int:
        try:
            answer = self._client.request(method, self._bucket, self._prefix + name, query=query)
        except Refused as error:
            if error.status in (401, 403):
                raise
            return error.status
        return answer.status

    def _versions(self) -> None:
        headers = self._client.request("HEAD", self._bucket).headers
        # Ceph's gateway does not give its name, but says what nobody else does.
        unnamed = "Ceph Object Gateway" if RGW_USED in headers else ""
        self._found.server = headers.get("Server", unnamed)
        status = self._client.minio.get_bucket_versioning(self._bucket).status
        self._need("it keeps versions, so that a delete does not delete", status in (None, "Off"))

    def _leftovers(self) -> None:
        """What probes left behind that were killed over an hour ago."""
        before = civil.to_datetime(SystemClock().now_us() - HOUR_US)
        listed = self._client.minio.list_objects(self._bucket, PREFIX, recursive=True)
        for one in islice(listed, 1_000):
            if one.last_modified is not None and one.last_modified < before:
                self._client.request("DELETE", self._bucket, str(one.object_name))

    def _puts(self) -> None:
        refused = self._put("checked", wrong=True) >= 400
        gone = self._status("HEAD", "checked") == 404
        self._need("it accepts a put whose checksum is wrong", refused and gone)
        self._client.request("PUT", self._bucket, self._prefix + "plain", body=_DATA)
        tags = {"x-amz-tagging": "lamppost=standard"}  # each time: without a condition it replaces
        first = self._put("checked", tags)
        self._need("it refuses a put with tags and checksum", first == 200)
        again = self._put("checked", {"If-None-Match": "*", **tags})
        fresh = self._put("other", {"If-None-Match": "*"})
        self._found.conditional_put = again == 412 and fresh == 200
        if not self._found.conditional_put:
            self._found.lacks.append("conditional put (each put looks first)")

    def _tags(self) -> None:
        minio, key = self._client.minio, self._prefix + "checked"
        given = minio.get_object_tags(self._bucket, key)
        self._need("it loses tags given with a put", dict(given or {}) == {"lamppost": "standard"})
        tags = Tags.new_object_tags()
        tags["lamppost"] = "held"
        minio.set_object_tags(self._bucket, key, tags)
        again = minio.get_object_tags(self._bucket, key)
        self._need("it does not replace tags", dict(again or {}) == {"lamppost": "held"})

    def _ranges(self) -> None:
        headers = {"Range": "bytes=2-5"}
        answer = self._client.request("GET", self._bucket, self._prefix + "plain", headers=headers)
        holds = answer.status == 206 and answer.body == _DATA[2:6]
        self._need("it does not read ranges", holds)

    def _uploads(self) -> None:
        """Listed and aborted: else what a killed upload leaves could never be swept."""
        minio, key = self._client.minio, self._prefix + "parts"
        upload_id = minio._create_multipart_upload(self._bucket, key, {})
        listed = minio._list_multipart_uploads(self._bucket, prefix=key).uploads
        minio._abort_multipart_upload(self._bucket, key, upload_id)
        left = minio._list_multipart_uploads(self._bucket, prefix=key).uploads
        if not any(one.upload_id == upload_id for one in listed):
            self._found.lacks.append("a listing of unfinished uploads (they cannot be swept)")
        self._need("it does not abort uploads", not left)

    def _order(self) -> None:
        """By key, as S3 says, or by folder: then `a/` comes before `a-1/`."""
        for name in ORDERED:
            self._client.request("PUT", self._bucket, self._prefix + name, body=_DATA)
        found = self._listed()
        self._found.ordered_listing = found == sorted(found)
        if not self._found.ordered_listing:
            self._found.lacks.append("a listing in order of keys (folders are walked)")

    def _listed(self) -> list[str]:
        listed = self._client.minio.list_objects(self._bucket, self._prefix, recursive=True)
        return [str(one.object_name) for one in islice(listed, 100)]

    def _deletes(self) -> None:
        names = ("checked", "plain", "other", *ORDERED)
        keys = [self._prefix + name for name in names]
        errors = list(
            self._client.minio.remove_objects(self._bucket, [DeleteObject(key) for key in keys])
        )
        self._found.batch_delete = not errors and not self._listed()
        if not self._found.batch_delete:
            self._found.lacks.append("batch delete (one request an object)")
            for name in names:
                self._status("DELETE", name)
        there = {self._status("HEAD", name) for name in names}
        self._need("a delete does not delete", there == {404})


def _backstop(client: Client, settings: S3, server: str, days: int) -> str:
    """The late lifecycle, where it is safe; what was done, in words."""
    safe = server.startswith(SAFE_LIFECYCLE)
    if settings.lifecycle == "off" or (settings.lifecycle == "auto" and not safe):
        return f"none set: {server or 'the server'} is not known to have a safe one"
    try:
        found = client.minio.get_bucket_lifecycle(settings.bucket)
        rules = list(found.rules) if found else []
        ours = next((rule for rule in rules if rule.rule_id == RULE), None)
        if ours is None or ours.expiration is None or ours.expiration.days != days:
            rule = Rule(
                ENABLED,
                rule_filter=Filter(tag=Tag("lamppost", "standard")),
                rule_id=RULE,
                expiration=Expiration(days=days),
            )
            kept = [one for one in rules if one.rule_id != RULE]
            client.minio.set_bucket_lifecycle(settings.bucket, LifecycleConfig([*kept, rule]))
    except S3Error as error:
        return f"none set: the store refuses it ({error.code})"
    return f"{days} days for what is tagged lamppost=standard"


def _vault(client: Client, settings: S3) -> str:
    """ "ready" where a held version cannot be deleted, else why it is no vault."""
    bucket = settings.vault_bucket
    try:
        if not client.minio.bucket_exists(bucket):
            if not settings.make_buckets:
                return f"the bucket {bucket} is missing"
            _make(client, bucket, locked=True)
        if client.minio.get_bucket_versioning(bucket).status != ENABLED:
            return f"the bucket {bucket} keeps no versions"
        return _hold(client, bucket, f"{PREFIX}{uuid.uuid4()}")
    except (S3Error, Refused) as error:
        return f"the store lacks object lock ({error.code})"


def _hold(client: Client, bucket: str, key: str) -> str:
    minio = client.minio
    headers = {"x-amz-object-lock-legal-hold": "ON"}
    answer = client.request("PUT", bucket, key, body=_DATA, headers=headers | _md5())
    version = answer.headers.get("x-amz-version-id", "")
    if not version:
        return "a put names no version"
    try:
        minio.enable_object_legal_hold(bucket, key, version)
        held = _refuses(lambda: minio.remove_object(bucket, key, version_id=version))
        query = {"versionId": version}
        still = client.request("GET", bucket, key, query=query).body == _DATA if held else False
        return "ready" if still else "a held version can be deleted"
    finally:
        with contextlib.suppress(S3Error):
            minio.disable_object_legal_hold(bucket, key, version)
            minio.remove_object(bucket, key, version_id=version)


def _md5() -> dict[str, str]:
    """Stores want a checksum of whatever goes into a bucket with object lock."""
    return {"x-amz-checksum-sha256": checksum(hashlib.sha256(_DATA).hexdigest())}


def _refuses(call: Callable[[], object]) -> bool:
    try:
        call()
    except S3Error:
        return True
    return False
