"""Rock tokens: the vocabulary entries on which a student stays far from its teacher, from recorded answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from forkpoint.errors import InputError
from forkpoint.model import HeadKind, load_model, logits_of, pick_device, plain, use_threads
from forkpoint.rollouts import Rollouts
from forkpoint.tasks.prompts import encode_prompts, load_tokenizer
from forkpoint.train.offline import on_device, prompted
from forkpoint.train.offline_data import read_answers, rollouts_of_rows, with_ids
from forkpoint.train.policy import predicting, row_lengths
from forkpoint.train.rescore import evaluating, passes

LOGITS_HELD = 1 << 24
"""Most logits of one model held at once: tokens times vocabulary."""


@dataclass(frozen=True, kw_only=True)
class Rock:
    """One vocabulary entry and how far student and teacher are apart on it."""

    id: int
    frequency: int
    """How often it stands in the answers."""
    mean: float
    """KL(student ‖ teacher) where it stands, nats."""
    score: float
    """R of `rocks_of`, nats."""


def teacher_kl(
    student: Any, teacher: Any, rollouts: Rollouts, *, temperature: float = 1.0, head: HeadKind = "fused"
) -> Tensor:
    """Return how far a student is from its teacher at every token of its answers.

        KL_t = Σ_v π_v (log π_v - log τ_v)

    over the full distributions π of the student and τ of the teacher before the token. Equal models give 0.

    Args:
        student: a Hugging Face causal language model.
        teacher: another one on the same device with the same vocabulary; rows that only pad one of them do not count.
        rollouts: answers with their prompts, on that device.
        temperature: > 0, divides the logits of both.
        head: `plain` for models whose logits are more than a linear layer with soft-cap or scaling.

    Returns:
        float32 (B, T) in nats, 0 on padding.

    Source: arXiv 2605.09253 v2, which scores on-policy generations.
    """
    models = (student, teacher)
    words = min(int(plain(model).config.get_text_config().vocab_size) for model in models)
    B, T = rollouts.mask_BT.shape
    out = torch.zeros(B * T, device=rollouts.ids_BT.device)
    size = max(1, LOGITS_HELD // words)
    with torch.no_grad(), evaluating(student), evaluating(teacher):
        for rows in passes(row_lengths(rollouts).tolist()):
            index = torch.tensor(rows, device=out.device)
            part = rollouts.select(index, trim=False)
            both = (predicting(model, part, head=head) for model in models)
            for (states_NX, _, place_N), (other_NX, _, _) in zip(*both, strict=True):
                place_N = index[place_N // T] * T + place_N % T
                for one, two, place in zip(
                    states_NX.split(size), other_NX.split(size), place_N.split(size), strict=True
                ):
                    logp_NV, target_NV = (
                        (logits_of(model, head, states)[:, :words].float() / temperature).log_softmax(-1)
                        for model, states in zip(models, (one, two), strict=True)
                    )
                    out[place] = torch.where(logp_NV > -torch.inf, logp_NV.exp() * (logp_NV - target_NV), 0.0).sum(-1)
    return out.reshape(B, T)


def rocks_of(
    parts: Sequence[tuple[Tensor, Tensor, Tensor]], *, count: int = 100, skip: int = 5
) -> tuple[list[Rock], float, float]:
    """Return the vocabulary entries on which a student stays furthest from its teacher, and how much that is.

        R(v) = min_k Σ_{t in part k: y_t = v} KL_t

    the `count` largest after leaving out the `skip` most frequent entries. With one part it is the list of
    `forkpoint.credit.sampled.rock_ids`; with answers from before and after a training, only what stays hard scores.
    An entry that a part lacks scores 0 there, so it is no rock. Of equal scores or frequencies the lower id comes
    first.

    Args:
        parts: `(kl_BT, ids_BT, mask_BT)` of every set of answers.
        count: >= 1, the most that are returned; entries with score 0 or less never are.
        skip: >= 0.

    Returns:
        (rocks, the largest score first, their share of the tokens, their share of the KL), shares over all parts.

    Source: arXiv 2605.09253 v2, README and `rock_detection` of its code: score, numbers and the minimum over two
    passes.

    >>> ids = torch.tensor([[3, 3, 4]])
    >>> before = (torch.tensor([[1.0, 1.0, 5.0]]), ids, ids > 0)
    >>> after = (torch.tensor([[1.0, 0.5, 0.1]]), ids, ids > 0)
    >>> [(rock.id, rock.score) for rock in rocks_of([before, after], skip=0)[0]]
    [(3, 1.5), (4, 0.10000000149011612)]
    """
    if count < 1 or skip < 0:
        raise InputError(f"count is {count} and skip is {skip}: at least 1 and at least 0 are needed")
    if not any(bool(mask.any()) for _, _, mask in parts):
        raise InputError("the answers hold no token: there is nothing to look for rocks in")
    size = 1 + max(int(ids[mask].max()) for _, ids, mask in parts if bool(mask.any()))
    total_KV = torch.stack([_sums(kl, ids, mask, size) for kl, ids, mask in parts])
    frequency_V = sum(torch.bincount(ids[mask], minlength=size) for _, ids, mask in parts)
    assert isinstance(frequency_V, Tensor)  # noqa: S101 - there is a part
    score_V = total_KV.amin(0)
    score_V[torch.argsort(frequency_V, descending=True, stable=True)[:skip]] = -torch.inf
    best = torch.argsort(score_V, descending=True, stable=True)[:count]
    best = best[score_V[best] > 0]
    rocks = [
        Rock(
            id=int(v), frequency=int(frequency_V[v]), mean=float(total_KV[:, v].sum() / frequency_V[v]),
            score=float(score_V[v]),
        )
        for v in best
    ]  # fmt: skip
    everything = float(total_KV.sum())
    tokens = float(frequency_V[best].sum() / frequency_V.sum())
    return rocks, tokens, float(total_KV[:, best].sum()) / everything if everything else 0.0


@dataclass(frozen=True, kw_only=True)
class RockSettings:
    """How rocks are looked for."""

    temperature: float = 1.0
    """Divides the logits of both models."""
    template: str = "auto"
    """How prompts were put to the student: see `forkpoint.tasks.prompts`."""
    max_prompt: int = 1 << 20
    """Longest prompt, in tokens."""
    count: int = 100
    skip: int = 5
    head: HeadKind = "fused"
    device: str = "auto"
    dtype: str = "float32"
    threads: int = 0


def find_rocks(
    answers: Sequence[str | Path], students: Sequence[str], teacher: str, settings: RockSettings
) -> tuple[list[Rock], float, float, Any]:
    """Return the rocks of recorded answers as `rocks_of`, and the student's tokenizer.

    Args:
        answers: sets of answers, see `forkpoint.train.offline_data.read_answers`; each should be its student's own.
        students: the student that wrote each set, or one for all.
        teacher: directory or hub name.
        settings: how.

    Raises:
        InputError: a model, a tokenizer or a file cannot be used, or teacher and student have other vocabularies.
    """
    if len(students) not in (1, len(answers)):
        raise InputError(f"{len(students)} students and {len(answers)} sets of answers: name one student, or one a set")
    if not settings.temperature > 0:
        raise InputError(f"temperature is {settings.temperature} and must be greater than 0")
    use_threads(settings.threads)
    device = pick_device(settings.device)
    words = load_tokenizer(students[0])
    _check_vocabulary(words, load_tokenizer(teacher), students[0], teacher)
    guide = load_model(teacher, dtype=settings.dtype, device=device, head=settings.head)
    parts = []
    for place, path in enumerate(answers):
        student = load_model(students[place % len(students)], dtype=settings.dtype, device=device, head=settings.head)
        rollouts = rollouts_of_rows(with_ids(read_answers(path), words))
        encoded = encode_prompts(
            rollouts.prompts, words, template=settings.template, max_tokens=settings.max_prompt, overlong="error"
        )
        rollouts = on_device(prompted(rollouts, encoded), device)
        kl_BT = teacher_kl(student, guide, rollouts, temperature=settings.temperature, head=settings.head)
        parts.append((kl_BT.cpu(), rollouts.ids_BT.cpu(), rollouts.mask_BT.cpu()))
    return *rocks_of(parts, count=settings.count, skip=settings.skip), words


def _sums(kl_BT: Tensor, ids_BT: Tensor, mask_BT: Tensor, size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.float64).index_add(0, ids_BT[mask_BT], kl_BT[mask_BT].double())


def _check_vocabulary(student: Any, teacher: Any, student_name: str, teacher_name: str) -> None:
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    other = next((word for word in ours if theirs.get(word) != ours[word]), None)
    if other is not None:
        raise InputError(
            f"{teacher_name} does not have the vocabulary of {student_name} (token {ours[other]} is another one), so "
            "their distributions cannot be compared: choose a teacher of the same family"
        )
