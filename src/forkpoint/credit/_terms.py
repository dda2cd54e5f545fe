"""What regularisers of a whole mini-batch share: the linearised term, and the link built around it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from forkpoint.credit._choice import check_finite
from forkpoint.credit.link import Link, State
from forkpoint.credit.statistics import token_count
from forkpoint.rollouts import Credit, EntropyTerm, Forward, Rollouts
from forkpoint.scope import Batching, segments

NEEDS = frozenset({"forward", "entropy_gradient"})


def linearised(
    value_S: Tensor, slope_BT: Tensor, entropy_BT: Tensor, mask_BT: Tensor, segment_B: Tensor
) -> EntropyTerm:
    """Return the term with the given value a segment and the given derivative by every entropy.

        Σ_{t in s} slope_t H_t + offset_t = value_s

    The value is spread over the segment's tokens, so that any split of its rows adds up to it.

    Args:
        value_S: float (segments,), the loss of every segment.
        slope_BT: float (B, T), its derivative by H_t, 0 outside the mask.
        entropy_BT: float (B, T), where the derivative was taken.
        mask_BT: bool (B, T), tokens that take part.
        segment_B: int64 (B,).
    """
    share_S = value_S / token_count(mask_BT, segment_B, value_S.dtype).clamp(min=1)
    known_BT = torch.where(mask_BT, entropy_BT, 0.0).to(slope_BT.dtype)
    offset_BT = torch.where(mask_BT, share_S[segment_B][:, None] - slope_BT * known_BT, 0.0)
    return EntropyTerm(slope_BT=slope_BT, offset_BT=offset_BT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """What a term is built from."""

    credit: Credit
    rollouts: Rollouts
    forward: Forward
    batching: Batching
    entropy_BT: Tensor
    """In the dtype of the credit, 0 where a token does not count."""
    mask_BT: Tensor
    mini_B: Tensor
    tokens_S: Tensor
    of: str

    def term(self, value_S: Tensor, slope_BT: Tensor) -> EntropyTerm:
        """Return the linearised term; `slope_BT` may be broadcast and is 0 where a token does not count."""
        slope_BT = torch.where(self.mask_BT, slope_BT.to(self.entropy_BT.dtype), 0.0)
        return dataclasses.replace(
            linearised(value_S, slope_BT, self.entropy_BT, self.mask_BT, self.mini_B), of=self.of
        )


def term_link(
    name: str,
    arguments: dict[str, Any],
    term: Callable[[Seen, State], tuple[EntropyTerm, State]],
    *,
    active: bool = True,
    init: Callable[[], State] = dict,
    of: str = "entropy",
    more: frozenset[str] = frozenset(),
) -> Link:
    """Return the link of the update stage that adds one term, over mini-batches."""

    def update(
        credit: Credit, rollouts: Rollouts, *, forward: Forward | None, batching: Batching, state: State, **_: Any
    ) -> tuple[Credit, State]:
        assert forward is not None  # noqa: S101 - checked by check_needs
        mask_BT = credit.keep_BT & (credit.weight_BT != 0)
        entropy_BT = forward.entropy_BT if of == "entropy" else forward.extra[of]
        check_finite(entropy_BT, mask_BT, "current")
        mini_B = segments("mini", group_B=rollouts.group_B, batching=batching)
        dtype = credit.advantage_BT.dtype
        seen = Seen(
            credit=credit,
            rollouts=rollouts,
            forward=forward,
            batching=batching,
            entropy_BT=torch.where(mask_BT, entropy_BT, 0.0).to(dtype),
            mask_BT=mask_BT,
            mini_B=mini_B,
            tokens_S=token_count(mask_BT, mini_B, dtype),
            of=of,
        )
        added, state = term(seen, state)
        return dataclasses.replace(credit, entropy_terms=(*credit.entropy_terms, added)), state

    if not active:
        return Link(name=name, stage="regulariser", arguments=arguments, when="update", adds=False)
    return Link(
        name=name,
        stage="regulariser",
        arguments=arguments,
        update=update,
        when="update",
        scope="mini",
        needs=NEEDS | more | (frozenset({f"forward_{of}"}) if of != "entropy" else frozenset()),
        init=init,
    )
