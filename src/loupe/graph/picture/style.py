"""Colour a picture so that it is legible on light and on dark pages."""

from __future__ import annotations

from string import Template
from typing import get_args

from loupe.graph.picture.outline import EdgeKind

KINDS: tuple[EdgeKind, ...] = get_args(EdgeKind)
TINTS = ("#0ea5e9", "#f59e0b", "#22c55e", "#ec4899", "#8b5cf6", "#84cc16")  # of the invokes, under everything else

# A picture lies on a card of its own, light, or dark where the reader's system is: it can be read whatever the page
# around it is. Every selector stays inside the picture, since it may stand in a page with others.
_SHAPES = """
.loupe-graph text{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
.loupe-graph .small{font-size:10px}
.loupe-graph .strong{font-weight:bold}
.loupe-graph .end{text-anchor:end}
.loupe-graph .wire{fill:none;stroke-width:1.5}
.loupe-graph .line{fill:none;stroke-width:2}
.loupe-graph .back{stroke-dasharray:5 3}
.loupe-graph .begin{stroke-width:2}
.loupe-graph .folded{stroke-dasharray:4 3}
.loupe-graph .pill{fill:#15803d}
.loupe-graph .tip{stroke:none}
.loupe-graph .onpill{fill:#fff}
"""
_COLOURS = Template("""
.loupe-graph .card{fill:$card}
.loupe-graph .ink{fill:$ink}
.loupe-graph .dim,.loupe-graph .small{fill:$dim}
.loupe-graph .box{fill:$box;stroke:$rim}
.loupe-graph .line{stroke:$line}
.loupe-graph .begin{stroke:$ink}
.loupe-graph .wire.read{stroke:$read}
.loupe-graph .wire.write{stroke:$write}
.loupe-graph .wire.gradient,.loupe-graph .back{stroke:$gradient}
.loupe-graph .wire.value{stroke:$dim}
.loupe-graph .point,.loupe-graph .tip.read{fill:$read}
.loupe-graph .tip.write{fill:$write}
.loupe-graph .grad,.loupe-graph .tip.gradient{fill:$gradient}
.loupe-graph .tip.value{fill:$dim}
""")
_LIGHT = {
    "card": "#fff", "ink": "#1f2328", "dim": "#656d78", "box": "#f6f8fa", "rim": "#c5ccd6", "line": "#94a3b8",
    "read": "#2563eb", "write": "#d9480f", "gradient": "#9333ea",
}  # fmt: skip
_DARK = {
    "card": "#1b1f24", "ink": "#e6e8eb", "dim": "#a3abb6", "box": "#2a3038", "rim": "#4b5563", "line": "#64748b",
    "read": "#6ea8fe", "write": "#fb923c", "gradient": "#c792ff",
}  # fmt: skip


def style_sheet() -> str:
    """The style sheet of a picture."""
    dark = f"@media(prefers-color-scheme:dark){{{_COLOURS.substitute(_DARK)}}}"
    return f"{_SHAPES}{_COLOURS.substitute(_LIGHT)}{dark}".replace("\n", "")
