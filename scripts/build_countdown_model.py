"""Rebuild the shipped Countdown model from nothing: tokenizer, pretraining, measurement and model card.

    python scripts/build_countdown_model.py --out models/countdown

Every figure of the card is measured by this script on the weights it has just written. `--measure-only`
measures existing weights and writes the card again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from forkpoint.decode.decoder import Sampling, decode
from forkpoint.entropy.token import token_logp_entropy
from forkpoint.evaluate.stats import accuracy
from forkpoint.model import head_logits, hidden_states
from forkpoint.rollouts import Prompt
from forkpoint.seeds import key
from forkpoint.tasks.countdown import (
    CONNECTIVES,
    GIVE_UP,
    HELDOUT_SHARE,
    LARGEST_NUMBER,
    LARGEST_RESULT,
    MAX_ATTEMPTS,
    OPERATORS,
    SETTINGS,
    attempt_values,
    countdown_task,
)
from forkpoint.tasks.countdown_chains import pretraining_chain, vocabulary
from forkpoint.tasks.task import Task
from forkpoint.train.sft import Example, TextBatch, bucketed, sft

MOST_TOKENS = 128
"""Longest answer that the card measures."""
SPECIAL = ("<pad>", "<end>", "<unk>")
ATTEMPT_TOKENS = 13


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Answers to the problems of a task, and the entropy of every sampled token."""

    ids: list[list[int]]
    entropy: list[list[float]]
    problem: list[int]


def build_tokenizer() -> Any:
    """Return the tokenizer: one id a word, words separated by spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate((*SPECIAL, *vocabulary()))}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def build_model(tokenizer: Any, seed: int) -> Any:
    """Return the untrained model."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    special = {
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=576,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        **special,
    )
    model = Qwen3ForCausalLM(config)
    for name, value in special.items():
        setattr(model.generation_config, name, value)
    return model


def pretrain(model: Any, tokenizer: Any, args: argparse.Namespace) -> float:
    """Train in place on the mixture of both settings and return the CPU seconds it took."""

    def example(position: int) -> Example:
        prompt, answer = pretraining_chain(args.seed, position)
        before = tokenizer.convert_tokens_to_ids(prompt.text.split())
        after = tokenizer.convert_tokens_to_ids(answer.split())
        return Example(ids=(*before, *after, tokenizer.eos_token_id), start=len(before))

    begin = time.process_time()

    def log(metrics: Any) -> None:
        if metrics["step"] % 50 == 0 or metrics["step"] == args.steps:
            used = time.process_time() - begin
            print(json.dumps({k: round(v, 5) for k, v in metrics.items()} | {"cpu": round(used)}), flush=True)

    sft(
        model,
        bucketed(example, rows=args.rows),
        steps=args.steps,
        lr=args.lr,
        warmup=args.warmup,
        weight_decay=0.1,
        log=log,
        loss=materialised,
    )
    return time.process_time() - begin


def materialised(model: Any, batch: TextBatch) -> torch.Tensor:
    """Return the summed cross entropy from whole logits: the rounding that the shipped weights were made with."""
    first = int(batch.mask_BT.any(0).to(torch.int64).argmax())
    states_BTH = hidden_states(model, input_ids=batch.ids_BT[:, :-1], use_cache=False).last_hidden_state
    counted_BT = batch.mask_BT[:, first:]
    logits_NV = head_logits(model, states_BTH[:, first - 1 :])[counted_BT]
    return -token_logp_entropy(logits_NV, batch.ids_BT[:, first:][counted_BT])[0].sum()


@torch.no_grad()
def sample(model: Any, tokenizer: Any, task: Task, *, answers: int, seed: int, most: int = MOST_TOKENS) -> Samples:
    """Sample at temperature 1 from the full vocabulary, with the entropy of every sampled token."""
    problem = [index for index in range(len(task.heldout)) for _ in range(answers)]
    found = decode(
        model,
        tokenizer([task.heldout[index].text for index in problem])["input_ids"],
        [key(seed, "card", task.name, row) for row in range(len(problem))],
        Sampling(max_tokens=most, stop_ids=(tokenizer.eos_token_id,)),
    )
    return Samples(ids=[answer.ids for answer in found], entropy=[answer.entropy for answer in found], problem=problem)


def measure(tokenizer: Any, task: Task, samples: Samples) -> dict[str, Any]:
    """Return what the card reports of one setting."""
    texts = tokenizer.batch_decode(samples.ids, skip_special_tokens=True)
    judged = task.judge([task.heldout[i] for i in samples.problem], texts)
    right = torch.tensor([j.reward for j in judged])
    H = torch.tensor([h for row in samples.entropy for h in row])
    attempts = [
        (attempt, task.heldout[i])
        for i, text in zip(samples.problem, texts, strict=True)
        for attempt in _attempts(text)
    ]
    estimate = accuracy(samples.problem, right.tolist())
    chances = [attempt_values(p.meta["numbers"])[p.meta["target"]] for p in task.heldout]
    return {
        "accuracy": estimate.value,
        "half": (estimate.high - estimate.low) / 2,
        "problems": len(task.heldout),
        "answers": len(texts) // len(task.heldout),
        "below": float((H < 0.01).float().mean()),
        "p80": float(H.sort().values[int(0.8 * len(H))]),
        "p95": float(H.sort().values[int(0.95 * len(H))]),
        "mean": float(H.mean()),
        "largest": float(H.max()),
        "tokens": len(H) / len(texts),
        "attempts": len(attempts) / len(texts),
        "sound": sum(_is_sound(*attempt) for attempt in attempts) / max(1, len(attempts)),
        "success": float(right.sum()) / max(1, len(attempts)),
        "chance": sum(chances) / len(chances),
        "unfinished": sum(row[-1] != tokenizer.eos_token_id for row in samples.ids) / len(texts),
        "places": _entropy_by_place(tokenizer, samples),
    }


def _attempts(text: str) -> Iterator[list[str]]:
    words = text.split()
    starts = [i for i, word in enumerate(words) if word in CONNECTIVES]
    for start, stop in itertools.pairwise([*starts, len(words)]):
        yield words[start:stop][:ATTEMPT_TOKENS]


def _is_sound(attempt: Sequence[str], prompt: Prompt) -> bool:
    """Say whether an attempt uses the given numbers, calculates truly and judges itself truly."""
    match attempt:
        case [_, a, op, b, "=", m, ",", again, op2, c, "=", e, "yes" | "no" as said]:
            numbers = [a, b, m, again, c, e]
            if op not in OPERATORS or op2 not in OPERATORS or not all(n.isdigit() for n in numbers):
                return False
            left, right, middle, same, third, value = map(int, numbers)
            return (
                sorted((left, right, third)) == sorted(prompt.meta["numbers"])
                and same == middle == OPERATORS[op](left, right)
                and value == OPERATORS[op2](middle, third)
                and (said == "yes") == (value == prompt.meta["target"])
            )
    return False


PLACES = (
    "connective", "first number", "operator", "second number", "=", "result", ",", "result again",
    "second operator", "last number", "=", "final result", "verdict",
)  # fmt: skip


def _entropy_by_place(tokenizer: Any, samples: Samples) -> dict[str, float]:
    """Return the mean entropy of every kind of token, the kind read from what has been sampled before it."""
    found: dict[str, list[float]] = {}
    for row, entropies in zip(samples.ids, samples.entropy, strict=True):
        words = tokenizer.convert_ids_to_tokens(row)
        place, previous = 0, ""
        for word, h in zip(words, entropies, strict=True):
            if word in CONNECTIVES:
                place = 0
            if previous == "no":
                kind = "after a failed attempt"
            elif previous in ("yes", "stop"):
                kind = "end"
            else:
                kind = PLACES[place] if place < ATTEMPT_TOKENS else "other"
            found.setdefault(kind, []).append(h)
            place = place + 1 if word not in ("yes", "no", "again") else 0
            previous = word
    return {kind: sum(values) / len(values) for kind, values in found.items()}


ROWS = (
    ("accuracy on held-out problems", "{accuracy:.1%} ± {half:.1%}", ""),
    ("tokens with entropy below 0.01 nats", "{below:.1%}", "50.6%"),
    ("80th percentile of entropy, nats", "{p80:.3f}", "0.672"),
    ("95th percentile of entropy, nats", "{p95:.3f}", ""),
    ("mean entropy, nats", "{mean:.3f}", ""),
    ("tokens per answer", "{tokens:.1f}", ""),
    (f"answers cut off at {MOST_TOKENS} tokens", "{unfinished:.2%}", ""),
    ("attempts per answer", "{attempts:.2f}", ""),
    ("attempts with the right numbers, true arithmetic and true verdict", "{sound:.2%}", ""),
    ("right answers per attempt", "{success:.1%}", ""),
    ("random attempts that reach the target", "{chance:.1%}", ""),
)
"""Label, form and the paper's figure of every row of the card's table."""


def card(measured: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """Return the model card: `countdown_card.md` filled with what was measured."""
    profile = [[label, *(form.format(**m) for m in measured.values()), paper] for label, form, paper in ROWS]
    kinds = [*dict.fromkeys(PLACES), "after a failed attempt", "end"]
    places = [[kind, *(f"{m['places'].get(kind, math.nan):.3f}" for m in measured.values())] for kind in kinds]
    names = [f"`{name}`" for name in measured]
    one = next(iter(measured.values()))
    return (
        Path(__file__)
        .with_name("countdown_card.md")
        .read_text(encoding="utf-8")
        .format(
            profile=_table(["", *names, "Qwen3-8B in the paper"], profile),
            places=_table(["token", *names], places),
            largest_number=LARGEST_NUMBER,
            largest=LARGEST_RESULT,
            attempts=MAX_ATTEMPTS,
            give_up=GIVE_UP,
            each=(1 - GIVE_UP) / len(CONNECTIVES),
            share=1 / HELDOUT_SHARE,
            connectives=", ".join(f"`{word}`" for word in CONNECTIVES),
            problems=one["problems"],
            answers=one["answers"],
            words=len(SPECIAL) + len(vocabulary()),
            **facts,
        )
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(out: Path, model: Any, tokenizer: Any) -> None:
    """Write model and tokenizer beside `out` and move the files into place."""
    staging = out.parent / f".{out.name}.{os.getpid()}"
    model.save_pretrained(staging)
    tokenizer.save_pretrained(staging)
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(staging.iterdir()):
        file.chmod(0o644)
        os.replace(file, out / file.name)
    shutil.rmtree(staging)


def main() -> None:
    """Build, measure, write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("models/countdown"))
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--answers", type=int, default=16, help="answers sampled per held-out problem")
    parser.add_argument("--measure-only", action="store_true")
    args = parser.parse_args()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = {"steps": args.steps, "rows": args.rows, "lr": args.lr, "warmup": args.warmup, "seed": args.seed}
    if not args.measure_only:
        tokenizer = build_tokenizer()
        model = build_model(tokenizer, args.seed)
        made["cpu"] = pretrain(model, tokenizer, args) / 60
        model.config.forkpoint = made
        write(args.out, model, tokenizer)
    tokenizer = AutoTokenizer.from_pretrained(args.out)
    model = AutoModelForCausalLM.from_pretrained(args.out).eval()
    made = model.config.forkpoint
    measured = {}
    for setting in SETTINGS:
        task = countdown_task(setting)
        measured[setting] = measure(tokenizer, task, sample(model, tokenizer, task, answers=args.answers, seed=0))
        print(json.dumps({setting: measured[setting]}, indent=1), flush=True)
    text = card(measured, {**made, "parameters": model.num_parameters()})
    staging = args.out / f".README.{os.getpid()}"
    staging.write_text(text, encoding="utf-8")
    os.replace(staging, args.out / "README.md")


if __name__ == "__main__":
    main()
