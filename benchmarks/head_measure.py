"""What `head.py` measures with: inputs, one policy-gradient step through a head, the float64 gate, peak memory.

The CUDA branches are written for a machine that has one; they have not been run on a GPU.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from head_peers import HEADS, Head, Op
from torch import Tensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
GATE_ROWS = 128
"""Rows of the slice that is compared with float64; the whole vocabulary and hidden size take part."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a head is run on."""

    tokens: int
    hidden: int
    words: int
    dtype: str = "float32"
    device: str = "cpu"
    share: float = 0.2
    temperature: float = 1.0
    frozen: bool = False
    """Whether the weight takes no gradient."""
    grad_exists: bool = True
    """Whether the weight's gradient is added into one that is there already."""
    threshold: bool = False
    """Whether tokens are selected by comparing with a given entropy, in place of the exact top share."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Inputs, the same for every head."""

    setting: Setting
    hidden_NH: Tensor
    weight_VH: Tensor
    ids_N: Tensor
    advantage_N: Tensor
    entropy_N: Tensor
    """Of plain float32 logits; empty where only memory is asked for."""
    chosen_K: Tensor
    """The top share by entropy, ascending; every head learns on these rows."""


class Said(NamedTuple):
    """What a head said in one step; gradients are left in `.grad` of the inputs."""

    logp: Tensor
    entropy: Tensor
    own: Tensor
    """The rows it would have selected by its own entropies."""


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Distances from float64 on the slice."""

    logp: float
    """Largest absolute error of a log-prob."""
    entropy: float | None
    """Largest absolute error of an entropy in nats; None where none is computed."""
    d_hidden: float
    """Norm of the gradient's error over the gradient's norm."""
    d_weight: float | None
    """The same of the weight; None where it is frozen."""
    moved: float | None
    """How far in nats the farthest wrongly selected row lies from the threshold; 0 for the right set."""


LIMITS = {
    # Fused heads of other stacks round logits, and some the entropy, to bfloat16: that is theirs to do.
    "float32": Errors(logp=2e-4, entropy=1e-3, d_hidden=2e-5, d_weight=2e-5, moved=1e-3),
    "bfloat16": Errors(logp=0.2, entropy=0.2, d_hidden=2e-2, d_weight=2e-2, moved=0.2),
}
"""Whoever is farther from float64 than this is not timed."""


def make(setting: Setting, *, seed: int = 0, entropies: bool = True) -> Work:
    """Return random inputs whose entropies spread over 0 to about 8 nats, most of them low, as in a trained model.

    Words have directions of unit length; noise of a hidden state makes the other words' logits Gaussian, and its
    part along the target's direction gives the target a drawn probability.
    """
    n, h, v = setting.tokens, setting.hidden, setting.words
    at: dict[str, Any] = {"device": setting.device}
    source = torch.Generator(setting.device).manual_seed(seed)
    weight = torch.empty(v, h, dtype=DTYPES[setting.dtype], **at).normal_(std=h**-0.5, generator=source)
    ids = torch.randint(v, (n,), generator=source, **at)
    variance = 2 * max(math.log(v) - 8, 0.5)
    p = 1 - torch.rand(n, generator=source, **at).clamp_(0.02, 0.999).square_()
    along = math.log(v) + variance / 2 + p.logit()
    target = weight[ids].float()
    hidden = torch.randn(n, h, generator=source, **at).mul_(variance**0.5)
    length = target.square().sum(1)
    hidden += ((along - (hidden * target).sum(1)) / length)[:, None] * target
    advantage = torch.where(torch.rand(n, generator=source, **at) < 0.5, -1.0, 1.0)
    advantage *= 0.5 + torch.rand(n, generator=source, **at)
    hidden = hidden.mul_(setting.temperature).to(weight.dtype)
    entropy = plain_entropy(hidden, weight, setting.temperature) if entropies else along.neg()
    return Work(
        setting=setting,
        hidden_NH=hidden.requires_grad_(),
        weight_VH=weight.requires_grad_(not setting.frozen),
        ids_N=ids,
        advantage_N=advantage / n,
        entropy_N=entropy,
        chosen_K=top(entropy, setting.share),
    )


def top(entropy_N: Tensor, share: float) -> Tensor:
    """Return the rows of the top share by entropy, ascending.

    >>> top(torch.tensor([0.1, 3.0, 0.2, 2.0]), 0.5)
    tensor([1, 3])
    """
    return entropy_N.topk(max(1, math.ceil(share * len(entropy_N)))).indices.sort().values


@torch.no_grad()
def plain_entropy(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """Return the entropy of every row from float32 logits of a few rows at a time."""
    found = []
    for rows in hidden.split(max(1, (1 << 24) // len(weight))):
        log_p = (torch.mm(rows, weight.t()).float() / temperature).log_softmax(-1)
        found.append(-(log_p.exp() * log_p).sum(-1))
    return torch.cat(found)


def step(head: Head, op: Op, work: Work) -> Said:
    """Run head, selection, loss and backward pass once.

    All heads learn on the same rows, but each also selects by its own entropies, which is part of its time.
    """
    setting, chosen = work.setting, work.chosen_K
    with head.around():
        if head.known:
            logp, entropy = op(work.hidden_NH[chosen], work.weight_VH, work.ids_N[chosen], setting.temperature)
            own, coefficient = chosen, work.advantage_N[chosen]
        else:
            logp, entropy = op(work.hidden_NH, work.weight_VH, work.ids_N, setting.temperature)
            own = _select(entropy, work)
            coefficient = work.advantage_N
            if not head.dense:
                coefficient = torch.zeros_like(coefficient).index_copy_(0, chosen, coefficient[chosen])
        (-(coefficient * logp).sum()).backward()
    return Said(logp.detach(), entropy, own)


def _select(entropy: Tensor, work: Work) -> Tensor:
    if work.setting.threshold:
        return (entropy >= work.entropy_N[work.chosen_K].min()).nonzero().squeeze(1)
    return top(entropy, work.setting.share)


def clear(work: Work) -> None:
    """Drop the hidden states' gradient; zero the weight's, or drop it where the setting wants none to be there."""
    work.hidden_NH.grad = None
    if work.setting.frozen or not work.setting.grad_exists:
        work.weight_VH.grad = None
    elif work.weight_VH.grad is None:
        work.weight_VH.grad = torch.zeros_like(work.weight_VH)
    else:
        work.weight_VH.grad.zero_()


def gate_slice(work: Work) -> Work:
    """Return the first rows of some work, with leaves and a selection of their own."""
    rows = slice(0, GATE_ROWS)
    entropy = work.entropy_N[rows]
    return replace(
        work,
        hidden_NH=work.hidden_NH.detach()[rows].clone().requires_grad_(),
        ids_N=work.ids_N[rows],
        advantage_N=work.advantage_N[rows],
        entropy_N=entropy,
        chosen_K=top(entropy, work.setting.share),
    )


def truth(work: Work, *, dense: bool) -> tuple[Said, Tensor, Tensor]:
    """Return what float64 says of a slice: log-prob and entropy, dL/dh, dL/dW."""
    hidden, weight = (x.detach().double().requires_grad_() for x in (work.hidden_NH, work.weight_VH))
    log_p = (torch.mm(hidden, weight.t()) / work.setting.temperature).log_softmax(-1)
    logp = log_p.gather(-1, work.ids_N[:, None]).squeeze(-1)
    rows = torch.arange(len(logp), device=logp.device) if dense else work.chosen_K
    (-(work.advantage_N.double()[rows] * logp[rows]).sum()).backward()
    entropy = -(log_p.detach().exp() * log_p.detach()).sum(-1)
    assert hidden.grad is not None
    assert weight.grad is not None
    return Said(logp.detach(), entropy, top(entropy, work.setting.share)), hidden.grad, weight.grad


def errors(head: Head, op: Op, work: Work, true: tuple[Said, Tensor, Tensor]) -> Errors:
    """Return how far a head is from float64 on a slice."""
    clear(work)
    said, (exact, d_hidden, d_weight) = step(head, op, work), true
    rows = work.chosen_K if head.known else slice(None)
    wrong = sorted(set(said.own.tolist()) ^ set(exact.own.tolist()))
    off_edge = exact.entropy[wrong] - exact.entropy[exact.own].min()
    return Errors(
        logp=_largest(said.logp - exact.logp[rows]),
        entropy=None if head.known else _largest(said.entropy - exact.entropy),
        d_hidden=_relative(work.hidden_NH.grad, d_hidden),
        d_weight=None if work.setting.frozen else _relative(work.weight_VH.grad, d_weight),
        moved=None if head.known else _largest(off_edge) if wrong else 0.0,
    )


def faults(found: Errors, dtype: str) -> list[str]:
    """Return what is farther from float64 than the limits of the dtype, in words.

    >>> faults(Errors(logp=1.0, entropy=0.0, d_hidden=0.0, d_weight=0.0, moved=0.0), "float32")
    ['logp off by 1e+00, limit 2e-04']
    """
    limits = asdict(LIMITS[dtype])
    compared = {name: value for name, value in asdict(found).items() if value is not None}
    over = {name: value for name, value in compared.items() if not value <= limits[name]}
    return [f"{name} off by {value:.0e}, limit {limits[name]:.0e}" for name, value in over.items()]


def _largest(gap: Tensor) -> float:
    return float(gap.abs().max())


def _relative(found: Tensor | None, true: Tensor) -> float:
    assert found is not None
    return float((found.double() - true).norm() / true.norm())


def products(work: Work) -> dict[str, Callable[[], object]]:
    """Return bare matrix products of the head's shape (2 N H V operations), in tiles, by each library at hand."""
    hidden, weight = work.hidden_NH.detach(), work.weight_VH.detach()
    cells = 1 << (24 if work.setting.device == "cpu" else 28)
    columns = max(1, min(len(weight), cells // len(hidden)))
    tile = torch.empty(len(hidden), columns, dtype=hidden.dtype, device=hidden.device)

    def by_torch() -> None:
        for block in weight.split(columns):
            torch.mm(hidden, block.t(), out=tile[:, : len(block)] if len(block) == columns else None)

    def by_library() -> None:
        for block in weight.split(columns):
            matmul_t(hidden, block)

    from forkpoint.products import library, matmul_t

    second = work.setting.device == "cpu" and work.setting.dtype == "float32" and library() != "torch"
    return {"torch": by_torch} | ({library(): by_library} if second else {})


def peak_in_fresh_process(name: str, setting: Setting) -> int | str:
    """Return the bytes that one step of a head needs beyond its inputs, or why it did not run."""
    script = Path(__file__).with_name("head.py")
    command = [sys.executable, str(script), "--peak", json.dumps({"name": name, "setting": asdict(setting)})]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["it was killed"])[-1][:200]
    return int(done.stdout.split()[-1])


def peak(name: str, setting: Setting) -> int:
    """Return the bytes that one step needs beyond the inputs; meant for a process that did nothing before.

    On a CPU the growth of the process's peak resident size (VmHWM), on CUDA that of torch's allocated bytes. The
    weight has no gradient yet, so the result contains one. Libraries are loaded before, by a step on tiny inputs.
    """
    head = HEADS[name]
    op = head.load()
    tiny = make(replace(setting, tokens=8, hidden=128, words=512))
    step(head, op, tiny)
    work = make(setting, entropies=False)
    if setting.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(head, op, work)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")
    before = _kibibytes("VmHWM")
    step(head, op, work)
    return 1024 * (_kibibytes("VmHWM") - before)


def _kibibytes(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])
