"""The entropy head against those of other stacks: time, memory and distance from float64.

    python benchmarks/head.py [--quick] [--device cuda] [--rounds 3] [--only trl,ours] [--out benchmarks/results]

The work: hidden states (N, H), head (V, H) and ids to log-prob and entropy of every token, then a policy-gradient
loss on the top share of tokens by entropy, down to the gradients of hidden states and head. Heads and their sources
are in `head_peers.py`; what is not installed is listed with the reason.

How it is measured:

- first the gate: log-prob, entropy, selected set, dL/dh and dL/dW of every head against float64 on 128 rows and the
  whole vocabulary; whoever fails is not timed, and the table says why;
- each round runs every head once, in shuffled order; ratios are taken within a round: median [min, max];
- CPU: CPU time of the process on one thread; the gate is the warm-up. CUDA: events, 10 rounds of warm-up;
- the selection by the head's own entropies, gathers, scatters and the addition into an existing `W.grad` are timed.
  All learn on the same rows. "Own set" counts the rows that a head's own entropies would have chosen otherwise;
- bare matrix products of the same shape take turns with the heads. "Of the product's rate" is (2 + 6 share) N H V
  operations over the time, as a share of the faster product's rate: what is not needed does not count;
- peak memory: one step in a fresh process, growth of VmHWM (CUDA: of allocated bytes) over libraries and inputs,
  `W.grad` unset before, so that it contains dW; the last column leaves dW out.

Inputs are random and never zero; entropies spread over 0 to 8 nats. On a CPU, heads of other stacks run their torch
paths, with float32 temporaries and (in bfloat16) float32 products that they do not have on a GPU: factors here do
not carry over. Nothing in the CUDA plan has been run on a GPU. The full CPU run takes 13 minutes of CPU time.
`--quick` and `--only` print, and write files only where `--out` is given.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import benchtables
import torch
from head_measure import Setting, clear, errors, faults, gate_slice, make, peak, peak_in_fresh_process, step, truth
from head_measure import products as bare_products
from head_peers import HEADS, Op
from head_tables import GOALS, SWEPT, goals, report, sweep_table, titled

SHARES = (0.05, 0.1, 0.2, 0.5, 1.0)


def ready(names: list[str], setting: Setting, work: Any) -> tuple[dict[str, Op], dict[str, Any], dict[str, str]]:
    """Return the ops that passed the gate, everybody's errors, and why the others are left out."""
    piece, out, found, ops = gate_slice(work), {}, {}, {}
    true = {dense: truth(piece, dense=dense) for dense in {HEADS[name].dense for name in names}}
    for name in names:
        head = HEADS[name]
        why = head.absent(setting.device)
        if not why:
            try:
                op = head.load()
                found[name] = errors(head, op, piece, true[head.dense])
                why = "; ".join(faults(found[name], setting.dtype))
                ops[name] = op
            except Exception as error:  # code of others, whose reason belongs in the table
                why = f"fails: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if why:
            ops.pop(name, None)
            out[name] = why
    piece.weight_VH.grad = None
    return ops, {name: asdict(e) for name, e in found.items()}, out


def measure(setting: Setting, names: list[str], *, rounds: int, memory: Collection[str] = ()) -> dict[str, Any]:
    """Return errors, seconds, products' seconds, own sets and peaks of some heads at a setting."""
    work, started = make(setting), time.perf_counter()
    ops, found, out = ready(names, setting, work)
    on_gpu = setting.device != "cpu"
    own: dict[str, torch.Tensor] = {}
    for name in list(ops) if on_gpu else []:
        try:
            step(HEADS[name], ops[name], work)
        except torch.OutOfMemoryError:
            out[name] = "out of memory"
            del ops[name]

    def run(name: str) -> None:
        own[name] = step(HEADS[name], ops[name], work).own

    bare = {f"product: {name}": call for name, call in bare_products(work).items()}
    copy, copied = benchtables.copies(setting.device)
    runs = {name: (lambda name=name: run(name)) for name in ops} | bare | {"copy": copy}
    seconds = benchtables.in_turn(
        runs,
        rounds=rounds,
        warmup=10 if on_gpu else 0,
        clock=benchtables.cuda_seconds if on_gpu else benchtables.cpu_seconds,
        before=lambda: clear(work),
    )
    entropies = [float(work.entropy_N.quantile(q)) for q in (0.0, 0.5, 1.0)]
    chosen = set(work.chosen_K.tolist())
    differ = {name: len(set(rows.tolist()) - chosen) for name, rows in own.items() if not HEADS[name].known}
    peaks = {name: peak_in_fresh_process(name, setting) for name in memory if name in ops}
    print(f"{titled(setting)}: {time.perf_counter() - started:.0f} s", flush=True)
    return {
        "setting": asdict(setting), "rounds": rounds, "entropies": entropies, "chosen": len(chosen), "errors": found,
        "left_out": out, "seconds": seconds, "copied": copied, "differ": differ, "peaks": peaks,
    }  # fmt: skip


def plan(device: str, quick: bool) -> tuple[list[Setting], list[Setting], list[Setting]]:
    """Return the settings with all heads and memory, those with all heads, and the sweeps, whose first is the base."""
    extra: list[Setting] = []
    if device == "cuda":
        base = Setting(tokens=8192, hidden=4096, words=151936, dtype="bfloat16", device="cuda")
        full = [replace(base, tokens=tokens) for tokens in ((8192,) if quick else (8192, 16384, 32768, 65536))]
        others = [replace(base, tokens=n) for n in (2048, 4096)] + [replace(base, hidden=h) for h in (1024, 5120)]
    else:
        base = Setting(tokens=256, hidden=512, words=32768)
        full = [Setting(tokens=1024, hidden=512, words=151936), Setting(tokens=2048, hidden=1024, words=32768)]
        full = [replace(base, tokens=512)] if quick else full
        extra = [] if quick else [replace(base, dtype="bfloat16")]
        others = [] if quick else [replace(base, tokens=n) for n in (512, 1024)]
    shares = [
        replace(base, share=share) for share in SHARES if share != base.share and (not quick or share in (0.05, 1.0))
    ]
    kinds: list[dict[str, Any]] = [{"frozen": True}, {"temperature": 0.7}, {"grad_exists": False}, {"threshold": True}]
    return full, extra, [base, *shares, *others, *(replace(base, **kind) for kind in kinds[: 2 if quick else 4])]


def main() -> None:
    """Run the plan, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, help="rounds of every table; 3 on a CPU, 30 on CUDA")
    parser.add_argument("--quick", action="store_true", help="one small shape and a short sweep")
    parser.add_argument("--only", default="", help=f"comma-separated heads: {', '.join(HEADS)}")
    parser.add_argument("--out", type=Path, help="folder of the result files")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        asked = json.loads(arguments.peak)
        print(peak(asked["name"], Setting(**asked["setting"])))
        return
    fitting = [n for n, head in HEADS.items() if head.package or head.device in ("", arguments.device)]
    names = [name.strip() for name in arguments.only.split(",") if name.strip()] or fitting
    if unknown := [name for name in names if name not in HEADS]:
        raise SystemExit(f"no head is called {', '.join(unknown)}; there are {', '.join(HEADS)}")
    rounds = arguments.rounds or (3 if arguments.device == "cpu" else 30)
    full, extra, sweeps = plan(arguments.device, arguments.quick)
    some = {n for kind, *pair in GOALS[arguments.device] if kind == "peak memory" for n in pair}
    # A fresh process for every head takes as long as its turns do: on a CPU one shape has them all.
    weighed = [
        names if arguments.device == "cuda" or (not arguments.quick and not i) else some for i in range(len(full))
    ]
    compared = [measure(s, names, rounds=rounds, memory=w) for s, w in zip(full, weighed, strict=True)]
    others = [measure(setting, names, rounds=rounds) for setting in extra]
    swept = [measure(setting, [name for name in SWEPT if name in names], rounds=rounds) for setting in sweeps]
    packages = ("liger-kernel", "verl", "triton")
    where = benchtables.surroundings(threads=1, device=arguments.device, packages=packages)
    tables = [goals(compared, arguments.device), *map(report, [*compared, *others]), sweep_table(swept, sweeps[0])]
    notes = "How to read this: the docstring of `benchmarks/head.py`. Median [min, max] over rounds."
    text = "\n\n".join([benchtables.heading("The entropy head and others", where), notes, *tables])
    print(f"\n{text}")
    out = arguments.out or (None if arguments.quick or arguments.only else benchtables.RESULTS)
    if out:
        benchtables.write(out, "head", text, {"where": where, "compared": compared, "others": others, "sweeps": swept})


if __name__ == "__main__":
    main()
