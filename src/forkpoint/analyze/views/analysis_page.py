"""A page for any analysis: what was looked at, figures, tables and the token view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from forkpoint.analyze.views.page import Numbers, Panel, render_page, write_page
from forkpoint.analyze.views.summary import Fact

if TYPE_CHECKING:
    from forkpoint.analyze.views.answers import Answer


def write_analysis(
    out: Path,
    *,
    title: str,
    about: Mapping[str, str],
    panels: Sequence[Panel],
    facts: Sequence[Fact] = (),
    tables: Mapping[str, Numbers] | None = None,
    answers: Sequence[Answer] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Write one self-contained HTML file with the results of an analysis.

    Args:
        out: where to write. Replaced atomically.
        title: what was analysed.
        about: what stands under the title, such as the model and the number of tokens.
        panels: figures, drawn by ourselves; one without `svg` shows its sentence `absent`.
        facts: the summary.
        tables: caption to table; they sort.
        answers: what the token view shows.
        notes: what was missing or left out, one sentence each.

    Returns:
        The path written.

    Raises:
        InputError: the page cannot be written.
    """
    text = render_page(
        "analysis.html.j2", panels=panels, answers=answers, title=title, about=about, facts=facts,
        tables=dict(tables or {}), notes=list(notes),
    )  # fmt: skip
    write_page(Path(out), text)
    return Path(out)
