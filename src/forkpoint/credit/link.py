"""Links and chains: how credit is composed.

A link is a pure update of `Credit`. A method is a function that returns a chain of links. State (running
quantiles, schedules) is returned, never kept; randomness comes from a key, an int that the caller derives
from seed and step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

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


Stage = Literal[
    "advantage",
    "selection",
    "weight",
    "clip",
    "ratio",
    "aggregation",
    "penalty",
    "regulariser",
    "controller",
    "measure",
]
"""Which part of the loss a link writes; `controller` moves a number of another link, `measure` writes nothing."""


def _keep(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
    return credit, state


@dataclass(frozen=True, kw_only=True)
class Link:
    """One step of a chain."""

    name: str
    stage: Stage | None = None
    """Which part of the loss it writes, for catalogues."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    update: Update = _keep
    when: Literal["rollout", "update"] = "rollout"
    """Once per rollout batch on what the behaviour policy recorded, or in every optimiser update."""
    scope: Scope | None = None
    """Over which rows its statistic is taken, where it has one."""
    needs: frozenset[str] = frozenset()
    """What it reads beyond log-probs: `reward`, `entropy` (recorded), `forward` (the current policy), `ref_logp` (a
    reference model), `entropy_gradient` (a differentiable current entropy), or a name of `EXTRA`."""
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

EXTRA = {
    "hidden": "the last hidden state that predicts each token, float (B, T, H)",
    "cluster": "which answers of a group are the same answer, int64 (B,), numbers unique across groups",
    "error_class": "the kind of mistake of every wrong answer, int64 (B,)",
    "step": "the number of the reasoning step each token belongs to, int64 (B, T), from 0, -1 for none",
    "planning": "which tokens belong to planning spans, bool (B, T)",
    "thinking": "which tokens belong to the thinking phase, bool (B, T)",
    "step_reward": "what a judge gave the step each token belongs to, float (B, T), NaN for nothing",
    "kind": "the role and task type of every row, int64 (B,)",
    "explore": "which rows were sampled at another temperature to move the entropy, bool (B,)",
    "turn": "the number of the turn each token belongs to, int64 (B, T), from 0",
    "anchor": "the position of the first token of the final answer's marker, int64 (B,), -1 where there is none",
    "nucleus_entropy": "entropy of the renormalised nucleus of mass 0.8, float (B, T)",
    "proxy_logp": "log-prob of the sampled token under the min-p filtered policy, float (B, T), -inf if filtered out",
    "sampler_logp": "log-prob of the engine that sampled, where logp_BT was taken again, float (B, T), NaN if unknown",
    "sampled_flow": "Σ_v π_v² (log π_v + H) of the policy that sampled each token, float (B, T)",
    "collision": "Σ_v π_v² of the policy that sampled each token, float (B, T)",
    "attention_entropy": "entropy of a middle layer's attention over log of the context length, float (B, T)",
}
"""Needs that `Rollouts.extra` holds under the same name, and what each is. `forward_NAME` asks `Forward.extra` for
`NAME`, the same of the current policy, with gradient where a link differentiates it."""


def check_needs(link: Link, rollouts: Rollouts, forward: Forward | None) -> None:
    """Raise `InputError` when `rollouts` or `forward` lack what the link needs."""
    lacking = {
        "forward": forward is None,
        "ref_logp": rollouts.ref_logp_BT is None,
        "reward": rollouts.reward_B is None,
        "entropy": False,
        "entropy_gradient": False,
    }
    for need in sorted(link.needs):
        if not lacking.get(need, True):
            continue
        if need in _REMEDY:
            raise InputError(f"link {link.name!r} needs {need!r} and the rollouts have none: {_REMEDY[need]}")
        current, name = need.startswith("forward_"), need.removeprefix("forward_")
        if name not in (rollouts.extra if not current else {} if forward is None else forward.extra):
            place = "Forward.extra" if current else "Rollouts.extra"
            what = f" ({EXTRA[name]})" if name in EXTRA else ""
            raise InputError(
                f"link {link.name!r} needs {need!r}{what} and there is none: put it into {place}[{name!r}]"
            )
    if "entropy" in link.needs and rollouts.entropy_kind == "lower-bound":
        raise InputError(
            f"link {link.name!r} reads behaviour entropies and these are only lower bounds of them: "
            "set decode.rescore = true, or let the link look at the current policy"
        )
