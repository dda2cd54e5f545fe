"""HTPO: what each group of tokens does beyond the bounds and at the ends of the entropies."""

from __future__ import annotations

import pytest

from forkpoint.errors import InputError
from forkpoint.methods import METHODS
from forkpoint.methods.dapo import dapo
from forkpoint.methods.htpo import htpo
from method_kit import A0, A1, BY_TOKEN, GROUP, HIGHER, SLOPE, case, check, row, times

ROWS = {
    "htpo": row("htpo"),
    "htpo released": row("htpo", preset="released"),
    "htpo wide": row("htpo", share=0.6, lowest=0.4, highest=0.4, easy=0.5),
}

# Both groups have pass rate 1/2 < 0.6: hard. One high token an answer: H 0.9 | 0.5 | 0.8 | 0.7, ratios 0.9 0.5 1.1
# 1.15. Only the wrong answer 1 lies beyond a bound: it keeps the gradient 0.8 A. No low token is strictly below the
# lowest but one.
HARD_SLOPE = [[0.0, -0.9], [0.8], [1.1, 0.0, 1.0], [0.0, -1.15]]
# All tokens high: above 1.28 the right answers keep 1.28 A, below 0.8 the wrong ones 0.8 A.
ALL_SLOPE = [[-1.28, -0.9], [0.8], [1.1, 0.8, 1.0], [-1.28, -1.15]]
# Pass rate 1/2 >= 1/2: easy. The top token of the right answers (H 0.9 and 0.7) is silenced; right answers do not keep
# gradients here, wrong ones do.
EASY = [[1, 0], [1], [1, 1, 1], [1, 0]]
EASY_LOSS = [[-1.28, 0.0], [0.8], [1.1, 0.8, 1.0], [-1.28, 0.0]]
EASY_SLOPE = [[0.0, 0.0], [0.8], [1.1, 0.8, 1.0], [0.0, 0.0]]

CASES = {
    "htpo": case(htpo, GROUP, times(BY_TOKEN, HIGHER), times(BY_TOKEN, HARD_SLOPE)),
    "htpo high": case(lambda: htpo(share=1.0), GROUP, times(BY_TOKEN, HIGHER), times(BY_TOKEN, ALL_SLOPE)),
    "htpo easy": case(
        lambda: htpo(share=1.0, easy=0.5), GROUP, times(BY_TOKEN, EASY_LOSS), times(BY_TOKEN, EASY_SLOPE), weight=EASY
    ),
    # The released code: what lies beyond a bound enters with the other sign.
    "htpo released": case(
        lambda: htpo(share=1.0, preset="released"),
        GROUP,
        times(BY_TOKEN, [[1.28, -0.9], [-0.8], [1.1, -0.8, 1.0], [1.28, -1.15]]),
        times(BY_TOKEN, [[1.28, -0.9], [-0.8], [1.1, -0.8, 1.0], [1.28, -1.15]]),
        weight=[[-1, 1], [-1], [1, -1, 1], [-1, 1]],
    ),
    # With the lower bound at 0.95 answer 0's second token (r 0.9, A > 0) lies below it: +A/r, weight -1/r².
    "htpo released below": case(
        lambda: htpo(share=1.0, preset="released", clip_low=0.05, clip_high=9.0),
        GROUP,
        [
            [-1.5 * A0 / 8, A0 / 0.9 / 8],
            [-0.95 * A0 / 8],
            [1.1 * A1 / 8, -0.95 * A1 / 8, 1.0 * A1 / 8],
            [-1.3 * A1 / 8, -1.15 * A1 / 8],
        ],
        [
            [-1.5 * A0 / 8, A0 / 0.9 / 8],
            [-0.95 * A0 / 8],
            [1.1 * A1 / 8, -0.95 * A1 / 8, 1.0 * A1 / 8],
            [-1.3 * A1 / 8, -1.15 * A1 / 8],
        ],
        weight=[[1, -1 / 0.81], [-1], [1, -1, 1], [1, 1]],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    check(CASES[name])


def test_without_uncertain_tokens_beyond_the_bounds_it_is_dapo():
    wide = {"clip_low": 1.0, "clip_high": 9.0}
    check(
        case(
            lambda: htpo(lowest=0, highest=0, **wide),
            GROUP,
            times(BY_TOKEN, [[-1.5, -0.9], [0.5], [1.1, 0.7, 1.0], [-1.3, -1.15]]),
            times(BY_TOKEN, [[-1.5, -0.9], [0.5], [1.1, 0.7, 1.0], [-1.3, -1.15]]),
        )
    )
    assert [link.name for link in htpo().links] == [link.name for link in dapo(dual=10.0).links] + ["token_groups"]
    assert SLOPE != HARD_SLOPE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": 0.0}, "token_groups share is 0.0"),
        ({"easy": 1.1}, "token_groups easy is 1.1"),
        ({"lowest": -0.1}, "token_groups lowest is -0.1"),
        ({"highest": float("nan")}, "token_groups highest is nan"),
        ({"preset": "code"}, "unknown preset 'code' of token_groups"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        METHODS["htpo"](**arguments)
