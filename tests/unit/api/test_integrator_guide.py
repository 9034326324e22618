"""The example of docs/guide/integrator.md works, on the guide's own request and on ours."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.api import webhook_signing

GUIDE = (Path(__file__).parents[3] / "docs" / "guide" / "integrator.md").read_text("utf-8")


def example() -> Callable[..., bool]:
    [code] = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    found: Callable[..., bool] = names["is_from_lamppost"]
    return found


def test_it_takes_our_requests_and_no_others() -> None:
    check, body, now_s = example(), b'{"id": "e-1"}', 1_795_590_000
    secret = webhook_signing.new_secret()
    headers = webhook_signing.headers(secret, "e-1", now_s, body)
    assert check(secret, headers, body, now_s + 299)
    assert not check(secret, headers, body, now_s + 301)
    assert not check(secret, headers, body + b" ", now_s)
    assert not check(webhook_signing.new_secret(), headers, body, now_s)
    for name in headers:
        assert not check(secret, {**headers, name: "1"}, body, now_s), name
        assert not check(secret, {k: v for k, v in headers.items() if k != name}, body, now_s)
    rotated = {**headers, "webhook-signature": "v1,other " + headers["webhook-signature"]}
    assert check(secret, rotated, body, now_s)


def test_the_request_shown_is_signed_with_the_secret_shown() -> None:
    secret = re.search(r"whsec_[A-Za-z0-9+/=]+", GUIDE)
    request = re.search(r"```\nPOST /lamppost HTTP/1.1\n(.*?)\n\n(.*?)\n```", GUIDE, re.DOTALL)
    assert secret and request
    headers = dict(line.split(": ", 1) for line in request[1].splitlines())
    now_s = int(headers["webhook-timestamp"])
    assert example()(secret[0], headers, request[2].encode(), now_s)
