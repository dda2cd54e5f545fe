"""Supervised training on text: the cold start before reinforcement learning, and pretraining from nothing.

Data is a function of the step alone (`forkpoint.train.examples`) and all other state is in `SftState`, so a
run continues from a checkpoint exactly where it stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from forkpoint.errors import NotFiniteRowError, TrainingError
from forkpoint.model import HeadKind, head_values, read
from forkpoint.train.examples import (
    Batches,
    Example,
    TextBatch,
    bucketed,
    collate,
    read_examples,
    shuffled,
)
from forkpoint.train.weigh import Weigh, joined, token_values

__all__ = [
    "Batches",
    "Example",
    "SftState",
    "TextBatch",
    "adamw",
    "bucketed",
    "collate",
    "negative_log_likelihood",
    "read_examples",
    "schedule",
    "sft",
    "sft_step",
    "shuffled",
]


Loss = Callable[[nn.Module, TextBatch], Tensor]


@dataclass(frozen=True, kw_only=True)
class SftState:
    """Everything a supervised run has to keep besides the weights."""

    step: int
    """Optimiser updates made; the next batch is `batches(step)`."""
    optimizer: torch.optim.Optimizer


def sft(
    model: nn.Module,
    batches: Batches,
    *,
    steps: int,
    lr: float,
    warmup: int = 0,
    weight_decay: float = 0.0,
    grad_clip: float = 1.0,
    log: Callable[[Mapping[str, float]], None] | None = None,
    state: SftState | None = None,
    after_step: Callable[[SftState], None] | None = None,
    loss: Loss | None = None,
    weigh: Weigh | None = None,
    head: HeadKind = "fused",
) -> SftState:
    """Train a causal language model in place with cross entropy on the tokens that count.

    Equation: L = -1/N sum_{b,t} m_bt log p(y_bt | y_b<t), with N the number of tokens that count in the
    whole step, so the loss does not depend on how the step is cut into micro-batches. AdamW, the rate rising
    linearly and then following a cosine to 0.

    Args:
        model: Hugging Face causal language model; the batches follow it to its device.
        batches: micro-batches of every step.
        steps: total number of updates; a resumed run counts those already made.
        lr: peak learning rate, above 0.
        warmup: updates over which the rate rises.
        weight_decay: decoupled decay of matrices; vectors (norms, biases) are never decayed. Ignored where
            `state` brings its own optimiser.
        grad_clip: largest norm of the gradient, above 0.
        log: receives the metrics of every step: `step`, `loss` (nats per token), `grad_norm`, `lr`,
            `tokens/learned`, `tokens/padding` (share of positions), `time/step` (seconds); with `weigh` also
            `loss/all` (nats per token, all alike), `entropy/mean` (nats) and `credit/share` (of tokens with a weight).
        state: where to continue; None starts anew.
        after_step: called with the state after every update, for checkpoints.
        loss: summed loss of a micro-batch's tokens; None is `negative_log_likelihood`.
        weigh: weights of all tokens of a step from their loss and entropy (`forkpoint.train.weigh`), in place of
            `loss`; the step is then the weighted mean, and where it has several micro-batches each is read once more
            without gradient first.
        head: of the weighted loss.

    Returns:
        The final state. The model keeps the trained weights, in evaluation mode.

    Raises:
        TrainingError: loss or gradient is not finite, or a step has no token to learn from; the weights are
            then those from before that step.
    """
    state = state or SftState(step=0, optimizer=adamw(model, weight_decay=weight_decay))
    model.train()
    while state.step < steps:
        begin = time.perf_counter()
        rate = lr * schedule(state.step, steps=steps, warmup=warmup)
        metrics = sft_step(
            model, state, batches(state.step), lr=rate, grad_clip=grad_clip, loss=loss, weigh=weigh, head=head
        )
        state = SftState(step=state.step + 1, optimizer=state.optimizer)
        if log is not None:
            log({"step": state.step, **metrics, "time/step": time.perf_counter() - begin})
        if after_step is not None:
            after_step(state)
    model.eval()
    return state


def sft_step(
    model: nn.Module,
    state: SftState,
    micros: Sequence[TextBatch],
    *,
    lr: float,
    grad_clip: float = 1.0,
    loss: Loss | None = None,
    weigh: Weigh | None = None,
    head: HeadKind = "fused",
) -> dict[str, float]:
    """Update model and optimiser once from the micro-batches of one step and return the metrics of `sft`."""
    tokens = sum(int(micro.mask_BT.sum()) for micro in micros)
    if tokens == 0:
        raise TrainingError(f"step {state.step + 1} has no token to learn from; look at the data it reads.")
    state.optimizer.zero_grad(set_to_none=True)
    total = 0.0
    seen: dict[str, float] = {}
    try:
        if weigh is not None:
            parts, seen = _weighted(model, micros, weigh, head, state.step + 1)
        else:
            parts = ((loss or negative_log_likelihood)(model, micro) / tokens for micro in micros)
        for part in parts:
            part.backward()
            total += float(part.detach())
    except NotFiniteRowError as error:
        raise TrainingError(
            f"the logits of step {state.step + 1} are not finite; lower the learning rate or look at the weights "
            "the run started from."
        ) from error
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), grad_clip))
    if not (math.isfinite(total) and math.isfinite(norm)):
        raise TrainingError(
            f"loss {total} and gradient norm {norm} of step {state.step + 1} are not both finite; "
            "lower the learning rate or look at the weights the run started from."
        )
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    state.optimizer.step()
    positions = sum(micro.ids_BT.numel() for micro in micros)
    return {
        "loss": total,
        "grad_norm": norm,
        "lr": lr,
        "tokens/learned": tokens,
        "tokens/padding": 1 - sum(int(micro.length_B.sum()) for micro in micros) / positions,
        **seen,
    }


def _weighted(
    model: nn.Module, micros: Sequence[TextBatch], weigh: Weigh, head: HeadKind, step: int
) -> tuple[Iterator[Tensor], dict[str, float]]:
    """Return the parts of Σ w l / Σ w, one a micro-batch, and what was seen of the tokens.

    Weights need every token of the step, so several micro-batches are read twice.
    """
    micros = [micro for micro in micros if bool(micro.mask_BT.any())]
    alone = token_values(model, micros[0], head=head) if len(micros) == 1 else None
    with torch.no_grad():
        seen = [token_values(model, micro, head=head) for micro in micros] if alone is None else [alone]
    everything = joined(seen)
    weight_N = weigh(everything)
    learned = int((weight_N > 0).sum())
    if not learned:
        raise TrainingError(f"step {step} has no token to learn from: its selection gives every token the weight 0.")
    weights = (weight_N / weight_N.sum()).split([values.ids_N.numel() for values in seen])

    def parts() -> Iterator[Tensor]:
        for micro, weight in zip(micros, weights, strict=True):
            values = token_values(model, micro, head=head) if alone is None else alone
            yield (weight * values.loss_N).sum()

    return parts(), {
        "tokens/learned": learned,
        "credit/share": learned / weight_N.numel(),
        "loss/all": float(everything.loss_N.mean()),
        "entropy/mean": float(everything.entropy_N.mean()),
    }


def negative_log_likelihood(model: nn.Module, batch: TextBatch, *, head: HeadKind = "fused") -> Tensor:
    """Return the summed cross entropy, in nats, of the tokens that count in one micro-batch.

    Args:
        model: Hugging Face causal language model.
        batch: one micro-batch.
        head: `fused` is the entropy head; `plain` holds the model's own logits.

    Raises:
        NotFiniteRowError: a hidden state that counts is not finite (fused head; the plain one returns NaN).
    """
    device = next(model.parameters()).device
    ids_BT, mask_BT = batch.ids_BT.to(device), batch.mask_BT.to(device)
    if not bool(mask_BT.any()):
        return torch.zeros((), device=device, requires_grad=True)
    # Padding is on the right, where causal attention never looks, so no attention mask is needed.
    states_BTX = read(model, head, input_ids=ids_BT[:, :-1], use_cache=False)
    counted_BT = mask_BT[:, 1:]
    states_NX, target_N = states_BTX[counted_BT], ids_BT[:, 1:][counted_BT]
    if head == "plain":
        logits_NV = states_NX.to(torch.promote_types(states_NX.dtype, torch.float32))
        return nn.functional.cross_entropy(logits_NV, target_N, reduction="sum")
    return -head_values(model, states_NX, target_N).logp_N.sum()


def schedule(step: int, *, steps: int, warmup: int) -> float:
    """Return the factor on the peak learning rate of update `step` (from 0): linear warmup, then cosine.

    >>> [round(schedule(s, steps=6, warmup=2), 3) for s in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def adamw(model: nn.Module, *, weight_decay: float = 0.0) -> torch.optim.AdamW:
    """Return AdamW, betas (0.9, 0.95), over the trainable parameters; matrices decay, vectors do not."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, betas=(0.9, 0.95))
