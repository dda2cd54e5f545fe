"""Statistics over an explicit scope: which tokens a mean, a quantile or a top-k is taken over.

Released implementations of one method differ exactly here, so the scope is always an argument:

- `sequence`  one answer
- `group`     the answers to one prompt
- `micro`     the rows of one forward/backward pass; the result then depends on the memory at hand
- `mini`      the rows of one optimiser update
- `rollout`   all rows sampled together
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from forkpoint.errors import InputError, did_you_mean

Scope = Literal["sequence", "group", "micro", "mini", "rollout"]
SCOPES: tuple[str, ...] = get_args(Scope)


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How the rows at hand are cut into optimiser updates and forward passes."""

    mini_B: Tensor
    """int64 (B,): which mini-batch a row belongs to."""
    micro_B: Tensor
    """int64 (B,): which micro-batch a row belongs to; numbers are unique across mini-batches."""

    def select(self, rows: Tensor) -> Batching:
        """Return the given rows."""
        return Batching(mini_B=self.mini_B[rows], micro_B=self.micro_B[rows])


def one_batch(rows: int, device: torch.device | str = "cpu") -> Batching:
    """Return the batching in which all rows form one mini-batch and one micro-batch."""
    zeros = torch.zeros(rows, dtype=torch.int64, device=device)
    return Batching(mini_B=zeros, micro_B=zeros)


def check_scope(scope: str) -> None:
    """Raise `InputError` unless `scope` is one of `SCOPES`."""
    if scope not in SCOPES:
        raise InputError(f"unknown scope {scope!r}: {did_you_mean(scope, SCOPES)}")


def segments(scope: Scope, *, group_B: Tensor, batching: Batching) -> Tensor:
    """Return which segment of the scope every row belongs to.

    Args:
        scope: one of `SCOPES`.
        group_B: int64 (B,), the prompt of every row.
        batching: mini- and micro-batch of every row.

    Returns:
        int64 (B,), segment numbers 0..n-1 without gaps.

    >>> segments("group", group_B=torch.tensor([7, 7, 2]), batching=one_batch(3))
    tensor([1, 1, 0])
    """
    check_scope(scope)
    rows = group_B.shape[0]
    key_B = {
        "sequence": torch.arange(rows, device=group_B.device),
        "group": group_B,
        "micro": batching.micro_B,
        "mini": batching.mini_B,
        "rollout": torch.zeros_like(group_B),
    }[scope]
    return torch.unique(key_B, return_inverse=True)[1].reshape(rows)


def segment_sum(value_B: Tensor, segment_B: Tensor) -> Tensor:
    """Return the sum of `value_B` over each segment, shape (segments,)."""
    count = int(segment_B.max()) + 1 if segment_B.numel() else 0
    return torch.zeros(count, dtype=value_B.dtype, device=value_B.device).index_add(0, segment_B, value_B)


def exact_count(share: float, total: int) -> int:
    """Return max(1, ceil(share * total)), robust to the rounding of decimal shares.

    The count the paper's code takes. `0.1 * 30` is 3.0000000000000004 in floating point and still means 3.

    >>> exact_count(0.1, 30), exact_count(0.2, 11), exact_count(0.2, 0)
    (3, 3, 0)
    """
    return min(total, max(1, math.ceil(round(share * total, 9)))) if total else 0


def token_order(prompt_ids: tuple[str, ...], group_B: Tensor, sample_B: Tensor, T: int, salt: int) -> Tensor:
    """Return a uniform pseudo-random number in [0, 2^53) for every token, a function of its identity only.

    Breaks ties and draws random controls: the value depends on the problem's id, the sample's number, the
    position and `salt`, never on the order of rows, their padding or their split into batches.

    Args:
        prompt_ids: stable ids of the P prompts.
        group_B: int64 (B,), index into `prompt_ids`.
        sample_B: int64 (B,), number of the sample in its group.
        T: number of positions.
        salt: any int; another salt gives an independent draw.

    Returns:
        int64 (B, T).
    """
    device = group_B.device
    hashes = [zlib.crc32(name.encode()) for name in prompt_ids]
    prompt_P = torch.tensor(hashes, dtype=torch.int64, device=device)
    row_B = _mix(_mix(prompt_P[group_B] + _wrap(salt * 0x9E3779B97F4A7C15)) + sample_B)
    return _mix(row_B[:, None] + torch.arange(1, T + 1, device=device)) & ((1 << 53) - 1)


def _wrap(value: int) -> int:
    """Return `value` as a signed 64-bit integer."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def _mix(x: Tensor) -> Tensor:
    """Return splitmix64's finaliser of int64 values (arithmetic wraps, shifts are made logical)."""
    x = x + _wrap(0x9E3779B97F4A7C15)
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _wrap(0xBF58476D1CE4E5B9)
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _wrap(0x94D049BB133111EB)
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def rank_key(value_N: Tensor) -> Tensor:
    """Return integers in the order of floats, equal where they are equal; NaN has no defined place.

    On a CPU torch sorts integers many times faster than floats (radix sort).

    >>> rank_key(torch.tensor([-1.0, -0.0, 0.0, 2.0])).diff().sign().tolist()
    [1, 0, 1]
    """
    if value_N.dtype not in (torch.float32, torch.float64):
        return rank_key(value_N.float()) if value_N.is_floating_point() else value_N
    integer, width = (torch.int32, 31) if value_N.dtype == torch.float32 else (torch.int64, 63)
    bits_N = (value_N + 0.0).view(integer)  # -0.0 + 0.0 is 0.0
    # Negative floats are stored as sign and magnitude: their order is turned around.
    return bits_N ^ ((bits_N >> width) & ((1 << width) - 1))


def top_count(value_BT: Tensor, mask_BT: Tensor, count_S: Tensor, segment_B: Tensor, order_BT: Tensor) -> Tensor:
    """Return the mask of the `count_S[s]` largest values of every segment, ties broken by `order_BT`.

    Args:
        value_BT: (B, T), finite where `mask_BT`.
        mask_BT: bool (B, T), candidates.
        count_S: int64 (segments,), how many to take from each segment.
        segment_B: int64 (B,).
        order_BT: int64 (B, T), smaller wins among equal values.

    Returns:
        bool (B, T) with exactly `count_S[s]` true values in segment s (or all candidates if fewer).

    >>> v = torch.tensor([[3.0, 1.0, 2.0]])
    >>> top_count(v, v > 0, torch.tensor([2]), torch.tensor([0]), torch.arange(3)[None])
    tensor([[ True, False,  True]])
    """
    index = mask_BT.reshape(-1).nonzero().squeeze(1)
    key = rank_key(value_BT.reshape(-1)[index])
    segment = _segment_of(index, segment_B, mask_BT)
    size_S = torch.bincount(segment, minlength=count_S.numel())
    count_S = torch.minimum(count_S, size_S)
    cut_N = _smallest_taken(key, segment, size_S, count_S)[segment]
    above, tied = key > cut_N, (key == cut_N).nonzero().squeeze(1)
    left_S = count_S - torch.bincount(segment[above], minlength=count_S.numel())
    chosen = torch.zeros(mask_BT.numel(), dtype=torch.bool, device=mask_BT.device)
    chosen[index[above]] = True
    del key, cut_N, above  # what lives at one time is what this costs
    index = index[tied]
    segment = segment[tied]
    del tied
    by = torch.argsort(order_BT.reshape(-1)[index], stable=True)
    if count_S.numel() > 1:
        by = by[torch.argsort(segment[by], stable=True)]
    tied_S = torch.bincount(segment, minlength=count_S.numel())
    end_S = (tied_S.cumsum(0) - tied_S + left_S).to(torch.int32)
    rank = torch.arange(index.numel(), device=index.device, dtype=torch.int32)
    chosen[index[by]] = rank < end_S[segment[by]]
    return chosen.reshape(mask_BT.shape)


def _segment_of(index: Tensor, segment_B: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the segment of flat positions; int32 has half the memory of int64."""
    row = torch.div(index, max(1, mask_BT.shape[1]), rounding_mode="floor")
    return segment_B.to(torch.int32)[row]


def _smallest_taken(key_N: Tensor, segment_N: Tensor, size_S: Tensor, count_S: Tensor) -> Tensor:
    """Return the `count_S[s]`-th largest key of every segment; the largest integer there is where that is none."""
    if size_S.numel() > 1:
        by = torch.argsort(key_N, descending=True, stable=True)
        ordered = key_N[by[torch.argsort(segment_N[by], stable=True)]]
    else:
        ordered = key_N.sort(descending=True).values
    last_S = size_S.cumsum(0) - size_S + count_S - 1
    none = torch.iinfo(key_N.dtype).max if not key_N.is_floating_point() else torch.inf
    return torch.where(count_S > 0, ordered[last_S.clamp(min=0)] if ordered.numel() else none, none)


def quantile(values_N: Tensor, q: float) -> Tensor:
    """Return the q-quantile of finite values with linear interpolation, for any number of them.

    Equal to `torch.quantile(values_N, q)` bit for bit up to 2^24 values; `torch.quantile` refuses more.

    >>> quantile(torch.tensor([1.0, 2.0, 3.0, 4.0]), 0.5)
    tensor(2.5000)
    """
    ordered = values_N.sort().values
    last = ordered.numel() - 1
    # torch.quantile takes the rank in the dtype of the values; float32 cannot count beyond 2^24.
    dtype = values_N.dtype if last < 1 << 24 else torch.float64
    rank = float(torch.tensor(q, dtype=dtype) * last)
    lower = math.floor(rank)
    return torch.lerp(ordered[lower], ordered[min(lower + 1, last)], rank - lower)
