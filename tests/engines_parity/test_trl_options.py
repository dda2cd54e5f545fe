"""Every option of TRL 1.16's `GRPOConfig`: a case that reproduces it, or why it is no part of the loss."""

from __future__ import annotations

import dataclasses
import inspect
import re

import pytest
import torch
from trl_cases import CASES, PPO
from trl_oracle import EPS, WHOLE, batch, scored, their_loss

from core_batches import learn
from forkpoint import methods
from forkpoint.credit import aggregate, chain, clip, credit_of, group_advantage
from forkpoint.credit.normalise import batch_scaled_advantage, parts_advantage
from forkpoint.credit.sampled import without_truncated

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

HERE = {
    "scale_rewards", "reward_weights", "multi_objective_aggregation", "mask_truncated_completions",
}  # fmt: skip
"""Options that the tests below are of."""
ELSEWHERE = {
    "use_adaptive_entropy": "test_trl_differs", "entropy_target": "test_trl_differs",
    "entropy_coef_delta": "test_trl_differs",
}  # fmt: skip
NO_LOSS = {
    "the weights, and how they are loaded": (
        "model_init_kwargs", "trust_remote_code", "disable_dropout", "cast_lm_head_to_fp32",
        "ds3_gather_for_generation",
    ),
    "which data, how many answers, and how they are cut into batches": (
        "num_generations", "num_generations_eval", "shuffle_dataset", "pad_to_multiple_of",
        "generation_batch_size", "steps_per_generation", "num_iterations", "max_completion_length",
    ),
    "how answers are sampled": (
        "temperature", "top_p", "top_k", "min_p", "generation_kwargs", "chat_template_kwargs", "repetition_penalty",
        "cache_implementation", "max_tool_calling_iterations", "use_transformers_continuous_batching",
        "transformers_continuous_batching_config", "use_transformers_paged",
    ),
    "how the sampling engine is run": (
        "vllm_mode", "vllm_model_impl", "vllm_enable_sleep_mode", "vllm_structured_outputs_regex",
        "vllm_server_base_url", "vllm_server_host", "vllm_server_port", "vllm_server_timeout", "vllm_group_port",
        "vllm_gpu_memory_utilization", "vllm_max_model_length", "vllm_tensor_parallel_size",
    ),
    "an older name of vllm_importance_sampling_clip_max": ("vllm_importance_sampling_cap",),
    "which weights the reference model has": ("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"),
    "a loss of the router of mixtures of experts, which no credit enters": ("router_aux_loss_coef",),
    "bounds of the adaptive bonus's coefficient; ours are TRL's defaults 0 and 1": (
        "entropy_coef_min", "entropy_coef_max",
    ),
    "what is logged": (
        "log_completions", "log_multimodal", "num_completions_to_print", "log_unique_prompts",
        "log_completions_hub_repo",
    ),
}  # fmt: skip
NOT_OURS = {
    "cispo of answers": "CISPO's detached ratio is a token's: no paper takes a whole answer's, and TRL warns of it",
}


def fields_of_its_own():
    from transformers import TrainingArguments
    from trl import GRPOConfig

    return {x.name for x in dataclasses.fields(GRPOConfig)} - {x.name for x in dataclasses.fields(TrainingArguments)}


def test_every_option_is_in_a_case_or_named_as_no_part_of_the_loss(oracle):
    in_cases = {option for _, arguments in CASES.values() for option in arguments}
    named = {option for options in NO_LOSS.values() for option in options}
    known = in_cases | HERE | set(ELSEWHERE) | named
    assert fields_of_its_own() | {"use_vllm"} == known
    assert not named & (in_cases | HERE | set(ELSEWHERE))


def test_every_loss_type_and_level_is_in_a_case(oracle):
    source = inspect.getsource(type(oracle())._compute_loss)
    compared = re.findall(r"self\.loss_type (?:==|in) (\[[^]]*\]|\"\w+\")", source)
    types = set(re.findall(r"\"(\w+)\"", " ".join(compared)))
    assert len(types) == 8
    assert {arguments["loss_type"] for _, arguments in CASES.values()} == types
    levels = set(re.findall(r"importance_sampling_level == \"(\w+)\"", source))
    assert levels == {"token", "sequence"}
    of_answers = {x["loss_type"] for _, x in CASES.values() if x.get("importance_sampling_level") == "sequence"}
    # VESPO's own ratio is an answer's whatever the level says; see `NOT_OURS` for CISPO.
    assert types - of_answers == {"cispo", "vespo"}
    assert set(NOT_OURS) == {"cispo of answers"}


def close(got, expected):
    torch.testing.assert_close(got, expected.to(got.dtype), rtol=0, atol=1e-6)


SCALES = {
    "group": lambda: group_advantage(eps=EPS),
    "batch": lambda: batch_scaled_advantage(eps=EPS),
    "none": lambda: group_advantage(std=False),
}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("unscored", [(), (1, 6)])
def test_advantages_are_trl_s(oracle, scale, unscored):
    """A reward of NaN is TRL's way to say that an answer could not be judged: it has no advantage, as with us."""
    for seed in range(3):
        rollouts, _ = batch(seed)
        rewards_B = rollouts.reward_B.index_fill(0, torch.tensor(unscored, dtype=torch.int64), torch.nan)
        rollouts = dataclasses.replace(rollouts, reward_B=rewards_B)
        theirs = scored(oracle(scale_rewards=scale), rollouts)["advantages"]
        close(credit_of(chain(SCALES[scale]()), rollouts).advantage_BT[:, 0], theirs)
        assert theirs.abs().max() > 0.5


@pytest.mark.parametrize("weights", [None, [1.0, 0.5]])
def test_normalising_each_reward_by_itself_is_trl_s(oracle, weights):
    rollouts, _ = batch(1)
    style_B = torch.tensor([0.0, 1, 0, 0, 1, 1, 0, 1], dtype=torch.float64)
    parts_BK = torch.stack([rollouts.reward_B, style_B], dim=1)
    trainer = oracle(parts=2, multi_objective_aggregation="normalize_then_sum", reward_weights=weights)
    theirs = scored(trainer, rollouts, parts_BK)["advantages"]
    named = {"answer": parts_BK[:, 0], "style": style_B}
    link = parts_advantage(weights=None if weights is None else dict(zip(named, weights, strict=True)), eps=EPS)
    close(credit_of(chain(link), dataclasses.replace(rollouts, reward_parts=named)).advantage_BT[:, 0], theirs)


def test_weighted_rewards_are_trl_s(oracle):
    """Summed first, the weighted rewards are one reward: what a verifier gives us as the total."""
    rollouts, _ = batch(1)
    style_B = torch.tensor([0.0, 1, 0, 0, 1, 1, 0, 1], dtype=torch.float64)
    theirs = scored(oracle(parts=2, reward_weights=[1.0, 0.5]), rollouts, torch.stack([rollouts.reward_B, style_B], 1))
    total = dataclasses.replace(rollouts, reward_B=rollouts.reward_B + 0.5 * style_B)
    close(credit_of(chain(group_advantage(eps=EPS)), total).advantage_BT[:, 0], theirs["advantages"])


def truncated():
    rollouts, forward = batch(2)
    return dataclasses.replace(rollouts, finish=tuple("length" if i in (0, 6) else "stop" for i in range(8))), forward


def test_truncated_answers_are_left_out_as_in_trl(oracle):
    """Their rewards count in the group's statistics, their tokens neither in the loss nor in its denominator."""
    rollouts, forward = truncated()
    trainer = oracle(loss_type="dapo", mask_truncated_completions=True, **PPO)
    inputs = scored(trainer, rollouts)
    value, by_logp, _ = their_loss(trainer, inputs, forward, WHOLE)
    method = chain(group_advantage(eps=EPS), clip(high=0.28), aggregate(denominator="token"), without_truncated())
    ours = learn(method, rollouts, forward)
    close(ours.credit.advantage_BT[:, 0], inputs["advantages"])
    assert ours.value == pytest.approx(value, abs=1e-6)
    close(ours.logp_gradient_BT, by_logp)
    assert (by_logp[[0, 6]] == 0).all()


def test_where_we_differ_on_purpose_a_mean_over_answers_counts_those_that_are_left(oracle):
    """TRL's mean over answers counts the masked ones too, 6 of 8 here; ours is a mean of what counts."""
    rollouts, forward = truncated()
    trainer = oracle(loss_type="grpo", epsilon=0.2, mask_truncated_completions=True)
    value, by_logp, _ = their_loss(trainer, scored(trainer, rollouts), forward, WHOLE)
    method = chain(group_advantage(eps=EPS), methods.grpo().links[1], methods.grpo().links[2], without_truncated())
    ours = learn(method, rollouts, forward)
    assert ours.value * 6 == pytest.approx(value * 8, abs=1e-6)
    close(ours.logp_gradient_BT * 6, by_logp * 8)
