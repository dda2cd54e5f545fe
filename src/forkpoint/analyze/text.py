"""Foreign text made harmless before anything shows it."""

from __future__ import annotations

import unicodedata

_KEPT_FORMATS = {"\n", "\t", "\u200c", "\u200d"}


def visible(text: str) -> str:
    r"""Return text with every character that could hide, reorder or end it shown instead of obeyed.

    Control characters, bidirectional marks, zero-width and unassigned characters become their code
    point. Line breaks, tabs and the joiners that scripts need stay.

    >>> visible("a\x00b\u202ec")
    'a⟨U+0000⟩b⟨U+202E⟩c'
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else _visible(c) for c in text)


def _visible(char: str) -> str:
    if char in _KEPT_FORMATS or unicodedata.category(char) in ("Zs", "Co"):
        return char
    return f"⟨U+{ord(char):04X}⟩"
