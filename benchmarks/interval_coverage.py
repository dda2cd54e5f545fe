"""Do 95 % intervals cover 95 %, and does the paired test raise false alarms in 5 % of cases? By simulation.

    python benchmarks/interval_coverage.py [--quick] [--repetitions 5000] [--out benchmarks/results]

A benchmark is drawn again and again: the chance p of a right answer to each of n problems from a Beta distribution,
then k answers to each. The interval is asked for the mean over all problems that could have been drawn. Goal: it holds
the true value in 93-97 % of the draws for n from 20 to 500 problems and k from 1 to 64 answers, and with no true
difference the paired test says p < 0.05 in 4-6 %. Cells outside the goal are marked with a star, none is left out.

- `avg@k`: the interval of every accuracy, `intervals.clustered_wilson`;
- `pass@k of 64 answers`, `maj@k`: the same interval of other values of a problem;
- methods side by side: clustered Wilson, Student's t, BCa bootstrap over problems;
- the paired test under two nulls: both systems find each problem equally hard, or every second problem is drawn anew
  for the second system.

Nothing is timed. `--quick` takes 400 repetitions and two numbers of problems: a look, not a result.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import benchtables
import numpy as np
from scipy import special, stats

from forkpoint.evaluate import intervals
from forkpoint.evaluate.metrics import pass_curve

POPULATIONS: Mapping[str, tuple[float, float]] = {
    "even: Beta(1, 1)": (1.0, 1.0),
    "easy or hopeless: Beta(0.3, 0.3)": (0.3, 0.3),
    "hard: Beta(0.3, 2.7)": (0.3, 2.7),
    "very hard: Beta(0.15, 2.85)": (0.15, 2.85),
    "easy: Beta(2.7, 0.3)": (2.7, 0.3),
    "nearly solved: Beta(0.5, 0.05)": (0.5, 0.05),
    "alike, middling: Beta(4, 4)": (4.0, 4.0),
    "alike, hard: Beta(4, 36)": (4.0, 36.0),
}
PROBLEMS, ANSWERS = (20, 30, 50, 100, 200, 500), (1, 4, 16, 64)
QUICK_PROBLEMS = (20, 100)
METHODS: Mapping[str, Callable[..., intervals.Ends]] = {
    "clustered Wilson": intervals.clustered_wilson,
    "Student": intervals.student,
    "BCa bootstrap": lambda values: intervals.bootstrap(values, resamples=1999),
}
METHOD_ANSWERS = (1, 16)
DRAWN_AT_ONCE = 1 << 21
"""Problems times repetitions held at once."""
COVERAGE, SIZE = (93.0, 97.0), (4.0, 6.0)
DRAWS_OF_BOOTSTRAP = 10
"""The bootstrap gets this many times fewer repetitions."""


def batches(repetitions: int, problems: int) -> list[int]:
    """Return sizes that sum to `repetitions`, each small enough to hold."""
    most = max(1, DRAWN_AT_ONCE // (64 * problems))
    return [min(most, repetitions - done) for done in range(0, repetitions, most)]


def covered(ends: intervals.Ends, true: float) -> int:
    """Return how many intervals hold the true value."""
    low, high = ends
    return int(((low <= true + 1e-12) & (true <= high + 1e-12)).sum())


def average_cell(
    shape: tuple[float, float], problems: int, k: int, repetitions: int, rng: np.random.Generator
) -> float:
    """Return the coverage of avg@k in percent."""
    hit = 0
    for size in batches(repetitions, problems):
        share = rng.binomial(k, rng.beta(*shape, (size, problems))) / k
        hit += covered(intervals.clustered_wilson(share), shape[0] / sum(shape))
    return 100 * hit / repetitions


def pass_cells(shape: tuple[float, float], problems: int, repetitions: int, rng: np.random.Generator) -> list[float]:
    """Return the coverage of pass@k of 64 answers for every k, in percent."""
    most, a, b = max(ANSWERS), *shape
    hits = np.zeros(len(ANSWERS))
    for size in batches(repetitions, problems):
        right = rng.binomial(most, rng.beta(a, b, (size, problems)))
        curve = pass_curve(np.full(right.size, most), right.ravel(), most).reshape(size, problems, most)
        for place, k in enumerate(ANSWERS):
            true = 1 - float(np.exp(special.betaln(a, b + k) - special.betaln(a, b)))
            hits[place] += covered(intervals.clustered_wilson(curve[..., k - 1].clip(0, 1)), true)
    return (100 * hits / repetitions).tolist()


def majority_cell(
    shape: tuple[float, float], problems: int, k: int, repetitions: int, rng: np.random.Generator
) -> float:
    """Return the coverage of maj@k in percent where all wrong answers agree with each other."""
    distribution = stats.betabinom(k, *shape)
    true = float(distribution.sf(k // 2) + (0.5 * distribution.pmf(k // 2) if k % 2 == 0 else 0))
    hit = 0
    for size in batches(repetitions, problems):
        right = rng.binomial(k, rng.beta(*shape, (size, problems)))
        hit += covered(intervals.clustered_wilson((right * 2 > k) + 0.5 * (right * 2 == k)), true)
    return 100 * hit / repetitions


def method_cells(
    shape: tuple[float, float], problems: int, k: int, repetitions: int, rng: np.random.Generator
) -> dict[str, float]:
    """Return the coverage of avg@k by every method, in percent."""
    found = {}
    for name, method in METHODS.items():
        rounds = max(100, repetitions // DRAWS_OF_BOOTSTRAP) if "bootstrap" in name else repetitions
        hit = 0
        for size in batches(rounds, problems):
            share = rng.binomial(k, rng.beta(*shape, (size, problems))) / k
            hit += covered(method(share), shape[0] / sum(shape))
        found[name] = 100 * hit / rounds
    return found


def size_cell(
    shape: tuple[float, float], problems: int, k: int, redrawn: bool, repetitions: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Return the size of the paired test at 0.05 in percent, and the mean number of problems that differ."""
    alarms, differing = 0, 0.0
    for size in batches(repetitions, problems):
        first = rng.beta(*shape, (size, problems))
        second = np.where(rng.random(first.shape) < 0.5, rng.beta(*shape, first.shape), first) if redrawn else first
        difference = (rng.binomial(k, first) - rng.binomial(k, second)) / k
        low, high = intervals.student(difference)
        # An interval without width is no alarm: all differences were the same, nearly always none.
        alarms += int((((low > 0) | (high < 0)) & (high > low)).sum())
        differing += float((difference != 0).sum())
    return 100 * alarms / repetitions, differing / repetitions


def mark(value: float, goal: tuple[float, float], digits: int = 1) -> str:
    """Return a percentage, starred outside the goal.

    >>> mark(95.04, (93, 97)), mark(91.2, (93, 97))
    ('95.0', '91.2 *')
    """
    return f"{value:.{digits}f}" + ("" if goal[0] <= round(value, digits) <= goal[1] else " *")


def count(cells: Mapping[Any, float], goal: tuple[float, float]) -> str:
    """Return how many cells reach the goal, and how many lie below and above."""
    values = [round(value, 1) for value in cells.values()]
    below, above = sum(value < goal[0] for value in values), sum(value > goal[1] for value in values)
    low, high = min(values), max(values)
    return (
        f"{len(values) - below - above} of {len(values)} cells within {goal[0]:g}-{goal[1]:g} %, {below} below, "
        f"{above} above; lowest {low:.1f} %, highest {high:.1f} %"
    )


def span(cells: Mapping[Any, float]) -> str:
    """Return how many cells reach the goal of coverage, with the lowest and the highest."""
    values = [round(value, 1) for value in cells.values()]
    within = sum(COVERAGE[0] <= value <= COVERAGE[1] for value in values)
    return f"{within} of {len(values)} ({min(values):.1f}-{max(values):.1f})"


def grid(cells: Mapping[tuple[str, int, int], float], sizes: tuple[int, ...], goal: tuple[float, float]) -> str:
    """Return a table with populations and numbers of problems as rows and k as columns."""
    ks = list(dict.fromkeys(k for _, _, k in cells))
    rows = [[f"{name}; n = {n}", *(mark(cells[name, n, k], goal) for k in ks)] for name in POPULATIONS for n in sizes]
    return benchtables.table(["problems", *(f"k = {k}" for k in ks)], rows)


def simulate(sizes: tuple[int, ...], repetitions: int, seed: int) -> dict[str, dict[tuple[Any, ...], float]]:
    """Return every cell of every table, in percent."""
    found: dict[str, dict[tuple[Any, ...], float]] = {
        name: {} for name in ("avg", "pass", "majority", "methods", "size, same", "size, redrawn")
    }
    for place, (name, shape) in enumerate(POPULATIONS.items()):
        for n in sizes:
            rng = np.random.default_rng((seed, place, n))
            passes = pass_cells(shape, n, repetitions, rng)
            for k, passed in zip(ANSWERS, passes, strict=True):
                found["avg"][name, n, k] = average_cell(shape, n, k, repetitions, rng)
                found["pass"][name, n, k] = passed
                if k > 1:
                    found["majority"][name, n, k] = majority_cell(shape, n, k, repetitions, rng)
                for null in ("same", "redrawn"):
                    alarms, differing = size_cell(shape, n, k, null == "redrawn", repetitions, rng)
                    found[f"size, {null}"][name, n, k] = alarms
                    found.setdefault(f"differing, {null}", {})[name, n, k] = differing
            for k in METHOD_ANSWERS:
                for method, value in method_cells(shape, n, k, repetitions, rng).items():
                    found["methods"][name, n, k, method] = value
            print(f"{name}; n = {n}: done", flush=True)
    return found


def report(found: Mapping[str, Mapping[tuple[Any, ...], float]], sizes: tuple[int, ...], repetitions: int) -> str:
    """Return the tables as markdown, what they come to first."""
    enough = {
        cell: value
        for null in ("same", "redrawn")
        for cell, value in ((((null, *key)), alarm) for key, alarm in found[f"size, {null}"].items())
        if found[f"differing, {null}"][cell[1:]] >= 6
    }
    every = {(null, *key): v for null in ("same", "redrawn") for key, v in found[f"size, {null}"].items()}
    by_method = []
    for method in METHODS:
        cells = [{c: v for c, v in found["methods"].items() if c[3] == method and c[1] == n} for n in sizes]
        by_method.append([method, *(span(cell) for cell in cells)])
    few, noise = max(100, repetitions // DRAWS_OF_BOOTSTRAP), 196 * (0.95 * 0.05 / repetitions) ** 0.5
    parts = [
        f"{repetitions:,} repetitions a cell ({few:,} of the bootstrap): a true 95 % shows as 95 ± {noise:.1f}.",
        f"- avg@k: {count(found['avg'], COVERAGE)}.\n- pass@k of 64 answers: {count(found['pass'], COVERAGE)}.\n"
        f"- maj@k: {count(found['majority'], COVERAGE)}.\n"
        f"- size of the paired test: {count(every, SIZE)}; where six problems or more differ on average: "
        f"{count(enough, SIZE) if enough else 'no such cell'}.",
        "## Coverage of avg@k\n\n" + grid(found["avg"], sizes, COVERAGE),
        "## Coverage of pass@k of 64 answers\n\n" + grid(found["pass"], sizes, COVERAGE),
        "## Coverage of maj@k\n\n" + grid(found["majority"], sizes, COVERAGE),
        "## Methods: cells within 93-97 % (lowest-highest), over all populations and k = 1, 16\n\n"
        + benchtables.table(["method", *(f"n = {n}" for n in sizes)], by_method),
        "## Size of the paired test, problems equally hard for both\n\n" + grid(found["size, same"], sizes, SIZE),
        "## Size of the paired test, every second problem drawn anew\n\n" + grid(found["size, redrawn"], sizes, SIZE),
    ]
    return "\n\n".join(parts)


def main() -> None:
    """Simulate, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="400 repetitions, two numbers of problems")
    parser.add_argument("--repetitions", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=benchtables.RESULTS)
    arguments = parser.parse_args()
    sizes = QUICK_PROBLEMS if arguments.quick else PROBLEMS
    repetitions = 400 if arguments.quick else arguments.repetitions
    found = simulate(sizes, repetitions, arguments.seed)
    where = benchtables.surroundings(threads=1, packages=("scipy", "numpy"))
    text = f"{benchtables.heading('Coverage of intervals, size of the paired test', where)}\n\n"
    text += report(found, sizes, repetitions)
    print(text)
    data = {name: [[*cell, value] for cell, value in cells.items()] for name, cells in found.items()}
    benchtables.write(
        arguments.out, "interval_coverage", text,
        {**where, "repetitions": repetitions, "seed": arguments.seed, "problems": sizes, "cells": data},
    )  # fmt: skip


if __name__ == "__main__":
    main()
