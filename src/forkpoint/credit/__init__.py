"""Credit: links, and chains of them, that say how much every token learns."""

from collections.abc import Callable

from forkpoint.credit.advantage import batch_advantage, group_advantage, leave_one_out_advantage
from forkpoint.credit.clip import aggregate, clip, dual_clip, sequence_ratio, stop_ratio
from forkpoint.credit.link import Chain, Link, chain, credit_of, init, masked, run, scheduled, snapshot
from forkpoint.credit.penalty import kl
from forkpoint.credit.regularise import entropy_bonus
from forkpoint.credit.select import top_entropy

LINKS: dict[str, Callable[..., Link]] = {
    link.__name__: link
    for link in (
        aggregate,
        batch_advantage,
        clip,
        dual_clip,
        entropy_bonus,
        group_advantage,
        kl,
        leave_one_out_advantage,
        sequence_ratio,
        snapshot,
        stop_ratio,
        top_entropy,
    )
}
"""Links by the name a recipe uses in `[[credit]] link = "…"`."""

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
