"""Secrets and signatures of webhooks, in the form of Standard Webhooks 1.0.

A secret must be had in clear to sign with it, so it is sealed in the table with the installation's
internal key, which lies outside of the database.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.errors import Kind, LamppostError

PREFIX = "whsec_"
_NONCE = 12


def new_secret() -> str:
    """A fresh secret, as the receiver is given it."""
    return PREFIX + base64.b64encode(secrets.token_bytes(24)).decode()


def signature(secret: str, event_id: str, timestamp_s: int, body: bytes) -> str:
    """The value of `webhook-signature`: HMAC-SHA256 over id, time and body."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = f"{event_id}.{timestamp_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


def headers(secret: str, event_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """The three headers of a signed request."""
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": signature(secret, event_id, timestamp_s, body),
    }


def _sealer(internal_key: str) -> AESGCM:
    key = hmac.digest(internal_key.encode(), b"lamppost webhook secrets v1", hashlib.sha256)
    return AESGCM(key)


def seal(internal_key: str, webhook_id: str, secret: str) -> bytes:
    """The secret as it lies in the table."""
    nonce = os.urandom(_NONCE)
    return nonce + _sealer(internal_key).encrypt(nonce, secret.encode(), webhook_id.encode())


def unseal(internal_key: str, webhook_id: str, sealed: bytes) -> str:
    """The secret back. CORRUPT when the internal key is another one now."""
    try:
        found = _sealer(internal_key).decrypt(sealed[:_NONCE], sealed[_NONCE:], webhook_id.encode())
    except (InvalidTag, ValueError) as error:
        raise LamppostError(
            Kind.CORRUPT,
            "The webhook's secret cannot be read: the internal key has changed.",
            fix="Delete the webhook and add it again.",
        ) from error
    return found.decode()
