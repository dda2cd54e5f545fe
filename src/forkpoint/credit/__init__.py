"""Credit: links, and chains of them, that say how much every token learns."""

from collections.abc import Callable

from forkpoint.credit.advantage import batch_advantage, group_advantage, leave_one_out_advantage
from forkpoint.credit.clip import aggregate, clip, dual_clip, sequence_ratio, stop_ratio
from forkpoint.credit.combine import masked, scheduled, snapshot
from forkpoint.credit.link import Chain, Link, chain, credit_of, init, run
from forkpoint.credit.penalty import kl
from forkpoint.credit.regularise import entropy_bonus
from forkpoint.credit.select import top_entropy
from forkpoint.discovery import functions_returning

LINKS: dict[str, Callable[..., Link]] = {
    **functions_returning("Link", __name__, __path__, skip=("combine", "link")),
    "snapshot": snapshot,
}
"""Links by the name a recipe uses in `[[credit]] link = "…"`: `snapshot`, and every public function of a module
beside this one whose return annotation is `Link`."""
globals().update(LINKS)  # the function, not its module, where both have one name

__all__ = [
    "LINKS",
    "Chain",
    "Link",
    "aggregate",
    "batch_advantage",
    "chain",
    "clip",
    "credit_of",
    "dual_clip",
    "entropy_bonus",
    "group_advantage",
    "init",
    "kl",
    "leave_one_out_advantage",
    "masked",
    "run",
    "scheduled",
    "sequence_ratio",
    "snapshot",
    "stop_ratio",
    "top_entropy",
]
