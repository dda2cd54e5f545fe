"""One token from logits: hand-computed cases."""

import math

import pytest
import torch

from forkpoint.decode.answers import Sampling, TwoTemperatures
from forkpoint.decode.sample import sample_token, truncated, two_temperature
from forkpoint.errors import InputError

LOGP = torch.tensor([[0.5, 0.25, 0.125, 0.125]], dtype=torch.float64).log()


def uniform(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("u", "token"), [(0.0, 0), (0.499, 0), (0.501, 1), (0.749, 1), (0.751, 2), (0.874, 2), (0.876, 3), (0.9999, 3)]
)
def test_inverse_of_the_cumulative_distribution(u, token):
    assert int(sample_token(LOGP.float(), uniform(u))[0]) == token


def test_logp_and_entropy_are_of_the_full_distribution():
    # H = 0.5 ln 2 + 0.25 ln 4 + 2 * 0.125 ln 8 = 1.75 ln 2
    _, logp, entropy = sample_token(LOGP.float(), uniform(0.7), top_k=2)
    assert float(logp) == pytest.approx(math.log(0.25), abs=1e-6)
    assert float(entropy) == pytest.approx(1.75 * math.log(2), abs=1e-6)


def test_temperature_divides_the_logits():
    # At temperature 0.5 probabilities are squared: 16 : 4 : 1 : 1 of 22.
    _, logp, _ = sample_token(LOGP.float(), uniform(0.0), temperature=0.5)
    assert float(logp) == pytest.approx(math.log(16 / 22), abs=1e-6)


@pytest.mark.parametrize(
    ("top_p", "top_k", "kept"),
    [
        (1.0, 0, [0, 1, 2, 3]),
        (1.0, 1, [0]),
        (0.5, 0, [0]),
        (0.51, 0, [0, 1]),
        (0.8, 0, [0, 1, 2]),
        (0.6, 3, [0, 1]),
        (0.6, 2, [0]),
    ],
)
def test_top_k_and_top_p(top_p, top_k, kept):
    # (0.6, 2): the two left weigh 2/3 and 1/3, and the first alone has 0.6.
    # (0.6, 3): the three left weigh 4/7, 2/7, 1/7; the first has 0.571 < 0.6, so two are needed.
    out = truncated(LOGP, top_p=top_p, top_k=top_k)[0]
    assert [i for i in range(4) if out[i] > -math.inf] == kept


def test_a_token_of_probability_zero_is_never_drawn():
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]])
    drawn = {int(sample_token(logits, uniform(u))[0]) for u in (0.0, 0.25, 0.5, 0.75, 1 - 2**-53)}
    assert drawn == {1, 3}
    # Two tokens of one half each: the impossible ones add nothing.
    assert float(sample_token(logits, uniform(0.5))[2]) == pytest.approx(math.log(2), abs=1e-6)


Z = torch.tensor([[1.0, 3.0, 2.0], [4.0, 0.0, 4.0]], dtype=torch.float64)


def test_forks_and_others_are_divided_by_their_own_temperature():
    found = two_temperature(Z, torch.tensor([0.7, 0.1]), TwoTemperatures(threshold=0.672, fork=2.0, other=0.5))
    assert found.tolist() == [[0.5, 1.5, 1.0], [8.0, 0.0, 8.0]]
    assert found.dtype == torch.float64


def test_the_cut_is_strict_and_nan_is_no_fork():
    found = two_temperature(Z, torch.tensor([0.672, math.nan]), TwoTemperatures(threshold=0.672, fork=2.0, other=1.0))
    assert torch.equal(found, Z)


def test_temperature_zero_takes_the_first_of_the_most_likely():
    found = two_temperature(Z, torch.tensor([0.0, 1.0]), TwoTemperatures(threshold=0.5, fork=0.0, other=0.0))
    assert found.softmax(-1).tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]


def test_temperature_one_changes_nothing_and_half_precision_stays():
    z = Z.to(torch.bfloat16)
    found = two_temperature(z, torch.tensor([1.0, 0.0]), TwoTemperatures(threshold=0.5, fork=1.0, other=1.0))
    assert torch.equal(found, z)
    assert found.dtype == torch.bfloat16


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
def test_two_temperatures_out_of_range(bad):
    with pytest.raises(InputError, match="the temperature of other tokens is"):
        TwoTemperatures(threshold=0.5, fork=1.0, other=bad)
    with pytest.raises(InputError, match="the threshold between fork and other"):
        TwoTemperatures(threshold=math.nan, fork=1.0, other=1.0)
    with pytest.raises(InputError, match="leave temperature at 1"):
        Sampling(max_tokens=1, stop_ids=(), temperature=0.7, two=TwoTemperatures(threshold=0.5, fork=1.0, other=1.0))


def test_two_temperatures_draw_and_one_measures():
    # Probabilities 1/2, 1/4, 1/8, 1/8: squared at temperature 1/2 they are 16, 4, 1, 1 of 22.
    entropy = 1.75 * math.log(2)
    for threshold, edge in ((entropy - 0.01, 16 / 22), (entropy + 0.01, 1.0)):
        two = TwoTemperatures(threshold=threshold, fork=0.5, other=0.0)
        below, above = (
            sample_token(LOGP.float(), uniform(edge + d), two=two) for d in (-1e-3, 1e-3 if edge < 1 else -1e-4)
        )
        assert int(below[0]) == 0
        assert int(above[0]) == (1 if edge < 1 else 0)
        assert float(above[1]) == pytest.approx(math.log(0.25 if edge < 1 else 0.5), abs=1e-6)
        assert float(above[2]) == pytest.approx(entropy, abs=1e-6)


def test_two_temperatures_are_cut_like_one():
    two = TwoTemperatures(threshold=0.0, fork=2.0, other=1.0)
    drawn = {int(sample_token(LOGP.float(), uniform(u), two=two, top_k=2)[0]) for u in (0.0, 0.3, 0.6, 0.9, 0.999)}
    assert drawn == {0, 1}
