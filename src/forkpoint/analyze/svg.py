"""Turning a matplotlib figure into an SVG element that can live inside a page with others."""

from __future__ import annotations

import io
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Mapping

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, MUTED, GRID = "#1f2329", "#5b6470", "#dfe3e8"
# Okabe and Ito's colours: told apart with every common form of colour blindness.
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#c8550a", "#00805f", "#a8488f"
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    BLUE: "--series-1",
    ORANGE: "--series-2",
    GREEN: "--series-3",
    PURPLE: "--series-4",
}
_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}href"


def to_svg(figure: Figure, name: str, label: str) -> str:
    """Draw a figure as one `<svg>` element: labelled, with ids of its own, without dates and global style.

    Args:
        figure: What to draw.
        name: Prefix of all ids.
        label: What the figure shows, in words, for those who cannot see it.

    Returns:
        The element as text, usable inline in HTML and as a file.
    """
    figure.align_ylabels()
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "DejaVu Sans"}), warnings.catch_warnings():
        # Text stays text in the file: whoever shows it has the glyphs that our font lacks.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .*missing from")
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    root = ET.fromstring(buffer.getvalue())  # noqa: S314 (our own output, not foreign XML)
    styles = "".join(node.get(key, "") for node in root.iter() for key in ("style", "clip-path", _XLINK))
    ids = {old: f"{name}-{index}" for index, old in enumerate(_referenced(root, styles))}
    for node in root.iter():
        node.tag = node.tag.removeprefix(_SVG)
        node.text, node.tail = (node.text or "").strip(), None
        if "d" in node.attrib:
            node.set("d", " ".join(node.attrib["d"].split()))
        old = node.attrib.pop("id", None)
        if old in ids:
            node.set("id", ids[old])
        if _XLINK in node.attrib:
            node.set("href", "#" + ids[node.attrib.pop(_XLINK).removeprefix("#")])
        for key in ("style", "clip-path"):
            if key in node.attrib:
                node.set(key, _restyled(node.attrib[key], ids))
    for parent in list(root.iter()):
        for child in list(parent):
            # matplotlib's <style> would apply to the whole page that holds the figure.
            if child.tag in ("metadata", "style"):
                parent.remove(child)
    # The page sets the width; the viewBox keeps the shape.
    root.attrib |= {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "aria-label": label}
    root.attrib |= {"stroke-linejoin": "round"}
    root.attrib.pop("version", None)
    return ET.tostring(root, encoding="unicode")


def _referenced(root: ET.Element, styles: str) -> list[str]:
    found = [node.get("id", "") for node in root.iter()]
    return [name for name in found if name and f"#{name}" in styles]


def _restyled(style: str, ids: Mapping[str, str]) -> str:
    for old, new in ids.items():
        style = style.replace(f"url(#{old})", f"url(#{new})")
    for color, variable in _VARIABLES.items():
        style = style.replace(color, f"var({variable},{color})")
    return style
