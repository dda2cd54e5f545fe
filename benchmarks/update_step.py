"""A policy-update step of a whole model with nothing but the head exchanged.

    python benchmarks/update_step.py [--quick] [--device cuda] [--rounds 5] [--out benchmarks/results]

Forward and backward pass of a randomly initialised Qwen3 over packed rows of tokens, policy-gradient loss on the top
20 % of tokens by entropy, all gradients, no optimizer. The heads are those of `head_peers.py`: materialised logits,
TRL's op, ours, and ours with the selection known beforehand; with and without gradient checkpointing.

How it is measured: the gate comes first (every head's gradient of all parameters against that of materialised
logits, or no table), then rounds in shuffled order, ratios within a round, median [min, max]. In the same rounds the
body runs without any head, its backward pass from a recorded gradient of the hidden states: what a step takes beyond
it is the head's share, and TRL's step over it is the limit of what any head can give. CPU: CPU time on one thread.
CUDA: events, a row of 8192 tokens, shapes of Qwen3-0.6B and 8B in bfloat16; that part has not been run on a GPU.

The CPU models are not shaped like real ones: the first has 45 million parameters, most of them in its vocabulary of
151936 words, so that nearly all its work is the head; in the second the head is a small part, as in a real model.
`--quick` prints, and writes files only where `--out` is given.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import benchtables
import torch
from benchtables import ratios, spread
from head_measure import DTYPES, Setting, Work, plain_entropy, step, top
from head_peers import HEADS, Head, Op

YARDSTICK, TRUTH, BODY = "trl", "materialised", "body"
COMPARED = ("materialised", "trl", "ours_products", "ours", "ours_known")
GRADIENT_GAP = {"float32": 1e-4, "bfloat16": 5e-2}
"""Largest distance of a gradient from the one of materialised logits, as a share of its norm."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model and what it is fed."""

    name: str
    hidden: int
    layers: int
    middle: int
    heads: int
    groups: int
    head_size: int
    words: int
    tied: bool
    rows: int
    length: int
    dtype: str = "float32"


SHAPES = {
    "cpu": (
        Shape(name="large vocabulary", hidden=256, layers=8, middle=768, heads=4, groups=2, head_size=64,
              words=151936, tied=True, rows=2, length=257),
        Shape(name="small head", hidden=512, layers=8, middle=1536, heads=8, groups=4, head_size=64,
              words=8192, tied=False, rows=4, length=257),
    ),
    "cuda": (
        Shape(name="Qwen3-0.6B", hidden=1024, layers=28, middle=3072, heads=16, groups=8, head_size=128,
              words=151936, tied=True, rows=1, length=8193, dtype="bfloat16"),
        Shape(name="Qwen3-8B", hidden=4096, layers=36, middle=12288, heads=32, groups=8, head_size=128,
              words=151936, tied=False, rows=1, length=8193, dtype="bfloat16"),
    ),
}  # fmt: skip


def build(shape: Shape, device: str, *, checkpointing: bool) -> Any:
    """Return the model, its last norm scaled so that entropies are those of a model rather than of a uniform guess."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        hidden_size=shape.hidden, num_hidden_layers=shape.layers, intermediate_size=shape.middle,
        num_attention_heads=shape.heads, num_key_value_heads=shape.groups, head_dim=shape.head_size,
        vocab_size=shape.words, tie_word_embeddings=shape.tied, max_position_embeddings=shape.length,
        attn_implementation="sdpa",
    )  # fmt: skip
    usual = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES[shape.dtype])
    try:
        with torch.device(device):
            torch.manual_seed(0)
            model = Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(usual)
    with torch.no_grad():
        model.model.norm.weight.mul_(2.8 / (config.initializer_range * shape.hidden**0.5))
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def states(model: Any, tokens_BT: torch.Tensor) -> torch.Tensor:
    """Return the hidden states that predict tokens 1 .. T - 1, (N, H)."""
    hidden = model.model(input_ids=tokens_BT[:, :-1], use_cache=False).last_hidden_state
    return hidden.reshape(-1, hidden.shape[-1])


def gradients(model: Any) -> torch.Tensor:
    """Return all gradients as one vector."""
    return torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])


def measure(shape: Shape, device: str, *, checkpointing: bool, rounds: int) -> dict[str, Any]:
    """Return seconds of the steps and of the body alone, and the gate's distances.

    Raises:
        SystemExit: the heads' gradients differ, so that nothing may be compared.
    """
    model = build(shape, device, checkpointing=checkpointing)
    source = torch.Generator(device).manual_seed(1)
    tokens = torch.randint(shape.words, (shape.rows, shape.length), generator=source, device=device)
    with torch.no_grad():
        fixed = states(model, tokens)
        entropy = plain_entropy(fixed, model.lm_head.weight, 1.0)
    n = len(fixed)
    setting = Setting(tokens=n, hidden=shape.hidden, words=shape.words, dtype=shape.dtype, device=device)
    advantage = torch.randn(n, generator=source, device=device) / n
    ids, chosen = tokens[:, 1:].reshape(-1), top(entropy, setting.share)

    def whole(head: Head, op: Op) -> torch.Tensor:
        hidden = states(model, tokens)
        hidden.retain_grad()
        work = Work(
            setting=setting, hidden_NH=hidden, weight_VH=model.lm_head.weight, ids_N=ids, advantage_N=advantage,
            entropy_N=entropy, chosen_K=chosen,
        )  # fmt: skip
        step(head, op, work)
        assert hidden.grad is not None
        return hidden.grad

    out = {name: why for name in COMPARED if (why := HEADS[name].absent(device))}
    ops = {name: HEADS[name].load() for name in COMPARED if name not in out}
    gaps, true, d_hidden = {}, torch.empty(0), torch.empty(0)
    for name, op in ops.items():
        model.zero_grad(set_to_none=True)
        d_hidden = whole(HEADS[name], op)
        found = gradients(model)
        true = found if name == TRUTH else true
        gaps[name] = float((found - true).norm() / true.norm())
    wrong = [f"{name} {gap:.1e}" for name, gap in gaps.items() if not gap <= GRADIENT_GAP[shape.dtype]]
    if wrong:
        raise SystemExit(f"no table, gradients differ from those of materialised logits: {', '.join(wrong)}")
    del found, true
    runs: dict[str, Any] = {name: partial(whole, HEADS[name], op) for name, op in ops.items()}
    runs[BODY] = lambda: states(model, tokens).backward(d_hidden)
    on_gpu = device != "cpu"
    seconds = benchtables.in_turn(
        runs,
        rounds=rounds,
        warmup=10 if on_gpu else 0,
        clock=benchtables.cuda_seconds if on_gpu else benchtables.cpu_seconds,
        before=lambda: model.zero_grad(set_to_none=True),
    )
    parameters = sum(p.numel() for p in model.parameters())
    title = f"{shape.name}, {'with' if checkpointing else 'without'} gradient checkpointing"
    print(f"measured: {title}", flush=True)
    return {
        "title": title, "shape": vars(shape), "checkpointing": checkpointing, "parameters": parameters,
        "tokens": n, "gaps": gaps, "left_out": out, "seconds": seconds,
    }  # fmt: skip


def report(found: dict[str, Any], device: str) -> str:
    """Return the table of a model."""
    seconds, shape, rows = found["seconds"], found["shape"], []
    for name in [*found["gaps"], BODY]:
        versus = spread(ratios(seconds[YARDSTICK], seconds[name])) if YARDSTICK in seconds else "-"
        share = spread([100 * (1 - x) for x in ratios(seconds[BODY], seconds[name])], 0)
        title, gap = ("no head at all: the limit", "-")
        if name != BODY:
            title, gap = HEADS[name].title(device), f"{found['gaps'][name]:.0e}"
        rows.append([title, spread(seconds[name], 3), versus, share if name != BODY else "-", gap])
    left = "".join(f" Not timed: {HEADS[name].title(device)}: {why}." for name, why in found["left_out"].items())
    about = (
        f"{found['parameters'] / 1e6:.0f} million parameters, H {shape['hidden']}, {shape['layers']} layers, "
        f"V {shape['words']}, {'tied' if shape['tied'] else 'untied'}, {shape['dtype']}; {found['tokens']} tokens, "
        f"share 0.2; {len(seconds[BODY])} rounds.{left}"
    )
    header = ["head", "step, s", "TRL's step / its", "head, % of the step", "gradient's distance"]
    return f"## {found['title']}\n\n{about}\n\n{benchtables.table(header, rows)}"


def main() -> None:
    """Run all models with and without checkpointing, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, help="5 on a CPU, 30 on CUDA, 2 with --quick")
    parser.add_argument("--quick", action="store_true", help="two rounds, without gradient checkpointing")
    parser.add_argument("--out", type=Path, help="folder of the result files")
    arguments = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    torch.set_num_threads(1)
    device = arguments.device
    rounds = arguments.rounds or (2 if arguments.quick else 5 if device == "cpu" else 30)
    results = [
        measure(shape, device, checkpointing=checkpointing, rounds=rounds)
        for shape in SHAPES[device]
        for checkpointing in ((False,) if arguments.quick else (False, True))
    ]
    where = benchtables.surroundings(threads=1, device=device)
    notes = "How to read this: the docstring of `benchmarks/update_step.py`. Median [min, max] over rounds."
    tables = [report(found, device) for found in results]
    text = "\n\n".join([benchtables.heading("A policy-update step, the head exchanged", where), notes, *tables])
    print(f"\n{text}")
    out = arguments.out or (None if arguments.quick else benchtables.RESULTS)
    if out:
        benchtables.write(out, "update_step", text, {"where": where, "results": results})


if __name__ == "__main__":
    main()
