"""What `import forkpoint` costs beyond `import torch`, in CPU time of fresh interpreters.

    python benchmarks/import_time.py [--rounds 15] [--out benchmarks/results]

Every round starts each statement once in a new interpreter, in rotating order, and takes the child's CPU time
(user + system) from the operating system. The bytecode caches are warm: one unmeasured round comes first.
Wall time would measure whatever else the machine is doing. Goal: at most 1.15 times `import torch`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

import benchtables

STATEMENTS = {
    "import torch": "import torch",
    "import forkpoint": "import forkpoint",
    "forkpoint.methods.forking": "import forkpoint; forkpoint.methods.forking",
    "every layer below train": (
        "import forkpoint.rollouts, forkpoint.scope, forkpoint.entropy.token, forkpoint.credit, "
        "forkpoint.methods, forkpoint.loss"
    ),
}
"""What is compared; the first is the yardstick."""
GOAL = 1.15


def child_seconds(statement: str) -> float:
    """Return the CPU seconds a fresh interpreter needs to start, run a statement and end.

    Raises:
        RuntimeError: the statement failed.
    """
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-c", statement],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    after = os.times()
    if done.returncode:
        raise RuntimeError(f"{statement!r} failed: {done.stderr.strip().splitlines()[-1]}")
    return (after.children_user - before.children_user) + (after.children_system - before.children_system)


def measured(rounds: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Return the CPU seconds of every statement in every round, and why a statement was left out."""
    names = list(STATEMENTS)
    failed: dict[str, str] = {}
    for name in names:
        try:
            child_seconds(STATEMENTS[name])
        except RuntimeError as error:
            failed[name] = str(error)
    names = [name for name in names if name not in failed]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(child_seconds(STATEMENTS[name]))
    return seconds, failed


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="at least 10 for a number worth quoting")
    parser.add_argument("--out", type=Path, default=benchtables.RESULTS)
    arguments = parser.parse_args()
    seconds, failed = measured(arguments.rounds)
    yardstick = seconds[next(iter(STATEMENTS))]
    ratios = {
        name: [value / base for value, base in zip(values, yardstick, strict=True)] for name, values in seconds.items()
    }
    where = benchtables.surroundings(threads=1)
    rows = [
        [f"`{STATEMENTS[name]}`", benchtables.spread(values), benchtables.spread(ratios[name])]
        for name, values in seconds.items()
    ]
    text = "\n\n".join(
        [
            benchtables.heading("Cost of importing forkpoint", where),
            f"Fresh interpreters, {arguments.rounds} rounds in turn, warm bytecode caches; median [min, max]. "
            f"Goal: `import forkpoint` at most {GOAL} x `import torch`.",
            benchtables.table(["statement", "CPU seconds", "ratio of the round"], rows),
            *(f"Not measured: {reason}" for reason in failed.values()),
        ]
    )
    print(text)
    data = {
        "where": where,
        "rounds": arguments.rounds,
        "goal_ratio": GOAL,
        "statements": STATEMENTS,
        "cpu_seconds": seconds,
        "median_ratio": {name: statistics.median(values) for name, values in ratios.items()},
        "failed": failed,
    }
    benchtables.write(arguments.out, "import_time", text, data)


if __name__ == "__main__":
    main()
