"""Several systems on shared problems: differences, what is behind them, and whether they are real."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from forkpoint.errors import InputError
from forkpoint.evaluate.graded import Floats, Graded
from forkpoint.evaluate.metrics import Metrics, summarise
from forkpoint.evaluate.paired import PairedTest, holm, paired_arrays
from forkpoint.evaluate.power import VarianceSplit, detectable_difference, resolution, variance_split
from forkpoint.evaluate.seeds import seed_effect, seeds_difference
from forkpoint.evaluate.spec import EvalSpec, SpecDifference, differences
from forkpoint.evaluate.stats import Estimate
from forkpoint.evaluate.voting import means


@dataclass(frozen=True, kw_only=True)
class System:
    """One system on one benchmark, evaluated once for every training seed."""

    name: str
    results: tuple[Graded, ...]
    """One a training seed, of the same problems."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one system reached on one benchmark."""

    name: str
    accuracy: Estimate
    """Mean value; over training seeds as well where there are several."""
    metrics: Metrics
    """Of the first training seed where there are several."""
    seeds: int
    seed_deviation: float
    """Standard deviation of the true means of training seeds, NaN for one."""
    split: VarianceSplit
    problems: tuple[Hashable, ...]
    values: Floats
    """Mean value of every problem over answers and training seeds, NaN where nothing was judged."""


@dataclass(frozen=True, kw_only=True)
class Changed:
    """A problem that changed sides: mostly right in one system, mostly wrong in the other."""

    problem: str
    before: float
    """Value in the first system."""
    after: float


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One system against the first, on the problems both have judged."""

    benchmark: str
    first: str
    second: str
    test: PairedTest
    """Second less first."""
    p_holm: float
    """p value corrected for all pairs and benchmarks of the comparison."""
    curve: Mapping[str, PairedTest]
    """The same of pass@k and maj@k that both have, by name."""
    changed: tuple[Changed, ...]
    """Largest change first."""
    unshared: int
    """Problems that only one of the two has judged."""
    detectable: float
    """Smallest true difference found four times in five at this error."""
    resolution: str
    """The same in words."""
    spec: tuple[SpecDifference, ...] | None
    """Conditions that differ; None where one of the two records none."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything a comparison found."""

    benchmarks: Mapping[str, tuple[Measured, ...]]
    """The systems in order, by benchmark."""
    pairs: tuple[Pair, ...]
    level: float
    notes: tuple[str, ...]

    def worse(self) -> tuple[Pair, ...]:
        """Return the pairs whose second system is worse than the first beyond chance, after Holm's correction."""
        return tuple(p for p in self.pairs if p.test.difference.value < 0 and p.p_holm < 1 - self.level)


def compare(benchmarks: Mapping[str, Sequence[System]], *, level: float = 0.95) -> Comparison:
    """Compare every system with the first one, benchmark by benchmark.

    Args:
        benchmarks: By name, two systems or more, the first one first.
        level: Coverage of the intervals; 1 - level is the chance of any false alarm over all pairs.

    Raises:
        InputError: For fewer than two systems, systems without a shared judged problem, or seeds of one system that
            were asked other problems.
    """
    measured: dict[str, tuple[Measured, ...]] = {}
    pairs: list[Pair] = []
    for benchmark, systems in benchmarks.items():
        if len(systems) < 2:
            raise InputError(f"there is only {systems[0].name if systems else 'nothing'} to compare: name two or more")
        found = measured[benchmark] = tuple(measure(system, level=level) for system in systems)
        curves = [_curves(found[0], other, level) for other in found[1:]]
        pairs += [_pair(benchmark, systems[0], *rest, level) for rest in zip(systems[1:], curves, strict=True)]
    corrected = holm([pair.test.p_value for pair in pairs])
    pairs = [replace(pair, p_holm=float(p)) for pair, p in zip(pairs, corrected, strict=True)]
    return Comparison(benchmarks=measured, pairs=tuple(pairs), level=level, notes=_notes(measured, pairs))


def measure(system: System, *, level: float = 0.95) -> Measured:
    """Return what one system reached, with training seeds as a random effect where there are several."""
    first = system.results[0]
    metrics = summarise(first, level=level)
    accuracy = next(iter(metrics.estimates.values()))
    problems, values_SP = _table(system)
    deviation = math.nan
    if len(system.results) > 1:
        over_seeds = seed_effect(values_SP[:, ~np.isnan(values_SP).any(axis=0)], level=level)
        accuracy, deviation = over_seeds.estimate, over_seeds.seed
    # A problem that one seed has not judged still has a value from the others.
    count = (~np.isnan(values_SP)).sum(axis=0)
    total = np.nansum(values_SP, axis=0)
    return Measured(
        name=system.name,
        accuracy=accuracy,
        metrics=metrics,
        seeds=len(system.results),
        seed_deviation=deviation,
        split=variance_split(first.problem_N.tolist(), first.value_N.tolist()),
        problems=tuple(problems),
        values=np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0),
    )


def _pair(benchmark: str, first: System, second: System, curve: Mapping[str, PairedTest], level: float) -> Pair:
    (names_a, a_SP), (names_b, b_SP) = _table(first), _table(second)
    shared, a, b = _shared(names_a, a_SP, names_b, b_SP)
    if not shared:
        raise InputError(
            f"{first.name} and {second.name} have no judged problem in common"
            f"{f' on {benchmark}' if benchmark else ''}: compare evaluations of the same problems"
        )
    samples = sum(int((~np.isnan(one.value_N)).sum()) for one in (*first.results, *second.results))
    test = paired_arrays(b.mean(axis=0), a.mean(axis=0), samples=samples, level=level)
    if len(a) + len(b) > 2 and len(shared) > 1:
        found, p_value = seeds_difference(b, a, level=level)
        # McNemar's test knows nothing of the spread of training seeds.
        test = replace(test, difference=found, p_value=p_value, mcnemar=None) if found.error > 0 else test
    error = test.difference.error
    detectable = detectable_difference(error, problems=len(shared), level=level) if error > 0 else math.nan
    return Pair(
        benchmark=benchmark,
        first=first.name,
        second=second.name,
        test=test,
        p_holm=test.p_value,
        curve=curve,
        changed=_changed(shared, a.mean(axis=0), b.mean(axis=0)),
        unshared=len({*names_a} | {*names_b}) - len(shared),
        detectable=detectable,
        resolution=_resolution(detectable, test, len(shared), shares=bool(((a >= 0) & (a <= 1)).all())),
        spec=_spec_differences(first, second),
    )


def _resolution(detectable: float, test: PairedTest, problems: int, *, shares: bool) -> str:
    if test.difference.problems > 1 and math.isnan(detectable):
        return "No problem differs from the others in its change, so there is no error to say what could be resolved."
    if shares and detectable > 1:
        return f"These {problems} problems cannot resolve any difference: even one of 100 points could go unseen."
    return resolution(detectable, problems=problems)


def _table(system: System) -> tuple[list[Hashable], Floats]:
    """Return the problems of a system in order of appearance, and their values by training seed."""
    names = list(dict.fromkeys(name for one in system.results for name in one.problems))
    place = {name: index for index, name in enumerate(names)}
    values = np.full((len(system.results), len(names)), np.nan)
    for row, one in zip(values, system.results, strict=True):
        row[[place[name] for name in one.problems]] = means(one.problem_N, one.value_N, len(one.problems))
    return names, values


def _shared(
    names_a: Sequence[Hashable], a_SP: Floats, names_b: Sequence[Hashable], b_SP: Floats
) -> tuple[list[Hashable], Floats, Floats]:
    """Return the problems that every seed of both has judged, and their values."""
    at_b = {name: place for place, name in enumerate(names_b)}
    kept = [
        (place, at_b[name])
        for place, name in enumerate(names_a)
        if name in at_b and not np.isnan(a_SP[:, place]).any() and not np.isnan(b_SP[:, at_b[name]]).any()
    ]
    left, right = [place for place, _ in kept], [place for _, place in kept]
    return [names_a[place] for place in left], a_SP[:, left], b_SP[:, right]


def _curves(a: Measured, b: Measured, level: float) -> dict[str, PairedTest]:
    """Return the paired tests of every pass@k with k a power of two, and maj@k, that both have; none over seeds."""
    left, right = a.metrics.values, b.metrics.values
    found: dict[str, PairedTest] = {}
    if a.seeds + b.seeds > 2:
        return found
    for name, column in left.items():
        kind, _, k = name.partition("@")
        if kind not in ("pass", "maj") or name not in right or (kind == "pass" and int(k) & (int(k) - 1)):
            continue
        shared, one, other = _shared(a.problems, column[None], b.problems, right[name][None])
        if shared:
            found[name] = paired_arrays(other[0], one[0], level=level)
    return found


def _changed(problems: Sequence[Hashable], before: Floats, after: Floats) -> tuple[Changed, ...]:
    """Return the problems whose values lie on different sides of one half."""
    crossed = np.flatnonzero((before - 0.5) * (after - 0.5) < 0)
    order = crossed[np.argsort(-np.abs(after - before)[crossed], kind="stable")]
    return tuple(Changed(problem=str(problems[i]), before=float(before[i]), after=float(after[i])) for i in order)


def _spec_differences(first: System, second: System) -> tuple[SpecDifference, ...] | None:
    """Return the conditions that differ between two systems; the seeds of several results are meant to."""
    a, b = first.results[0].spec, second.results[0].spec
    if a is None or b is None:
        return None
    if len(first.results) + len(second.results) > 2:
        a, b = _seedless(a), _seedless(b)
    return tuple(differences(a, b))


def _seedless(spec: EvalSpec) -> EvalSpec:
    return replace(spec, seeds=None)


_NAMED = 6
"""Pairs that one note names."""


def _notes(measured: Mapping[str, tuple[Measured, ...]], pairs: Sequence[Pair]) -> tuple[str, ...]:
    notes = list(dict.fromkeys(note for row in measured.values() for one in row for note in one.metrics.notes))
    bare = []
    for pair in pairs:
        called = f"{pair.second} and {pair.first}" + (f" on {pair.benchmark}" if pair.benchmark else "")
        if pair.unshared:
            notes.append(f"{called}: {pair.unshared} problems are judged in only one of them and are left out.")
        if pair.spec is None:
            bare.append(called)
        elif pair.spec:
            notes.append(f"{called} were not evaluated alike: {'; '.join(map(str, pair.spec))}.")
    if bare:
        more = f"; and {len(bare) - _NAMED} more pairs" if len(bare) > _NAMED else ""
        called = "; ".join(bare[:_NAMED]) + more
        notes.append(f"{called}: not both record their conditions, so they may differ in more than the system.")
    if all(one.seeds == 1 for row in measured.values() for one in row):
        notes.append("One training seed each: the intervals do not cover what another seed would give.")
    if len(pairs) > 1:
        notes.append(f"The p values are corrected for {len(pairs)} comparisons (Holm); the intervals are not.")
    return tuple(notes)
