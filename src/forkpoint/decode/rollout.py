"""From prompts to rollouts: sample a group of answers to every prompt and pack them into tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from forkpoint.decode.decoder import Answer, NotFiniteError, Sampling, decode
from forkpoint.errors import InputError
from forkpoint.rollouts import EntropyKind, Prompt, Rollouts
from forkpoint.seeds import key


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What samples answers."""

    decode: Callable[..., list[Answer]]
    """`forkpoint.decode.decoder.decode`, or a function with its arguments, returns and errors."""
    entropy_kind: EntropyKind = "exact"
    """What the entropies of its answers are."""
    refresh: Callable[[Any], None] | None = None
    """Gives a policy's weights to an engine that holds a copy; None where it reads the policy itself."""


EMBEDDED = Engine(decode=decode)
"""The decoder of this package."""


def sample_rollouts(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    encoded: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    group: int,
    stream: Sequence[str | int],
    version: int = 0,
    progress: Callable[[int, int], None] | None = None,
    engine: Engine = EMBEDDED,
) -> Rollouts:
    """Return `group` sampled answers to every prompt.

    Args:
        model: the policy.
        tokenizer: turns ids back into text.
        prompts: P problems.
        encoded: their token ids.
        sampling: how tokens are drawn.
        group: G, answers to each prompt.
        stream: key of the draws, for example (seed, "train", step); problem id, place and sample number are added.
        version: optimiser updates the policy has seen.
        progress: called with (finished, total) answers.
        engine: what decodes; one that holds a copy of the weights must have been refreshed.

    Returns:
        `Rollouts` of P * G rows, not yet verified, on the model's device.

    Raises:
        NotFiniteError: the model's logits are not finite; the message names problem, sample and row.
    """
    # Longest answers cannot be known, so requests keep the order of the prompts: equal prompts are neighbours.
    order = [(index, sample) for index in range(len(prompts)) for sample in range(group)]
    try:
        answers = engine.decode(
            model,
            [encoded[index] for index, _ in order],
            [key(*stream, index, prompts[index].id, sample) for index, sample in order],
            sampling,
            progress=progress,
        )
    except NotFiniteError as error:
        index, sample = order[error.request]
        what = f"problem {prompts[index].id!r}, sample {sample} (row {error.request})"
        raise NotFiniteError(request=error.request, token=error.token, what=what) from error
    device = next(model.parameters()).device
    lengths = [len(answer.ids) for answer in answers]
    mask_BT = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    prompt_lengths = [len(encoded[index]) for index, _ in order]

    def padded(rows: Sequence[Sequence[float]], dtype: torch.dtype) -> Tensor:
        width = max(len(row) for row in rows)
        return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=dtype, device=device)

    return Rollouts(
        prompts=tuple(prompts),
        prompt_BS=padded([encoded[index] for index, _ in order], torch.int64),
        prompt_length_B=torch.tensor(prompt_lengths, device=device),
        ids_BT=padded([answer.ids for answer in answers], torch.int64),
        mask_BT=mask_BT.to(device),
        group_B=torch.tensor([index for index, _ in order], device=device),
        sample_B=torch.tensor([sample for _, sample in order], device=device),
        logp_BT=padded([answer.logp for answer in answers], torch.float32),
        entropy_BT=padded([answer.entropy for answer in answers], torch.float32),
        finish=tuple(answer.finish for answer in answers),
        text=tuple(
            tokenizer.batch_decode([_visible(answer, sampling) for answer in answers], skip_special_tokens=True)
        ),
        max_tokens=sampling.max_tokens,
        version=version,
        entropy_kind=engine.entropy_kind,
    )


def _visible(answer: Answer, sampling: Sampling) -> list[int]:
    """Return the ids without the stop token, which some tokenizers do not call special."""
    return answer.ids[:-1] if answer.ids[-1] in sampling.stop_ids else answer.ids


def joined(parts: Sequence[Rollouts]) -> Rollouts:
    """Return several batches as one, prompts renumbered and widths padded to the widest.

    Raises:
        InputError: their entropies are not of one kind.
    """
    if len(parts) == 1:
        return parts[0]
    kinds = sorted({part.entropy_kind for part in parts})
    if len(kinds) > 1:
        raise InputError(
            f"batches with entropies of different kinds ({', '.join(kinds)}) cannot be joined: rescore them"
        )
    T = max(part.ids_BT.shape[1] for part in parts)
    S = max(part.prompt_BS.shape[1] for part in parts)
    offsets = [0]
    for part in parts:
        offsets.append(offsets[-1] + len(part.prompts))

    def cat(name: str, width: int | None = None) -> Any:
        values = [getattr(part, name) for part in parts]
        if any(value is None for value in values):
            return None
        if width is not None:
            values = [torch.nn.functional.pad(value, (0, width - value.shape[1])) for value in values]
        return torch.cat(values)

    return dataclasses.replace(
        parts[0],
        prompts=tuple(prompt for part in parts for prompt in part.prompts),
        group_B=torch.cat([part.group_B + offset for part, offset in zip(parts, offsets, strict=False)]),
        prompt_BS=cat("prompt_BS", S),
        **{name: cat(name, T) for name in ("ids_BT", "mask_BT", "logp_BT", "entropy_BT", "ref_logp_BT")},
        **{name: cat(name) for name in ("prompt_length_B", "sample_B", "reward_B", "judged_B")},
        reward_parts={name: torch.cat([part.reward_parts[name] for part in parts]) for name in parts[0].reward_parts},
        finish=tuple(word for part in parts for word in part.finish),
        text=tuple(text for part in parts for text in part.text),
        verdicts=tuple(verdict for part in parts for verdict in part.verdicts),
    )


def of_prompts(rollouts: Rollouts, keep: Sequence[int]) -> Rollouts:
    """Return only the rows of the given prompts, renumbered 0, 1, … in that order."""
    place = torch.full((len(rollouts.prompts),), -1, dtype=torch.int64, device=rollouts.group_B.device)
    place[list(keep)] = torch.arange(len(keep), device=place.device)
    rows = (place[rollouts.group_B] >= 0).nonzero().squeeze(1)
    kept = rollouts.select(rows)
    return dataclasses.replace(
        kept, prompts=tuple(rollouts.prompts[index] for index in keep), group_B=place[kept.group_B]
    )
