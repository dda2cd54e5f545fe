r"""How many short programs a second does the sandbox run on two cores?

    python benchmarks/sandbox_throughput.py [--data ../shared/data] [--rounds 5] [--count 164] [--out FOLDER]

- `script`: a program that ends at once, no judge;
- `function`: a program of two lines and a judge of one assertion, in two processes;
- `HumanEval`: canonical solutions with the tests of their rows, through the verifier `code-tests`;
- `function, no namespaces`: as above with the kernel's namespaces left out.

Wall time of `Pool.map` with two keepers that have started; starting them is a line of its own. Beside it the CPU time
of a program: everything below this process and this process itself, keepers and clean-up with it. On a busy machine
the wall time says little and the CPU time more: two cores can run 2 / CPU seconds programs a second at best. Goal: 40
programs a second.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import benchtables

GOAL = 40
DATA = Path(__file__).resolve().parents[1] / "../shared/data"
SCRIPT = "print(sum(range(10)))"
FUNCTION = ("def f(x):\n    return x + {number}\n", "assert candidate(1) == 1 + {number}\n")


def cpu_seconds() -> float:
    """Return the CPU time of this process and of all that has ended below it."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def timed(count: int, rounds: int, start: Callable[[], object], run: Callable[[], Sequence[bool]]) -> dict[str, object]:
    """Return seconds to start, programs a second of every round, CPU seconds a program, and how many passed."""
    before, began = cpu_seconds(), time.perf_counter()
    start()
    started, rates, passed = time.perf_counter() - began, [], 0
    for _ in range(rounds):
        began = time.perf_counter()
        passed = sum(run())
        rates.append(count / (time.perf_counter() - began))
    return {"start_s": started, "rates": rates, "passed": passed, "count": count, "before": before}


def pools(count: int, rounds: int) -> dict[str, dict[str, object]]:
    """Return what the pool alone does with scripts and functions."""
    from forkpoint.sandbox import Pool, Trial

    program, judge = FUNCTION
    scripts = [Trial(program=f"{SCRIPT}  # {number}") for number in range(count)]
    functions = [
        Trial(program=program.format(number=number), judge=judge.format(number=number), entry="f")
        for number in range(count)
    ]
    found = {}
    for name, trials, layers in (
        ("script", scripts, None),
        ("function", functions, None),
        ("function, no namespaces", functions, ("landlock", "seccomp", "user")),
    ):
        with Pool(2, layers=layers) as pool:
            found[name] = timed(
                count,
                rounds,
                lambda pool=pool, trials=trials: list(pool.map(trials[:2])),
                lambda pool=pool, trials=trials: [one.passed for one in pool.map(trials)],
            )
        found[name]["cpu_s"] = (cpu_seconds() - found[name].pop("before")) / (count * rounds + 2)
    return found


def humaneval(folder: Path, rounds: int) -> dict[str, object]:
    """Return what the verifier does with the canonical solutions of HumanEval."""
    from forkpoint.rollouts import Prompt
    from forkpoint.verify.code import code_judge

    with gzip.open(folder / "code/HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    prompts = [Prompt(id=row["task_id"], text="", meta=row) for row in rows]
    texts = [row["canonical_solution"] for row in rows]
    with code_judge(style="humaneval") as judge:
        found = timed(
            len(rows),
            rounds,
            lambda: judge(prompts[:2], texts[:2]),
            lambda: [one.reward == 1.0 for one in judge(prompts, texts)],
        )
    found["cpu_s"] = (cpu_seconds() - found.pop("before")) / (len(rows) * rounds + 2)
    return found


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=164)
    parser.add_argument("--out", type=Path, default=benchtables.RESULTS)
    given = parser.parse_args()

    from forkpoint.sandbox import protections

    runs = pools(given.count, given.rounds)
    if given.data.is_dir():
        runs["HumanEval"] = humaneval(given.data, given.rounds)
    rows = [
        [
            name, str(run["count"]), str(run["passed"]), benchtables.spread(run["rates"], 0),
            f"{1000 * run['cpu_s']:.1f}", f"{2 / run['cpu_s']:.0f}", f"{run['start_s']:.2f}",
        ]
        for name, run in runs.items()
    ]  # fmt: skip
    where = benchtables.surroundings(threads=2)
    header = ["", "programs", "passed", "programs/s", "CPU ms a program", "2 / CPU s", "start, s"]
    text = "\n\n".join(
        [
            benchtables.heading("Programs in the sandbox", where),
            f"Two keepers, wall time; {given.rounds} rounds, median [min, max]. Goal: {GOAL} programs a second.",
            benchtables.table(header, rows),
            f"```\n{protections().statement()}\n```",
        ]
    )
    print(text)
    benchtables.write(given.out, "sandbox_throughput", text, {"where": where, "runs": runs})


if __name__ == "__main__":
    main()
