"""The values that flow between rooms: prompts, rollouts, credit and the current forward pass.

Shape suffixes: `P` prompts, `G` answers a prompt, `B` rows (answers), `T` response positions
(right-padded), `S` prompt positions (right-padded), `V` vocabulary, `H` hidden size. `mask_BT` is bool
and always means "this token counts". Entropies are in nats of softmax(logits / temperature) over the
full vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import torch
from torch import Tensor

from forkpoint.errors import InputError

EntropyKind = Literal["exact", "rescored", "lower-bound"]
"""`exact`: from the logits that sampled; `rescored`: from one more pass of the training model with the same weights;
`lower-bound`: from the most likely tokens alone."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One problem: what the model reads and what a verifier compares with."""

    id: str
    """Stable and unique in its task."""
    text: str
    """What the model reads, before any template."""
    answer: str | None = None
    """Reference answer for the verifier."""
    messages: tuple[Mapping[str, str], ...] | None = None
    """Chat form of `text` (`role`, `content`), where the source has one."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Anything else the task's verifier needs."""


class Verdict(StrEnum):
    """What a verifier says of one answer."""

    RIGHT = "right"
    WRONG = "wrong"
    UNJUDGED = "unjudged"
    """Could not be judged (unreadable reference, deadline): counted, reported and left out of learning."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdict on one answer and the reward that follows from it."""

    verdict: Verdict
    reward: float
    parts: Mapping[str, float] = field(default_factory=dict)
    """Named parts that sum to `reward` (for example `answer`, `overlong`)."""
    detail: str = ""
    """Why, in a few words: the extracted answer, `no box`, `deadline`."""


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """A batch of sampled answers and everything the behaviour policy knew about them."""

    prompts: tuple[Prompt, ...]
    """The P problems of this batch."""
    prompt_BS: Tensor
    """int64 (B, S): prompt ids of every row, right-padded."""
    prompt_length_B: Tensor
    """int64 (B,): how many of the S positions are real."""
    ids_BT: Tensor
    """int64 (B, T): sampled ids, the stop token included, right-padded."""
    mask_BT: Tensor
    """bool (B, T): positions that were sampled."""
    group_B: Tensor
    """int64 (B,): index into `prompts`."""
    sample_B: Tensor
    """int64 (B,): which of the G answers to its prompt a row is."""
    logp_BT: Tensor
    """float32 (B, T): log-prob of the sampled token under the behaviour policy, 0 on padding."""
    entropy_BT: Tensor
    """float32 (B, T): entropy of the behaviour policy in nats, 0 on padding; `entropy_kind` says how it is known."""
    finish: tuple[str, ...]
    """Why each row ended: `stop` or `length`."""
    text: tuple[str, ...]
    """The answers as text, special tokens removed."""
    reward_B: Tensor | None = None
    """float32 (B,): total reward, 0 where not judged."""
    reward_parts: Mapping[str, Tensor] = field(default_factory=dict)
    """Named parts of the reward, each float32 (B,)."""
    judged_B: Tensor | None = None
    """bool (B,): False where the verifier could not judge."""
    verdicts: tuple[Verdict, ...] = ()
    ref_logp_BT: Tensor | None = None
    """float32 (B, T): log-prob under the reference model, where a KL term needs it."""
    max_tokens: int | None = None
    """The longest answer the decoder allowed, in tokens."""
    version: int = 0
    """Number of optimiser updates the behaviour policy had seen."""
    entropy_kind: EntropyKind = "exact"
    """What every entropy of this batch is; batches of different kinds cannot be joined."""
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """More that some links need, by the name of the need: (B,), (B, T) or (B, T, H); see
    `forkpoint.credit.link.EXTRA`. Padding may hold anything."""

    @property
    def rows(self) -> int:
        """B, the number of answers."""
        return int(self.ids_BT.shape[0])

    def select(self, rows: Tensor, *, trim: bool = True) -> Rollouts:
        """Return the given rows (int64 indices).

        Args:
            rows: which rows, in which order.
            trim: cut T and S to the longest row kept; without it widths stay, so that (B, T) values of
                different cuts fit together.
        """
        rows = rows.to(self.ids_BT.device)
        longest = trim and rows.numel() > 0
        T = int(self.mask_BT[rows].sum(1).max()) if longest else self.ids_BT.shape[1]
        S = int(self.prompt_length_B[rows].max()) if longest else self.prompt_BS.shape[1]
        index = rows.tolist()

        def cut(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[rows, :T] if value.ndim >= 2 else value[rows]

        changes: dict[str, Any] = {name: cut(getattr(self, name)) for name in _PER_ROW}
        return dataclasses.replace(
            self,
            **changes,
            prompt_BS=self.prompt_BS[rows, :S],
            reward_parts={name: part[rows] for name, part in self.reward_parts.items()},
            extra={name: column[rows, :T] if column.ndim >= 2 else column[rows] for name, column in self.extra.items()},
            finish=tuple(self.finish[i] for i in index),
            text=tuple(self.text[i] for i in index),
            verdicts=tuple(self.verdicts[i] for i in index) if self.verdicts else (),
        )


_PER_ROW = (
    "prompt_length_B", "ids_BT", "mask_BT", "group_B", "sample_B", "logp_BT", "entropy_BT",
    "reward_B", "judged_B", "ref_logp_BT",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Forward:
    """What the current policy says about one mini-batch."""

    logp_BT: Tensor
    """float32 (B, T): log-prob of the recorded tokens; carries gradient inside the loss."""
    entropy_BT: Tensor
    """float32 (B, T): entropy in nats; carries gradient where a regulariser asks for it."""
    scored_BT: Tensor | None = None
    """bool (B, T): where the current policy was asked; elsewhere values are the behaviour policy's. None: all."""
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """More that some links need: (B, T) or (B, T, H) by name; the need `forward_NAME` asks for `NAME`."""

    def detach(self) -> Forward:
        """Return the same values without gradient, as credit links see them."""
        return dataclasses.replace(
            self,
            logp_BT=self.logp_BT.detach(),
            entropy_BT=self.entropy_BT.detach(),
            extra={name: value.detach() for name, value in self.extra.items()},
        )

    def select(self, rows: Tensor) -> Forward:
        """Return the given rows."""
        scored_BT = None if self.scored_BT is None else self.scored_BT[rows]
        return Forward(
            logp_BT=self.logp_BT[rows],
            entropy_BT=self.entropy_BT[rows],
            scored_BT=scored_BT,
            extra={name: value[rows] for name, value in self.extra.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """A term `coefficient * form(logp, target)` added to the loss of every token that counts."""

    coefficient_BT: Tensor
    target_logp_BT: Tensor
    form: Literal["abs", "k1", "k2", "k3", "k1+", "k3+", "hinge"]
    """See `forkpoint.credit.kl`; with `+` the value is the form's and the gradient that of k2 (straight-through)."""
    threshold: float = 0.0
    """Of `hinge`: log-ratios up to it, in nats, cost nothing."""
    corrected: bool = False
    """Whether it is multiplied by the importance ratio, which carries gradient too."""


@dataclass(frozen=True, kw_only=True)
class EntropyTerm:
    """A term `slope * H + offset` added to the loss of a mini-batch, summed over tokens.

    Any function of the current entropies of a mini-batch has such a form around the values at hand: the slope is its
    derivative by each entropy, the offset makes the sum its value. So it adds up over micro-batches.
    """

    slope_BT: Tensor
    """In loss per nat; no denominator is applied. 0 where a token takes no part. (B, T, H) where H is."""
    offset_BT: Tensor
    of: str = "entropy"
    """`entropy` is `Forward.entropy_BT`; another name is looked up in `Forward.extra`, for example `hidden`."""


@dataclass(frozen=True, kw_only=True)
class Credit:
    """How much, and how, every token of a batch should learn. Plain data, never differentiated.

    Gradient enters in `forkpoint.loss` alone, through `Forward`.
    """

    advantage_BT: Tensor
    """float32 (B, T)."""
    weight_BT: Tensor
    """float32 (B, T): multiplies the surrogate; 0 silences a token but leaves it in the denominator."""
    keep_BT: Tensor
    """bool (B, T): False drops a token from loss and denominator. Starts as the response mask."""
    ratio: Literal["token", "sequence", "stop", "mean"] = "token"
    """token: PPO; sequence: length-normalised (GSPO); stop: detached and capped (CISPO); mean: the mean of order
    `order` over the answer's tokens (HölderPO, GMPO)."""
    order: float = 0.0
    """p of `ratio="mean"`: 1 arithmetic, 0 geometric, -1 harmonic."""
    inner_bounds: bool = False
    """Whether, with `ratio="mean"`, the bounds act on every token's ratio before the mean (GMPO) or on the mean."""
    low_BT: Tensor | None = None
    """Lower bound of the ratio, per token; None leaves it open."""
    high_BT: Tensor | None = None
    """Upper bound of the ratio, per token; None leaves it open."""
    scaled_low_BT: Tensor | None = None
    """bool (B, T): below the lower bound the gradient is that of low * r / sg(r) instead of 0. None: nowhere."""
    scaled_high_BT: Tensor | None = None
    """bool (B, T): above the upper bound the gradient is that of high * r / sg(r) instead of 0. None: nowhere."""
    unclipped_BT: Tensor | None = None
    """bool (B, T): tokens that neither the bounds nor the dual clip touch. None: nowhere."""
    dual_clip: float | None = None
    """c: where the advantage is negative the surrogate is at least c * advantage."""
    gate: tuple[float, float] | None = None
    """Temperatures (A > 0, A < 0) of a sigmoid that takes the place of bounds and dual clip; None: hard bounds."""
    penalties: tuple[Penalty, ...] = ()
    entropy_terms: tuple[EntropyTerm, ...] = ()
    denominator: Literal["token", "sequence", "constant", "micro-token"] = "token"
    """How per-token losses become one number: see `forkpoint.loss.coefficients`."""
    constant: float | None = None
    """The divisor per row when `denominator` is `constant` (Dr. GRPO: the maximum response length)."""

    def select(self, rows: Tensor) -> Credit:
        """Return the given rows."""
        return _rows_of(self, rows)


def _rows_of(value: Any, rows: Tensor) -> Any:
    """Return a dataclass with the given rows of every tensor it holds, also of dataclasses inside tuples."""
    changes: dict[str, Any] = {}
    for part in dataclasses.fields(value):
        inside = getattr(value, part.name)
        if isinstance(inside, Tensor):
            changes[part.name] = inside[rows]
        elif isinstance(inside, tuple):
            changes[part.name] = tuple(_rows_of(x, rows) if dataclasses.is_dataclass(x) else x for x in inside)
    return dataclasses.replace(value, **changes)


def right(rollouts: Rollouts) -> Tensor:
    """Return which answers are right, bool (B,): by the verdict where there are any, else by a reward above 0.

    An answer that was not judged is not right.

    Raises:
        InputError: there is neither a verdict nor a reward.
    """
    device = rollouts.group_B.device
    if rollouts.verdicts:
        return torch.tensor([verdict == Verdict.RIGHT for verdict in rollouts.verdicts], device=device)
    if rollouts.reward_B is None:
        raise InputError("neither verdicts nor rewards are known: verify the rollouts first")
    right_B = rollouts.reward_B > 0
    return right_B if rollouts.judged_B is None else right_B & rollouts.judged_B


def blank_credit(rollouts: Rollouts) -> Credit:
    """Return credit in which every sampled token counts and none has an advantage yet."""
    dtype = torch.promote_types(rollouts.logp_BT.dtype, torch.float32)  # bfloat16 cannot count past 256
    zeros = torch.zeros_like(rollouts.logp_BT, dtype=dtype)
    return Credit(advantage_BT=zeros, weight_BT=torch.ones_like(zeros), keep_BT=rollouts.mask_BT.clone())
