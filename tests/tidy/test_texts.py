"""Docs whose links lead somewhere; no machine's paths, no registry's hosts, no loose ends."""

from __future__ import annotations

import re
from pathlib import Path

from tests.tidy.tree import ROOT, texts

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
# Put together here so that this file does not break its own rule.
HOSTS = tuple(
    name + "." + end
    for name, end in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("deb.debian", "org"),
        ("security.debian", "org"),
        ("maven", "org"),
        ("proxy.golang", "org"),
        ("crates", "io"),
    )
)
MACHINE_PATHS = tuple("/" + name + "/" for name in ("work", "root"))
LOOSE_END = re.compile(r"\b(?:TODO|FIX" + r"ME|XXX)\b(?!\(#\d+\))")


def _anchors(text: str) -> set[str]:
    """GitHub's anchors of a page's headings."""
    found = set()
    for heading in HEADING.findall(FENCE.sub("", text)):
        plain = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
        found.add(plain.replace(" ", "-"))
    return found


def dead_links(name: str, text: str) -> list[str]:
    """Relative links of a page that lead nowhere."""
    dead = []
    for match in LINK.finditer(FENCE.sub("", text)):
        target = match[1] or match[2]
        if re.match(r"^[a-z][a-z0-9+.-]*:", target):
            continue
        path, _, anchor = target.partition("#")
        page = (ROOT / name).parent / path if path else ROOT / name
        if not page.exists():
            dead.append(f"{name}: {target}")
        elif anchor and page.suffix == ".md" and anchor not in _anchors(page.read_text("utf-8")):
            dead.append(f"{name}: {target} (no such heading)")
    return dead


def test_links_lead_somewhere() -> None:
    dead = [
        link for name, text in texts() if name.endswith(".md") for link in dead_links(name, text)
    ]
    assert dead == []


def test_a_dead_link_is_noticed() -> None:
    assert dead_links("README.md", "[x](no/such/page.md)")
    assert dead_links("README.md", "[x](#no-such-heading-anywhere)")
    assert not dead_links("README.md", "[x](LICENSE)")


def test_no_machine_paths_and_no_registry_hosts() -> None:
    found = [
        f"{name}: {word}"
        for name, text in texts()
        for word in (*HOSTS, *MACHINE_PATHS)
        if re.search(
            r"(?<![\w.\-/])" + re.escape(word) if word[0] == "/" else re.escape(word), text
        )
    ]
    assert found == []


def test_loose_ends_name_their_issue() -> None:
    found = [
        f"{name}:{number}"
        for name, text in texts()
        if not name.endswith((".md", ".txt"))
        for number, line in enumerate(text.splitlines(), 1)
        if LOOSE_END.search(line) and name != str(Path(__file__).relative_to(ROOT))
    ]
    assert found == []


def test_no_lock_names_an_address() -> None:
    found = [name for name, text in texts() if name.startswith("requirements/") and "://" in text]
    assert found == []
