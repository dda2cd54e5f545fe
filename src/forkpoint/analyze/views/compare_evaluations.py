"""Evaluations of several systems on one page. Training runs side by side are `compare_runs`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from forkpoint.analyze.views.evaluation_figures import difference_forest, forest, pass_curves, scatter
from forkpoint.analyze.views.page import Numbers, Panel, render_page, write_page
from forkpoint.analyze.views.summary import percent
from forkpoint.evaluate.compare import Comparison, Measured, Pair
from forkpoint.evaluate.power import advice
from forkpoint.evaluate.stats import Estimate

MOST_LISTED = 500
"""Problems that changed sides, shown on the page."""


def write_evaluations(found: Comparison, out: Path) -> Path:
    """Write one self-contained HTML file with a comparison of evaluations.

    Args:
        found: From `forkpoint.evaluate.compare.compare`.
        out: Where to write. Replaced atomically.

    Returns:
        The path written.

    Raises:
        InputError: The page cannot be written.
    """
    write_page(Path(out), render_evaluations(found))
    return Path(out)


def render_evaluations(found: Comparison) -> str:
    """Return a comparison of evaluations as HTML; the same comparison gives the same text."""
    names = list(dict.fromkeys(one.name for systems in found.benchmarks.values() for one in systems))
    tables = [("Results", results_table(found), reading(found))]
    tables += [
        (_on("Differences", benchmark), differences_table(found, benchmark), _resolutions(pairs))
        for benchmark in found.benchmarks
        if (pairs := [pair for pair in found.pairs if pair.benchmark == benchmark])
    ]
    specs = _spec_table(found)
    if specs.rows:
        tables.append(("Conditions that differ", specs, []))
    return render_page(
        "evaluations.html.j2",
        panels=figures(found),
        title=" · ".join(names),
        notes=list(found.notes),
        tables=tables,
        lists=[(_changed_title(pair), changed_table(pair)) for pair in found.pairs],
    )


def _resolutions(pairs: Sequence[Pair]) -> list[str]:
    """Return what each pair can tell apart, named where there are several."""
    return [f"{p.second} − {p.first}: {p.resolution}" if len(pairs) > 1 else p.resolution for p in pairs]


def figures(found: Comparison) -> list[Panel]:
    """Return the figures of the page."""
    panels = [forest(found), difference_forest(found)]
    panels += [pass_curves(benchmark, systems) for benchmark, systems in found.benchmarks.items()]
    for pair in found.pairs:
        by_name = {one.name: one for one in found.benchmarks[pair.benchmark]}
        panels.append(scatter(pair, by_name[pair.first], by_name[pair.second]))
    return panels


def results_table(found: Comparison) -> Numbers:
    """Return one row a system and benchmark, with every metric of which there is not one for each k."""
    several = len(found.benchmarks) > 1
    rows = []
    for benchmark, systems in found.benchmarks.items():
        for one in systems:
            cells = [one.name] + ([benchmark] if several else [])
            cells += [share(one.accuracy.value), span(one.accuracy), f"{one.accuracy.problems:,}"]
            cells += [f"{one.metrics.answers[0]}", f"{one.seeds}", others(one)]
            rows.append(cells)
    columns = ["system", *(["benchmark"] if several else []), "accuracy", f"its {100 * found.level:g} % interval"]
    return Numbers(columns=[*columns, "problems", "answers each", "seeds", "besides"], rows=rows, total=len(rows))


def others(one: Measured) -> str:
    """Return the metrics besides the accuracy and pass@1 in one line; pass@k at its largest k."""
    estimates = one.metrics.estimates
    curve = [name for name in estimates if name.startswith("pass@")]
    kept = [name for name in estimates if name not in curve[:-1] and not name.startswith(("avg@", "pass@1"))]
    kept += [name for name in curve[-1:] if name != "pass@1" and name not in kept]
    return "; ".join(f"{name} {quantity(name, estimates[name].value)}" for name in kept)


def quantity(name: str, value: float) -> str:
    r"""Return a metric in its unit: lengths in tokens, entropies in nats, the rest as shares.

    >>> quantity("length", 512.25), quantity("maj@8", 0.5).replace("\xa0", " ")
    ('512.2 tokens', '50.0 %')
    """
    if not math.isfinite(value):
        return "n/a"
    if name == "length":
        return f"{value:.1f} tokens"
    return f"{value:.3f} nats" if "entropy" in name else share(value)


def differences_table(found: Comparison, benchmark: str) -> Numbers:
    """Return one row a pair and metric: difference in points with its interval, p values, problems won and lost."""
    rows = []
    for pair in found.pairs:
        if pair.benchmark != benchmark:
            continue
        for name, test in {"accuracy": pair.test, **pair.curve}.items():
            if name == "pass@1":
                continue
            both, lead = test.mcnemar, name == "accuracy"
            moved = test.difference
            rows.append(
                [
                    f"{pair.second} − {pair.first}",
                    name,
                    f"{points(moved.value)} ({points(moved.low)} to {points(moved.high)})",
                    p_text(test.p_value) + (f" ({p_text(pair.p_holm)})" if lead else ""),
                    f"{both.won}:{both.lost}, {p_text(both.exact)}" if both else "",
                    f"{test.better:,} : {test.worse:,}",
                    f"{moved.problems:,}",
                ]
            )
    columns = [
        "systems", "metric", f"difference, points ({100 * found.level:g} % interval)", "p (Holm)", "McNemar, exact p",
        "better : worse", "problems",
    ]  # fmt: skip
    return Numbers(columns=columns, rows=rows, total=len(rows))


def changed_table(pair: Pair) -> Numbers:
    """Return the problems that changed sides."""
    rows = [
        [one.problem, share(one.before), share(one.after), points(one.after - one.before)]
        for one in pair.changed[:MOST_LISTED]
    ]
    columns = ["problem", pair.first, pair.second, "change, points"]
    return Numbers(columns=columns, rows=rows, total=len(pair.changed))


def reading(found: Comparison) -> list[str]:
    """Return what the results say of the evaluation itself: where the error comes from."""
    lines = []
    for benchmark, systems in found.benchmarks.items():
        for one in systems:
            if math.isfinite(one.split.within):
                said = advice(one.split)
                lines.append(f"{_on(one.name, benchmark)}: {said[0].lower()}{said[1:]}")
            if one.seeds > 1:
                spread = f"{100 * one.seed_deviation:.1f} points"
                lines.append(f"{_on(one.name, benchmark)}: training seeds spread by {spread} (standard deviation).")
    return lines


def _spec_table(found: Comparison) -> Numbers:
    rows = [
        [_on(f"{pair.second} − {pair.first}", pair.benchmark), one.field, one.a, one.b]
        for pair in found.pairs
        for one in pair.spec or ()
    ]
    return Numbers(columns=["systems", "condition", "first", "second"], rows=rows, total=len(rows))


def _changed_title(pair: Pair) -> str:
    return _on(f"Problems that changed sides from {pair.first} to {pair.second}", pair.benchmark)


def share(value: float) -> str:
    """Return a share as percent, and a score beyond [-1, 1] as a plain number."""
    return percent(value) if not abs(value) > 1 else f"{value:.4g}"


def span(estimate: Estimate) -> str:
    """Return an interval in words."""
    return f"{share(estimate.low)} to {share(estimate.high)}" if math.isfinite(estimate.low) else "n/a"


def points(value: float) -> str:
    """Return a difference of shares in points.

    >>> points(0.0432), points(float("nan"))
    ('+4.3', 'n/a')
    """
    return f"{100 * value:+.1f}" if math.isfinite(value) else "n/a"


def p_text(p: float) -> str:
    """Return a p value with two digits.

    >>> p_text(0.00315), p_text(0.2), p_text(1e-9)
    ('0.0032', '0.20', 'below 0.0001')
    """
    if not math.isfinite(p):
        return "n/a"
    return "below 0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def _on(text: str, benchmark: str) -> str:
    return f"{text}, {benchmark}" if benchmark else text
