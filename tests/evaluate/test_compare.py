"""Several systems on shared problems."""

from __future__ import annotations

import math

import numpy as np
import pytest

from forkpoint.errors import InputError
from forkpoint.evaluate.compare import System, compare
from forkpoint.evaluate.graded import graded
from forkpoint.evaluate.paired import paired_arrays
from forkpoint.evaluate.spec import EvalSpec


def system(name, *rows, ids=None, spec=None):
    """Return a system with a list of answers for every problem; more rows of lists are more seeds."""
    results = []
    for row in rows:
        names = ids or [f"p{i}" for i in range(len(row))]
        flat = [(n, v) for n, values in zip(names, row, strict=True) for v in values]
        results.append(graded(name, [n for n, _ in flat], [v for _, v in flat], spec=spec))
    return System(name=name, results=tuple(results))


OLD = system("old", [[1, 1], [1, 0], [0, 0], [1, 1]])
NEW = system("new", [[0, 0], [1, 0], [0, 1], [0, 0]])


def test_a_pair_by_hand():
    found = compare({"": [OLD, NEW]})
    (pair,) = found.pairs
    assert (pair.first, pair.second) == ("old", "new")
    # Differences -1, 0, 0.5, -1: mean -0.375, and the problems that crossed one half, largest change first.
    assert pair.test.difference.value == -0.375
    assert (pair.test.better, pair.test.worse) == (1, 2)
    assert [(c.problem, c.before, c.after) for c in pair.changed] == [("p0", 1.0, 0.0), ("p3", 1.0, 0.0)]
    assert pair.p_holm == pair.test.p_value
    # pass@2 is 1, 1, 0, 1 and 0, 1, 1, 0.
    assert pair.curve["pass@2"].difference.value == -0.25
    assert [one.accuracy.value for one in found.benchmarks[""]] == [0.625, 0.25]


def test_worse_needs_evidence():
    worse = compare({"": [system("old", [[1]] * 20), system("new", [[0]] * 12 + [[1]] * 8)]})
    assert [pair.second for pair in worse.worse()] == ["new"]
    better = compare({"": [system("old", [[0]] * 12 + [[1]] * 8), system("new", [[1]] * 20)]})
    assert better.worse() == ()
    unclear = compare({"": [OLD, NEW]})
    assert unclear.pairs[0].test.difference.value < 0
    assert unclear.worse() == ()


def test_holm_counts_every_pair_and_benchmark():
    old, new = [[1]] * 20, [[0]] * 6 + [[1]] * 14
    one = compare({"": [system("old", old), system("new", new)]})
    many = compare({name: [system("old", old), system("new", new), system("same", old)] for name in ("a", "b")})
    assert len(many.pairs) == 4
    p = one.pairs[0].test.p_value
    assert p < 0.05
    assert many.pairs[0].p_holm == pytest.approx(4 * p)
    assert many.pairs[1].p_holm == 1.0
    assert any("corrected for 4 comparisons" in note for note in many.notes)
    assert [pair.benchmark for pair in many.pairs] == ["a", "a", "b", "b"]


def test_unshared_problems_are_left_out_and_said():
    a = system("a", [[1], [0], [1], [math.nan]], ids=list("wxyz"))
    b = system("b", [[1], [1], [0], [1]], ids=list("xyzv"))
    found = compare({"": [a, b]})
    assert found.pairs[0].test.difference.problems == 2
    assert found.pairs[0].unshared == 3
    assert any("3 problems are judged in only one" in note for note in found.notes)
    assert any("1 of 4 answers of a were not judged" in note for note in found.notes)


def test_unlike_conditions_are_named():
    a, b = (system(n, [[1], [0]], spec=EvalSpec(samples=1, dtype=d)) for n, d in (("a", "float32"), ("b", "bfloat16")))
    found = compare({"": [a, b]})
    assert [d.field for d in found.pairs[0].spec] == ["dtype"]
    assert any('dtype: "float32" against "bfloat16"' in note for note in found.notes)
    assert compare({"": [a, a]}).pairs[0].spec == ()
    unknown = compare({"": [a, system("c", [[1], [0]])]})
    assert unknown.pairs[0].spec is None
    assert any("not both record their conditions" in note for note in unknown.notes)


def test_training_seeds_widen_the_interval():
    rng = np.random.default_rng(0)
    hard = rng.random(60)

    def seeds(shift):
        return [[[float(v)] for v in rng.random(60) < np.clip(hard + shift + s, 0, 1)] for s in (-0.15, 0.0, 0.15)]

    a, b = system("a", *seeds(0.0)), system("b", *seeds(0.1))
    found = compare({"": [a, b]})
    (pair,) = found.pairs
    means = [one.values for one in found.benchmarks[""]]
    problems_alone = paired_arrays(means[1], means[0])
    assert pair.test.difference.value == pytest.approx(problems_alone.difference.value)
    assert pair.test.difference.error > 2 * problems_alone.difference.error
    assert pair.test.p_value > problems_alone.p_value
    assert (pair.test.mcnemar, pair.curve) == (None, {})
    assert [one.seeds for one in found.benchmarks[""]] == [3, 3]
    assert found.benchmarks[""][0].seed_deviation > 0.05
    one = compare({"": [System(name=s.name, results=s.results[:1]) for s in (a, b)]})
    assert one.pairs[0].test.mcnemar is not None
    assert any("One training seed each" in note for note in one.notes)
    assert not any("One training seed each" in note for note in found.notes)


def test_seeds_of_several_results_are_no_difference():
    a, b = (system(n, [[1], [0]], [[1], [1]], spec=EvalSpec(seeds=(s,))) for n, s in (("a", 1), ("b", 2)))
    assert compare({"": [a, b]}).pairs[0].spec == ()
    one = [System(name=s.name, results=s.results[:1]) for s in (a, b)]
    assert [d.field for d in compare({"": one}).pairs[0].spec] == ["seeds"]


def test_one_problem_can_be_compared_but_says_nothing():
    found = compare({"": [system("a", [[1]]), system("b", [[0]])]})
    assert math.isnan(found.pairs[0].test.p_value)
    assert math.isnan(found.pairs[0].p_holm)
    assert found.worse() == ()
    assert "cannot resolve any difference" in found.pairs[0].resolution


def test_rounding_is_never_worse():
    first, second = [[0.1, 0.2, 0.3]] * 20, [[0.3, 0.2, 0.1]] * 20
    for rows in ((1, 1), (2, 2)):
        found = compare({"": [system("a", *[first] * rows[0]), system("b", *[second] * rows[1])]})
        assert (found.pairs[0].test.p_value, found.worse()) == (1.0, ())
    tenths = [[0.3], [0.2], [0.4]], [[0.1], [0.0], [0.2]]
    (pair,) = compare({"": [system("a", tenths[0]), system("b", tenths[1])]}).pairs
    assert pair.test.p_value == 0.25
    assert "no error" in pair.resolution


def test_few_problems_resolve_nothing_that_shares_can_differ_by():
    (pair,) = compare({"": [system("a", [[1], [0]]), system("b", [[0], [0]])]}).pairs
    assert pair.detectable > 1
    assert pair.resolution.startswith("These 2 problems cannot resolve any difference: even one of 100 points")
    (scores,) = compare({"": [system("a", [[30], [0]]), system("b", [[0], [0]])]}).pairs
    assert "100 points" not in scores.resolution


def test_one_note_says_which_conditions_are_not_known():
    systems = [system(f"s{i}", [[1], [0], [i % 2]]) for i in range(12)]
    found = compare({"x": systems, "y": systems})
    (note,) = [note for note in found.notes if "record their conditions" in note]
    assert note.startswith("s1 and s0 on x; s2 and s0 on x;")
    assert "; and 16 more pairs: not both" in note
    assert "s7" not in note


def test_systems_alike_everywhere():
    found = compare({"": [OLD, OLD]})
    assert found.pairs[0].test.p_value == 1.0
    assert found.pairs[0].changed == ()
    assert "no error" in found.pairs[0].resolution


def test_mistakes_are_named():
    with pytest.raises(InputError, match="only old to compare"):
        compare({"": [OLD]})
    with pytest.raises(InputError, match="old and b have no judged problem in common on math"):
        compare({"math": [OLD, system("b", [[1]], ids=["other"])]})
