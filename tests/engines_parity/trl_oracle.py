"""TRL 1.16 with its model pass replaced by given log-probs and entropies; everything after it is TRL's own code."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core_batches import random_rollouts
from forkpoint.credit import Chain, chain, credit_of, group_advantage
from forkpoint.rollouts import Forward, Rollouts

EPS = 1e-4  # what TRL adds to the group's standard deviation
MAX_TOKENS = 7
WHOLE = [list(range(8))]
HALVES = [[0, 3, 5, 6], [1, 2, 4, 7]]
FOURTHS = [[0, 1], [2, 3], [4, 5], [6, 7]]
PASSES = {"1 pass": WHOLE, "2 passes": HALVES, "4 passes": FOURTHS}


def make_oracle(folder: Path) -> Callable[..., Any]:
    """Return a function from GRPOConfig arguments to a trainer on a tiny random model; no network."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    logging.getLogger("transformers").setLevel(logging.ERROR)
    vocabulary = {"<eos>": 0, "<pad>": 1, **{f"w{i}": i + 2 for i in range(30)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<pad>")
    tokenizer.save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=32, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=64,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    data = Dataset.from_dict({"prompt": ["w1 w2"] * 8})

    def make(*, passes: int = 1, rows: int = 8, parts: int = 1, use_vllm: bool = False, **arguments: Any) -> Any:
        settings = GRPOConfig(
            output_dir=str(folder / "out"), use_cpu=True, bf16=False, report_to="none", disable_tqdm=True,
            per_device_train_batch_size=rows // passes, gradient_accumulation_steps=passes, num_generations=4,
            max_completion_length=MAX_TOKENS, **arguments,
        )  # fmt: skip
        rewards = [lambda completions, **_: [0.0] * len(completions) for _ in range(parts)]
        trainer = GRPOTrainer(
            model=str(folder), reward_funcs=rewards, args=settings, train_dataset=data, processing_class=tokenizer
        )
        trainer.use_vllm = use_vllm  # as if another engine had sampled; none is started
        trainer.current_gradient_accumulation_steps = passes
        trainer.model.train()
        return trainer

    return make


def batch(seed: int, levels: int | None = None) -> tuple[Rollouts, Forward]:
    """Return rollouts whose entropies float32 holds exactly, since TRL takes its quantile in float32."""
    rollouts, forward = random_rollouts(seed, levels=levels)
    return rollouts, Forward(logp_BT=forward.logp_BT, entropy_BT=forward.entropy_BT.float().double())


def with_their_eps(method: Chain) -> Chain:
    """Return the method with TRL's epsilon in its advantage."""
    swap = lambda x: group_advantage(**{**x.arguments, "eps": EPS}) if x.name == "group_advantage" else x  # noqa: E731
    return chain(*map(swap, method.links))


def advantages_of(method: Chain, rollouts: Rollouts) -> Tensor:
    """Return the advantage of every answer by the method's first link."""
    return credit_of(chain(method.links[0]), rollouts).advantage_BT[:, 0]


def given_inputs(rollouts: Rollouts, advantage_B: Tensor) -> dict[str, Tensor]:
    """Return what TRL's loss reads of a batch, with these advantages."""
    return {
        "prompt_ids": rollouts.prompt_BS,
        "prompt_mask": torch.ones_like(rollouts.prompt_BS),
        "completion_ids": rollouts.ids_BT,
        "completion_mask": rollouts.mask_BT.long(),
        "advantages": advantage_B,
        "old_per_token_logps": rollouts.logp_BT,
        "ref_per_token_logps": rollouts.ref_logp_BT,
        "num_items_in_batch": rollouts.mask_BT.sum(),
    }


def scored(trainer: Any, rollouts: Rollouts, reward_BK: Tensor | None = None) -> dict[str, Any]:
    """Return what TRL's loss reads of a batch, by its own scoring of these answers.

    Args:
        trainer: from `make_oracle`.
        rollouts: a row that finished with `length` does not end in the end token. `extra["sampler_logp"]` are the
            log-probs of the engine that sampled.
        reward_BK: one column a reward function; None takes the rewards of the rollouts.
    """
    reward_BK = rollouts.reward_B[:, None] if reward_BK is None else reward_BK
    lengths = rollouts.mask_BT.sum(1).tolist()
    ids = [[5] * (n - 1) + [5 if rollouts.finish[i] == "length" else 0] for i, n in enumerate(lengths)]
    sampled = [row[:n].tolist() for row, n in zip(rollouts.extra["sampler_logp"], lengths, strict=True)]
    trainer._generate = lambda _: ([[3, 4]] * rollouts.rows, ids, None, [""] * rollouts.rows, sampled, {}, None, None)
    trainer._calculate_rewards = lambda *_: reward_BK.clone()
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (rollouts.logp_BT, None, None)
    out = trainer._generate_and_score_completions([{"prompt": "w1 w2"} for _ in range(rollouts.rows)])
    return {**out, "old_per_token_logps": rollouts.logp_BT, "ref_per_token_logps": rollouts.ref_logp_BT}


def their_loss(
    trainer: Any, inputs: dict[str, Any], forward: Forward, micros: Sequence[Sequence[int]]
) -> tuple[float, Tensor, Tensor]:
    """Return TRL's loss and its gradient by log-prob and entropy, summed over one `_compute_loss` call a pass."""
    logp_BT, entropy_BT = (x.clone().requires_grad_() for x in (forward.logp_BT, forward.entropy_BT))
    total = 0.0
    for micro in micros:
        rows = torch.tensor(micro)
        trainer._get_per_token_logps_and_entropies = lambda *_, rows=rows, **__: (
            logp_BT[rows],
            entropy_BT[rows],
            None,
        )
        cut = {k: x[rows] if isinstance(x, Tensor) and x.ndim else x for k, x in inputs.items()}
        loss = trainer._compute_loss(trainer.model, cut)
        if loss.requires_grad:
            loss.backward()
        total += float(loss.detach())
    none_BT = torch.zeros_like(logp_BT)
    by_logp_BT, by_entropy_BT = (none_BT if x.grad is None else x.grad for x in (logp_BT, entropy_BT))
    return total, by_logp_BT, by_entropy_BT


def sampled_elsewhere(rollouts: Rollouts) -> Rollouts:
    """Return the rollouts with log-probs of the sampling engine that float32 holds, as TRL stores them."""
    sampler_BT = rollouts.extra["sampler_logp"].float().double()
    return dataclasses.replace(rollouts, extra={**rollouts.extra, "sampler_logp": sampler_BT})
