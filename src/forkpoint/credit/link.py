"""Links and chains: how credit is composed.

A link is a pure update of `Credit`. A method is a function that returns a chain of links. State (running
quantiles, schedules) is returned, never kept; randomness comes from a key, an int that the caller derives
from seed and step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from forkpoint.errors import InputError
from forkpoint.rollouts import Credit, Forward, Rollouts, blank_credit
from forkpoint.scope import Batching, Scope, one_batch

State = Mapping[str, Any]
"""What a link remembers between updates: JSON values and tensors under string keys."""


class Update(Protocol):
    """The work of a link: `(credit, rollouts, *, forward, batching, state, rng) -> (credit, state)`.

    A link takes by keyword what it uses and swallows the rest with `**_`.
    """

    def __call__(
        self,
        credit: Credit,
        rollouts: Rollouts,
        *,
        forward: Forward | None,
        batching: Batching,
        state: State,
        rng: int,
    ) -> tuple[Credit, State]:
        """Return the new credit and the new state."""
        ...


class Regulariser(Protocol):
    """A term of the loss that carries gradient itself.

    It must be additive over rows: the sum over any split of the rows equals the value on all of them.
    """

    def __call__(self, forward: Forward, rollouts: Rollouts, credit: Credit, coefficient_BT: Tensor) -> Tensor:
        """Return a scalar to be added to the loss."""
        ...


def _keep(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
    return credit, state


@dataclass(frozen=True, kw_only=True)
class Link:
    """One step of a chain."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    update: Update = _keep
    when: Literal["rollout", "update"] = "rollout"
    """Once per rollout batch on what the behaviour policy recorded, or in every optimiser update."""
    scope: Scope | None = None
    """Over which rows its statistic is taken, where it has one."""
    needs: frozenset[str] = frozenset()
    """What it reads beyond rewards and log-probs: `entropy` (recorded), `forward` (the current policy),
    `ref_logp` (a reference model), `entropy_gradient` (a differentiable current entropy)."""
    drops: bool = False
    """Whether it may take tokens out of the denominator (set `keep_BT` false)."""
    adds: bool = True
    """Whether it may give an advantage or a penalty to a token that had none. A link of the update stage that
    says it does not lets answers without any advantage skip their backward pass."""
    init: Callable[[], State] = dict
    regularise: Regulariser | None = None


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Links in the order in which they run."""

    links: tuple[Link, ...]

    @property
    def needs(self) -> frozenset[str]:
        """Everything any link needs."""
        return frozenset().union(*(link.needs for link in self.links))

    @property
    def span(self) -> Scope:
        """The widest scope over which the update stage must see rows together: micro, mini or rollout.

        A sequence is always whole inside a micro-batch; a group may be cut by one, so `group` asks for the
        mini-batch, whose groups are whole.
        """
        widths: dict[str, Scope] = {"group": "mini", "mini": "mini", "rollout": "rollout"}
        found = {widths.get(link.scope or "micro", "micro") for link in self._updates}
        wide: tuple[Scope, ...] = ("rollout", "mini")
        return next((scope for scope in wide if scope in found), "micro")

    @property
    def reads_forward(self) -> bool:
        """Whether the update stage looks at the current policy."""
        return any("forward" in link.needs for link in self._updates)

    @property
    def drops(self) -> bool:
        """Whether the update stage may take tokens out of the denominator."""
        return any(link.drops for link in self._updates)

    @property
    def adds_late(self) -> bool:
        """Whether a token without advantage or penalty may still gain one after the rollout stage."""
        return any(link.adds for link in self._updates)

    @property
    def regularisers(self) -> tuple[Regulariser, ...]:
        """The terms of the loss that carry gradient themselves."""
        return tuple(link.regularise for link in self.links if link.regularise is not None)

    @property
    def _updates(self) -> list[Link]:
        return [link for link in self.links if link.when == "update"]

    def describe(self) -> list[dict[str, Any]]:
        """Return one JSON-ready row a link: name, when, scope, needs and arguments."""
        return [
            {
                "link": link.name,
                "when": link.when,
                "scope": link.scope,
                "needs": sorted(link.needs),
                "arguments": dict(link.arguments),
            }
            for link in self.links
        ]


def chain(*parts: Link | Chain) -> Chain:
    """Return the links and chains one after another as one chain.

    >>> from forkpoint.credit import clip, group_advantage
    >>> [link.name for link in chain(group_advantage(), chain(clip())).links]
    ['group_advantage', 'clip']
    """
    links: list[Link] = []
    for part in parts:
        links.extend(part.links if isinstance(part, Chain) else [part])
    return Chain(links=tuple(links))


def init(chain: Chain) -> list[State]:
    """Return the state of every link before the first update."""
    return [link.init() for link in chain.links]


def run(
    chain: Chain,
    credit: Credit,
    rollouts: Rollouts,
    states: list[State],
    *,
    when: Literal["rollout", "update"],
    forward: Forward | None = None,
    batching: Batching | None = None,
    rng: int = 0,
) -> tuple[Credit, list[State]]:
    """Run the links of one stage in order.

    Args:
        chain: the chain.
        credit: what flows in; `blank_credit(rollouts)` at the start of a rollout batch.
        rollouts: the rows at hand.
        states: one state a link, from `init` or the previous call.
        when: which links to run: `rollout` or `update`.
        forward: the current policy on these rows, detached; only links that need it look at it.
        batching: mini- and micro-batches of the rows; None means one of each.
        rng: key for links that draw; derive it from seed, step and update.

    Returns:
        (credit, states).

    Raises:
        InputError: a link lacks something it needs; the message names both.
    """
    batching = batching or one_batch(rollouts.rows, rollouts.ids_BT.device)
    forward = None if forward is None else forward.detach()
    out = list(states)
    for index, link in enumerate(chain.links):
        if link.when != when:
            continue
        check_needs(link, rollouts, forward)
        credit, out[index] = link.update(
            credit, rollouts, forward=forward, batching=batching, state=out[index], rng=rng + index
        )
    return credit, out


def credit_of(chain: Chain, rollouts: Rollouts, *, forward: Forward | None = None, rng: int = 0) -> Credit:
    """Return the credit a chain gives to one batch, both stages in one call and without history.

    For looking at a method, for tests and for engines that update once per rollout batch.
    """
    credit, states = run(chain, blank_credit(rollouts), rollouts, init(chain), when="rollout", rng=rng)
    return run(chain, credit, rollouts, states, when="update", forward=forward, rng=rng)[0]


_REMEDY = {
    "forward": "pass the current policy's log-probs and entropies of these rows as `forward`",
    "ref_logp": "set [reference] in the recipe, or pass rollouts with ref_logp_BT",
    "reward": "verify the rollouts first, so that reward_B and judged_B are set",
}


def check_needs(link: Link, rollouts: Rollouts, forward: Forward | None) -> None:
    """Raise `InputError` when `rollouts` or `forward` lack what the link needs."""
    lacking = {
        "forward": forward is None,
        "ref_logp": rollouts.ref_logp_BT is None,
        "reward": rollouts.reward_B is None,
    }
    for need in sorted(link.needs):
        if lacking.get(need, False):
            raise InputError(f"link {link.name!r} needs {need!r} and the rollouts have none: {_REMEDY[need]}")
    if "entropy" in link.needs and rollouts.entropy_kind == "lower-bound":
        raise InputError(
            f"link {link.name!r} reads behaviour entropies and these are only lower bounds of them: "
            "set decode.rescore = true, or let the link look at the current policy"
        )


def masked(link: Link, where: Callable[[Rollouts, Credit], Tensor], *, name: str = "masked") -> Link:
    """Return the link applied only where a condition holds; elsewhere credit passes through unchanged.

    Args:
        link: the link to restrict. It must not change `ratio`, `dual_clip`, `denominator` or `constant`,
            which hold for the batch as a whole, nor be a regulariser.
        where: `(rollouts, credit) -> bool (B, T)` or (B, 1).
        name: what the description calls the condition.

    Raises:
        InputError: the link is a regulariser, or (when it runs) sets a property of the whole batch.
    """
    if link.regularise is not None:
        raise InputError(f"link {link.name!r} is a regulariser and cannot be masked")

    def update(credit: Credit, rollouts: Rollouts, **kwargs: Any) -> tuple[Credit, State]:
        new, state = link.update(credit, rollouts, **kwargs)
        if (new.ratio, new.dual_clip, new.denominator, new.constant) != (
            credit.ratio,
            credit.dual_clip,
            credit.denominator,
            credit.constant,
        ):
            raise InputError(f"link {link.name!r} sets a property of the whole batch and cannot be masked")
        where_BT = where(rollouts, credit).expand_as(credit.advantage_BT)

        def mix(new_BT: Tensor | None, old_BT: Tensor | None, open_bound: float) -> Tensor | None:
            if new_BT is None and old_BT is None:
                return None
            open_BT = torch.full_like(credit.advantage_BT, open_bound)
            return torch.where(where_BT, open_BT if new_BT is None else new_BT, open_BT if old_BT is None else old_BT)

        added = tuple(
            dataclasses.replace(p, coefficient_BT=torch.where(where_BT, p.coefficient_BT, 0.0))
            for p in new.penalties[len(credit.penalties) :]
        )
        mixed = dataclasses.replace(
            new,
            advantage_BT=torch.where(where_BT, new.advantage_BT, credit.advantage_BT),
            weight_BT=torch.where(where_BT, new.weight_BT, credit.weight_BT),
            keep_BT=torch.where(where_BT, new.keep_BT, credit.keep_BT),
            low_BT=mix(new.low_BT, credit.low_BT, 0.0),
            high_BT=mix(new.high_BT, credit.high_BT, torch.inf),
            penalties=credit.penalties + added,
        )
        return mixed, state

    return dataclasses.replace(link, name=f"{name}({link.name})", update=update)


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

    return Link(name="snapshot", arguments={"name": name}, update=update, when="update", adds=False)
