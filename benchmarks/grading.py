r"""How many answers a second does the mathematical verifier grade on two cores?

    python benchmarks/grading.py [--data ../shared/data] [--rounds 5] [--out benchmarks/results]

- `recorded`: real completions, 800 answers of Qwen2.5-Math to 100 problems of MATH, each graded once a round with an
  empty cache of verdicts;
- `respelled`: the 500 references of MATH-500 against another spelling of themselves (`0+`, `\dfrac`, reversed lists)
  that text alone does not settle for most, so this is the worst case: algebra for nearly every answer.

Wall time of `judge(prompts, texts)` with two worker processes that have started; starting them (importing sympy) is a
line of its own. Workers keep parsed references, which every round after the first profits from, as training does: the
first round is shown beside the others. Goal: 1,500 answers a second on recorded answers.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import benchtables

GOAL = 1500
DATA = Path(__file__).resolve().parents[1] / "../shared/data"


def recorded(folder: Path) -> tuple[list[str], list[str]]:
    """Return references and completions of Qwen2.5-Math."""
    rows = [json.loads(line) for line in (folder / "recorded/qwen25math_math100x8.jsonl").open(encoding="utf-8")]
    return [row["gt"] for row in rows for _ in row["code"]], [text for row in rows for text in row["code"]]


def respelled(folder: Path) -> tuple[list[str], list[str]]:
    """Return the references of MATH-500 and another spelling of each in a box."""
    rows = [json.loads(line) for line in (folder / "bench_math/math500.jsonl").open(encoding="utf-8")]
    golds = [row["answer"] for row in rows]
    return golds, [f"\\boxed{{{_other(gold)}}}" for gold in golds]


def _other(gold: str) -> str:
    if "," in gold or "text" in gold or "matrix" in gold or "=" in gold or "\\in" in gold or "_" in gold:
        return gold.replace("\\frac", "\\dfrac").replace(",", " , ")
    return f"0+{gold}"


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=benchtables.RESULTS)
    given = parser.parse_args()
    if not given.data.is_dir():
        raise SystemExit(f"{given.data} is not a folder: give the one that holds recorded/ and bench_math/ with --data")

    from forkpoint.rollouts import Prompt
    from forkpoint.verify.exact import last_boxed
    from forkpoint.verify.extract import auto
    from forkpoint.verify.math import decide, math_judge

    rows, runs = [], {}
    for name, load in (("recorded", recorded), ("respelled", respelled)):
        golds, texts = load(given.data)
        prompts = [Prompt(id=str(i), text="", answer=gold) for i, gold in enumerate(golds)]
        algebra = sum(decide(auto(g), last_boxed(t)) is None for g, t in zip(golds, texts, strict=True))
        rates, right, unjudged = [], 0, 0
        with math_judge() as judge:
            start = time.perf_counter()
            judge(prompts[:1] * 2, [r"\boxed{x+q}", r"\boxed{q-x}"])
            started = time.perf_counter() - start
            for _ in range(given.rounds + 1):
                judge._cache.clear()
                start = time.perf_counter()
                found = judge(prompts, texts)
                rates.append(len(texts) / (time.perf_counter() - start))
                right = sum(one.verdict.value == "right" for one in found)
                unjudged = sum(one.verdict.value == "unjudged" for one in found)
        runs[name] = {"first": rates[0], "rates": rates[1:], "start_s": started, "algebra": algebra, "right": right}
        rows.append(
            [
                name, f"{len(texts):,}", f"{100 * algebra / len(texts):.0f} %", f"{right:,}", f"{unjudged:,}",
                f"{rates[0]:,.0f}", benchtables.spread(rates[1:], 0), f"{started:.1f}",
            ]
        )  # fmt: skip
    where = benchtables.surroundings(threads=2, packages=("math-verify", "sympy"))
    header = ["", "answers", "algebra", "right", "unjudged", "answers/s, first round", "later rounds", "start, s"]
    text = "\n\n".join(
        [
            benchtables.heading("Grading mathematical answers", where),
            f"Two worker processes, wall time; {given.rounds} rounds, median [min, max]. Goal: {GOAL:,} answers a "
            "second on recorded answers.",
            benchtables.table(header, rows),
        ]
    )
    print(text)
    benchtables.write(given.out, "grading", text, {"where": where, "runs": runs})


if __name__ == "__main__":
    main()
