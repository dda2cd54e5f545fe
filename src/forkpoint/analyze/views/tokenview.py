"""Answers of a run, token by token, as a page can hold hundreds of them: numbers packed, text made harmless.

Model output is hostile text. Characters that would hide or reorder it are made visible here; what a page embeds as
data is ASCII JSON without `<`, `>` and `&`, so no text can end its script block; and the page's script writes it as
text alone, never as HTML.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forkpoint.analyze.text import visible

if TYPE_CHECKING:
    from collections.abc import Mapping

    from forkpoint.analyze.views.answers import Answer

ENTROPY_EDGES = (0.01, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Borders of the nine colours of the token view, in nats: fixed, so that reports compare."""
PROMPT_SHOWN = 2000
MEASURES = ("entropy", "credit", "advantage", "weight")
"""What tokens can be coloured by."""
_NO_TEXT = 0xFFFFFFFF


@dataclass(frozen=True, kw_only=True)
class TokenData:
    """What a page embeds for its token view."""

    index: str
    """JSON: the facts of every answer, the distinct token texts, and the range of every measure."""
    blocks: tuple[str, ...]
    """JSON of every answer's numbers, packed by `pack`."""
    verdicts: Mapping[str, int]
    """How many answers have each verdict."""
    sources: tuple[str, ...]
    """Where the answers come from, in order of appearance."""


def shown_token(text: str | None) -> str:
    r"""Return a token as the page shows it: line breaks and tabs marked, an empty one as a box.

    >>> shown_token("a\n"), shown_token("")
    ('a↵\n', '▯')
    """
    return visible(text or "▯").replace("\n", "↵\n").replace("\t", "⇥\t")


def script_json(value: Any) -> str:
    r"""Return JSON that can stand in a script block whatever text it holds, ASCII only.

    >>> script_json("</script>")
    '"\\u003c/script\\u003e"'
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    # Outside of strings JSON has none of these characters, so the value stays the same.
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def token_data(answers: Sequence[Answer]) -> TokenData:
    """Return what a page embeds to show answers token by token.

    Args:
        answers: in the order of the page.

    Returns:
        JSON texts, safe in script blocks; the same answers give the same texts.
    """
    codes: dict[str, int] = {}
    blocks = tuple(script_json(_block(answer, codes)) for answer in answers)
    index = {
        "edges": ENTROPY_EDGES,
        "texts": [shown_token(text) for text in codes],
        "largest": {name: _largest(answers, name) for name in MEASURES},
        "answers": [_about(answer) for answer in answers],
    }
    verdicts: dict[str, int] = {}
    for answer in answers:
        verdicts[visible(answer.verdict)] = verdicts.get(visible(answer.verdict), 0) + 1
    return TokenData(
        index=script_json(index),
        blocks=blocks,
        verdicts={name: verdicts[name] for name in sorted(verdicts, key=_verdict_order)},
        sources=tuple(dict.fromkeys(visible(answer.source) for answer in answers)),
    )


def pack(columns: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Return numbers as JSON can hold them: little-endian, one after the other, deflated, in base64.

    Args:
        columns: float32, uint32 or uint8 arrays by name. One whose entries are all equal becomes a constant.

    Returns:
        `columns`: [name, JavaScript array type, length] in the order of the data; `constants`: name to
        [value, length]; `data`: base64 of the zlib stream.
    """
    kinds = {"f4": "Float32", "u4": "Uint32", "u1": "Uint8"}
    constants = {
        name: [values[0].item(), len(values)]
        for name, values in columns.items()
        if len(values) and np.isfinite(values[0]) and (values == values[0]).all()
    }
    # Wider types first keeps every array aligned.
    rest = sorted((name for name in columns if name not in constants), key=lambda name: -columns[name].itemsize)
    raw = b"".join(columns[name].astype(columns[name].dtype.newbyteorder("<")).tobytes() for name in rest)
    return {
        "columns": [[name, kinds[columns[name].dtype.str[1:]], len(columns[name])] for name in rest],
        "constants": constants,
        "data": base64.b64encode(zlib.compress(raw, 6)).decode("ascii"),
    }


def _block(answer: Answer, codes: dict[str, int]) -> dict[str, Any]:
    columns: dict[str, NDArray[Any]] = {"text": _coded(answer.tokens, codes)}
    for name in ("logp", "entropy", "credit", "advantage", "weight"):
        values = getattr(answer, name)
        if values is not None and np.isfinite(values).any():
            columns[name] = values.astype(np.float32)
    if answer.rank is not None and answer.rank.any():
        columns["rank"] = answer.rank.astype(np.uint32)
    if answer.kept is not None:
        columns["kept"] = answer.kept.astype(np.uint8)
    width = max(map(len, answer.top_tokens), default=0)
    if width:
        texts = np.full((len(answer.tokens), width), _NO_TEXT, np.uint32)
        logps = np.full((len(answer.tokens), width), np.nan, np.float32)
        for place, (names, values) in enumerate(zip(answer.top_tokens, answer.top_logp, strict=True)):
            texts[place, : len(names)] = _coded(names, codes)
            logps[place, : len(values)] = values
        columns |= {"top_text": texts.ravel(), "top_logp": logps.ravel()}
    return {"width": width, **pack(columns)}


def _coded(texts: Sequence[str | None], codes: dict[str, int]) -> NDArray[np.uint32]:
    return np.array([codes.setdefault(text or "", len(codes)) for text in texts], dtype=np.uint32)


def _about(answer: Answer) -> dict[str, Any]:
    prompt = answer.prompt[:PROMPT_SHOWN] + (" …" if len(answer.prompt) > PROMPT_SHOWN else "")
    entropy = answer.entropy if answer.entropy is not None else np.zeros(0)
    mean = f"{np.nanmean(entropy):.3f} nats" if np.isfinite(entropy).any() else "not recorded"
    facts = {
        "prompt": answer.prompt_id,
        "sample": answer.sample,
        "reward": f"{answer.reward:.3g}" if math.isfinite(answer.reward) else "",
        "tokens": f"{answer.total:,}",
        "mean entropy": f"at least {mean}" if answer.lower_bound and mean[0].isdigit() else mean,
        "ended by": answer.finish,
    }
    return {
        "source": visible(answer.source),
        "verdict": visible(answer.verdict),
        "facts": [[name, visible(text)] for name, text in facts.items() if text],
        "prompt": visible(prompt),
        "reference": visible(answer.reference),
        "hidden": answer.total - len(answer.tokens),
        "bound": answer.lower_bound,
    }


def _largest(answers: Sequence[Answer], name: str) -> float:
    """Return the largest magnitude of a measure, 0 where no answer has it."""
    found = [np.abs(values[np.isfinite(values)]) for a in answers if (values := getattr(a, name)) is not None]
    return max((float(values.max()) for values in found if values.size), default=0.0)


def _verdict_order(verdict: str) -> tuple[int, str]:
    order = {"right": 0, "wrong": 1}
    return order.get(verdict, 2), verdict
