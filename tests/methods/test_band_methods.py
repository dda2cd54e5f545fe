"""Selections by window, surprisal and gradient, and weights by attention."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from core_batches import padded
from forkpoint.credit import init, run
from forkpoint.errors import InputError
from forkpoint.methods import METHODS
from forkpoint.methods.ares_windows import ares_windows, window_forking
from forkpoint.methods.attention_shift import attention_shift
from forkpoint.methods.gmts import gmts
from forkpoint.methods.rsi import rsi_selection
from forkpoint.rollouts import blank_credit
from method_kit import A0, A1, BY_TOKEN, GROUP, HIGHER, PPO, SLOPE, batch, case, check, row, times

ROWS = {
    "ares_windows": row("ares_windows", width=2),
    "ares_windows all": row("ares_windows", width=2, start=0.4, denominator="all"),
    "window_forking": row("window_forking", width=2),
    "window_forking behaviour": row("window_forking", width=3, source="behaviour", share=0.4, scope="rollout"),
    "window_forking all": row("window_forking", width=2, denominator="all", scope="sequence"),
    "rsi_selection": row("rsi_selection", low=0.5, high=20.0),
    "rsi_selection current": row("rsi_selection", low=1.0, high=9.0, source="current", denominator="all"),
    "gmts": row("gmts"),
    "gmts all": row("gmts", share=0.5, denominator="all"),
    "gmts behaviour": row("gmts", source="behaviour", length="exact"),
    "gmts bottom": row("gmts", keep="bottom", share=0.8),
    "gmts random": row("gmts", keep="random", length="exact"),
    "attention_shift": row("attention_shift", start=-1.0, end=1.0, steps=3.0),
    "attention_shift up": row("attention_shift", start=2.0, end=3.0, steps=1.0),
}

# Windows of two: answer 0 0.6, answer 2 0.5 0.125, answer 3 0.4; the others do not fit. 95th percentiles 0.6,
# 0.125 + 0.95 * 0.375 = 0.48125, 0.4; median 0.48125: windows 0.6 and 0.5 pass.
WINDOWS = [[1, 0], [0], [1, 0, 0], [0, 0]]
WINDOW_LOSS = [[-1.28 * A0 / 2, 0], [0], [1.1 * A1 / 2, 0, 0], [0, 0]]
WINDOW_SLOPE = [[0, 0], [0], [1.1 * A1 / 2, 0, 0], [0, 0]]
TOP2 = [[0, 1], [0], [1, 0, 0], [0, 0]]
# -log π_old / H: 10/3 20/9 | 1 | 1.875 1.5 14 | 9 11/7. Between 1.2 and 3 lie 20/9 | 1.875 1.5 | 11/7: three answers
# with 1, 2 and 1 tokens.
BAND = [[0, 1], [0], [1, 1, 0], [0, 1]]
# |A| (1 - π): 0.448 0.878 | 0.697 | 0.755 0.481 0.503 | 0.471 0.617, times nearly equal |A|. The four largest:
STEEP = [[0, 1], [1], [1, 0, 0], [0, 1]]
ATTENTION = [[0.0, 1.0], [0.5], [0.25, 0.75, 0.5], [1.0, 0.0]]


def attending(rollouts, forward):
    return dataclasses.replace(rollouts, extra={"attention_entropy": padded(ATTENTION, fill=math.nan)}), forward


def shifted(strength):
    raw = [[math.exp(strength * u) for u in answer] for answer in ATTENTION]
    mean = sum(map(sum, raw)) / 8
    return [[x / mean for x in answer] for answer in raw]


def weighed(weights, rows):
    return times(BY_TOKEN, [[w * x for w, x in zip(*pair, strict=True)] for pair in zip(weights, rows, strict=True)])


def narrow(keep, count):
    """The factors of DAPO over `count` tokens, 0 where not kept."""
    size = [A0, A0, A1, A1]
    return [[size[i] / count * x for x in answer] for i, answer in enumerate(keep)]


def product(*tables):
    return [[math.prod(x) for x in zip(*answers, strict=True)] for answers in zip(*tables, strict=True)]


CASES = {
    "ares_windows": case(lambda: ares_windows(width=2), GROUP, WINDOW_LOSS, WINDOW_SLOPE, keep=WINDOWS),
    # Threshold 0.55 of earlier batches: 0.6 alone.
    "ares_windows start": case(
        lambda: ares_windows(width=2, start=0.55), GROUP, [[-1.28 * A0, 0], [0], [0] * 3, [0] * 2],
        [[0, 0], [0], [0] * 3, [0] * 2], keep=[[1, 0], [0], [0] * 3, [0] * 2],
    ),
    "ares_windows all": case(
        lambda: ares_windows(width=2, denominator="all"), GROUP, [[x / 4 for x in r] for r in WINDOW_LOSS],
        [[x / 4 for x in r] for r in WINDOW_SLOPE], weight=WINDOWS,
    ),
    # ceil(0.5 * 4) windows: the same two.
    "window_forking": case(
        lambda: window_forking(width=2, share=0.5), GROUP, WINDOW_LOSS, WINDOW_SLOPE, keep=WINDOWS
    ),
    "window_forking of one": case(
        lambda: window_forking(width=1), GROUP, product(narrow(TOP2, 2), HIGHER), product(narrow(TOP2, 2), SLOPE),
        keep=TOP2,
    ),
    "window_forking everything": case(
        lambda: window_forking(share=1), GROUP, times(BY_TOKEN, HIGHER), times(BY_TOKEN, SLOPE)
    ),
    "rsi_selection": case(
        lambda: rsi_selection(low=1.2, high=3.0), GROUP,
        product([[0, A0 / 3], [0], [A1 / 6, A1 / 6, 0], [0, A1 / 3]], PPO),
        product([[0, A0 / 3], [0], [A1 / 6, A1 / 6, 0], [0, A1 / 3]], SLOPE), keep=BAND,
    ),
    "rsi_selection open": case(
        lambda: rsi_selection(low=0, high=math.inf), GROUP, times([A0 / 8, A0 / 4, A1 / 12, A1 / 8], PPO),
        times([A0 / 8, A0 / 4, A1 / 12, A1 / 8], SLOPE),
    ),
    "gmts": case(
        lambda: gmts(share=0.5), GROUP, product(narrow(STEEP, 4), HIGHER), product(narrow(STEEP, 4), SLOPE), keep=STEEP
    ),
    "gmts everything": case(lambda: gmts(share=1), GROUP, times(BY_TOKEN, HIGHER), times(BY_TOKEN, SLOPE)),
    "attention_shift": case(
        lambda: attention_shift(start=1.5, end=9.0, steps=4), GROUP, weighed(shifted(1.5), HIGHER),
        weighed(shifted(1.5), SLOPE), weight=shifted(1.5), change=attending,
    ),
    "attention_shift level": case(
        lambda: attention_shift(start=0, end=0, steps=1), GROUP, times(BY_TOKEN, HIGHER), times(BY_TOKEN, SLOPE)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def test_attention_shift_moves_in_a_line_and_stops():
    """Batches 0, 2, 4 and 7 of 4: strengths -1, 0.5, 2 and 2; the state survives JSON."""
    chain = attention_shift(start=-1.0, end=2.0, steps=4)
    rollouts, _ = attending(*batch())
    states = init(chain)
    seen = []
    for _ in range(8):
        credit, states = run(chain, blank_credit(rollouts), rollouts, states, when="rollout")
        states = json.loads(json.dumps(states))
        seen.append(credit.weight_BT[rollouts.mask_BT])
    for number, strength in ((0, -1.0), (2, 0.5), (4, 2.0), (7, 2.0)):
        expected = torch.tensor([x for answer in shifted(strength) for x in answer], dtype=torch.float64)
        torch.testing.assert_close(seen[number], expected, rtol=0, atol=1e-12)


def test_ares_windows_remembers():
    """Median 0.48125 at first; 0.9 of it and 0.1 of a batch with half the entropies: 0.4571875."""
    chain = ares_windows(width=2, decay=0.9)
    rollouts, _ = batch()
    _, states = run(chain, blank_credit(rollouts), rollouts, init(chain), when="rollout")
    assert states[-1]["threshold"] == pytest.approx(0.48125, abs=1e-12)
    lower = dataclasses.replace(rollouts, entropy_BT=rollouts.entropy_BT / 2)
    credit, states = run(chain, blank_credit(lower), lower, json.loads(json.dumps(states)), when="rollout")
    assert not credit.keep_BT.any()
    assert states[-1]["threshold"] == pytest.approx(0.9 * 0.48125 + 0.1 * 0.48125 / 2, abs=1e-12)


def test_gmts_exact_ranks_by_the_whole_distribution():
    """Σπ² raises answer 3's second token above all: 1 - 2π + Σπ² with Σπ² = 0.99 there, π² elsewhere."""
    rollouts, forward = batch()
    collision_BT = (2 * forward.logp_BT).exp()
    collision_BT[3, 1] = 0.99
    forward = dataclasses.replace(forward, extra={"collision": collision_BT})
    got = check(
        case(
            lambda: gmts(share=0.2, length="exact"), GROUP, [[0, -0.9 * A0 / 2], [0], [0] * 3, [0, -1.15 * A1 / 2]],
            [[0, -0.9 * A0 / 2], [0], [0] * 3, [0, -1.15 * A1 / 2]], keep=[[0, 1], [0], [0] * 3, [0, 1]],
            change=lambda r, f: (rollouts, forward),
        )
    )  # fmt: skip
    assert int(got.credit.keep_BT.sum()) == 2
    with pytest.raises(InputError, match="needs 'forward_collision'"):
        check(case(lambda: gmts(length="exact"), GROUP, 0.0, [[]]))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("ares_windows", {"width": 0}, "1 or more tokens, not 0"),
        ("ares_windows", {"percentile": 95}, "percentile is 95"),
        ("ares_windows", {"decay": 1.1}, "decay is 1.1"),
        ("ares_windows", {"start": math.nan}, "start is nan"),
        ("ares_windows", {"denominator": "none"}, "unknown denominator 'none'"),
        ("window_forking", {"width": 2.0}, "not 2.0"),
        ("window_forking", {"share": 0}, "share is 0"),
        ("window_forking", {"source": "old"}, "unknown source 'old' of top_window_entropy"),
        ("rsi_selection", {"low": -1, "high": 1}, "low is -1"),
        ("rsi_selection", {"low": 1, "high": math.nan}, "high is nan"),
        ("rsi_selection", {"low": 2, "high": 1}, "low 2 above high 1"),
        ("gmts", {"length": "long"}, "unknown length 'long'"),
        ("gmts", {"keep": "best"}, "unknown keep 'best' of top_gradient"),
        ("attention_shift", {"start": 0, "end": 1, "steps": 0}, "steps is 0"),
        ("attention_shift", {"start": math.inf, "end": 1, "steps": 1}, "start is inf"),
    ],
)
def test_bad_arguments_are_named(name, arguments, message):
    with pytest.raises(InputError, match=message):
        METHODS[name](**arguments)
