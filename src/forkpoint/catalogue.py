"""The pages of the methods, read from their docstrings and chains: `python -m forkpoint.catalogue docs/methods`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from forkpoint.methods import METHODS, describe_method

COST = {
    "forward": "looks at the current policy: a statistic wider than one pass costs a forward pass more",
    "ref_logp": "a reference model scores every answer",
    "entropy_gradient": "every answer token needs its gradient, so none is skipped",
    "hidden": "one more pass over the answers; hidden states are kept",
    "forward_hidden": "hidden states are kept",
    **dict.fromkeys(("proxy_logp", "sampled_flow", "collision", "sampler_logp"), "one more pass over the answers"),
    "attention_entropy": "one more pass over the answers, with attention in full",
    "explore": "a share of the problems is sampled again",
}
"""What a need costs beyond the update itself."""


def pages(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the text of every page by file name: one a method, and `README.md` that lists them."""
    ordered = sorted(rows, key=lambda row: row["name"])
    return {"README.md": _index(ordered), **{f"{row['name']}.md": method_page(row) for row in ordered}}


def method_page(row: Mapping[str, Any]) -> str:
    """Return the page of one method from a row of `forkpoint.methods.describe`."""
    parts = [f"# {row['name']}", row["summary"], _code(row["equation"])]
    facts = {
        "Reduces to": row["reduces"],
        "Confidence": row["confidence"],
        "Deviations": row["deviations"],
        "Stages": row["stage"],
        "Links": ", ".join(f"`{link}`" for link in row["links"]),
        "Needs": ", ".join(row["needs"]),
        "Cost": cost(row["needs"]),
        "Source": row["source"],
    }
    parts.append("\n".join(f"- **{title}**: {text}" for title, text in facts.items() if text))
    arguments = [f"{key} = …  # no default: the source gives none" for key in row["required"]]
    arguments += [f"{key} = {_value(value)}" for key, value in row["arguments"].items()]
    parts.append(_code("\n".join(["[credit]", f'method = "{row["name"]}"', *arguments]), "toml"))
    return "\n\n".join(parts) + "\n"


def cost(needs: Sequence[str]) -> str:
    """Return what a method costs beyond the plain update, in words."""
    return "; ".join(dict.fromkeys(COST[need] for need in needs if need in COST)) or "none beyond the update"


def _index(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "# Methods",
        "",
        "Each is a chain of shared links; `forkpoint methods` prints them. `inspired` methods leave open what their",
        "source does not say.",
        "",
        "| method | what it does | stages | needs | cost | paper | confidence |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (
            f"[{row['name']}]({row['name']}.md)",
            row["summary"],
            row["stage"],
            ", ".join(row["needs"]),
            cost(row["needs"]),
            f"[{row['paper']}](https://arxiv.org/abs/{row['paper']})" if row["paper"] else "",
            row["confidence"].split(" ")[0].rstrip(".,;:"),
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if value is None:
        return "…  # default: none"
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else repr(value)


def _code(text: str, language: str = "text") -> str:
    return f"```{language}\n{text}\n```"


def main(arguments: Sequence[str]) -> None:
    """Write the pages into the folder given, and remove those of methods that are gone."""
    folder = Path(arguments[0] if arguments else "docs/methods")
    folder.mkdir(parents=True, exist_ok=True)
    written = pages(describe_method(name, method) for name, method in METHODS.items())
    for path in folder.glob("*.md"):
        if path.name not in written:
            path.unlink()
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
