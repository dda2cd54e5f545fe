"""A page for any analysis: what was looked at, figures, tables and the token view."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from forkpoint.analyze.views.page import Numbers, Panel, render_page, write_page
from forkpoint.analyze.views.summary import Fact
from forkpoint.errors import InputError

if TYPE_CHECKING:
    from forkpoint.analyze.views.alarms import RunWarning
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
    warnings: Sequence[RunWarning] = (),
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
        warnings: what looks wrong in the run.

    Returns:
        The path written.

    Raises:
        InputError: the page cannot be written.
    """
    text = render_page(
        "analysis.html.j2", panels=panels, answers=answers, title=title, about=about, facts=facts,
        tables=dict(tables or {}), notes=list(notes), warnings=list(warnings),
    )  # fmt: skip
    write_page(Path(out), text)
    return Path(out)


def drawn(title: str, caption: str, draw: Callable[[], tuple[str, str]]) -> Panel:
    """Return a figure as a panel, or its reason where it cannot be made: the rest of the page still comes out.

    Args:
        title: of the panel.
        caption: what the figure shows.
        draw: returns an `<svg>` element of our own and what the caption says besides; an `InputError` is the reason.
    """
    try:
        svg, more = draw()
    except InputError as error:
        return Panel(title=title, caption=caption, absent=f"Not drawn: {str(error).removesuffix('.')}.")
    return Panel(title=title, caption=f"{caption} {more}".rstrip(), svg=svg)
