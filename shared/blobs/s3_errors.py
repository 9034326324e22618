"""What an S3 store's refusals and a broken connection mean, as our kinds of error.

A wrong key, a missing bucket and a wrong clock are UNAVAILABLE or DOUBT, not FORBIDDEN: whoever
waits for the store goes on waiting, the recordings stay in the spool, and all is well once somebody
follows the fix. The message names the store's code and our setting, never a key. The store's own
words may repeat what was signed, so they are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn
from xml.etree import ElementTree

from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3 import exceptions as http

from shared.errors import Kind, LamppostError

KEYS = frozenset(
    {
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "AccessDenied",
        "UserSuspended",
        "ExpiredToken",
        "InvalidToken",
        "AccountProblem",
        "AllAccessDisabled",
    }
)
UNSAID = frozenset({"HTTP 401", "HTTP 403"})
"""What a refusal is called whose answer has no body, as that of a HEAD request."""
FULL = frozenset(
    {
        "QuotaExceeded",
        "StorageFull",
        "InsufficientStorage",
        "XMinioStorageFull",
        "XAmzQuotaExceeded",
        "EntityTooLargeForQuota",
    }
)
MISMATCH = frozenset(
    {
        "BadDigest",
        "InvalidDigest",
        "XAmzContentSHA256Mismatch",
        "XAmzContentChecksumMismatch",
        "IncompleteBody",
    }
)
NO_SUCH_OBJECT = frozenset({"NoSuchKey", "NoSuchObject"})
NO_TAGS = "NoSuchTagSet"
SKEW = frozenset({"RequestTimeTooSkewed", "RequestExpired"})
MAX_BODY = 64 * 1024


class Refused(Exception):
    """An answer of the store that is no success; becomes a LamppostError unless it is awaited."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"HTTP {status} {code}".strip())
        self.status = status
        self.code = code


def code_of(body: bytes) -> str:
    """The code of an error's XML; empty where it has none."""
    try:
        found = ElementTree.fromstring(body[:MAX_BODY])
    except ElementTree.ParseError:
        return ""
    for element in found.iter():
        if element.tag.rpartition("}")[2] == "Code":
            return (element.text or "").strip()[:60]
    return ""


def refusal(error: Refused, key: str = "") -> LamppostError:
    """The kind of a refusal that nobody expected."""
    code, status = error.code, error.status
    named = code or f"HTTP {status}"
    details = {"code": named} | ({"key": key} if key else {})
    if status == 404 and code not in ("NoSuchBucket", "NoSuchUpload"):
        return missing(key)
    for known, make in _KNOWN:
        if known(status, code):
            kind, message, fix = make
            return LamppostError(kind, message.format(code=named), fix=fix, details=details)
    if status >= 500 or status == 429:
        return LamppostError(
            Kind.UNAVAILABLE,
            f"The object store has a fault ({named}).",
            fix="See the log of the object store.",
            details=details,
        )
    return LamppostError(
        Kind.INTERNAL, f"The object store refused a request ({named}).", details=details
    )


def key_refused(error: LamppostError) -> bool:
    """Whether the store took the key for no good one."""
    return error.details.get("code") in KEYS | UNSAID


def missing(key: str) -> LamppostError:
    return LamppostError(Kind.NOT_FOUND, f"There is no object {key}.", details={"key": key})


_KNOWN: tuple[tuple[Callable[[int, str], bool], tuple[Kind, str, str]], ...] = (
    (
        lambda _, code: code == "NoSuchBucket",
        (
            Kind.UNAVAILABLE,
            "The object store has no such bucket.",
            "Make the bucket that s3.bucket names, or correct the setting.",
        ),
    ),
    (
        lambda _, code: code in SKEW,
        (
            Kind.DOUBT,
            "The clocks of this machine and of the object store differ too much ({code}).",
            "Synchronise both clocks.",
        ),
    ),
    (
        lambda status, code: code in FULL or status == 507,
        (
            Kind.FULL,
            "The object store is full ({code}).",
            "Give it room or raise its quota; everything waits in the spool until then.",
        ),
    ),
    (
        lambda status, code: code in KEYS or status in (401, 403),
        (
            Kind.UNAVAILABLE,
            "The object store refuses this access key ({code}).",
            "Check the files that s3.access_key_file and s3.secret_key_file name, and the rights "
            "of that key on the bucket.",
        ),
    ),
    (
        lambda status, _: status == 416,
        (Kind.RANGE_NOT_SATISFIABLE, "The object ends before the range begins.", ""),
    ),
    (
        lambda _, code: code in MISMATCH,
        (
            Kind.UNAVAILABLE,
            "The bytes reached the object store damaged ({code}).",
            "See the network between this machine and the store.",
        ),
    ),
    (
        lambda _, code: code == "RequestTimeout",
        (Kind.TIMEOUT, "The object store waited too long for bytes.", ""),
    ),
    (
        lambda status, code: code == "NoSuchUpload" or status == 409,
        (Kind.UNAVAILABLE, "Another request was in the way ({code}).", "It is tried again."),
    ),
    (
        lambda status, _: status in (400, 505) or 300 <= status < 400,
        (
            Kind.UNAVAILABLE,
            "What answers at s3.endpoint does not understand this request ({code}).",
            "Check s3.endpoint (http or https, host, port) and s3.region.",
        ),
    ),
)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it carries, and what it came from; few, and each once."""
    seen: list[BaseException] = [error]
    for one in seen:
        yield one
        inner = [*one.args, one.__cause__, one.__context__, getattr(one, "reason", None)]
        seen += [
            item
            for item in inner
            if isinstance(item, BaseException) and not any(item is known for known in seen)
        ]
        if len(seen) > 20:
            return


def lost(error: BaseException) -> LamppostError:
    """The kind of a connection that failed."""
    causes = list(_causes(error))
    if any(isinstance(one, http.NewConnectionError | ConnectionRefusedError) for one in causes):
        what = "The object store does not answer: nobody accepts connections at s3.endpoint."
        return LamppostError(Kind.UNAVAILABLE, what, fix="Start it, or correct s3.endpoint.")
    if any(isinstance(one, http.TimeoutError | TimeoutError) for one in causes):
        return LamppostError(
            Kind.TIMEOUT,
            "The object store was silent for too long.",
            fix="See whether it is overloaded; s3.timeout_s is the limit.",
        )
    if any(isinstance(one, http.SSLError) for one in causes):
        return LamppostError(
            Kind.UNAVAILABLE,
            "The object store's certificate cannot be verified, or it does not speak TLS.",
            fix="Check s3.ca_file, and whether s3.endpoint begins with https.",
        )
    return LamppostError(
        Kind.UNAVAILABLE,
        f"The connection to the object store broke ({type(causes[-1]).__name__}).",
        fix="See whether the object store runs.",
    )


def broke_early(error: BaseException) -> bool:
    """Whether the connection ended before any answer: of a kept one the other side had closed it
    meanwhile, so that a fresh one may do."""
    broken = (ConnectionResetError, BrokenPipeError, ConnectionAbortedError)
    return not isinstance(error, http.TimeoutError) and any(
        isinstance(one, broken) for one in _causes(error)
    )


def _raise(error: MinioException, key: str) -> NoReturn:
    """The client library's errors as ours."""
    if isinstance(error, S3Error):
        status = getattr(error.response, "status", 0) or 400
        raise refusal(Refused(status, error.code or ""), key) from error
    if isinstance(error, ServerError):
        raise refusal(Refused(error.status_code, ""), key) from error
    if isinstance(error, InvalidResponseError):
        raise refusal(Refused(error._code, ""), key) from error
    raise LamppostError(Kind.INTERNAL, f"The object store: {type(error).__name__}.") from error


@contextmanager
def connected() -> Iterator[None]:
    """A connection's errors leave as ours, a refusal as it is."""
    try:
        yield
    except (http.HTTPError, OSError) as error:
        raise lost(error) from error


@contextmanager
def translated(key: str = "") -> Iterator[None]:
    """Whatever a request raises leaves as one of our errors."""
    try:
        yield
    except LamppostError:
        raise
    except Refused as error:
        raise refusal(error, key) from error
    except MinioException as error:
        _raise(error, key)
    except (http.HTTPError, OSError) as error:
        raise lost(error) from error
    except (ElementTree.ParseError, ValueError) as error:
        raise LamppostError(
            Kind.UNAVAILABLE,
            "What answers at s3.endpoint does not answer as an object store does.",
            fix="Check s3.endpoint.",
        ) from error
