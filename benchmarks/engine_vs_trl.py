"""The embedded engine against TRL's GRPOTrainer: response tokens learned on per CPU-second, and peak memory.

    python benchmarks/engine_vs_trl.py [--rounds 5] [--steps 3] [--model models/countdown] [--out benchmarks/results]

Both train the same model on the same Countdown problems with the same judge: 32 prompts x 8 answers of at most
128 tokens at temperature 1, clip 0.2 / 0.28, DAPO's loss on the top 20 % of tokens by entropy, and four AdamW
updates of 64 answers. float32, one thread, no files, no trackers. Dynamic sampling is off here, since TRL has
none, so both learn from the same number of answers in the same number of updates. One thing is left to each: the
engine runs no backward pass for answers without advantage (their group earned all the same), TRL does.

How it is measured:

- every system runs in a fresh process in every round, in rotating order; the first step of each process is
  warm-up and left out;
- time is CPU time of the process between the ends of two steps, with everything in between; a round's value is
  the sum over its steps; ratios are taken within a round;
- a response token counts once a step, when its answer was in an update (end token included); tokens that the top
  20 % leaves out and answers without advantage count too, in both systems;
- memory is the process's peak resident size (VmHWM), which contains the libraries; the resident size before the
  first step is printed beside it;
- phases are timed by wrapping functions of both from outside, in CPU time.

First a gate: rows, updates, tokens of prompts, base accuracy and base length must agree, and the loss and
gradient of `preset = "trl"` on a recorded batch must equal TRL's. Without it no table is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import benchtables
from engine_gate import parity
from engine_workers import SYSTEMS, work

ROOT = Path(__file__).resolve().parents[1]
PEER = "trl"
GATE = "gate"
GOAL_SPEED, GOAL_MEMORY = 6.0, 0.6
SIGMAS = 4.0
"""Base accuracy and length may differ by this many standard errors between two systems."""
LOSS_ERROR, GRADIENT_ERROR = 1e-6, 1e-5
"""Largest difference of preset `trl` from TRL: of the loss, and of the gradient as a share of its norm."""
PHASES = ("decode", "verify", "old log-probs", "update", "rest")


def spawn(system: str, *, model: Path, turn: int, steps: int) -> dict[str, Any]:
    """Run one worker in a fresh process and return its report.

    Raises:
        SystemExit: the worker failed.
    """
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, __file__, "--worker", system, "--report", str(report)]
        command += ["--model", str(model), "--turn", str(turn), "--steps", str(steps)]
        done = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | quiet | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not report.exists():
            raise SystemExit(f"{system} failed in round {turn}:\n{done.stderr[-3000:]}")
        return json.loads(report.read_text())


def gate(reports: dict[str, list[dict[str, Any]]], alike: dict[str, Any]) -> list[str]:
    """Return what makes the comparison unfair; empty when nothing does."""
    faults = []
    if alike["loss_error"] > LOSS_ERROR:
        faults.append(f"loss of preset 'trl' differs from TRL's by {alike['loss_error']:.2e}")
    if alike["gradient_error"] > GRADIENT_ERROR:
        faults.append(f"gradient of preset 'trl' differs from TRL's by {alike['gradient_error']:.2e} of its norm")
    if alike["counted"] != alike["counted_trl"]:
        faults.append(f"{alike['counted']} tokens selected, TRL selects {alike['counted_trl']}")
    if not alike["clipped"]:
        faults.append("no ratio was clipped on the recorded batch, so the clip was not compared")
    peer = reports[PEER]
    for name, runs in reports.items():
        for run, theirs in zip(runs, peer, strict=True):
            if run["prompts"] != theirs["prompts"]:
                faults.append(f"{name} reads other prompt tokens than {PEER}")
            for field in ("rows", "updates"):
                if [step[field] for step in run["steps"]] != [step[field] for step in theirs["steps"]]:
                    faults.append(f"{name} and {PEER} differ in {field} per step")
        for field in ("reward", "length"):
            mean, error = _base(runs, field)
            other, other_error = _base(peer, field)
            if abs(mean - other) > SIGMAS * (error**2 + other_error**2) ** 0.5:
                faults.append(f"base {field} is {mean:.3f} in {name} and {other:.3f} in {PEER}: not sampling noise")
    return sorted(set(faults))


def _base(runs: Sequence[dict[str, Any]], field: str) -> tuple[float, float]:
    """Return mean and standard error over the answers of the untrained model, all rounds together.

    Both systems answer the same problems, so the spread of all answers is an upper bound of the noise.
    """
    values = [value for run in runs for value in run["base"][field]]
    return statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5


def rate(run: dict[str, Any]) -> float:
    """Return response tokens learned on per CPU-second over the measured steps of one process."""
    return sum(step["tokens"] for step in run["steps"]) / sum(step["cpu"] for step in run["steps"])


def tables(reports: dict[str, list[dict[str, Any]]], alike: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Return the markdown paragraphs and the numbers behind them."""
    speed = {name: [rate(run) for run in runs] for name, runs in reports.items()}
    peak = {name: [run["memory"]["peak"] for run in runs] for name, runs in reports.items()}
    gain = {name: [a / b for a, b in zip(values, speed[PEER], strict=True)] for name, values in speed.items()}
    share = {name: [a / b for a, b in zip(values, peak[PEER], strict=True)] for name, values in peak.items()}
    steps = {name: [step for run in runs for step in run["steps"]] for name, runs in reports.items()}
    main_rows, time_rows, memory_rows = [], [], []
    for name, runs in reports.items():
        main_rows.append(
            [
                f"`{name}`",
                benchtables.spread(speed[name], 0),
                benchtables.spread(gain[name]),
                benchtables.spread(peak[name], 0),
                benchtables.spread(share[name]),
            ]
        )
        mean = {phase: statistics.fmean(step["phases"].get(phase, 0.0) for step in steps[name]) for phase in PHASES}
        time_rows.append(
            [
                f"`{name}`",
                *(f"{mean[phase]:.2f}" for phase in PHASES),
                f"{statistics.fmean(step['cpu'] for step in steps[name]):.2f}",
                f"{statistics.fmean(step['wall'] for step in steps[name]):.2f}",
                f"{statistics.fmean(step['tokens'] for step in steps[name]):.0f}",
                f"{statistics.fmean(step['tokens'] / step['rows'] for step in steps[name]):.1f}",
            ]
        )
        memory_rows.append(
            [
                f"`{name}`",
                *(
                    f"{statistics.median(run['memory'][stage] for run in runs):.0f}"
                    for stage in ("imports", "before", "peak")
                ),
                f"{statistics.median(run['memory']['peak'] - run['memory']['before'] for run in runs):.0f}",
            ]
        )
    base = {name: (_base(runs, "reward"), _base(runs, "length")) for name, runs in reports.items()}
    paragraphs = [
        benchtables.table(
            ["system", "tokens / CPU-second", f"tokens, x {PEER}", "peak memory, MB", f"memory, x {PEER}"], main_rows
        ),
        f"Goals: `forkpoint` at least {GOAL_SPEED} x the tokens and at most {GOAL_MEMORY} x the memory of `{PEER}`.",
        "Where the time goes, CPU seconds a step (mean over measured steps). `old log-probs` is TRL's second scoring "
        "pass; the decoder here has recorded them. `update` is forward, backward and optimiser.",
        benchtables.table(["system", *PHASES, "CPU s", "wall s", "tokens", "tokens / answer"], time_rows),
        "Where the memory goes, MB resident (median over rounds).",
        benchtables.table(["system", "after imports", "before step 1", "peak", "training adds"], memory_rows),
        "Gate: "
        + "; ".join(
            f"`{name}` base accuracy {acc:.3f} ± {acc_error:.3f}, length {size:.1f} ± {size_error:.1f}"
            for name, ((acc, acc_error), (size, size_error)) in base.items()
        )
        + f"; loss of preset `trl` within {alike['loss_error']:.1e} of TRL's {alike['loss']:.4f}, gradient "
        f"within {alike['gradient_error']:.1e} of its norm; {alike['counted']} of {alike['tokens']} tokens "
        f"selected by both, {alike['clipped']} clipped.",
    ]
    return paragraphs, {"tokens_per_cpu_second": speed, "speed_ratio": gain, "peak_mb": peak, "memory_ratio": share}


def main() -> None:
    """Run the rounds, check the gate, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="fresh processes of each system")
    parser.add_argument("--steps", type=int, default=3, help="measured steps a process, after one warm-up step")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "countdown")
    parser.add_argument("--out", type=Path, default=benchtables.RESULTS)
    parser.add_argument("--worker", choices=[*SYSTEMS, GATE], help=argparse.SUPPRESS)
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--turn", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    model = arguments.model.resolve()
    if arguments.worker:
        import torch

        torch.set_num_threads(1)
        if arguments.worker == GATE:
            found = parity(model)
        else:
            found = work(arguments.worker, model=model, turn=arguments.turn, steps=arguments.steps)
        arguments.report.write_text(json.dumps(found))
        return
    if not (model / "config.json").is_file():
        raise SystemExit(f"no model at {arguments.model}: give one with --model")
    alike = spawn(GATE, model=model, turn=0, steps=0)
    reports: dict[str, list[dict[str, Any]]] = {name: [] for name in SYSTEMS}
    for turn in range(arguments.rounds):
        first = turn % len(SYSTEMS)
        for name in [*SYSTEMS[first:], *SYSTEMS[:first]]:
            run = spawn(name, model=model, turn=turn, steps=arguments.steps)
            reports[name].append(run)
            print(f"round {turn + 1} of {arguments.rounds}: {name} {rate(run):.0f} tokens / CPU-second", flush=True)
    faults = gate(reports, alike)
    if faults:
        raise SystemExit("no table, the comparison is not fair:\n  " + "\n  ".join(faults))
    where = benchtables.surroundings(threads=1)
    paragraphs, numbers = tables(reports, alike)
    settings = (
        f"Model `{arguments.model.name}`, Countdown, 32 prompts x 8 answers, 4 updates of 64 answers a step; "
        f"{arguments.rounds} rounds in turn, fresh processes, {arguments.steps} steps each after one of warm-up; "
        "median [min, max] over rounds. `forkpoint` is the default (preset `paper`); `forkpoint-behaviour` selects "
        "by the entropies recorded while sampling; `forkpoint-torch-products` leaves float32 matrix products to "
        "torch's own choice; `trl-our-linears` is TRL with the linear layers of `forkpoint.linear`. Every response "
        "token of the answers in an update counts, in all systems; for answers without advantage the engine runs no "
        "backward pass, TRL does."
    )
    text = "\n\n".join([benchtables.heading("Embedded engine and TRL", where), settings, *paragraphs])
    print(f"\n{text}")
    for run in (run for runs in reports.values() for run in runs):
        del run["prompts"], run["base"]
    data = {"where": where, "settings": settings, "parity": alike, **numbers, "runs": reports}
    benchtables.write(arguments.out, "engine_vs_trl", text, data)


if __name__ == "__main__":
    main()
