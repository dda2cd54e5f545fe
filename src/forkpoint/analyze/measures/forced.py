"""Forcing text on a model: what its next-token distributions would be after a context of our choice.

The other measures of this package read recorded numbers; these three ask the model anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forkpoint.analyze.measures.flat import Floats
from forkpoint.analyze.measures.sequence import FEW
from forkpoint.entropy.token import entropy_of
from forkpoint.errors import InputError
from forkpoint.model import HeadKind, logits_of, read

Ids = Sequence[int]
Measure = Callable[[Tensor], Tensor]
"""Log-probs (L, V) in, one number a row (L,) out."""


@torch.inference_mode()
def forced_logp(
    model: Any,
    contexts: Sequence[Ids],
    targets: Sequence[Ids],
    *,
    temperature: float = 1.0,
    tokens_at_once: int = 16_384,
    head: HeadKind = "fused",
) -> Iterator[tuple[int, Tensor]]:
    """Yield the distributions from which the tokens of every target would be drawn.

        log p(· | context_i, target_i,<j),  j = 1..L_i

    Args:
        model: a Hugging Face causal language model.
        contexts: token ids of each request, one or more.
        targets: token ids forced after each context, one or more; the last one is never read.
        temperature: > 0; of softmax(logits / temperature).
        tokens_at_once: tokens of a padded batch; requests of like length share one.
        head: `plain` asks the model itself for its logits.

    Yields:
        Number of the request and float32 log-probs (L_i, V) on the model's device; long requests come first.
        The model is in evaluation mode meanwhile.

    Raises:
        InputError: an empty context or target, or numbers of requests that differ.
    """
    if len(contexts) != len(targets):
        raise InputError(f"{len(contexts)} contexts do not match {len(targets)} targets: give one target a context")
    for index, (context, target) in enumerate(zip(contexts, targets, strict=True)):
        if len(context) == 0 or len(target) == 0:
            raise InputError(f"request {index} has an empty context or target: each needs one token or more")
    if not contexts:
        return
    given = [[*context, *target[:-1]] for context, target in zip(contexts, targets, strict=True)]
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        for batch in _batches([len(ids) for ids in given], tokens_at_once):
            width = max(len(given[index]) for index in batch)
            ids_BS = torch.zeros(len(batch), width, dtype=torch.int64)
            for row, index in enumerate(batch):
                ids_BS[row, : len(given[index])] = torch.tensor(given[index])
            # Right padding needs no mask: it comes after every real token and causal attention looks back only.
            states_BSX = read(model, head, input_ids=ids_BS.to(device), use_cache=False)
            for row, index in enumerate(batch):
                states_LX = states_BSX[row, len(contexts[index]) - 1 : len(given[index])]
                yield index, torch.log_softmax(logits_of(model, head, states_LX).float() / temperature, dim=-1)
    finally:
        model.train(was_training)


def forced_measure(
    model: Any,
    contexts: Sequence[Ids],
    targets: Sequence[Ids],
    measure: Measure,
    *,
    tokens_at_once: int = 16_384,
    head: HeadKind = "fused",
) -> list[Floats]:
    """Return a measure of every distribution of `forced_logp`: one float64 array (L_i,) a request, in order."""
    found: list[Floats] = [np.empty(0)] * len(contexts)
    for index, logp_LV in forced_logp(model, contexts, targets, tokens_at_once=tokens_at_once, head=head):
        found[index] = measure(logp_LV).double().cpu().numpy()
    return found


def _batches(lengths: Sequence[int], tokens_at_once: int) -> list[list[int]]:
    """Return requests of like length together, so many that the padded batch stays within `tokens_at_once`."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= tokens_at_once:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def top_k_bits_of(k: int) -> Measure:
    """Return the measure of `sequence.top_k_bits`, on tensors.

    >>> top_k_bits_of(2)(torch.tensor([[0.5, 0.25, 0.25]]).log()).round(decimals=6).tolist()
    [1.0]
    """

    def measure(logp_NV: Tensor) -> Tensor:
        return entropy_of(logp_NV.topk(min(k, logp_NV.shape[-1]), dim=-1).values.double()) / np.log(2.0)

    return measure


def forced_answer_bits(
    model: Any,
    prompt: Ids,
    response: Ids,
    opener: Ids,
    answer: Ids,
    *,
    k: int = FEW,
    stride: int = 1,
    tokens_at_once: int = 16_384,
    head: HeadKind = "fused",
) -> Floats:
    r"""Return how uncertain the answer's last token is when the answer is forced after every prefix of a response.

        H_t = entropy in bits, over the k most likely tokens, of
              p(a_L | prompt, x_1..x_t, opener, a_1..a_{L-1}),  t = 1, 1 + stride, ... <= T - 1

    The cost is one forward of prompt and prefix for every t: quadratic in the length of the response.

    Args:
        model: a Hugging Face causal language model.
        prompt: ids of the question, in its template.
        response: ids x_1..x_T that the model wrote.
        opener: ids that open an answer, such as those of `\boxed{`; may be empty.
        answer: ids a_1..a_L of the final answer.
        k: most likely tokens that count.
        stride: every how many positions; above 1 is our economy, not the paper's.
        tokens_at_once: as in `forced_logp`.
        head: as in `forced_logp`.

    Returns:
        float64 bits, ceil((T - 1) / stride) of them: none for a response of one token. `entropy_area` sums them.

    Raises:
        InputError: an empty response or answer, or a stride below 1.

    Source: arXiv 2508.20384.
    """
    if len(response) == 0 or len(answer) == 0 or stride < 1:
        raise InputError("a forced answer needs a response, an answer and a stride of 1 or more")
    contexts = [[*prompt, *response[:t], *opener, *answer[:-1]] for t in range(1, len(response), stride)]
    targets = [answer[-1:]] * len(contexts)
    measured = forced_measure(model, contexts, targets, top_k_bits_of(k), tokens_at_once=tokens_at_once, head=head)
    return np.concatenate(measured) if measured else np.empty(0)


def answer_entropies(
    model: Any,
    prompt: Ids,
    steps: Sequence[Ids],
    answer: Ids,
    *,
    opener: Ids = (),
    tokens_at_once: int = 16_384,
    head: HeadKind = "fused",
) -> Floats:
    """Return the answer's mean token entropy after 0, 1, .. K reasoning steps.

        u_k = (1/L) Σ_j H(p(· | prompt, steps 1..k, opener, a_<j)),  k = 0..K, nats

    Args:
        model: the scorer, which may be another model than the writer.
        prompt: ids of the question.
        steps: ids of the K reasoning steps.
        answer: ids a_1..a_L of the final answer.
        opener: ids between steps and answer.
        tokens_at_once: as in `forced_logp`.
        head: as in `forced_logp`.

    Returns:
        float64 (K + 1,), for `sequence.entropy_reduction`.

    Source: arXiv 2508.20395 (how the paper averages over the answer is not confirmed).
    """
    contexts, so_far = [], list(prompt)
    for step in ((), *steps):
        so_far = [*so_far, *step]
        contexts.append([*so_far, *opener])
    targets = [answer] * len(contexts)
    found = forced_measure(model, contexts, targets, entropy_of, tokens_at_once=tokens_at_once, head=head)
    return np.array([values.mean() for values in found])
