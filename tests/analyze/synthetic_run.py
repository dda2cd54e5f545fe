"""A synthetic run directory: invented numbers in the shape of a real run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FORKS = ["first", "maybe", "alternatively", "wait"]


def tokens_of(rng: np.random.Generator, length: int) -> tuple[list[str], np.ndarray]:
    """Return words of a search and an entropy for each: connectives uncertain, arithmetic nearly certain."""
    words, entropies = [], []
    while len(words) < length:
        a, b = rng.integers(1, 13, 2)
        words += [FORKS[rng.integers(4)], f" {a}", " +", f" {b}", " =", f" {a + b}", ".", "\n"]
        entropies += [*rng.gamma(4, 0.35, 1), *rng.gamma(2, 0.4, 3), *rng.exponential(0.004, 4)]
    return words[:length], np.array(entropies[:length])


def rollout_rows(step: int, *, prompts: int, answers: int, length: int, accuracy: float, seed: int) -> list[dict]:
    rng = np.random.default_rng((seed, step))
    rows = []
    for prompt in range(prompts):
        for sample in range(answers):
            tokens, entropy = tokens_of(rng, max(2, int(rng.normal(length, length / 6))))
            right = bool(rng.random() < accuracy)
            kept = entropy >= np.quantile(entropy, 0.8)
            advantage = (1.0 if right else -1.0) * (0.4 + rng.random())
            rows.append(
                {
                    "step": step,
                    "prompt_id": f"synthetic-{prompt}",
                    "group": prompt,
                    "sample": sample,
                    "prompt": f"Use {prompt + 1}, 4 and 7 to reach 24.",
                    "answer": "24",
                    "completion": "".join(tokens),
                    "ids": list(range(len(tokens))),
                    "tokens": tokens,
                    "logp": (-rng.exponential(entropy + 1e-6)).tolist(),
                    "entropy": entropy.tolist(),
                    "advantage": [advantage] * len(tokens),
                    "credit": np.where(kept, advantage, 0.0).tolist(),
                    "kept": kept.tolist(),
                    "reward": float(right),
                    "reward_parts": json.dumps({"answer": float(right)}),
                    "verdict": "right" if right else "wrong",
                    "finish": "stop",
                    "version": 4 * (step - 1),
                }
            )
    return rows


def metric_line(step: int, steps: int, rng: np.random.Generator) -> dict:
    done = step / steps
    entropy = 0.36 - 0.12 * done + rng.normal(0, 0.01)
    decode, verify, credit, update = rng.gamma([90, 4, 3, 60], 0.02)
    return {
        "step": step,
        "time": 1.7e9 + 4.0 * step,
        "reward/mean": 0.24 + 0.3 * done + rng.normal(0, 0.02),
        "reward/std": 0.45,
        "reward/answer": 0.24 + 0.3 * done,
        "reward/judged": 1.0,
        "entropy/mean": entropy,
        "entropy/p50": 0.02,
        "entropy/p80": 2.4 * entropy,
        "entropy/p95": 4.8 * entropy,
        "entropy/below_0.01": 0.45,
        "credit/share": 0.2,
        "credit/threshold": 2.5 * entropy,
        "length/mean": 30 + 25 * done + rng.normal(0, 1),
        "length/max": 128,
        "length/truncated": 0.02 + 0.05 * done * rng.random(),
        "groups/useful": 0.7 - 0.2 * done + rng.normal(0, 0.03),
        "groups/resampled": int(10 * done + rng.integers(4)),
        "loss": 0.01,
        "tokens/response": 8000,
        "tokens/learned": 1600,
        "time/decode": decode,
        "time/verify": verify,
        "time/credit": credit,
        "time/update": update,
        "time/step": decode + verify + credit + update + 0.1,
    }


def eval_line(step: int, accuracy: float) -> dict:
    return {
        "step": step,
        "eval/accuracy": accuracy,
        "eval/accuracy_low": accuracy - 0.03,
        "eval/accuracy_high": accuracy + 0.03,
        "eval/problems": 64,
        "eval/samples": 4,
        "eval/length": 31.0,
        "eval/entropy": 0.35,
        "time/eval": 1.5,
    }


def write_table(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_synthetic_run(path: Path, *, steps: int = 12, length: int = 120, seed: int = 0) -> Path:
    """Write a whole synthetic run: recipe, metrics with evaluations, first and last rollouts, evaluations."""
    rng = np.random.default_rng(seed)
    path.mkdir(parents=True, exist_ok=True)
    (path / "recipe.json").write_text(
        json.dumps(
            {
                "recipe": {
                    "name": "synthetic-countdown",
                    "model": {"path": "models/countdown-1m", "revision": None, "dtype": "auto"},
                    "task": {"name": "countdown", "train": None},
                    "credit": {"method": "forking", "share": 0.2, "scope": "mini"},
                },
                "chain": [
                    {
                        "link": "group_advantage",
                        "scope": "group",
                        "needs": ["reward"],
                        "arguments": {"std": True},
                    },
                    {"link": "clip", "scope": None, "needs": [], "arguments": {"low": 0.2, "high": 0.28}},
                    {"link": "top_entropy", "needs": ["forward"], "arguments": {"share": 0.2, "cut": None}},
                ],
                "versions": {
                    "forkpoint": "0.1.0",
                    "torch": "2.13.0",
                    "transformers": "5.23.0",
                    "python": "3.11.9",
                },
                "commit": "0123456789abcdef",
                "device": "cpu",
                "seed": 17,
                "schema": 1,
            }
        )
    )
    evals = {
        step: rollout_rows(step, prompts=64, answers=4, length=12, accuracy=accuracy, seed=seed)
        for step, accuracy in ((0, 0.25), (steps, 0.52))
    }
    right = {step: float(np.mean([row["verdict"] == "right" for row in rows])) for step, rows in evals.items()}
    lines = [eval_line(0, right[0])]
    for step in range(1, steps + 1):
        lines.append(metric_line(step, steps, rng))
        if step % 3 == 0 or step == steps:
            lines.append(eval_line(step, right[0] + (right[steps] - right[0]) * (step / steps) ** 0.7))
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for step, accuracy in ((1, 0.25), (steps, 0.55)):
        rows = rollout_rows(step, prompts=8, answers=8, length=length, accuracy=accuracy, seed=seed)
        write_table(path / "rollouts" / f"step-{step:05d}.parquet", rows)
    for step, rows in evals.items():
        write_table(path / "evals" / f"step-{step:05d}.parquet", rows)
    return path
