"""What a chain needs: recorded by this engine, filled as a column, or refused before anything runs."""

from __future__ import annotations

from forkpoint.credit.link import EXTRA, Chain
from forkpoint.errors import InputError
from forkpoint.train.columns import FILLED
from forkpoint.train.columns_explore import CONTROLLER, controls_temperature
from forkpoint.train.schema import Recipe

RECORDED = frozenset(
    {"reward", "entropy", "forward", "entropy_gradient", "ref_logp", "forward_hidden", "forward_nucleus_entropy"}
)
"""What links may need of this engine beyond columns."""


def columns_needed(chain: Chain) -> frozenset[str]:
    """Return the columns of `Rollouts.extra` that a chain reads and that are made after sampling."""
    return chain.needs - RECORDED - {"explore"}


def check_chain(recipe: Recipe, chain: Chain, *, sampled: bool = True) -> None:
    """Refuse, before anything runs, a chain that needs what is neither recorded nor filled.

    Args:
        recipe: what its columns are made from.
        chain: of its credit.
        sampled: whether the policy writes the answers; recorded ones cannot be sampled again.

    Raises:
        InputError: the message names link and need, what the need is, and the setting that fills it.
    """
    for link in chain.links:
        for need in sorted(link.needs - RECORDED):
            remedy = _remedy(recipe, chain, need, sampled)
            if remedy is not None:
                what = EXTRA.get(need.removeprefix("forward_"), "")
                raise InputError(f"link {link.name!r} needs {need!r}{f' ({what})' if what else ''}: {remedy}")
        if "forward_hidden" in link.needs and recipe.model.head != "fused":
            raise InputError(f"link {link.name!r} needs hidden states, which model.head = 'fused' alone gives")


_PROGRAM = "set columns.program = 'path/to/file.py:function' to a function of yours that returns it"


def _remedy(recipe: Recipe, chain: Chain, need: str, sampled: bool) -> str | None:
    """Return what a user must do about a need, None where this engine fills it."""
    table = recipe.columns
    if need.startswith("forward_"):
        return "the forward pass of this engine does not give it; choose another method or argument"
    if need == "explore" and not sampled:
        return "recorded answers are not sampled again: leave out --offline, or choose another method"
    if need == "explore":
        controlled = any(map(controls_temperature, chain.links))
        return None if controlled else f"no link of the chain says at which temperature: add {CONTROLLER!r}"
    if table.program is not None:
        return None
    if need == "planning" and not table.planning:
        return f'list the phrases in columns.planning = ["let\'s check", …], or {_PROGRAM}'
    return None if need in FILLED else f"this engine does not record it; {_PROGRAM}"
