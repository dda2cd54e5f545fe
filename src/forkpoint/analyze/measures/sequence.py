"""Measures of a whole answer or a whole prompt, from numbers that a model or a verifier has given.

`forkpoint.analyze.measures.forced` reads those numbers from a model; everything here is arithmetic on arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from forkpoint.analyze.measures.flat import Floats, Ints, check_offsets, sums_by
from forkpoint.errors import InputError

FEW = 20
"""K of the entropy area score: the most likely tokens that count."""


def top_k_bits(logp_NV: ArrayLike, k: int = FEW) -> Floats:
    """Return the entropy of the k most likely tokens, in bits, not renormalised.

        H = -Σ_{v in top k} p_v log2 p_v

    It is a lower bound: mass ε outside the k adds at most ε log2((V - k) / ε).

    Args:
        logp_NV: (N, V) natural log-probs; -inf counts as 0.
        k: >= 1; k >= V is the full entropy.

    Source: arXiv 2508.20384 (K = 20).

    >>> top_k_bits(np.log([[0.5, 0.25, 0.25]]), k=2).tolist()
    [1.0]
    """
    logp = np.asarray(logp_NV, dtype=np.float64)
    if k < 1:
        raise InputError(f"k is {k} and must be 1 or more tokens")
    if k < logp.shape[-1]:
        logp = -np.partition(-logp, k - 1, axis=-1)[..., :k]
    safe = np.where(np.isneginf(logp), 0.0, logp)
    return -(np.where(np.isneginf(logp), 0.0, np.exp(safe)) * safe).sum(-1) / math.log(2) + 0.0


@dataclass(frozen=True, kw_only=True)
class EntropyArea:
    """The entropy area score of every response."""

    area: Floats
    """(R,) bits summed over positions."""
    mean: Floats
    """(R,) bits a position; NaN where there is none."""
    positions: Ints
    """(R,) positions summed."""


def entropy_area(bits: ArrayLike, offsets: ArrayLike, *, stride: int = 1) -> EntropyArea:
    """Return the area under the uncertainty about the final answer while the response was being written.

        EAS_r = stride * Σ_{t=1}^{T-1} H_t

    H_t is the entropy in bits of the last token of the answer, forced after the first t tokens of the response
    (`forced.forced_answer_bits`). The score grows with length; the paper found the mean to select worse.

    Args:
        bits: (N,) H_t, flat over responses; T - 1 values for a response of T tokens.
        offsets: int (R + 1,).
        stride: every how many positions H was measured (1 in the paper).

    Returns:
        The scores: 0 for a response of one token, which has no position; NaN where any H_t is NaN.

    Raises:
        InputError: offsets that do not fit, or a stride below 1.

    Source: arXiv 2508.20384.

    >>> entropy_area([1.0, 0.5, 0.25], [0, 2, 2, 3]).area.tolist()
    [1.5, 0.0, 0.25]
    """
    value = np.asarray(bits, dtype=np.float64)
    bounds = check_offsets(offsets, value.size)
    if stride < 1:
        raise InputError(f"stride is {stride} and must be 1 or more positions")
    size_R = np.diff(bounds)
    response_N = np.repeat(np.arange(size_R.size), size_R)
    area = stride * sums_by(response_N, size_R.size, value)
    with np.errstate(invalid="ignore"):
        return EntropyArea(area=area, mean=np.where(size_R > 0, area / (stride * size_R), np.nan), positions=size_R)


def answer_clusters(
    answers: Sequence[Any],
    prompts: Sequence[Hashable],
    equal: Callable[[Any, Any], bool],
    *,
    missing: Literal["class", "own"] = "class",
) -> Ints:
    """Return which cluster of verified-equal answers every answer of its prompt belongs to.

    Each answer is compared with the first member of the clusters of its prompt, in order; where `equal` is an
    equivalence the order does not matter.

    Args:
        answers: extracted final answers; None where there is none.
        prompts: the prompt of every answer.
        equal: the verifier's verdict on two answers, such as `exactly_equal` of `forkpoint.verify.exact`.
        missing: answers that are None are one `class` of their own, or each its `own` cluster.

    Returns:
        int64 (N,), numbers from 0, unique over prompts.

    Source: first-member rule of EMPO (arXiv 2504.05812).

    >>> answer_clusters(["1/2", "0.5", "3"], ["p"] * 3, lambda a, b: {a, b} == {"1/2", "0.5"} or a == b).tolist()
    [0, 0, 1]
    """
    if len(answers) != len(prompts):
        raise InputError(f"{len(answers)} answers do not match {len(prompts)} prompts: give one prompt an answer")
    members: dict[Hashable, list[tuple[Any, int]]] = {}
    found, count = np.empty(len(answers), dtype=np.int64), 0
    for index, (answer, prompt) in enumerate(zip(answers, prompts, strict=True)):
        firsts = members.setdefault(prompt, [])
        same = (number for first, number in firsts if _same(first, answer, equal, missing))
        number = next(same, -1)
        if number < 0:
            number, count = count, count + 1
            firsts.append((answer, number))
        found[index] = number
    return found


def _same(first: Any, answer: Any, equal: Callable[[Any, Any], bool], missing: str) -> bool:
    if first is None or answer is None:
        return missing == "class" and first is None and answer is None
    return bool(equal(first, answer))


@dataclass(frozen=True, kw_only=True)
class SemanticEntropy:
    """Entropy over the meanings of the answers to every prompt."""

    prompts: tuple[Hashable, ...]
    """In order of appearance."""
    entropy: Floats
    """(P,) nats."""
    normalised: Floats
    """(P,) divided by ln G, in [0, 1] for the count estimator; NaN for one answer."""
    clusters: Ints
    """(P,) meanings."""
    answers: Ints
    """(P,) G."""


def semantic_entropy(
    clusters: ArrayLike, prompts: Sequence[Hashable], *, logp: ArrayLike | None = None
) -> SemanticEntropy:
    r"""Return the entropy over clusters of equal answers, by counting or by likelihood.

        counting:    H = -Σ_C p_C ln p_C,  p_C = |C| / G
        likelihood:  H = -(1/K) Σ_C ln p_C,  p_C = Σ_{i in C} exp(logp_i), K clusters

    The likelihood form is the plain average of SEED-GRPO; its p_C do not sum to 1, so it has no upper bound.

    Args:
        clusters: int (N,), from `answer_clusters`.
        prompts: (N,) prompt of every answer.
        logp: (N,) log-prob of the whole answer, for the likelihood form.

    Returns:
        The entropies: 0 where all answers are equal or there is one; NaN in the likelihood form where a log-prob is.

    Raises:
        InputError: no answer, or lengths that differ.

    Source: arXiv 2302.09664 (the idea), 2504.05812 (counting), 2505.12346 section 3.2 (likelihood).

    >>> semantic_entropy([0, 0, 1, 1], ["p"] * 4).entropy.round(4).tolist()
    [0.6931]
    """
    cluster_N = np.asarray(clusters, dtype=np.int64)
    if cluster_N.size == 0:
        raise InputError("there is no answer to take the semantic entropy of: sample some first")
    if cluster_N.size != len(prompts) or (logp is not None and np.asarray(logp).size != cluster_N.size):
        raise InputError("clusters, prompts and log-probs differ in length: give one of each an answer")
    order = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
    prompt_N = np.array([order[prompt] for prompt in prompts], dtype=np.int64)
    names, which_N = np.unique(np.stack([prompt_N, cluster_N], axis=1), axis=0, return_inverse=True)
    which_N, prompt_C, P = which_N.reshape(-1), names[:, 0], len(order)
    size_C = np.bincount(which_N).astype(np.float64)
    size_P, kinds_P = sums_by(prompt_N, P), sums_by(prompt_C, P)
    if logp is None:
        part_C = size_C / size_P[prompt_C]
        entropy = sums_by(prompt_C, P, -part_C * np.log(part_C)) + 0.0
    else:
        value_N = np.asarray(logp, dtype=np.float64)
        log_C = np.full(size_C.size, -np.inf)
        with np.errstate(invalid="ignore"):  # a NaN is a result here
            np.logaddexp.at(log_C, which_N, value_N)
        entropy = sums_by(prompt_C, P, -log_C) / kinds_P
    with np.errstate(divide="ignore", invalid="ignore"):
        normalised = np.where(size_P > 1, entropy / np.log(size_P), np.nan)
    return SemanticEntropy(
        prompts=tuple(order),
        entropy=entropy,
        normalised=normalised,
        clusters=kinds_P.astype(np.int64),
        answers=size_P.astype(np.int64),
    )


@dataclass(frozen=True, kw_only=True)
class EntropyReduction:
    """How much every step of every response told about the answer."""

    reduction: Floats
    """(N - R,) nats, flat over responses: u_{k-1} - u_k."""
    offsets: Ints
    """int64 (R + 1,) of `reduction`."""
    total: Floats
    """(R,) u_0 - u_K; 0 for a response without steps, NaN for one without any u."""


def entropy_reduction(conditional: ArrayLike, offsets: ArrayLike) -> EntropyReduction:
    """Return the fall of the answer's conditional entropy at every reasoning step.

        u_k = mean over the answer's tokens of H(next token | question, first k steps, answer so far)
        utility of step k = u_{k-1} - u_k,  k = 1..K

    A falling u goes with right answers. The u_k come from a scorer (`forced.answer_entropies`).

    Args:
        conditional: (N,) u_0 .. u_K of every response, flat, nats.
        offsets: int (R + 1,); K + 1 values a response.

    Returns:
        The reductions; NaN where a neighbouring u is NaN.

    Raises:
        InputError: offsets that do not fit.

    Source: arXiv 2508.20395 (how the paper averages over the answer is not confirmed).

    >>> entropy_reduction([2.0, 1.5, 0.5, 1.0], [0, 3, 4]).reduction.tolist()
    [0.5, 1.0]
    """
    value = np.asarray(conditional, dtype=np.float64)
    bounds = check_offsets(offsets, value.size)
    size_R = np.diff(bounds)
    inside = np.ones(max(value.size - 1, 0), dtype=bool)
    last = bounds[1:-1]
    inside[last[(last > 0) & (last < value.size)] - 1] = False
    total = np.full(size_R.size, np.nan)
    filled = size_R > 0
    total[filled] = value[bounds[:-1][filled]] - value[bounds[1:][filled] - 1]
    return EntropyReduction(
        reduction=(value[:-1] - value[1:])[inside],
        offsets=np.concatenate([[0], np.cumsum(np.maximum(size_R - 1, 0))]).astype(np.int64),
        total=total,
    )


def window_entropy(entropy: ArrayLike, offsets: ArrayLike, *, width: int = 4) -> Floats:
    """Return the mean entropy of every token and the ones after it.

        W_t = (1/w) Σ_{j=0}^{w-1} H_{t+j}

    Args:
        entropy: (N,) nats.
        offsets: int (R + 1,).
        width: w >= 1 tokens, the token itself included.

    Returns:
        float64 (N,): NaN where the window does not fit into its response or holds a NaN.

    Raises:
        InputError: offsets that do not fit, or a width below 1.

    Source: the window of arXiv 2510.08457 (ARES, w = 4).

    >>> window_entropy([1.0, 3.0, 5.0, 8.0], [0, 3, 4], width=2).tolist()
    [2.0, 4.0, nan, nan]
    """
    value = np.asarray(entropy, dtype=np.float64)
    bounds = check_offsets(offsets, value.size)
    if width < 1:
        raise InputError(f"a window holds 1 or more tokens, not {width}")
    out = np.full(value.size, np.nan)
    if value.size < width:
        return out
    # Sums of few terms, not differences of long running sums: those lose digits, and a NaN would spread.
    total = value[: value.size - width + 1].copy()
    for ahead in range(1, width):
        total += value[ahead : value.size - width + 1 + ahead]
    end_N = np.repeat(bounds[1:], np.diff(bounds))[: total.size]
    fits = np.arange(total.size) + width <= end_N
    out[: total.size][fits] = total[fits] / width
    return out
