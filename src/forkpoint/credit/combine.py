"""Links around links: applied in some places only, with numbers that move, or measuring what flows past."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from forkpoint.credit.link import Link, State, check_needs
from forkpoint.errors import InputError
from forkpoint.rollouts import Credit, Rollouts


def masked(link: Link, where: Callable[[Rollouts, Credit], Tensor], *, name: str = "masked") -> Link:
    """Return the link applied only where a condition holds; elsewhere credit passes through unchanged.

    Args:
        link: the link to restrict. It must not change `ratio`, `order`, `inner_bounds`, `dual_clip`, `gate`,
            `denominator` or `constant`, which hold for the batch as a whole, nor be a regulariser.
        where: `(rollouts, credit) -> bool (B, T)` or (B, 1).
        name: what the description calls the condition.

    Raises:
        InputError: the link is a regulariser, or (when it runs) sets a property of the whole batch.
    """
    if link.regularise is not None:
        raise InputError(f"link {link.name!r} is a regulariser and cannot be masked")

    def update(credit: Credit, rollouts: Rollouts, **kwargs: Any) -> tuple[Credit, State]:
        new, state = link.update(credit, rollouts, **kwargs)
        if any(getattr(new, name) != getattr(credit, name) for name in _WHOLE):
            raise InputError(f"link {link.name!r} sets a property of the whole batch and cannot be masked")
        where_BT = where(rollouts, credit).expand_as(credit.advantage_BT)

        def mix(new_BT: Tensor | None, old_BT: Tensor | None, open_bound: float | bool) -> Tensor | None:
            if new_BT is None and old_BT is None:
                return None
            dtype = torch.bool if isinstance(open_bound, bool) else credit.advantage_BT.dtype
            open_BT = torch.full_like(credit.advantage_BT, open_bound, dtype=dtype)
            return torch.where(where_BT, open_BT if new_BT is None else new_BT, open_BT if old_BT is None else old_BT)

        added = tuple(
            dataclasses.replace(p, coefficient_BT=torch.where(where_BT, p.coefficient_BT, 0.0))
            for p in new.penalties[len(credit.penalties) :]
        )
        terms = tuple(
            dataclasses.replace(
                e,
                slope_BT=torch.where(where_BT.reshape(*where_BT.shape, *[1] * (e.slope_BT.ndim - 2)), e.slope_BT, 0.0),
                offset_BT=torch.where(where_BT, e.offset_BT, 0.0),
            )
            for e in new.entropy_terms[len(credit.entropy_terms) :]
        )
        mixed = dataclasses.replace(
            new,
            advantage_BT=torch.where(where_BT, new.advantage_BT, credit.advantage_BT),
            weight_BT=torch.where(where_BT, new.weight_BT, credit.weight_BT),
            keep_BT=torch.where(where_BT, new.keep_BT, credit.keep_BT),
            low_BT=mix(new.low_BT, credit.low_BT, 0.0),
            high_BT=mix(new.high_BT, credit.high_BT, torch.inf),
            scaled_low_BT=mix(new.scaled_low_BT, credit.scaled_low_BT, False),
            scaled_high_BT=mix(new.scaled_high_BT, credit.scaled_high_BT, False),
            unclipped_BT=mix(new.unclipped_BT, credit.unclipped_BT, False),
            penalties=credit.penalties + added,
            entropy_terms=credit.entropy_terms + terms,
        )
        return mixed, state

    return dataclasses.replace(link, name=f"{name}({link.name})", update=update)


_WHOLE = ("ratio", "order", "inner_bounds", "dual_clip", "gate", "denominator", "constant")


def scheduled(make: Callable[..., Link], **arguments: Any) -> Link:
    """Return a link whose numeric arguments may be schedules: functions of the number of calls so far.

    Args:
        make: a link function such as `kl`.
        arguments: its arguments; a callable value is called with the count of earlier updates (0, 1, ...).

    >>> from forkpoint.credit import clip
    >>> link = scheduled(clip, low=0.2, high=lambda n: 0.28 if n else 0.2)
    >>> link.name, link.init()
    ('scheduled(clip)', {'calls': 0})
    """

    def at(calls: int) -> Link:
        return make(**{name: value(calls) if callable(value) else value for name, value in arguments.items()})

    def refuse_regulariser(link: Link) -> None:
        if link.regularise is not None:
            raise InputError(f"link {link.name!r} is a regulariser and cannot be scheduled")

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **kwargs: Any) -> tuple[Credit, State]:
        inner = at(state["calls"])
        refuse_regulariser(inner)
        check_needs(inner, rollouts, kwargs.get("forward"))
        credit, _ = inner.update(credit, rollouts, state=inner.init(), **kwargs)
        return credit, {"calls": state["calls"] + 1}

    first = at(0)
    if first.init():
        raise InputError(f"link {first.name!r} keeps state of its own and cannot be scheduled")
    refuse_regulariser(first)
    shown = {name: "schedule" if callable(value) else value for name, value in arguments.items()}
    return dataclasses.replace(
        first,
        name=f"scheduled({first.name})",
        arguments=shown,
        update=update,
        init=lambda: {"calls": 0},
    )


def snapshot(name: str) -> Link:
    """Return a link that changes nothing and measures the credit that flows past it.

    Its state holds `metrics`: share of response tokens kept, mean weight and mean |advantage| of those.
    """

    def update(credit: Credit, rollouts: Rollouts, **_: Any) -> tuple[Credit, State]:
        kept = credit.keep_BT
        total = rollouts.mask_BT.sum().clamp(min=1)
        count = kept.sum().clamp(min=1)
        metrics = {
            f"{name}/share": float(kept.sum() / total),
            f"{name}/weight": float(credit.weight_BT[kept].sum() / count),
            f"{name}/advantage": float(credit.advantage_BT[kept].abs().sum() / count),
        }
        return credit, {"metrics": metrics}

    return Link(name="snapshot", stage="measure", arguments={"name": name}, update=update, when="update", adds=False)
