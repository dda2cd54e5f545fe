"""Matrix products on a CPU: the faster of the two libraries inside torch.

torch multiplies float32 matrices with MKL, which keeps to 256-bit instructions on processors that are not
Intel's. oneDNN, which torch carries as well, uses all 512 bits. On a Zen 5 core it was measured to be 2.2 times
as fast; elsewhere nothing was measured, and torch's own choice stays.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

Library = Literal["torch", "onednn"]

SMALL = 1 << 24
"""M N K below which a product stays with torch: oneDNN builds a kernel for every new shape, in about 0.2 ms, and
keeps some hundred kilobytes of it."""
SMALL_REPEATED = 1 << 22
"""The same for products of few shapes that come again and again. oneDNN is the faster one from 2^20 on; below this,
what that gains is not worth the memory of the kernels."""
STEP = 64
FEW, LONG_STEP = 512, 256


def rounded(rows: int) -> int:
    """Return a usual number of rows, at least as many: oneDNN builds a kernel, and keeps it, for every new one.

    Multiples of 64 up to 512, of 256 beyond.

    >>> rounded(0), rounded(65), rounded(512), rounded(513)
    (0, 128, 512, 768)
    """
    step = STEP if rows <= FEW else LONG_STEP
    return -(-rows // step) * step


@functools.cache
def library() -> Library:
    """Return what multiplies float32 matrices on this CPU: `onednn` on AMD processors with AVX-512, else `torch`.

    A rule rather than a timing, so that two runs on one machine are equal bit for bit.
    """
    info = Path("/proc/cpuinfo")
    amd = info.is_file() and "AuthenticAMD" in info.read_text(errors="replace")
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return "onednn" if amd and wide and torch.backends.mkldnn.is_available() else "torch"


def matmul_t(a_MK: Tensor, b_NK: Tensor, *, small: int | None = None) -> Tensor:
    """Return a @ b.T, float32 products on a CPU through the faster library.

    Not differentiable: for use inside autograd functions.

    Args:
        a_MK: (M, K), any strides.
        b_NK: (N, K), any strides; `b.T` of a contiguous matrix costs no copy.
        small: M N K below which the product stays with torch; None is `SMALL`.

    Returns:
        (M, N) of the same dtype.

    >>> matmul_t(torch.ones(1, 2), torch.tensor([[1.0, 2.0]]))
    tensor([[3.]])
    """
    large = a_MK.numel() * b_NK.shape[0] >= (SMALL if small is None else small)
    if large and library() == "onednn" and _plain(a_MK) and _plain(b_NK):
        return torch.ops.mkldnn._linear_pointwise(a_MK, _dense(b_NK), None, "none", [], "")
    return torch.mm(a_MK, b_NK.t())


def _dense(x: Tensor) -> Tensor:
    """Return x without gaps between its rows or columns: with gaps oneDNN is a thousand times slower."""
    rows, columns = x.shape
    return x if x.stride() in ((columns, 1), (1, rows)) else x.contiguous()


def _plain(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and type(x) in (Tensor, torch.nn.Parameter)
