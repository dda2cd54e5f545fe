"""Every loss of TRL 1.16 as a chain of our links: (our chain, arguments of `GRPOConfig`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forkpoint import methods
from forkpoint.credit import Chain, aggregate, chain, kl, sequence_ratio
from forkpoint.credit.offpolicy import engine_correction, gamma_weight, stale_mask

PPO = {"epsilon": 0.2, "epsilon_high": 0.28}
GSPO = {"epsilon": 0.05, "epsilon_high": 0.08, "importance_sampling_level": "sequence"}
PLAIN_KL = {"beta": 0.3, "use_bias_correction_kl": False}
CORRECTED_KL = {"beta": 0.3, "use_bias_correction_kl": True}


def _bnpo() -> Chain:
    return chain(methods.grpo(), aggregate(denominator="micro-token"))


def _whole(method: Chain) -> Chain:
    return chain(method, sequence_ratio())


def _corrected(method: Chain) -> Chain:
    return chain(method, kl(coefficient=0.3, corrected=True))


def _trl_fork(method: Chain, share: float) -> Chain:
    return chain(method, methods.forking(preset="trl", share=share).links[-1])


def _gspo(method: Callable[..., Chain]) -> Chain:
    return method(clip_low=0.05, clip_high=0.08)


CASES: dict[str, tuple[Callable[[], Chain], dict[str, Any]]] = {
    # Every loss type.
    "grpo": (methods.grpo, {"loss_type": "grpo", "epsilon": 0.2}),
    "bnpo": (_bnpo, {"loss_type": "bnpo", "epsilon": 0.2}),
    "dr_grpo": (methods.dr_grpo, {"loss_type": "dr_grpo", "epsilon": 0.2, "scale_rewards": "none"}),
    "dapo": (methods.dapo, {"loss_type": "dapo", **PPO}),
    "cispo": (lambda: methods.cispo(cap=1.2), {"loss_type": "cispo", "epsilon_high": 1.2}),
    "sapo": (methods.sapo, {"loss_type": "sapo"}),
    "sapo hard": (
        lambda: methods.sapo(positive=3.0, negative=5.0),
        {"loss_type": "sapo", "sapo_temperature_pos": 3.0, "sapo_temperature_neg": 5.0},
    ),
    "luspo": (lambda: _gspo(methods.luspo), {"loss_type": "luspo", **GSPO}),
    "luspo of tokens": (
        lambda: chain(methods.grpo(), aggregate(denominator="constant", constant=1.0)),
        {"loss_type": "luspo", "epsilon": 0.2},
    ),
    "vespo": (methods.vespo, {"loss_type": "vespo"}),
    "vespo other numbers": (
        lambda: methods.vespo(k_positive=1.0, lambda_positive=0.5, k_negative=0.5, lambda_negative=4.0),
        {"loss_type": "vespo", "vespo_k_pos": 1.0, "vespo_lambda_pos": 0.5, "vespo_k_neg": 0.5,
         "vespo_lambda_neg": 4.0},
    ),
    # One ratio an answer.
    "gspo": (lambda: _gspo(methods.gspo), {"loss_type": "grpo", **GSPO}),
    "dapo of answers": (lambda: _whole(_gspo(methods.dapo)), {"loss_type": "dapo", **GSPO}),
    "bnpo of answers": (
        lambda: chain(_gspo(methods.gspo), aggregate(denominator="micro-token")), {"loss_type": "bnpo", **GSPO}
    ),
    "dr_grpo of answers": (
        lambda: _whole(_gspo(methods.dr_grpo)), {"loss_type": "dr_grpo", "scale_rewards": "none", **GSPO}
    ),
    "sapo of answers": (lambda: _whole(methods.sapo()), {"loss_type": "sapo", "importance_sampling_level": "sequence"}),
    # Two-sided clip: `delta` above the upper bound is a dual clip.
    "two-sided": (lambda: methods.dapo(dual=1.3), {"loss_type": "dapo", "delta": 1.3, **PPO}),
    "two-sided grpo": (
        lambda: methods.dual_clip(c=1.25), {"loss_type": "grpo", "epsilon": 0.2, "delta": 1.25}
    ),
    # KL to the reference.
    "grpo k3": (
        lambda: methods.grpo(kl_coefficient=0.3),
        {"loss_type": "grpo", "epsilon": 0.2, **PLAIN_KL},
    ),
    "dapo k3": (lambda: methods.dapo(kl_coefficient=0.3), {"loss_type": "dapo", **PPO, **PLAIN_KL}),
    "grpo corrected k3": (lambda: _corrected(methods.grpo()), {"loss_type": "grpo", "epsilon": 0.2, **CORRECTED_KL}),
    "dapo corrected k3": (lambda: _corrected(methods.dapo()), {"loss_type": "dapo", **PPO, **CORRECTED_KL}),
    "gspo corrected k3": (
        lambda: _corrected(_gspo(methods.gspo)), {"loss_type": "grpo", **GSPO, **CORRECTED_KL}
    ),
    "cispo corrected k3": (
        lambda: _corrected(methods.cispo(cap=1.2)), {"loss_type": "cispo", "epsilon_high": 1.2, **CORRECTED_KL}
    ),
    "luspo corrected k3": (lambda: _corrected(_gspo(methods.luspo)), {"loss_type": "luspo", **GSPO, **CORRECTED_KL}),
    "sapo corrected k3": (lambda: _corrected(methods.sapo()), {"loss_type": "sapo", **CORRECTED_KL}),
    "vespo corrected k3": (lambda: _corrected(methods.vespo()), {"loss_type": "vespo", **CORRECTED_KL}),
    # Stale answers.
    "stale": (
        lambda: chain(methods.dapo(), stale_mask(threshold=0.02)),
        {"loss_type": "dapo", "off_policy_mask_threshold": 0.02, **PPO},
    ),
    "stale with KL": (
        lambda: _corrected(chain(methods.grpo(), stale_mask(threshold=0.05))),
        {"loss_type": "grpo", "epsilon": 0.2, "off_policy_mask_threshold": 0.05, **CORRECTED_KL},
    ),
    # Entropy.
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
        lambda: _trl_fork(methods.grpo(), 0.3), {"loss_type": "grpo", "epsilon": 0.2, "top_entropy_quantile": 0.3}
    ),
    "forking cispo": (
        lambda: _trl_fork(methods.cispo(cap=1.2), 0.3),
        {"loss_type": "cispo", "epsilon_high": 1.2, "top_entropy_quantile": 0.3},
    ),
    "forking luspo": (
        lambda: _trl_fork(_gspo(methods.luspo), 0.3), {"loss_type": "luspo", "top_entropy_quantile": 0.3, **GSPO}
    ),
    # Another engine sampled.
    **{
        f"engine {mode}": (
            lambda mode=mode: chain(methods.dapo(), engine_correction(mode=mode, low=0.9, high=1.1)),
            {"loss_type": "dapo", "use_vllm": True, "vllm_importance_sampling_mode": mode,
             "vllm_importance_sampling_clip_min": 0.9, "vllm_importance_sampling_clip_max": 1.1, **PPO},
        )
        for mode in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
    },
    "engine off": (
        methods.dapo, {"loss_type": "dapo", "use_vllm": True, "vllm_importance_sampling_correction": False, **PPO}
    ),
    **{
        f"vespo {mode}": (
            lambda mode=mode: chain(
                *(gamma_weight(engine=mode, engine_high=1.21) if x.name == "gamma_weight" else x
                  for x in methods.vespo().links)
            ),
            {"loss_type": "vespo", "use_vllm": True, "vllm_importance_sampling_mode": mode,
             "vllm_importance_sampling_clip_max": 1.21},
        )
        for mode in ("token_truncate", "token_mask")
    },
}  # fmt: skip

BY_PASS = {"bnpo", "bnpo of answers", "entropy bonus", *(name for name in CASES if name.startswith("forking"))}
"""Cases in which TRL's result depends on how many rows a pass holds: means or quantiles of the pass."""
