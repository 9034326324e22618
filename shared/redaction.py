"""Takes secrets out of what is logged: those that look like one, and those that are known.

Whoever reads a password or key out of a file says so to `hide`; from then on it stands in no line,
whatever error repeats it. Beside that, what looks like credentials goes: inside URLs, after
`password=` and its kin, bearer words, our own API keys and media tokens, signed addresses of an
object store, web tokens and private keys. docs/guide/operator.md, "Logs".
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from typing import Any

GONE = "***"
SHORTEST = 6
"""A known secret shorter than this would blank out half of the log; as part of a URL or after
`password=` it goes all the same."""
MAX_KNOWN = 10_000
MAX_DEPTH = 4

_NAMES = (
    r"password|passwd|passphrase|pwd|token|access_?token|api_?key|access_?key|secret_?key|"
    r"secret_?access_?key|client_?secret|internal_?key|authorization|cookie|signature|"
    r"x-amz-(?:signature|credential|security-token)"
)
_NAME = re.compile(rf"(?i)(?:[a-z0-9_.-]{{0,40}}_)?(?:{_NAMES})")
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]{0,20}://)[^/\s\"'<>]*@"), rf"\1{GONE}@"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|\Z)", re.S), GONE),
    (re.compile(r"(?i)\b(bearer|basic)\s+(?=\S*[0-9=])[a-z0-9._~+/=-]{6,}"), rf"\1 {GONE}"),
    (re.compile(r"\blp_[A-Za-z0-9]+_[A-Za-z0-9_-]{8,}"), f"lp_{GONE}"),
    (re.compile(r"\bwhsec_[A-Za-z0-9+/]{8,}=*"), f"whsec_{GONE}"),
    (re.compile(r"(/v1/media/)[A-Za-z0-9_-]{20,}"), rf"\1{GONE}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), GONE),
    (
        re.compile(rf"(?i)\b((?:[a-z0-9_.-]{{0,40}}_)?(?:{_NAMES})[\"']?\s*[=:]\s*)"
                   r"(?:\"[^\"]*\"|'[^']*'|[^\s,;&\"'})\]]+)"),
        rf"\1{GONE}",
    ),
)  # fmt: skip
_lock = threading.Lock()
_known: dict[str, None] = {}
_known_pattern: re.Pattern[str] | None = None


def hide(secret: str) -> str:
    """The secret itself, which no log line shows from here on."""
    global _known_pattern
    if len(secret) >= SHORTEST and secret not in _known:
        with _lock:
            if len(_known) >= MAX_KNOWN:
                del _known[next(iter(_known))]
            _known[secret] = None
            words = sorted(_known, key=len, reverse=True)
            _known_pattern = re.compile("|".join(map(re.escape, words)))
    return secret


def redact(text: str) -> str:
    """The text without what is, or looks like, a secret."""
    if _known_pattern is not None:
        text = _known_pattern.sub(GONE, text)
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text


def cleaned(value: Any, depth: int = 0) -> Any:
    """A value of a log line without secrets: text in it is redacted, a member with a secret's name
    is blanked, and what is neither text, number nor a list or table of them becomes text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, bytes):
        return redact(value.decode("utf-8", "replace"))
    if depth < MAX_DEPTH:
        if isinstance(value, Mapping):
            return {
                redact(str(name)): member(str(name), item, depth + 1)
                for name, item in value.items()
            }
        if isinstance(value, list | tuple | set | frozenset):
            return [cleaned(item, depth + 1) for item in value]
    return redact(str(value))


def member(name: str, value: Any, depth: int = 0) -> Any:
    """The value of a member, nothing of it where the name is a secret's."""
    return GONE if value and _NAME.fullmatch(name) else cleaned(value, depth)
