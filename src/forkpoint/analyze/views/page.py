"""What every page of ours shares: templates with escaping, one style, one script, and an atomic write.

A page is one HTML file that opens from disk, without server or network. Its content policy lets nothing run but its
own script and loads nothing. Foreign text is hostile: characters that would hide or reorder it are made visible,
then everything is escaped once, by jinja2.
"""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forkpoint.analyze.rundata import number
from forkpoint.analyze.text import visible
from forkpoint.analyze.views.tokenview import ENTROPY_EDGES, MEASURES, token_data
from forkpoint.errors import InputError
from forkpoint.train.files import output_path

if TYPE_CHECKING:
    from jinja2 import Environment

    from forkpoint.analyze.views.answers import Answer

TEMPLATES = Path(__file__).parent / "templates"
_SCRIPTS = ("tables.js", "tokens.js")
_ROWS_SHOWN = 60


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A figure with the sentence that says what it shows; without `svg`, the sentence that says why not."""

    title: str
    caption: str
    svg: str = ""
    """An `<svg>` element drawn by ourselves, which goes into the page as it is."""
    absent: str = "The run holds no numbers for this figure."


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A table: texts by row, with the names of the columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]] = field(default_factory=list)
    total: int = 0
    """Rows there are; more than `rows` where only some are shown."""


def render_page(template: str, *, panels: Sequence[Panel], answers: Sequence[Answer] = (), **values: Any) -> str:
    """Return a page as HTML; the same content gives the same text.

    Args:
        template: a file of `TEMPLATES` that extends page.html.j2.
        panels: its figures.
        answers: what its token view shows.
        **values: what the template names besides; texts are made harmless and escaped.
    """
    import dataclasses

    from markupsafe import Markup

    script = "\n".join((TEMPLATES / name).read_text("utf-8") for name in _SCRIPTS)
    data = token_data(answers)
    # Markup is our own style, script and figures, and JSON that cannot end its block; everything else is escaped.
    tokens = dataclasses.replace(
        data,
        index=Markup(data.index),  # noqa: S704
        blocks=tuple(Markup(block) for block in data.blocks),  # noqa: S704
    )
    return (
        _environment()
        .get_template(template)
        .render(
            style=Markup((TEMPLATES / "report.css").read_text("utf-8")),  # noqa: S704
            script=Markup(script),  # noqa: S704
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            panels=[dataclasses.replace(panel, svg=Markup(panel.svg)) for panel in panels],  # noqa: S704
            tokens=tokens,
            bounds=any(answer.lower_bound for answer in answers),
            edges=ENTROPY_EDGES,
            measures=MEASURES,
            **values,
        )
    )


def table_of(records: Sequence[dict[str, Any]]) -> Numbers:
    """Return records as a table of at most 60 evenly spaced rows, the last always among them; `step` leads."""
    columns = ["step", *sorted({key for record in records for key in record} - {"step", "time"})]
    count = min(len(records), _ROWS_SHOWN)
    picked = [records[round(i * (len(records) - 1) / max(count - 1, 1))] for i in range(count)]
    rows = [[_cell(record.get(column)) for column in columns] for record in picked]
    return Numbers(columns=columns, rows=rows, total=len(records))


def write_page(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, never half of one.

    Raises:
        InputError: the place cannot be written to, or holds something that is no regular file.
    """
    path = output_path(path)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", newline="\n", dir=path.parent, prefix=".report-", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(text)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise InputError(
            f"the report cannot be written to {path}: {error.strerror or error}; give a file in a folder that is there "
            "and has room"
        ) from error


def _cell(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{number(value):.5g}"
    return "" if value is None else str(value)


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: object) -> object:
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
