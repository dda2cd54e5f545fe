"""Supervised selection: how much every token of a step counts, from its loss, its entropy and its id."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from forkpoint.entropy.token import token_logp_entropy
from forkpoint.errors import InputError, did_you_mean
from forkpoint.model import HeadKind, head_values, read
from forkpoint.scope import exact_count
from forkpoint.train.examples import TextBatch


@dataclass(frozen=True, kw_only=True)
class TokenValues:
    """What the model says of the N tokens that count in one micro-batch, in the order of their rows."""

    loss_N: Tensor
    """float (N,): cross entropy in nats, with gradient where it is on."""
    entropy_N: Tensor
    """float (N,): entropy in nats of the distribution each token was predicted from, without gradient."""
    ids_N: Tensor
    """int64 (N,)."""


Weigh = Callable[[TokenValues], Tensor]
"""All tokens of a step to their weights, float (N,), none negative: a pure function."""


def token_values(model: nn.Module, batch: TextBatch, *, head: HeadKind = "fused") -> TokenValues:
    """Return loss and entropy of every token that counts in one micro-batch."""
    device = next(model.parameters()).device
    ids_BT, mask_BT = batch.ids_BT.to(device), batch.mask_BT.to(device)
    counted_BT = mask_BT[:, 1:]
    ids_N = ids_BT[:, 1:][counted_BT]
    states_NX = read(model, head, input_ids=ids_BT[:, :-1], use_cache=False)[counted_BT]
    if head == "plain":
        logp_N, entropy_N = token_logp_entropy(states_NX, ids_N)
    else:
        out = head_values(model, states_NX, ids_N)
        logp_N, entropy_N = out.logp_N, out.entropy_N
    return TokenValues(loss_N=-logp_N, entropy_N=entropy_N.detach(), ids_N=ids_N)


def joined(parts: Sequence[TokenValues]) -> TokenValues:
    """Return the tokens of several micro-batches as one, without gradient."""
    return TokenValues(
        loss_N=torch.cat([part.loss_N.detach() for part in parts]),
        entropy_N=torch.cat([part.entropy_N for part in parts]),
        ids_N=torch.cat([part.ids_N for part in parts]),
    )


def surprise(*, share: float = 0.8, kappa: float = 0.8) -> Weigh:
    """Return the weights of Entropy-SFT: tokens whose loss is large for their entropy.

        δ_t = -log p(y_t) - kappa H_t,   weight 1 for the max(1, floor(share N)) largest δ of the step, 0 elsewhere

    With `kappa=0` it keeps the tokens of largest loss; `share=1` keeps all. Of equal δ the earlier token is kept.

    Args:
        share: in (0, 1].
        kappa: >= 0.

    Source: arXiv 2508.03178, its released trainer; 0.8 and 0.8 as in its README.

    >>> tokens = TokenValues(loss_N=torch.tensor([1.0, 3.0]), entropy_N=torch.tensor([0.0, 3.0]), ids_N=torch.zeros(2))
    >>> surprise(share=0.5)(tokens).tolist()
    [1.0, 0.0]
    """
    _check_share(share)
    if not 0 <= kappa < float("inf"):
        raise InputError(f"kappa is {kappa} and must be a finite number >= 0: how much of its entropy a token may lose")

    def weigh(tokens: TokenValues) -> Tensor:
        count = max(1, int(round(share * tokens.ids_N.numel(), 9)))
        return _largest(tokens.loss_N.detach() - kappa * tokens.entropy_N, count, 0.0)

    return weigh


def forks(*, share: float = 0.2, rest: float = 0.0) -> Weigh:
    """Return weights for forking tokens: 1 for the share of largest entropy in the step, `rest` for the others.

    The count is that of `forkpoint.credit.top_entropy`: max(1, ceil(share N)). `rest=1` or `share=1` weighs all
    alike. Of equal entropies the earlier token is kept.

    Args:
        share: in (0, 1].
        rest: in [0, 1].

    Source: inspired by arXiv 2506.01939 eq. 5; the paper selects in reinforcement learning only.

    >>> tokens = TokenValues(loss_N=torch.zeros(3), entropy_N=torch.tensor([0.1, 2.0, 0.3]), ids_N=torch.zeros(3))
    >>> forks(share=0.2, rest=0.25)(tokens).tolist()
    [0.25, 1.0, 0.25]
    """
    _check_share(share)
    if not 0 <= rest <= 1:
        raise InputError(f"rest is {rest} and must be in [0, 1]: the weight of tokens that do not fork")
    return lambda tokens: _largest(tokens.entropy_N, exact_count(share, tokens.entropy_N.numel()), rest)


def leaving_out(ids: Sequence[int], weigh: Weigh | None = None) -> Weigh:
    """Return weights that are 0 for tokens of the given ids, such as the rock tokens of a distillation.

    The others are weighed by `weigh`, which does not see the ones left out; None weighs them alike.

    Args:
        ids: of the vocabulary; `forkpoint.credit.sampled.rock_ids` finds rock tokens.
        weigh: weights of the others.

    Source: arXiv 2605.09253.

    >>> tokens = TokenValues(loss_N=torch.zeros(3), entropy_N=torch.zeros(3), ids_N=torch.tensor([5, 7, 5]))
    >>> leaving_out([5])(tokens).tolist()
    [0.0, 1.0, 0.0]
    """
    left_out = torch.tensor(sorted(set(ids)), dtype=torch.int64)

    def with_them(tokens: TokenValues) -> Tensor:
        stays_N = ~torch.isin(tokens.ids_N, left_out.to(tokens.ids_N.device))
        others = TokenValues(
            loss_N=tokens.loss_N.detach()[stays_N], entropy_N=tokens.entropy_N[stays_N], ids_N=tokens.ids_N[stays_N]
        )
        weight_N = torch.zeros_like(tokens.entropy_N)
        if others.ids_N.numel():
            weight_N[stays_N] = torch.ones_like(others.entropy_N) if weigh is None else weigh(others)
        return weight_N

    return with_them


SELECTIONS: dict[str, Callable[..., Weigh]] = {"entropy-sft": surprise, "forking": forks}
"""Selections by the name the command line uses; `all` is none of them."""


def selection_of(
    select: str,
    *,
    share: float | None = None,
    kappa: float | None = None,
    rest: float | None = None,
    leave_out: Sequence[int] = (),
) -> Weigh | None:
    """Return the weights that settings describe; None where every token counts alike.

    Raises:
        InputError: an unknown selection, or a number that it does not read or that is out of range.
    """
    given = {"share": share, "kappa": kappa, "rest": rest}
    given = {name: value for name, value in given.items() if value is not None}
    reads = {"all": (), "entropy-sft": ("share", "kappa"), "forking": ("share", "rest")}
    if select not in reads:
        raise InputError(f"unknown selection {select!r}: {did_you_mean(select, reads)}")
    for name in given:
        if name not in reads[select]:
            readers = [kind for kind, names in reads.items() if name in names]
            raise InputError(f"selection {select!r} does not read {name}: {' and '.join(readers)} do")
    weigh = None if select == "all" else SELECTIONS[select](**given)
    return leaving_out(leave_out, weigh) if leave_out else weigh


def _check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise InputError(f"share is {share} and must be in (0, 1]: the fraction of tokens that learns")


def _largest(value_N: Tensor, count: int, rest: float) -> Tensor:
    """Return 1 for the `count` largest values, the earlier of equal ones, and `rest` for the others."""
    order_N = torch.argsort(value_N, descending=True, stable=True)
    weight_N = torch.full_like(value_N, rest)
    weight_N[order_N[:count]] = 1.0
    return weight_N
