"""Figures of matplotlib as SVG for the page: text stays text, and the colours are the page's own, in light and dark.

A figure is drawn in colours that stand for names, which become variables of the stylesheet. The same figure gives the
same text.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

WIDTH = 4.4
"""Inches: on a narrow screen the text is still read without a lens."""

_PALETTE = ("ink", "muted", "line", "data", "good", "bad", "unknown", "h1", "h2", "h3", "h4", "h5", "h6")
_NAMES = {f"#{number:02x}{number:02x}{number:02x}": name for number, name in enumerate(_PALETTE, 1)}
INK, MUTED, LINE, DATA, GOOD, BAD, UNKNOWN, *HEATS = _NAMES
"""What the colours of a figure stand for; `HEATS` are those of the least to the most."""

_COLOUR = re.compile("|".join(_NAMES))
_REFERENCE = re.compile(r"#([\w-]+)")
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "packer",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}


def draw(name: str, label: str, height: float, paint: Callable[[Any, Any], None]) -> str:
    """What `paint` draws, given a figure of that height in inches and its axes, as an `svg` element for HTML.

    `name` is unique on the page; `label` tells what the figure shows to those who cannot see it.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        paint(figure, figure.subplots())
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return _for_html(ElementTree.fromstring(text.getvalue()), name, label)  # noqa: S314 - it is ours


def _for_html(root: ElementTree.Element, name: str, label: str) -> str:
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    named = _referenced(root)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {
            key: value
            for key, value in ((_local(key), _rewritten(_local(key), value, name)) for key, value in element.items())
            if key != "id" or value.removeprefix(f"{name}-") in named
        }
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")


def _referenced(root: ElementTree.Element) -> set[str]:
    values = (
        value for element in root.iter() for key, value in element.items() if _local(key) in ("href", "clip-path")
    )
    return {match.group(1) for value in values for match in _REFERENCE.finditer(value)}


def _rewritten(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "style":
        return _COLOUR.sub(lambda match: f"var(--{_NAMES[match.group()]})", value)
    return _REFERENCE.sub(rf"#{name}-\1", value) if key in ("href", "clip-path") else value


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]
