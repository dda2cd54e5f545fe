"""Does any answer crash the mathematical verifier, hang it, or fool it? Mutated answers, one verdict at a time.

    python benchmarks/verifier_fuzz.py [--answers 100000] [--deadline 2] [--seed 0] [--out benchmarks/results]

References are numbers, expressions, tuples, sets and intervals as benchmarks have them. An answer is its reference
with one to four random edits: characters of LaTeX inserted, deleted, exchanged or doubled, parts nested or repeated,
exponents and factorials grown, null bytes, other alphabets. A tenth of them are a number whose value was changed for
certain, and those must never be judged right.

Counted: exceptions (there must be none), verdicts by kind, answers changed in value and judged right (there must be
none), seconds from the question to the verdict: median, 99 %, worst. The worst must stay below the deadline plus one
second; the start of a replaced worker process is inside it. Of a later one the processor seconds of this process are
listed as well, which tell a slow verifier from a busy machine.
"""

from __future__ import annotations

import argparse
import collections
import random
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import benchtables

REFERENCES = (
    "5", "-17", "10{,}000", "0.25", r"\frac{3}{56}", r"\frac{14}{3}", r"3\sqrt{13}", r"\frac{\pi}{2}", r"90^\circ",
    r"1 \pm \sqrt{19}", r"x^2+2x+1", r"\frac{x+2}{7}", r"(3, \frac{\pi}{2})", r"(-\infty, 2) \cup (3, \infty)",
    r"[-2,7]", r"\{1\pm\sqrt{5},-2\}", "1,-2", r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}", r"p - q", r"\text{Evelyn}",
    r"15\mbox{ cm}^2", r"\$18.90", "2516_8", r"x \in [-2,7]", "2x+4y-3=0", r"f(x)=x+1", r"\binom{2n}{n}", r"6-5i",
    r"2^{k-1}", r"\log_2 n", r"12\frac{3}{5}", r"0.\overline{3}", r"28\%", r"k \ge 2", r"\lfloor n/2 \rfloor",
)  # fmt: skip
PIECES = (
    *"0123456789+-*/^_=<>(){}[],.;:!|%$&#~'\"\\ \n\tabcxyznieE", "\\frac", "\\sqrt", "\\text{", "\\left(", "\\right)",
    "\\cdot", "\\pi", "\\infty", "\\cup", "\\{", "\\}", "\\pm", "\\le", "\\neq", "\\ldots", "\\binom", "\\sum_{i=1}^9",
    "\\int_0^1", "^{99}", "^{9^{9}}", "!", "\\boxed{", "\\mathbb{R}", "\\begin{pmatrix}", "\\\\", " or ", "and", "1e5",
    "\0", "\u0663", "\u221a", "\u03c0", "\ud83d\ude00", "\\text{ cm}", "^\\circ", "\\log", "\\sin", "\\lim_{x\\to 0}",
)  # fmt: skip
NUMBERS = ("5", "-17", "360", "0.25", "3/56", "10000", "18.9", "-2/3")
EDITS = (1, 1, 1, 2, 3, 4)


def mutated(rng: random.Random) -> tuple[str, str, bool]:
    """Return a reference, an answer, and whether the answer certainly has another value."""
    if rng.random() < 0.1:
        gold = rng.choice(NUMBERS)
        return gold, changed_number(gold, rng), True
    gold = rng.choice(REFERENCES)
    answer = gold
    for _ in range(rng.choice(EDITS)):
        answer = rng.choice((_insert, _insert, _delete, _exchange, _double, _nest, _repeat))(answer, rng)
    return gold, answer, False


def changed_number(gold: str, rng: random.Random) -> str:
    """Return the text of a number that differs from the reference by more than any rounding."""
    value = Fraction(gold) + rng.choice((-1, 1)) * rng.choice((Fraction(1, 1000), Fraction(1, 7), 1, 10, 3600))
    top, bottom = value.numerator, value.denominator
    return rng.choice(
        (
            rf"\frac{{{top}}}{{{bottom}}}",
            f"{top}/{bottom}",
            f"{float(value):.9f}",
            rf"\frac{{{2 * top}}}{{{2 * bottom}}}",
            f"x={top}/{bottom}",
            rf"\text{{{top}}}/{bottom}",
            rf"({top}+{bottom}) \cdot \frac{{1}}{{{bottom}}} - 1",
            rf"\sqrt{{{top * top}}}/{bottom}" if value > 0 else rf"-\sqrt{{{top * top}}}/{bottom}",
        )
    )


def answers(count: int, seed: int) -> Iterator[tuple[str, str, bool]]:
    """Yield references and mutated answers."""
    rng = random.Random(seed)
    for _ in range(count):
        yield mutated(rng)


def shown(answer: str) -> str:
    """Return an answer for a listing: repetitions of repetitions reach 67 million characters.

    >>> shown("1" * 300)[-18:]
    "' (300 characters)"
    """
    return repr(answer) if len(answer) <= 200 else f"{answer[:200]!r} ({len(answer)} characters)"


def _insert(text: str, rng: random.Random) -> str:
    place = rng.randrange(len(text) + 1)
    return text[:place] + rng.choice(PIECES) + text[place:]


def _delete(text: str, rng: random.Random) -> str:
    place = rng.randrange(len(text) + 1)
    return text[:place] + text[place + rng.randrange(1, 4) :]


def _exchange(text: str, rng: random.Random) -> str:
    place = rng.randrange(len(text) + 1)
    return text[:place] + rng.choice(PIECES) + text[place + 1 :]


def _double(text: str, rng: random.Random) -> str:
    place = rng.randrange(len(text) + 1)
    return text[:place] + text[place : place + 4] * 2 + text[place + 4 :]


def _nest(text: str, rng: random.Random) -> str:
    left, right = rng.choice((("(", ")"), ("{", "}"), ("\\frac{", "}{2}"), ("\\sqrt{", "}"), ("2^{", "}"), ("[", ")")))
    times = rng.choice((1, 1, 2, 40))
    return (left * times + text + right * times)[:2000]


def _repeat(text: str, rng: random.Random) -> str:
    return (text + rng.choice((",", "+", "*", "^", " ", "="))) * rng.choice((2, 3, 60)) + text


def main() -> None:
    """Judge, count, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=100_000)
    parser.add_argument("--deadline", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=benchtables.RESULTS)
    given = parser.parse_args()

    from forkpoint.rollouts import Prompt
    from forkpoint.verify.math import math_judge

    verdicts: collections.Counter[str] = collections.Counter()
    raised: list[str] = []
    fooled: list[tuple[str, str]] = []
    seconds: list[float] = []
    late: list[tuple[float, float, str, str]] = []
    with math_judge(deadline=given.deadline) as judge:
        # Two answers at once start both worker processes before the clock runs.
        judge([Prompt(id="", text="", answer="x+1")] * 2, [r"\boxed{1+x}", r"\boxed{2+x}"])
        for gold, answer, changed in answers(given.answers, given.seed):
            start, busy = time.perf_counter(), time.process_time()
            try:
                (found,) = judge([Prompt(id="", text="", answer=gold)], [f"\\boxed{{{answer}}}"])
            except Exception as error:
                raised.append(f"{type(error).__name__} on {gold!r} and {shown(answer)}")
                continue
            seconds.append(time.perf_counter() - start)
            verdicts[found.verdict.value] += 1
            if changed and found.verdict.value == "right":
                fooled.append((gold, shown(answer)))
            if seconds[-1] > given.deadline + 1:
                late.append((seconds[-1], time.process_time() - busy, gold, shown(answer)))
    ordered = sorted(seconds)
    median, most, worst = (ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.99, 1.0))
    where = benchtables.surroundings(threads=1, packages=("math-verify", "sympy"))
    text = "\n\n".join(
        [
            benchtables.heading("Mutated answers", where),
            f"{given.answers:,} answers, seed {given.seed}, deadline {given.deadline:g} s, one at a time. Goals: no "
            "exception, no changed number judged right, no verdict later than the deadline plus one second, median "
            "under 1 ms.",
            benchtables.table(
                ["", "answers"],
                [
                    *([name, f"{verdicts[name]:,}"] for name in ("right", "wrong", "unjudged")),
                    ["exceptions", f"{len(raised):,}"],
                    ["changed in value, judged right", f"{len(fooled):,}"],
                    [f"later than {given.deadline + 1:g} s", f"{len(late):,}"],
                ],
            ),
            benchtables.table(
                ["", "ms from question to verdict"],
                [["median", f"{1e3 * median:.2f}"], ["99 %", f"{1e3 * most:.1f}"], ["worst", f"{1e3 * worst:.0f}"]],
            ),
        ]
    )
    print(text)
    for line in (*raised[:20], *map(str, fooled[:20]), *map(str, late[:20])):
        print(ascii(line))
    data = {
        "where": where, "verdicts": dict(verdicts), "raised": raised[:100], "fooled": fooled[:100], "late": late[:100],
        "median_s": median, "p99_s": most, "worst_s": worst,
    }  # fmt: skip
    benchtables.write(given.out, "verifier_fuzz", text, data)


if __name__ == "__main__":
    main()
