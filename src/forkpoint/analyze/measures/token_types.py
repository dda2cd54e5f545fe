"""The most and least uncertain token types, as a ranked table and as a word cloud.

Source: arXiv 2506.01939, figures 2b and 2c.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from forkpoint.analyze import drawing
from forkpoint.analyze.measures.flat import Floats, Ints, tokens
from forkpoint.analyze.svg import BLUE, GREEN, INK, ORANGE, PURPLE
from forkpoint.errors import InputError

Labels = Sequence[str] | Sequence[int] | Ints


@dataclass(frozen=True, kw_only=True)
class TokenType:
    """One kind of token."""

    token: str | int
    """Its text, or its id where no texts were given."""
    count: int
    entropy: float
    """Mean entropy of the positions where it was written, nats."""
    low: float
    """Lower end of the interval over responses, 0 at least; NaN where one response wrote them all."""
    high: float
    responses: int
    """Responses that wrote it."""


@dataclass(frozen=True, kw_only=True)
class TokenTypes:
    """Token types ranked by mean entropy."""

    most: tuple[TokenType, ...]
    """Most uncertain first."""
    least: tuple[TokenType, ...]
    """Least uncertain first."""
    types: int
    """Types in the corpus."""
    counted: int
    """Types that occur often enough."""
    min_count: int
    left_out: int


def token_types(
    labels: Labels,
    entropy: ArrayLike,
    offsets: ArrayLike,
    *,
    min_count: int = 100,
    top: int = 100,
    level: float = 0.95,
) -> TokenTypes:
    r"""Return the token types with the highest and lowest mean entropy.

        m_k = (1/n_k) Σ_{t of type k} H_t over types with n_k > min_count
        error_k² = R/(R - 1) Σ_r (s_rk - m_k n_rk)² / n_k²   over the R responses that wrote type k

    Entropy belongs to the position, before the token is drawn; a type's mean is over the positions where it was
    drawn. Types are told apart exactly as given, case and spaces included. The interval is symmetric, and cut at 0:
    no mean entropy lies below, so the cut takes nothing from its coverage.

    Args:
        labels: (N,) token ids or token texts.
        entropy: (N,) nats; NaN is left out.
        offsets: int (R + 1,).
        min_count: only types that occur more often than this.
        top: how many of each kind.
        level: coverage of Student's t interval.

    Returns:
        The tables; both are empty where no type is frequent enough. Equal means are ordered by label.

    Raises:
        InputError: arrays that do not fit, or no token with a number.

    Source: arXiv 2506.01939 figures 2b, 2c (more than 100 occurrences, 100 types each).

    >>> found = token_types(["so", "2", "so"], [1.0, 0.0, 2.0], [0, 3], min_count=0, top=1)
    >>> (found.most[0].token, found.most[0].entropy), found.least[0].token
    (('so', 1.5), '2')
    """
    if len(labels) != np.asarray(entropy).size:
        raise InputError(f"{len(labels)} labels do not match {np.asarray(entropy).size} entropies: give one a token")
    data = tokens(offsets, entropy=entropy)
    names, type_M = _numbered(labels)
    type_N = type_M if data.kept_M is None else type_M[data.kept_M]
    value_N, K = data.value["entropy"], len(names)
    count_K = np.bincount(type_N, minlength=K)
    often = np.flatnonzero(count_K > min_count)
    mean_K = np.bincount(type_N, weights=value_N, minlength=K) / np.maximum(count_K, 1)
    order = often[np.argsort(mean_K[often], kind="stable")]
    least, most = order[:top], order[::-1][:top]
    if order.size:  # equal means: by label in both directions
        most = often[np.argsort(-mean_K[often], kind="stable")][:top]
    rows = _rows(names, np.union1d(least, most), type_N, data.response_N, value_N, level)
    return TokenTypes(
        most=tuple(rows[int(k)] for k in most),
        least=tuple(rows[int(k)] for k in least),
        types=int((count_K > 0).sum()),
        counted=int(often.size),
        min_count=min_count,
        left_out=data.left_out,
    )


def _numbered(labels: Labels) -> tuple[list[str] | list[int], Ints]:
    """Return the distinct labels in order and which of them every token has."""
    if len(labels) and isinstance(labels[0], str):
        import pyarrow as pa

        # Hashing ten million texts is several times faster than sorting them.
        coded = pa.array(labels, type=pa.large_string()).dictionary_encode()
        texts = coded.dictionary.to_pylist()
        by_text = sorted(range(len(texts)), key=texts.__getitem__)
        place = np.empty(len(texts), dtype=np.int64)
        place[by_text] = np.arange(len(texts))
        return [texts[k] for k in by_text], place[coded.indices.to_numpy()]
    ids = np.asarray(labels)
    if not np.issubdtype(ids.dtype, np.integer):
        raise InputError("token labels are ids (whole numbers) or texts, one a token")
    distinct, which = np.unique(ids, return_inverse=True)
    return distinct.tolist(), which.reshape(-1)


def _rows(
    names: list[str] | list[int], chosen: Ints, type_N: Ints, response_N: Ints, value_N: Floats, level: float
) -> dict[int, TokenType]:
    from scipy.stats import t as student

    keep_N = np.isin(type_N, chosen)
    responses = int(response_N.max()) + 1
    cells, cell_N = np.unique(type_N[keep_N] * responses + response_N[keep_N], return_inverse=True)
    size_C = np.bincount(cell_N.reshape(-1)).astype(np.float64)
    sum_C = np.bincount(cell_N.reshape(-1), weights=value_N[keep_N])
    type_C = cells // responses
    found = {}
    for k in chosen.tolist():
        first, last = np.searchsorted(type_C, [k, k + 1])
        n_R, s_R = size_C[first:last], sum_C[first:last]
        mean, units = float(s_R.sum() / n_R.sum()), int(last - first)
        half = math.nan
        if units > 1:
            error = math.sqrt(units / (units - 1) * float(((s_R - mean * n_R) ** 2).sum())) / float(n_R.sum())
            half = float(student.ppf(0.5 + level / 2, units - 1)) * error
        found[k] = TokenType(
            token=names[k], count=int(n_R.sum()), entropy=mean, low=float(np.maximum(mean - half, 0.0)),
            high=mean + half, responses=units,
        )  # fmt: skip
    return found


def plot_word_cloud(
    types: Sequence[TokenType], *, name: str = "word-cloud", title: str = "", size: tuple[int, int] = (640, 360)
) -> str:
    """Draw token types as words whose size grows with mean entropy, the most uncertain in the middle.

    The words are placed on a spiral by fixed rules, so the same table gives the same picture; a word for which
    no place is left is not drawn, and the label says how many were. Spaces are shown as ␣.

    Args:
        types: rows of `TokenTypes.most` or `TokenTypes.least`.
        name: id of the element.
        title: what the cloud shows, for those who cannot see it.
        size: width and height words may take, in units of the view box.

    Returns:
        An `<svg>` element as text.
    """
    width, height = size
    root = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "id": name})
    values = np.array([row.entropy for row in types], dtype=np.float64)
    spread = float(np.ptp(values)) if values.size else 0.0
    boxes = np.empty((0, 4))
    order = np.argsort(-values, kind="stable")
    for place, index in enumerate(order.tolist()):
        row = types[index]
        text = drawing.plain(str(row.token).replace(" ", "␣"), 24) or "∅"
        part = (row.entropy - float(values.min())) / spread if spread > 0 else 0.5
        points = 11.0 + 23.0 * part
        wide = 0.62 * points * sum(2 if ord(char) > 0x2E7F else 1 for char in text)
        box = _free_place(boxes, wide + 6, 1.12 * points, width, height)
        if box is None:
            continue
        boxes = np.vstack([boxes, box])
        color, variable = _COLORS[place % len(_COLORS)]
        word = ET.SubElement(root, "text")
        word.set("x", f"{(box[0] + box[2]) / 2:.1f}")
        word.set("y", f"{(box[1] + box[3]) / 2 + 0.34 * points:.1f}")
        # Every browser gives the word the width it was placed with, whatever font it has.
        word.set("textLength", f"{wide:.1f}")
        word.set("lengthAdjust", "spacingAndGlyphs")
        word.set("text-anchor", "middle")
        word.set("font-family", "ui-monospace, 'DejaVu Sans Mono', monospace")
        word.set("font-size", f"{points:.1f}")
        word.set("style", f"fill:var({variable},{color})")
        word.text = text
        hint = ET.SubElement(word, "title")
        hint.text = f"{text}: {row.entropy:.3f} nats, {row.count:,} times"
    left, top, right, bottom = _bounds(boxes, width, height)
    root.set("viewBox", f"{left:.0f} {top:.0f} {right - left:.0f} {bottom - top:.0f}")
    words = f"{title + '. ' if title else ''}{len(boxes)} of {len(types)} token types drawn"
    best = "; ".join(f"{drawing.plain(str(types[i].token), 24)} {types[i].entropy:.3f}" for i in order[:5].tolist())
    root.set("aria-label", f"{words}. Largest: {best}." if best else f"{words}.")
    if not len(boxes):
        empty = ET.SubElement(root, "text", {"x": "12", "y": "28", "style": f"fill:var(--ink,{INK})"})
        empty.text = "No token type occurs often enough."
    return ET.tostring(root, encoding="unicode")


_COLORS = ((BLUE, "--series-1"), (ORANGE, "--series-2"), (GREEN, "--series-3"), (PURPLE, "--series-4"), (INK, "--ink"))


def _bounds(boxes: Floats, width: int, height: int) -> tuple[float, float, float, float]:
    """Return the part of the canvas that holds words, with a margin and never narrower than half the canvas."""
    if not len(boxes):
        return 0.0, 0.0, float(width), 48.0
    reach_x = max(float(np.abs(boxes[:, [0, 2]] - width / 2).max()) + 10, width / 4)
    reach_y = float(np.abs(boxes[:, [1, 3]] - height / 2).max()) + 10
    return width / 2 - reach_x, height / 2 - reach_y, width / 2 + reach_x, height / 2 + reach_y


def _free_place(boxes: Floats, wide: float, high: float, width: int, height: int) -> Floats | None:
    """Return the first box on an elliptic spiral from the middle that touches no other, or None."""
    angle = np.arange(0.0, 40 * math.pi, 0.12)
    reach = angle / angle[-1]
    x = width / 2 + reach * width / 2 * np.cos(angle)
    y = height / 2 + reach * height / 2 * np.sin(angle)
    spots = np.stack([x - wide / 2, y - high / 2, x + wide / 2, y + high / 2], axis=1)
    inside = (spots[:, :2] >= 2).all(1) & (spots[:, 2] <= width - 2) & (spots[:, 3] <= height - 2)
    apart = (
        (spots[:, None, 2] <= boxes[None, :, 0])
        | (spots[:, None, 0] >= boxes[None, :, 2])
        | (spots[:, None, 3] <= boxes[None, :, 1])
        | (spots[:, None, 1] >= boxes[None, :, 3])
    ).all(1)
    free = np.flatnonzero(inside & apart)
    return spots[free[0]] if free.size else None
