"""What a camera's configuration may say: checked at every write, and again by the recorder.

Users cannot make the server read other files or hosts than configured, and no password is ever
stored: sources name a secret, which the operator puts on the recorder's machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from shared.domain import Camera, Point
from shared.errors import Kind, LamppostError
from shared.ids import check_camera_id
from shared.settings import Settings

MIN_AREA = 1e-6


def _invalid(message: str, fix: str) -> LamppostError:
    return LamppostError(Kind.INVALID, message, fix=fix)


def check_camera(camera: Camera, settings: Settings) -> None:
    """Raise INVALID, with what to do, for a configuration that must not be stored."""
    check_camera_id(camera.id)
    check_url(camera.source.url, settings)
    if camera.source.sub_url is not None:
        check_url(camera.source.sub_url, settings)
    if (camera.latitude is None) != (camera.longitude is None):
        raise _invalid("Only one of latitude and longitude is given.", "Give both or none.")
    if camera.mask.polygons and camera.mask.applied_by == "lamppost":
        raise _invalid(
            "A mask that Lamppost burns in is not built yet, so this camera is refused.",
            "Set the mask in the camera and say applied_by: camera.",
        )
    for polygon in camera.mask.polygons:
        check_polygon(polygon)


def check_url(url: str, settings: Settings) -> None:
    """A source address that may be read: scheme, no credentials, allowed file or host."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise _invalid(
            "The source address cannot be read.", "Write rtsp://host:port/path."
        ) from error
    if "@" in parts.netloc:
        raise _invalid(
            "The source address holds a user name or password.",
            "Leave it out, and name a secret: `secret`, a file `user:password` in the folder of"
            " setting ingest.secrets_dir.",
        )
    if parts.scheme == "file":
        _check_file(parts, settings)
    elif parts.scheme in ("rtsp", "rtsps"):
        if not host:
            raise _invalid("The source address names no host.", "Write rtsp://host:port/path.")
        _check_host(host, settings.ingest.rtsp_hosts)
    else:
        raise _invalid(
            f"Sources of scheme {parts.scheme[:20] or 'none'!r} are not supported.",
            "Use rtsp://, rtsps:// or file:///.",
        )


def _check_file(parts: SplitResult, settings: Settings) -> None:
    """Below a configured folder once links are followed; whether it exists is not told."""
    path = unquote(parts.path)
    if parts.netloc or parts.query or parts.fragment or not path.startswith("/") or "\0" in path:
        raise _invalid("The file address is not plain.", "Write file:///folder/name.mp4.")
    folders = [settings.path(folder) for folder in settings.ingest.footage_dirs]
    try:
        real = Path(path).resolve()
        inside = any(real.is_relative_to(folder.resolve()) for folder in folders)
    except (OSError, RuntimeError, ValueError):
        inside = False
    if not inside:
        raise _invalid(
            "The file does not lie below a configured footage folder.",
            "Move it there, or have the operator add its folder to setting ingest.footage_dirs.",
        )


def _check_host(host: str, allowed: Sequence[str]) -> None:
    if allowed and not any(_host_matches(host.lower(), entry.lower()) for entry in allowed):
        raise _invalid(
            "This host is not one that RTSP may reach.",
            "Have the operator add it to setting ingest.rtsp_hosts; where that lists networks,"
            " write the camera's address.",
        )


def _host_matches(host: str, entry: str) -> bool:
    if host == entry:
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False


def check_zone(kind: str, points: Sequence[Point]) -> None:
    """A zone is a simple polygon, a line has two different ends."""
    if kind == "zone":
        check_polygon(points)
    elif len(points) != 2 or points[0] == points[1]:
        raise _invalid("A line has two different points.", "Give exactly two.")


def check_polygon(points: Sequence[Point]) -> None:
    """At least three corners, no side that crosses or touches another, and an area."""
    corners = list(points)
    if len(corners) > 3 and corners[0] == corners[-1]:
        raise _invalid("The polygon repeats its first point.", "Leave the last point out.")
    if len(corners) < 3:
        raise _invalid("A polygon has at least three points.", "Add points.")
    area = sum(
        a[0] * b[1] - b[0] * a[1] for a, b in zip(corners, corners[1:] + corners[:1], strict=True)
    )
    if abs(area) / 2 < MIN_AREA:
        raise _invalid("The polygon has no area.", "Move its points apart.")
    sides = list(zip(corners, corners[1:] + corners[:1], strict=True))
    for i, first in enumerate(sides):
        for j in range(i + 1, len(sides)):
            neighbours = j == i + 1 or (i == 0 and j == len(sides) - 1)
            if _clash(first, sides[j], neighbours):
                raise _invalid("The polygon crosses itself.", "Order its points around its edge.")


Side = tuple[Point, Point]


def _clash(a: Side, b: Side, neighbours: bool) -> bool:
    """Whether two sides meet where they should not; neighbours share one corner rightly."""
    if neighbours:
        shared = a[1] if a[1] == b[0] else a[0]
        far_a = a[0] if shared == a[1] else a[1]
        far_b = b[1] if shared == b[0] else b[0]
        return far_a == far_b or _on(far_b, a) or _on(far_a, b)
    turns = (_turn(*a, b[0]), _turn(*a, b[1]), _turn(*b, a[0]), _turn(*b, a[1]))
    if turns[0] * turns[1] < 0 and turns[2] * turns[3] < 0:
        return True
    return _on(b[0], a) or _on(b[1], a) or _on(a[0], b) or _on(a[1], b)


def _turn(a: Point, b: Point, c: Point) -> float:
    value = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
    return 0.0 if abs(value) < 1e-12 else value


def _on(point: Point, side: Side) -> bool:
    a, b = side
    return (
        _turn(a, b, point) == 0
        and min(a[0], b[0]) <= point[0] <= max(a[0], b[0])
        and min(a[1], b[1]) <= point[1] <= max(a[1], b[1])
    )
