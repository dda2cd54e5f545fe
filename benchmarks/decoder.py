"""The decoder against Hugging Face `generate`: sampled tokens per CPU-second with the real spread of lengths.

    python benchmarks/decoder.py [--rounds 7] [--model models/countdown] [--out benchmarks/results]

Both answer the same Countdown problems, 8 answers each, at most 128 tokens at temperature 1 with no cuts, in two
settings: 256 answers in 256 slots, and 1024 answers in 256 slots, for which `generate` runs four batches of 256.

How it is measured:

- `generate` is called on a batch padded to the left, with the end token, `do_sample`, `top_k=0` and `top_p=1`, on
  the model as transformers loads it; the decoder runs on the model as `forkpoint train` prepares it;
- the decoder returns log-prob and entropy of every token. `generate` returns neither, so a third arm asks it for
  its logits and computes both from them;
- one process, one thread, CPU time; the arms take turns in rotating order, every round has problems and random
  streams of its own, and the first round is warm-up; ratios are taken within a round;
- a token counts up to the end token of its answer, that included.

First a gate: first tokens must follow the exact probabilities (chi-square), answers must be as long on average.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import benchtables
import torch

ROOT = Path(__file__).resolve().parents[1]
GROUP, MAX_TOKENS, SLOTS = 8, 128, 256
SIZES = (256, 1024)
PEER = "generate"
GOAL = 5.0
GATE_DRAWS = 4096
SIGMAS = 4.0
"""Chi-square and mean lengths may lie this many standard deviations from what they should be."""

Arm = Callable[[Sequence[Sequence[int]], int, int], list[list[int]]]
"""(prompts, seed, longest answer) -> ids of each answer up to its end token."""


def arms(path: Path) -> dict[str, Arm]:
    """Return the systems compared, each on a model of its own."""
    from transformers import AutoModelForCausalLM

    from forkpoint.decode.decoder import Sampling, decode
    from forkpoint.linear import row_linears
    from forkpoint.model import load_model
    from forkpoint.seeds import key

    ours = row_linears(load_model(path))
    theirs = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    stop, pad = theirs.config.eos_token_id, theirs.config.pad_token_id

    def forkpoint(prompts: Sequence[Sequence[int]], seed: int, longest: int) -> list[list[int]]:
        sampling = Sampling(max_tokens=longest, stop_ids=(stop,), slots=SLOTS)
        answers = decode(ours, prompts, [key("benchmark", seed, i) for i in range(len(prompts))], sampling)
        return [answer.ids for answer in answers]

    def generated(
        prompts: Sequence[Sequence[int]], seed: int, longest: int, *, entropies: bool = False
    ) -> list[list[int]]:
        torch.manual_seed(seed)
        answers: list[list[int]] = []
        for start in range(0, len(prompts), SLOTS):
            batch = prompts[start : start + SLOTS]
            width = max(map(len, batch))
            out = theirs.generate(
                input_ids=torch.tensor([[pad] * (width - len(p)) + list(p) for p in batch]),
                attention_mask=torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch]),
                do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=longest,
                eos_token_id=stop, pad_token_id=pad, output_logits=entropies, return_dict_in_generate=True,
            )  # fmt: skip
            ids_BT = out.sequences[:, width:]
            if entropies:
                for place, logits_BV in enumerate(out.logits):
                    logp_BV = torch.log_softmax(logits_BV, -1)
                    logp_BV.gather(1, ids_BT[:, place, None]), torch.special.entr(logp_BV.exp()).sum(-1)
            answers += [_until(row, stop) for row in ids_BT.tolist()]
        return answers

    return {
        "forkpoint": forkpoint,
        PEER: generated,
        "generate, with log-probs and entropies": functools.partial(generated, entropies=True),
    }


def _until(ids: list[int], stop: int) -> list[int]:
    return ids[: ids.index(stop) + 1] if stop in ids else ids


def problems(path: Path, seed: int, answers: int) -> list[list[int]]:
    """Return the prompts of a round, every one `GROUP` times."""
    from transformers import AutoTokenizer

    from forkpoint.tasks.countdown import countdown_task

    tokenizer = AutoTokenizer.from_pretrained(path)
    draw = countdown_task("countdown", heldout=1).train_prompt
    texts = [draw(seed, place).text for place in range(answers // GROUP)]
    return [tokenizer(text, add_special_tokens=False).input_ids for text in texts for _ in range(GROUP)]


def chi_square(path: Path, arm: Arm) -> tuple[float, int]:
    """Return chi-square of the first tokens of one problem against exact probabilities, and degrees of freedom.

    Tokens expected fewer than five times count as one.
    """
    from transformers import AutoModelForCausalLM

    prompt = problems(path, 0, GROUP)[0]
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        expected_V = model(torch.tensor([prompt])).logits[0, -1].double().softmax(-1) * GATE_DRAWS
    first = torch.tensor([ids[0] for ids in arm([prompt] * GATE_DRAWS, 12345, 1)])
    seen_V = torch.bincount(first, minlength=expected_V.numel()).double()
    rare_V = expected_V < 5
    expected = torch.cat([expected_V[~rare_V], expected_V[rare_V].sum()[None].clamp(min=1e-9)])
    seen = torch.cat([seen_V[~rare_V], seen_V[rare_V].sum()[None]])
    return float(((seen - expected) ** 2 / expected).sum()), expected.numel() - 1


def _mean(values: Sequence[float]) -> tuple[float, float]:
    return statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5


def gate(chi: dict[str, tuple[float, int]], lengths: dict[str, list[int]]) -> list[str]:
    """Return what makes the comparison unfair; empty when nothing does."""
    faults = [
        f"first tokens of {name} do not follow the model: chi-square {value:.1f} with {degrees} degrees of freedom"
        for name, (value, degrees) in chi.items()
        if value > degrees + SIGMAS * (2 * degrees) ** 0.5
    ]
    peer, peer_error = _mean(lengths[PEER])
    for name, values in lengths.items():
        mean, error = _mean(values)
        if abs(mean - peer) > SIGMAS * (error**2 + peer_error**2) ** 0.5:
            faults.append(f"answers of {name} have {mean:.2f} tokens, of {PEER} {peer:.2f}: not sampling noise")
    return faults


def measure(path: Path, systems: dict[str, Arm], rounds: int) -> tuple[dict[int, dict[str, list[float]]], Any]:
    """Return tokens per CPU-second by size and system, and the lengths of all answers."""
    rates: dict[int, dict[str, list[float]]] = {size: {name: [] for name in systems} for size in SIZES}
    lengths: dict[str, list[int]] = {name: [] for name in systems}
    names = list(systems)
    for turn in range(rounds + 1):
        for size in SIZES:
            prompts = problems(path, turn, size)
            for name in [*names[turn % len(names) :], *names[: turn % len(names)]]:
                began = time.process_time()
                answers = systems[name](prompts, turn, MAX_TOKENS)
                spent = time.process_time() - began
                if turn:
                    rates[size][name].append(sum(map(len, answers)) / spent)
                    lengths[name] += map(len, answers)
        print(f"round {turn} of {rounds}" + (" (warm-up)" if not turn else ""), flush=True)
    return rates, lengths


def main() -> None:
    """Run the gate and the rounds, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds, after one of warm-up")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "countdown")
    parser.add_argument("--out", type=Path, default=benchtables.RESULTS)
    arguments = parser.parse_args()
    if not (arguments.model / "config.json").is_file():
        raise SystemExit(f"no model at {arguments.model}: give one with --model")
    torch.set_num_threads(1)
    systems = arms(arguments.model.resolve())
    chi = {name: chi_square(arguments.model, arm) for name, arm in systems.items()}
    rates, lengths = measure(arguments.model, systems, arguments.rounds)
    faults = gate(chi, lengths)
    if faults:
        raise SystemExit("no table, the comparison is not fair:\n  " + "\n  ".join(faults))
    rows = []
    for size in SIZES:
        for name, values in rates[size].items():
            gain = [ours / theirs for ours, theirs in zip(values, rates[size][PEER], strict=True)]
            rows.append([f"{size} answers, `{name}`", benchtables.spread(values, 0), benchtables.spread(gain)])
    where = benchtables.surroundings(threads=1)
    settings = (
        f"Model `{arguments.model.name}`, Countdown, {GROUP} answers a problem, at most {MAX_TOKENS} tokens, {SLOTS} "
        f"rows at once; {arguments.rounds} rounds in turn after one of warm-up; median [min, max] over rounds."
    )
    checked = "; ".join(
        f"`{name}` chi-square {chi[name][0]:.1f} with {chi[name][1]} degrees of freedom, "
        "length {:.2f} ± {:.2f}".format(*_mean(lengths[name]))
        for name in systems
    )
    paragraphs = [
        benchtables.heading("Decoder and `generate`", where),
        settings,
        benchtables.table(["system", "tokens / CPU-second", f"x `{PEER}`"], rows),
        f"Goal: `forkpoint` at least {GOAL} x `{PEER}`. `{PEER}` returns tokens alone; `forkpoint` returns log-prob "
        "and entropy of every token too.",
        f"Gate: {checked}.",
    ]
    text = "\n\n".join(paragraphs)
    print(f"\n{text}")
    data = {"where": where, "settings": settings, "chi_square": chi, "tokens_per_cpu_second": rates}
    benchtables.write(arguments.out, "decoder", text, data)


if __name__ == "__main__":
    main()
