"""Do 95 % intervals cover 95 %, and does the paired test raise false alarms in 5 % of cases? By simulation.

    python benchmarks/interval_coverage.py [--quick] [--repetitions 5000] [--out benchmarks/results]

A benchmark is drawn again and again: the chance p of a right answer to each of n problems from one of the populations
of `interval_populations.py`, then k answers to each. The interval is asked for the mean over all problems that could
have been drawn. Goal: it holds the true value in 93-97 % of the draws for n from 20 to 500 problems and k from 1 to 64
answers, and with no true difference the paired test says p < 0.05 in 4-6 %. No cell is left out.

- A cell is outside the goal where it is so by more than two standard errors of its own simulation. Below is marked
  `*`, above `+`.
- `d` marks a cell that discreteness decides, by its population alone. Intervals: the central range of the mean over
  problems, at most 2.5 % outside on either side, holds more than 97 %. Test: fewer than five problems differ in more
  than a fifth of the draws; with four even the most lopsided outcome has a chance of 1/8.
- `avg@k`, `pass@k of 64 answers`, `maj@k` where all wrong answers agree: `share_intervals.shares`.
- The paired test under two nulls: both systems find each problem equally hard, or every second problem is drawn anew
  for the second system. With a true difference: does its interval, `share_intervals.differences`, hold the truth?
- Methods side by side: the same, clustered Wilson, Student's t, BCa bootstrap over problems.

Nothing is timed. `--quick` takes 400 repetitions and two numbers of problems: a look, not a result.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import benchtables
import numpy as np
from interval_populations import POPULATIONS, Floats, Population, central_share, draw, right_answers
from numpy.typing import NDArray
from scipy import stats

from forkpoint.evaluate import intervals, share_intervals, signflip
from forkpoint.evaluate.metrics import pass_curve

PROBLEMS, ANSWERS, SAMPLED = (20, 30, 50, 100, 200, 500), (1, 4, 16, 64), 64
QUICK_PROBLEMS = (20, 100)
METHODS: Mapping[str, Callable[..., intervals.Ends]] = {
    "shares (default)": share_intervals.shares,
    "clustered Wilson": intervals.clustered_wilson,
    "Student": intervals.student,
    "BCa bootstrap": lambda values: intervals.bootstrap(values, resamples=999),
}
METHOD_PROBLEMS, METHOD_REPETITIONS = (20, 50, 200), 400
GAINS: Mapping[str, tuple[float, float]] = {"half the problems": (0.5, 0.4), "every tenth problem": (0.1, 0.8)}
"""What share of the problems gets easier, and by which share of what is missing to 1."""
DRAWN_AT_ONCE = 1 << 21
"""Problems times repetitions held at once."""
COVERAGE, SIZE = (93.0, 97.0), (4.0, 6.0)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of a table."""

    percent: float
    repetitions: int
    discrete: bool = False
    """Decided by discreteness, whatever the method."""

    def side(self, goal: tuple[float, float]) -> int:
        """Return -1 below the goal, 1 above, 0 inside or within two standard errors of the simulation.

        >>> [Cell(percent=p, repetitions=5000).side((93, 97)) for p in (91.0, 92.8, 95.0, 97.9)]
        [-1, 0, 0, 1]
        """
        noise = 2 * (self.percent * (100 - self.percent) / self.repetitions) ** 0.5
        return int(self.percent - noise > goal[1]) - int(self.percent + noise < goal[0])


Cells = Mapping[tuple[Any, ...], Cell]


def batches(repetitions: int, problems: int) -> list[int]:
    """Return sizes that sum to `repetitions`, each small enough to hold."""
    most = max(1, DRAWN_AT_ONCE // problems)
    return [min(most, repetitions - done) for done in range(0, repetitions, most)]


def covered(ends: intervals.Ends, true: float) -> int:
    """Return how many intervals hold the true value."""
    low, high = ends
    return int(((low <= true + 1e-12) & (true <= high + 1e-12)).sum())


def measures(population: Population) -> Iterator[tuple[str, int, Floats, Floats]]:
    """Return name, k, and the chances and values of a problem for avg@k, pass@k and maj@k."""
    sampled = np.arange(SAMPLED + 1)
    curve = pass_curve(np.full(SAMPLED + 1, SAMPLED), sampled, SAMPLED).clip(0, 1)
    for k in ANSWERS:
        right = np.arange(k + 1)
        chance = right_answers(population, k)
        yield "avg", k, chance, right / k
        yield "pass", k, right_answers(population, SAMPLED), curve[:, k - 1]
        if k > 1:
            yield "majority", k, chance, (2 * right > k) + 0.5 * (2 * right == k)


def coverage_cell(chance: Floats, value: Floats, problems: int, repetitions: int, rng: np.random.Generator) -> Cell:
    """Return how often the default interval of the mean of these values holds the true one."""
    count = rng.multinomial(problems, chance, size=repetitions)
    ends = share_intervals.shares(np.broadcast_to(value, count.shape), weights=count)
    return Cell(
        percent=100 * covered(ends, float(chance @ value)) / repetitions,
        repetitions=repetitions,
        discrete=central_share(chance, value, problems) > COVERAGE[1] / 100,
    )


def method_cell(name: str, chance: Floats, value: Floats, problems: int, rng: np.random.Generator) -> Cell:
    """Return the same of one of several methods, with fewer repetitions."""
    drawn = value[np.searchsorted(chance.cumsum()[:-1], rng.random((METHOD_REPETITIONS, problems)), side="right")]
    hit = covered(METHODS[name](drawn), float(chance @ value))
    return Cell(
        percent=100 * hit / METHOD_REPETITIONS,
        repetitions=METHOD_REPETITIONS,
        discrete=central_share(chance, value, problems) > COVERAGE[1] / 100,
    )


def alarms(difference_RP: Floats) -> NDArray[np.bool_]:
    """Return in which rows `paired.paired_arrays` would say p < 0.05."""
    low, high = intervals.student(difference_RP, 0.95)
    found = (low > 0) | (high < 0)
    # By Paley and Zygmund no sign-flip test is below (1 - 0.6)² / 3, 5.3 %, where the squared sum is below 0.6 times
    # the sum of squares: their fourth moment is at most three times their squared variance.
    asked = ~found & (difference_RP.sum(axis=1) ** 2 >= 0.6 * (difference_RP**2).sum(axis=1))
    asked &= (difference_RP != 0).sum(axis=1) <= signflip.MOST
    for row in np.flatnonzero(asked):
        found[row] = signflip.sign_flip(difference_RP[row]) < 0.05
    # Where all differences are the same and not 0, 20 problems and more leave no doubt; where all are 0, no alarm.
    return np.asarray(found & (difference_RP != 0).any(axis=1))


def size_cell(
    population: Population, problems: int, k: int, redrawn: bool, repetitions: int, rng: np.random.Generator
) -> Cell:
    """Return the size of the paired test at 0.05."""
    found, differing = 0, 0
    for size in batches(repetitions, problems):
        first = draw(population, (size, problems), rng)
        second = first
        if redrawn:
            second = np.where(rng.random(first.shape) < 0.5, draw(population, first.shape, rng), first)
        difference = (rng.binomial(k, first) - rng.binomial(k, second)) / k
        found += int(alarms(difference).sum())
        differing += int((difference != 0).sum())
    few = stats.binom.cdf(4, problems, differing / (repetitions * problems))
    return Cell(percent=100 * found / repetitions, repetitions=repetitions, discrete=bool(few > 0.2))


def difference_cells(
    population: Population, gain: str, problems: int, k: int, repetitions: int, rng: np.random.Generator
) -> tuple[Cell, Cell]:
    """Return how often the interval of a true gain holds it, and Student's; samples without any spread are left out."""
    share, part = GAINS[gain]
    one = right_answers(population, 1)
    true, hit, plain, drawn = share * part * float(one[0]), 0, 0, 0
    for size in batches(repetitions, problems):
        before = draw(population, (size, problems), rng)
        after = np.where(rng.random(before.shape) < share, before + part * (1 - before), before)
        a, b = rng.binomial(k, after) / k, rng.binomial(k, before) / k
        kept = np.ptp(a - b, axis=1) > 0
        a, b = a[kept], b[kept]
        difference = a - b
        low, high = intervals.student(difference)
        missed = np.flatnonzero((low > true) | (high < true))
        plain += len(difference) - len(missed)
        # It holds what Student's holds, so only the other rows are asked for; and a loss beyond chance ends at 0.
        found = np.ones(len(difference), bool)
        low, high = share_intervals.differences(a[missed], b[missed])
        found[missed] = (low <= true) & (true <= high)
        lost = np.flatnonzero(difference.sum(axis=1) < 0)
        found[lost] &= ~alarms(difference[lost])
        hit += int(found.sum())
        drawn += len(difference)
    return Cell(percent=100 * hit / drawn, repetitions=drawn), Cell(percent=100 * plain / drawn, repetitions=drawn)


def mark(cell: Cell, goal: tuple[float, float]) -> str:
    """Return a percentage with its marks.

    >>> mark(Cell(percent=98.2, repetitions=5000, discrete=True), (93, 97))
    '98.2 +d'
    """
    marks = ("*", "", "+")[cell.side(goal) + 1] + ("d" if cell.discrete else "")
    return f"{cell.percent:.1f}" + (f" {marks}" if marks else "")


def count(cells: Cells, goal: tuple[float, float]) -> str:
    """Return how many cells reach the goal, how many lie below and above, plainly and beyond their own noise."""
    values, sides = [round(cell.percent, 1) for cell in cells.values()], [cell.side(goal) for cell in cells.values()]
    if not values:
        return "no cells"
    below, above = sum(value < goal[0] for value in values), sum(value > goal[1] for value in values)
    return (
        f"{len(values) - below - above} of {len(values)} within {goal[0]:g}-{goal[1]:g} %, {below} below and {above} "
        f"above ({sides.count(-1)} and {sides.count(1)} beyond their own noise); lowest {min(values):.1f} %, highest "
        f"{max(values):.1f} %"
    )


def both_counts(cells: Cells, goal: tuple[float, float]) -> str:
    """Return the count of all cells, and of those that discreteness does not decide if it decides some."""
    free = {key: cell for key, cell in cells.items() if not cell.discrete}
    rest = f". Not decided by discreteness: {count(free, goal)}" if len(free) < len(cells) else ""
    return count(cells, goal) + rest


def grid(cells: Cells, sizes: tuple[int, ...], goal: tuple[float, float]) -> str:
    """Return a table with populations and numbers of problems as rows and k as columns."""
    ks = list(dict.fromkeys(k for _, _, k in cells))
    rows = [[f"{name}; n = {n}", *(mark(cells[name, n, k], goal) for k in ks)] for name in POPULATIONS for n in sizes]
    return benchtables.table(["problems", *(f"k = {k}" for k in ks)], rows)


TABLES: Mapping[str, tuple[str, tuple[float, float]]] = {
    "avg": ("Coverage of avg@k", COVERAGE),
    "pass": ("Coverage of pass@k of 64 answers", COVERAGE),
    "majority": ("Coverage of maj@k", COVERAGE),
    "size, same": ("Size of the paired test, problems equally hard for both", SIZE),
    "size, redrawn": ("Size of the paired test, every second problem drawn anew", SIZE),
    **{f"gain, {gain}": (f"Coverage of a difference, {gain} easier", COVERAGE) for gain in GAINS},
}


def simulate(sizes: tuple[int, ...], repetitions: int, seed: int) -> dict[str, dict[tuple[Any, ...], Cell]]:
    """Return every cell of every table."""
    found: dict[str, dict[tuple[Any, ...], Cell]] = {name: {} for name in (*TABLES, "methods", "student")}
    for place, (name, population) in enumerate(POPULATIONS.items()):
        for n in sizes:
            rng = np.random.default_rng((seed, place, n))
            for kind, k, chance, value in measures(population):
                found[kind][name, n, k] = coverage_cell(chance, value, n, repetitions, rng)
                if n in METHOD_PROBLEMS and k in (4, 16):
                    for method in METHODS:
                        found["methods"][name, n, k, kind, method] = method_cell(method, chance, value, n, rng)
            for k in ANSWERS:
                for null in ("same", "redrawn"):
                    cell = size_cell(population, n, k, null == "redrawn", repetitions, rng)
                    found[f"size, {null}"][name, n, k] = cell
                for gain in GAINS:
                    here = difference_cells(population, gain, n, k, repetitions, rng)
                    found[f"gain, {gain}"][name, n, k], found["student"][gain, name, n, k] = here
            print(f"{name}; n = {n}: done", flush=True)
    return found


def by_method(cells: Cells) -> str:
    """Return a table of cells below, within and above the goal for every method, beyond their own noise."""
    rows = []
    for method in METHODS:
        row = [method]
        for n in METHOD_PROBLEMS:
            here = [cell for key, cell in cells.items() if key[4] == method and key[1] == n]
            sides = [cell.side(COVERAGE) for cell in here]
            lowest = f"{min(cell.percent for cell in here):.1f}" if here else "-"
            row.append(f"{sides.count(-1)} / {sides.count(0)} / {sides.count(1)}; {lowest}")
        rows.append(row)
    return benchtables.table(["method", *(f"n = {n}" for n in METHOD_PROBLEMS)], rows)


def joined(found: Mapping[str, Cells], names: tuple[str, ...]) -> Cells:
    """Return the cells of several tables as one."""
    return {(name, *key): cell for name in names for key, cell in found[name].items()}


def report(found: Mapping[str, Cells], sizes: tuple[int, ...], repetitions: int) -> str:
    """Return the tables as markdown, what they come to first."""
    noise = 196 * (0.95 * 0.05 / repetitions) ** 0.5
    sums = {
        "avg@k": found["avg"],
        "pass@k of 64 answers": found["pass"],
        "maj@k": found["majority"],
        "size of the paired test": joined(found, ("size, same", "size, redrawn")),
        "interval of a true difference": joined(found, tuple(f"gain, {gain}" for gain in GAINS)),
        "Student's interval of it, for comparison": found["student"],
    }
    goals = {name: SIZE if "size" in name else COVERAGE for name in sums}
    parts = [
        f"{repetitions:,} repetitions a cell: a true 95 % shows as 95 ± {noise:.1f}. `*` below the goal and `+` above "
        "it by more than two standard errors of the cell, `d` decided by discreteness (see the head of the benchmark).",
        "\n".join(f"- {name}: {both_counts(cells, goals[name])}." for name, cells in sums.items()),
        f"## Methods: cells below / within / above 93-97 % beyond noise; lowest ({METHOD_REPETITIONS} repetitions; "
        "avg@k, pass@k, maj@k with k = 4, 16)\n\n" + by_method(found["methods"]),
        *(f"## {title}\n\n{grid(found[name], sizes, goal)}" for name, (title, goal) in TABLES.items()),
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
    data = {
        name: [[*key, cell.percent, cell.repetitions, cell.discrete] for key, cell in cells.items()]
        for name, cells in found.items()
    }
    benchtables.write(
        arguments.out, "interval_coverage", text,
        {**where, "repetitions": repetitions, "seed": arguments.seed, "problems": sizes, "cells": data},
    )  # fmt: skip


if __name__ == "__main__":
    main()
