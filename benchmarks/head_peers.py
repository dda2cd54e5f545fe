"""The heads that `head.py` compares: ours, those of other stacks as installed, and two references.

Each is a function (hidden_NH, weight_VH, ids_N, temperature) -> (log-prob_N, entropy_N), differentiable in the
log-prob. Installed packages are called unmodified and imported on first use. Two entries are no shipped code and say
so: `trl_rows` (TRL's own two passes, its backward called on the rows with gradient only) and `prime` (the idea of
prime-rl's head, written anew).

The versions in `WRITTEN_FOR` are those whose ops these adapters call; a missing one is listed with how to install it.
Two of them have kernels for CUDA only, which has not been run here: Liger on a CPU runs its chunked fallback, verl's
Triton kernel is left out.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

Op = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]

TRL_COLUMNS = 32768
"""Vocabulary width of TRL 1.16's tiles, as its trainer sets it."""
VERL_ROWS = 512
"""Rows of a chunk in verl's fused torch head, its default."""
PRIME_ROWS, PRIME_COLUMNS = 8192, 8192
WRITTEN_FOR = {"trl": "1.16.0", "liger-kernel": "0.8.5", "verl": "0.9.1"}


@dataclass(frozen=True, kw_only=True)
class Head:
    """A head to compare."""

    label: str
    load: Callable[[], Op]
    """Imports what it needs and returns the op."""
    package: str = ""
    """The distribution it comes from, empty for code of this repository."""
    device: str = ""
    """The only device it runs on, empty for any."""
    fallback: bool = False
    """Whether a CPU gets another code path than the one it is known for."""
    dense: bool = False
    """Whether every row carries a gradient, in place of the selected ones."""
    known: bool = False
    """Whether the selection is known beforehand, so that only selected rows enter."""
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Entered around forward and backward pass."""

    def title(self, device: str) -> str:
        """Return the label with the version of the installed package.

        >>> HEADS["ours"].title("cpu")
        'ours'
        """
        try:
            found = version(self.package) if self.package else ""
        except PackageNotFoundError:
            found = WRITTEN_FOR[self.package]
        return self.label.format(version=found) + (", its CPU fallback" if self.fallback and device == "cpu" else "")

    def absent(self, device: str) -> str:
        """Return why it cannot run here, empty if it can."""
        if self.package and importlib.util.find_spec(self.package.replace("-", "_")) is None:
            return f"not installed: pip install --no-deps {self.package}=={WRITTEN_FOR[self.package]}"
        if self.device and self.device != device:
            return f"needs {self.device.upper()}"
        return ""


def _materialised() -> Op:
    """Whole float32 logits and autograd; the entropy in blocks of rows, without gradient."""

    def op(hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        logits = torch.mm(hidden, weight.t()).float()
        log_p = (logits if temperature == 1.0 else logits / temperature).log_softmax(-1)
        with torch.no_grad():
            entropy = torch.cat([-(block.exp() * block).sum(-1) for block in log_p.split(128)])
        return log_p.gather(-1, ids[:, None]).squeeze(-1), entropy

    return op


def _trl() -> Op:
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    def op(hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        arguments = (hidden, weight, None, ids, temperature, TRL_COLUMNS, None, 1.0, ("entropy",))
        logp, entropy, *_ = ChunkedLogProbFunction.apply(*arguments)
        return logp, entropy.detach()

    return op


def _trl_rows() -> Op:
    """TRL's forward as it is; its backward as it is, called with the rows that have a gradient."""
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction as Theirs

    class Rows(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            return Theirs.forward(ctx, *arguments)

        @staticmethod
        def backward(ctx: Any, g_logp: Tensor, *_: Any) -> Any:
            hidden, weight, bias, *per_row = ctx.saved_tensors
            rows = g_logp.nonzero().squeeze(1)
            fields = {name: getattr(ctx, name) for name in ("compute_dtype", "chunk_size", "kernel_args")}
            saved = (hidden[rows], weight, bias, *(x[rows] for x in per_row))
            picked = types.SimpleNamespace(saved_tensors=saved, needs_input_grad=ctx.needs_input_grad, **fields)
            d_rows, *others = Theirs.backward(picked, g_logp[rows], None)
            return torch.zeros_like(hidden).index_copy_(0, rows, d_rows), *others

    def op(hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        logp, entropy, *_ = Rows.apply(hidden, weight, None, ids, temperature, TRL_COLUMNS, None, 1.0, ("entropy",))
        return logp, entropy.detach()

    return op


def _liger() -> Op:
    from liger_kernel.ops.fused_linear_scaled_cross_entropy import LigerFusedLinearScaledCrossEntropyFunction

    def op(hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        apply = LigerFusedLinearScaledCrossEntropyFunction.apply
        nll, entropy = apply(hidden, weight, ids, temperature, return_entropy=True)
        return -nll, entropy.detach()

    return op


def _verl_module(name: str) -> Any:
    """Import a file of verl without its package's `__init__`, which would want Ray and a trainer's dependencies."""
    for package in ("verl", "verl.utils"):
        if package not in sys.modules:
            spec = importlib.util.find_spec(package)
            if spec is None:
                raise ImportError(f"{package} is not installed")
            sys.modules[package] = importlib.util.module_from_spec(spec)
    return importlib.import_module(name)


def _verl_torch() -> Op:
    function = _verl_module("verl.utils.experimental.torch_functional").FusedLinearForPPOFunction

    def op(hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        logp, entropy = function.apply(hidden, weight, ids, temperature, VERL_ROWS)
        return logp, entropy.detach()

    return op


def _verl_triton() -> Op:
    function = _verl_module("verl.utils.kernel.linear_cross_entropy").LinearCrossEntropy

    def op(hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        logp, entropy = function.apply(hidden, weight, ids, float(temperature), "none", None)
        return logp, entropy.detach()

    return op


class _Prime(torch.autograd.Function):
    """Tiles of (8192 tokens, 8192 words), running sums forward, every row backward, gradients in the weight's dtype."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float) -> Any:
        logp, entropy, log_z = (torch.empty(len(ids), device=ids.device) for _ in range(3))
        for rows in torch.arange(len(ids), device=ids.device).split(PRIME_ROWS):
            here = slice(int(rows[0]), int(rows[-1]) + 1)
            top = torch.full((len(rows),), -torch.inf, device=ids.device)
            total, weighted, target = (torch.zeros_like(top) for _ in range(3))
            for first in range(0, len(weight), PRIME_COLUMNS):
                z = torch.mm(hidden[here], weight[first : first + PRIME_COLUMNS].t()).float().div_(temperature)
                at = ids[here] - first
                inside = ((at >= 0) & (at < z.shape[1])).nonzero().squeeze(1)
                target[inside] = z[inside, at[inside]]
                higher = torch.maximum(top, z.amax(-1))
                decay, e = (top - higher).exp(), (z - higher[:, None]).exp()
                total, weighted = total * decay + e.sum(-1), weighted * decay + (e * z).sum(-1)
                top = higher
            log_z[here] = top + total.log()
            logp[here], entropy[here] = target - log_z[here], log_z[here] - weighted / total
        ctx.save_for_backward(hidden, weight, ids, log_z)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, g_logp: Tensor, _: Tensor) -> Any:
        hidden, weight, ids, log_z = ctx.saved_tensors
        d_hidden, d_weight = torch.zeros_like(hidden), torch.zeros_like(weight)
        for a in range(0, len(ids), PRIME_ROWS):
            here = slice(a, a + PRIME_ROWS)
            for first in range(0, len(weight), PRIME_COLUMNS):
                block = weight[first : first + PRIME_COLUMNS]
                z = torch.mm(hidden[here], block.t()).float().div_(ctx.temperature)
                slope = (z - log_z[here, None]).exp_() * -g_logp[here, None]
                at = ids[here] - first
                inside = ((at >= 0) & (at < z.shape[1])).nonzero().squeeze(1)
                slope[inside, at[inside]] += g_logp[here][inside]
                slope = slope.div_(ctx.temperature).to(weight.dtype)
                d_hidden[here] += torch.mm(slope, block)
                d_weight[first : first + PRIME_COLUMNS] += torch.mm(slope.t(), hidden[here])
        return d_hidden, d_weight, None, None


def _ours(backend: str) -> Op:
    from forkpoint.entropy.head import head_logp_entropy

    extra = {} if backend == "auto" else {"backend": backend}

    def op(hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        out = head_logp_entropy(hidden, weight, ids, temperature=temperature, **extra)
        return out.logp_N, out.entropy_N

    return op


@contextlib.contextmanager
def torch_products() -> Any:
    """Let our head use torch's own matrix product on a CPU, whatever the processor."""
    from forkpoint import products

    usual, products.library = products.library, lambda: "torch"
    try:
        yield
    finally:
        products.library = usual


HEADS = {
    "materialised": Head(label="materialised logits, float32 log_softmax", load=_materialised),
    "trl": Head(label="TRL {version} fused head", load=_trl, package="trl"),
    "trl_rows": Head(label="TRL {version} + row patch (not shipped)", load=_trl_rows, package="trl"),
    "liger": Head(label="Liger {version} FLSCE", load=_liger, package="liger-kernel", fallback=True),
    "verl": Head(label="verl {version} fused, torch", load=_verl_torch, package="verl"),
    "verl_triton": Head(label="verl {version} fused, Triton", load=_verl_triton, package="verl", device="cuda"),
    "prime": Head(label="chunks in the style of prime-rl (re-implemented)", load=lambda: _Prime.apply),
    "ours": Head(label="ours", load=partial(_ours, "auto")),
    "ours_dense": Head(label="ours, a gradient on every row", load=partial(_ours, "auto"), dense=True),
    "ours_products": Head(
        label="ours, torch's matrix product", load=partial(_ours, "auto"), device="cpu", around=torch_products
    ),
    "ours_torch": Head(label="ours, torch backend", load=partial(_ours, "torch"), device="cuda"),
    "ours_known": Head(label="ours, selection known beforehand", load=partial(_ours, "auto"), known=True),
}
"""What is compared, in the order of the tables."""
