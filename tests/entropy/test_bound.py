"""The lower bound of an entropy from some log-probs: below every distribution that fits, and reached by one."""

import numpy as np
import pytest

from forkpoint.entropy.bound import entropy_lower_bound

NAN, INF = float("nan"), float("inf")


def bound(logp, likely=None):
    """Return the bound of one distribution."""
    logp = np.asarray(logp, dtype=float)
    likely = np.ones(logp.size, bool) if likely is None else np.asarray(likely, bool)
    return float(entropy_lower_bound(logp, np.array([0, logp.size]), likely)[0])


def entropy(p):
    p = np.asarray(p, dtype=float)
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


@pytest.mark.parametrize("inside", [True, False])
def test_below_the_entropy_and_above_one_lump(inside):
    draw = np.random.default_rng(1)
    for _ in range(200):
        p = draw.dirichlet(np.full(40, 0.3))
        order = np.argsort(-p)
        top = int(draw.integers(1, 30))
        sampled = order[0] if inside else order[top + 3]
        known = np.array(sorted({*order[:top].tolist(), int(sampled)}))
        likely = np.isin(known, order[:top])
        lumped = entropy(np.append(p[known], 1 - p[known].sum()))
        with np.errstate(divide="ignore"):
            found = bound(np.log(p[known]), likely)
        assert lumped - 3e-5 <= found <= entropy(p) + 3e-5
    everything = draw.dirichlet(np.ones(40))
    assert bound(np.log(everything)) == pytest.approx(entropy(everything), abs=1e-12)


@pytest.mark.parametrize("top", [1, 2, 5])
def test_no_distribution_that_fits_has_less_and_one_has_as_much(top):
    """The rest shared as unevenly as the least likely known token allows."""
    draw = np.random.default_rng(top)
    head = np.sort(draw.dirichlet(np.ones(top)))[::-1] * 0.3
    found, cap, rest = bound(np.log(head)), head[-1], 0.7
    whole = int(rest // cap)
    assert found == pytest.approx(entropy([*head, *[cap] * whole, rest - whole * cap]), abs=1e-12)
    for _ in range(300):
        shares = draw.dirichlet(np.full(whole + 40, draw.uniform(0.2, 5))) * rest
        if shares.max() <= cap:
            assert entropy([*head, *shares]) >= found


def test_more_known_tokens_never_lower_it():
    p = np.sort(np.random.default_rng(0).dirichlet(np.full(60, 0.5)))[::-1]
    found = [bound(np.log(p[:k])) for k in range(1, 61)]
    assert (np.diff(found) >= -1e-9).all()
    assert found[-1] == pytest.approx(entropy(p), abs=1e-9)
    assert found[0] < found[10] - 0.1


def test_without_a_likely_token_it_is_that_of_two_outcomes():
    assert bound([np.log(0.2)], [False]) == pytest.approx(entropy([0.2, 0.8]))
    assert bound([0.0], [False]) == 0
    assert bound([0.0, -INF]) == 0
    assert bound(np.log([0.5, 0.25])) == pytest.approx(0.5 * np.log(8))
    # The drawn token is no limit for the others: these may be likelier than it.
    assert bound(np.log([0.5, 0.01]), [True, False]) == pytest.approx(entropy([0.5, 0.01, 0.49]))
    assert bound(np.log([0.5, 0.01]), [True, True]) > 2


def test_what_is_not_known_is_not_a_number():
    logp = np.log([0.5, 0.9, 0.5, 0.25])
    logp[2] = NAN
    found = entropy_lower_bound(logp, np.array([0, 0, 2, 3, 4]), np.ones(4, bool))
    assert np.isnan(found).tolist() == [True, True, True, False]  # nothing, more than 1, NaN, a number
    # Probabilities written with three digits may add up to a little more than 1.
    assert bound(np.log([0.667, 0.3335])) == pytest.approx(entropy([0.667, 0.3335]))
    assert entropy_lower_bound(np.zeros(0), np.array([0]), np.zeros(0, bool)).shape == (0,)
