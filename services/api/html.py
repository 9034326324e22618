"""The few pages the api serves itself: plain HTML, no script, nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from html import escape

from starlette.responses import HTMLResponse

STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8882;--bad:#c0392b;--good:#1e8449}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:72rem;padding:1.5rem}
h1{font-size:1.4rem;margin:0 0 .25rem}h2{font-size:1.1rem;margin:1.5rem 0 .5rem}
p{margin:.25rem 0 .75rem}.quiet{opacity:.7}.bad{color:var(--bad)}.good{color:var(--good)}
form.card{max-width:24rem;border:1px solid var(--line);border-radius:.5rem;padding:1.25rem}
label{display:block;margin:.75rem 0 .25rem}
input{font:inherit;width:100%;padding:.5rem;border:1px solid var(--line);border-radius:.25rem}
button{font:inherit;margin-top:1rem;padding:.5rem 1rem;border:1px solid var(--line);
border-radius:.25rem;cursor:pointer}
header{display:flex;justify-content:space-between;align-items:start;gap:1rem;flex-wrap:wrap}
header form button{margin:0}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.4rem .6rem;border-bottom:1px solid var(--line)}
th,td:first-child{white-space:nowrap}
th{font-weight:600;background:var(--soft)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1rem}
dt{font-weight:600}dd{margin:0}
@media(max-width:32rem){dl{grid-template-columns:1fr}dd{margin-bottom:.5rem}}
"""
_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)


def page(
    title: str, body: str, *, status: int = 200, lang: str = "en", refresh_s: int = 0
) -> HTMLResponse:
    """A whole page; `body` is HTML whose values are escaped already."""
    refresh = f'<meta http-equiv="refresh" content="{refresh_s}">' if refresh_s else ""
    text = (
        f'<!doctype html><html lang="{lang}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"{refresh}<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body>{body}</body></html>"
    )
    return HTMLResponse(text, status, headers={"Content-Security-Policy": POLICY})


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table; cells are HTML already."""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )
