"""The loss against TRL 1.16 itself: the same tensors through `GRPOTrainer._compute_loss` and through ours.

TRL's model pass is replaced by given log-probs and entropies; everything after it is TRL's own code. Values,
gradients by log-prob and per-token losses must agree to 1e-6 (float64 on both sides).
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import pytest
import torch

from core_batches import learn, random_rollouts, rollouts_of
from forkpoint import methods
from forkpoint.credit import chain, credit_of, entropy_bonus, group_advantage, init, run
from forkpoint.credit.advantage import group_normalised
from forkpoint.credit.select import above_quantile
from forkpoint.errors import InputError
from forkpoint.loss import token_losses
from forkpoint.rollouts import Forward, blank_credit

trl = pytest.importorskip("trl", reason="the parity oracle is not installed: pip install 'forkpoint[test]'")

# TRL sets options that transformers 5 is about to rename, and torch warns of a CPU without pinned memory:
# neither concerns the loss.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
if trl.__version__ != "1.16.0":
    pytest.skip(f"the oracle is TRL 1.16.0, not {trl.__version__}", allow_module_level=True)

EPS = 1e-4  # what TRL adds to the group's standard deviation
MAX_TOKENS = 7


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """Return a function from GRPOConfig arguments to a trainer on a tiny random model; no network."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    logging.getLogger("transformers").setLevel(logging.ERROR)
    folder = tmp_path_factory.mktemp("trl")
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

    def make(*, passes: int = 1, rows: int = 8, **arguments):
        settings = GRPOConfig(
            output_dir=str(folder / "out"), use_cpu=True, bf16=False, report_to="none", disable_tqdm=True,
            per_device_train_batch_size=rows // passes, gradient_accumulation_steps=passes, num_generations=4,
            max_completion_length=MAX_TOKENS, **arguments,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=str(folder), reward_funcs=lambda completions, **_: [0.0] * len(completions), args=settings,
            train_dataset=data, processing_class=tokenizer,
        )  # fmt: skip
        trainer.current_gradient_accumulation_steps = passes
        trainer.model.train()
        return trainer

    return make


def their_loss(trainer, rollouts, forward, advantage_B, micros):
    """Return TRL's loss and its gradient by log-prob, summed over one `_compute_loss` call a micro-batch."""
    logp_BT, entropy_BT = (x.clone().requires_grad_() for x in (forward.logp_BT, forward.entropy_BT))
    total = 0.0
    for micro in micros:
        rows = torch.tensor(micro)
        trainer._get_per_token_logps_and_entropies = lambda *_, rows=rows, **__: (
            logp_BT[rows],
            entropy_BT[rows],
            None,
        )
        inputs = {
            "prompt_ids": rollouts.prompt_BS[rows],
            "prompt_mask": torch.ones_like(rollouts.prompt_BS[rows]),
            "completion_ids": rollouts.ids_BT[rows],
            "completion_mask": rollouts.mask_BT[rows].long(),
            "advantages": advantage_B[rows],
            "old_per_token_logps": rollouts.logp_BT[rows],
            "ref_per_token_logps": rollouts.ref_logp_BT[rows],
            "num_items_in_batch": rollouts.mask_BT.sum(),
        }
        loss = trainer._compute_loss(trainer.model, inputs)
        loss.backward()
        total += float(loss.detach())
    entropy_gradient_BT = torch.zeros_like(entropy_BT) if entropy_BT.grad is None else entropy_BT.grad
    return total, logp_BT.grad, entropy_gradient_BT


def with_their_eps(method):
    """Return the method with TRL's epsilon in its advantage."""
    swap = lambda x: group_advantage(**{**x.arguments, "eps": EPS}) if x.name == "group_advantage" else x  # noqa: E731
    return chain(*map(swap, method.links))


WHOLE = [list(range(8))]
HALVES = [[0, 3, 5, 6], [1, 2, 4, 7]]
FOURTHS = [[0, 1], [2, 3], [4, 5], [6, 7]]
PPO = {"epsilon": 0.2, "epsilon_high": 0.28}

CASES = {
    "dapo": (lambda: methods.dapo(), {"loss_type": "dapo", **PPO}),
    "grpo": (lambda: methods.grpo(), {"loss_type": "grpo", "epsilon": 0.2}),
    "grpo k3": (
        lambda: methods.grpo(kl_coefficient=0.3),
        {"loss_type": "grpo", "epsilon": 0.2, "beta": 0.3, "use_bias_correction_kl": False},
    ),
    "dapo k3": (
        lambda: methods.dapo(kl_coefficient=0.3),
        {"loss_type": "dapo", "beta": 0.3, "use_bias_correction_kl": False, **PPO},
    ),
    "dr_grpo": (lambda: methods.dr_grpo(), {"loss_type": "dr_grpo", "epsilon": 0.2, "scale_rewards": "none"}),
    "gspo": (
        lambda: methods.gspo(clip_low=0.05, clip_high=0.08),
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.05, "epsilon_high": 0.08},
    ),
    "cispo": (lambda: methods.cispo(cap=1.2), {"loss_type": "cispo", "epsilon_high": 1.2}),
    "entropy bonus": (
        lambda: methods.entropy_bonus(coefficient=0.3),
        {"loss_type": "dapo", "entropy_coef": 0.3, **PPO},
    ),
    "forking 0.2": (
        lambda: methods.forking(preset="trl", share=0.2),
        {"loss_type": "dapo", "top_entropy_quantile": 0.2, **PPO},
    ),
    "forking 0.5": (
        lambda: methods.forking(preset="trl", share=0.5),
        {"loss_type": "dapo", "top_entropy_quantile": 0.5, **PPO},
    ),
    "forking 0.9": (
        lambda: methods.forking(preset="trl", share=0.9),
        {"loss_type": "dapo", "top_entropy_quantile": 0.9, **PPO},
    ),
    "forking grpo": (
        lambda: chain(methods.grpo(), methods.forking(preset="trl", share=0.3).links[-1]),
        {"loss_type": "grpo", "epsilon": 0.2, "top_entropy_quantile": 0.3},
    ),
    "forking cispo": (
        lambda: chain(methods.cispo(cap=1.2), methods.forking(preset="trl", share=0.3).links[-1]),
        {"loss_type": "cispo", "epsilon_high": 1.2, "top_entropy_quantile": 0.3},
    ),
}


def batch(seed, levels=None):
    """Return rollouts whose entropies float32 holds exactly, since TRL takes its quantile in float32."""
    rollouts, forward = random_rollouts(seed, levels=levels)
    return rollouts, Forward(logp_BT=forward.logp_BT, entropy_BT=forward.entropy_BT.float().double())


def advantages_of(method, rollouts):
    return credit_of(chain(method.links[0]), rollouts).advantage_BT[:, 0]


PASSES = {"1 pass": WHOLE, "2 passes": HALVES, "4 passes": FOURTHS}


@pytest.mark.parametrize(
    ("name", "passes"),
    # TRL takes the bonus's mean entropy over each pass, ours over the mini-batch: one pass is comparable.
    [(name, passes) for name in CASES for passes in PASSES if name != "entropy bonus" or passes == "1 pass"],
)
def test_loss_and_gradient_are_trl_s(oracle, name, passes):
    micros = PASSES[passes]
    make, arguments = CASES[name]
    method = with_their_eps(make())
    trainer = oracle(passes=len(micros), **arguments)
    for seed, levels in ((0, None), (1, None), (2, 3), (3, 1)):
        rollouts, forward = batch(seed, levels)
        value, by_logp, by_entropy = their_loss(trainer, rollouts, forward, advantages_of(method, rollouts), micros)
        ours = learn(method, rollouts, forward, [micros])
        assert ours.value == pytest.approx(value, abs=1e-6)
        torch.testing.assert_close(ours.logp_gradient_BT, by_logp, rtol=0, atol=1e-6)
        torch.testing.assert_close(ours.entropy_gradient_BT, by_entropy, rtol=0, atol=1e-6)
        assert by_logp.abs().max() > 1e-3


@pytest.mark.parametrize("name", ["dapo", "dapo k3", "cispo", "forking 0.2", "forking 0.5"])
def test_every_token_s_loss_is_trl_s(oracle, name):
    """One token at a time in TRL's loss mask gives that token's loss: its numerator is a plain sum."""
    make, arguments = CASES[name]
    method = with_their_eps(make())
    trainer = oracle(**arguments)
    rollouts, forward = batch(4, levels=4)
    credit = credit_of(method, rollouts, forward=forward)
    ours_BT = token_losses(forward.logp_BT, rollouts, credit)
    whole = trainer.get_high_entropy_mask
    selected_BT = whole(forward.entropy_BT, rollouts.mask_BT.long(), 1 - trainer.top_entropy_quantile)
    trainer.get_high_entropy_mask = lambda *_: selected_BT  # the selection is over all tokens, not over the one
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (forward.logp_BT, forward.entropy_BT, None)
    their_BT = torch.zeros_like(ours_BT)
    for i, t in rollouts.mask_BT.nonzero().tolist():
        one_BT = torch.zeros_like(rollouts.mask_BT, dtype=torch.int64)
        one_BT[i, t] = 1
        inputs = {
            "prompt_ids": rollouts.prompt_BS, "prompt_mask": torch.ones_like(rollouts.prompt_BS),
            "completion_ids": rollouts.ids_BT, "completion_mask": rollouts.mask_BT.long(),
            "tool_mask": one_BT,
            "advantages": advantages_of(method, rollouts), "old_per_token_logps": rollouts.logp_BT,
            "ref_per_token_logps": rollouts.ref_logp_BT, "num_items_in_batch": torch.tensor(1),
        }  # fmt: skip
        their_BT[i, t] = trainer._compute_loss(trainer.model, inputs).detach()
    torch.testing.assert_close(ours_BT, their_BT, rtol=0, atol=1e-6)
    assert their_BT.abs().max() > 0.1


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("levels", [None, 1, 2, 5, 20])
def test_the_entropy_mask_is_trl_s(oracle, trainer_for_masks, share, levels):
    for seed in range(6):
        rollouts, forward = batch(seed, levels)
        theirs = trainer_for_masks.get_high_entropy_mask(forward.entropy_BT, rollouts.mask_BT.long(), 1 - share)
        one = torch.zeros(rollouts.rows, dtype=torch.int64)
        assert torch.equal(above_quantile(forward.entropy_BT, rollouts.mask_BT, share, one), theirs)
        single = above_quantile(forward.entropy_BT.float(), rollouts.mask_BT, share, one)
        assert torch.equal(single, theirs)


@pytest.fixture(scope="module")
def trainer_for_masks(oracle):
    return oracle(top_entropy_quantile=0.2)


def test_all_tied_keeps_everything_in_trl_and_in_its_preset_but_not_by_count(trainer_for_masks):
    rollouts = rollouts_of([[-1.0] * 10] * 4, groups=[0] * 4, entropy=[[0.7] * 10] * 4, reward=[1.0, 0, 0, 0])
    entropy_BT = rollouts.entropy_BT
    theirs = trainer_for_masks.get_high_entropy_mask(entropy_BT, rollouts.mask_BT.long(), 0.8)
    forward = Forward(logp_BT=rollouts.logp_BT, entropy_BT=entropy_BT)
    preset = learn(methods.forking(preset="trl"), rollouts, forward).credit.weight_BT
    exact = learn(methods.forking(), rollouts, forward).credit.keep_BT
    assert (int(theirs.sum()), int((preset != 0).sum()), int(exact.sum())) == (40, 40, 8)


def test_advantages_are_trl_s(oracle, monkeypatch):
    """TRL's own scoring of 8 given rewards, through its generation step with the sampling replaced."""
    trainer = oracle()
    reward = torch.tensor([1.0, 0.0, 0.5, 1.0, 0.0, 0.0, 3.0, 0.25])
    completions = [[5, 6, 0]] * 8

    monkeypatch.setattr(trainer, "_generate_single_turn", lambda *_, **__: (completions, None))
    monkeypatch.setattr(trainer, "_calculate_rewards", lambda *_: reward[:, None])
    out = trainer._generate_and_score_completions([{"prompt": "w1 w2"} for _ in range(8)])
    ours = group_normalised(reward, torch.arange(8) // 4, torch.ones(8, dtype=torch.bool), eps=EPS)
    torch.testing.assert_close(ours, out["advantages"], rtol=0, atol=1e-6)


def test_where_we_differ_on_purpose_one_entropy_that_is_not_a_number(oracle):
    """TRL trains on nothing without a word; ours stops and says which token."""
    rollouts, forward = batch(5)
    entropy_BT = forward.entropy_BT.clone()
    entropy_BT[2, 1] = math.nan
    broken = Forward(logp_BT=forward.logp_BT, entropy_BT=entropy_BT)
    method = with_their_eps(methods.forking(preset="trl"))
    trainer = oracle(loss_type="dapo", top_entropy_quantile=0.2, **PPO)
    value, by_logp, _ = their_loss(trainer, rollouts, broken, advantages_of(method, rollouts), WHOLE)
    assert value == 0
    assert (by_logp == 0).all()
    with pytest.raises(InputError, match="current entropy of row 2, position 1 is nan"):
        learn(method, rollouts, broken)


def test_where_we_differ_on_purpose_the_result_depends_on_their_passes_and_not_on_ours(oracle):
    rollouts, forward = batch(6)
    make, arguments = CASES["forking 0.2"]
    method = with_their_eps(make())
    advantage_B = advantages_of(method, rollouts)
    theirs = [
        their_loss(oracle(passes=len(micros), **arguments), rollouts, forward, advantage_B, micros)[1]
        for micros in (WHOLE, FOURTHS)
    ]
    assert float((theirs[0] - theirs[1]).abs().max()) > 1e-3
    default = methods.forking(share=0.2)
    ours = [learn(default, rollouts, forward, [micros]).logp_gradient_BT for micros in (WHOLE, FOURTHS)]
    torch.testing.assert_close(*ours, rtol=0, atol=1e-12)


def test_where_we_differ_on_purpose_the_bonus_of_selected_tokens(oracle):
    """TRL divides the bonus by the selected tokens; with `denominator="all"` ours divides by all."""
    rollouts, forward = batch(7)
    trainer = oracle(loss_type="dapo", top_entropy_quantile=0.2, entropy_coef=0.3, **PPO)
    method = chain(with_their_eps(methods.forking(preset="trl")), entropy_bonus(coefficient=0.3))
    theirs = their_loss(trainer, rollouts, forward, advantages_of(method, rollouts), WHOLE)[2]
    ours = learn(method, rollouts, forward).entropy_gradient_BT
    selected, total = int((theirs != 0).sum()), int(rollouts.mask_BT.sum())
    assert torch.equal(ours != 0, theirs != 0)
    torch.testing.assert_close(ours * total, theirs * selected, rtol=0, atol=1e-6)


def test_adaptive_entropy_control_is_trl_s_over_three_updates(oracle):
    """TRL lets the previous update's entropy decide (`gate="previous"`); coefficients and gradients agree."""
    make = lambda: methods.adaptive_entropy(target=0.6, delta=0.05, start=0.1, clip_high=0.28, gate="previous")  # noqa: E731
    trainer = oracle(
        loss_type="dapo",
        use_adaptive_entropy=True,
        entropy_coef=0.1,
        entropy_target=0.6,
        entropy_coef_delta=0.05,
        **PPO,
    )
    rollouts, forward = batch(0)
    method = with_their_eps(make())
    states = init(method)
    for scale in (1.0, 2.0, 1.0):  # mean entropies below, above and below the target
        now = Forward(logp_BT=forward.logp_BT, entropy_BT=scale * forward.entropy_BT)
        _, logp_gradient, entropy_gradient = their_loss(trainer, rollouts, now, advantages_of(method, rollouts), WHOLE)
        moved = chain(*(replace(x, init=lambda s=s: s) for x, s in zip(method.links, states, strict=True)))
        got = learn(moved, rollouts, now)
        torch.testing.assert_close(got.logp_gradient_BT, logp_gradient, rtol=0, atol=1e-6)
        torch.testing.assert_close(got.entropy_gradient_BT, entropy_gradient, rtol=0, atol=1e-6)
        _, states = run(method, blank_credit(rollouts), rollouts, states, when="update", forward=now)
        assert states[-1]["coefficient"] == pytest.approx(trainer.entropy_coef, abs=1e-12)
    assert bool((entropy_gradient == 0).all()), "the second update's entropy lay above the target"
