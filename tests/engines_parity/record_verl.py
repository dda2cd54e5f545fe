"""Write `verl_losses.json`: the policy losses of an installed verl on fixed tensors, with their gradients.

    python tests/engines_parity/record_verl.py path/to/verl/trainer/ppo/core_algos.py VERSION

Only the loss functions are taken out of that file and run; the rest of verl and what it imports are not needed.
"""

from __future__ import annotations

import ast
import inspect
import json
import math
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import numpy
import torch

WANTED = ("agg_loss", "compute_policy_loss_vanilla", "compute_policy_loss_gspo", "compute_policy_loss_clip_cov",
          "compute_policy_loss_kl_cov", "compute_policy_loss_geo_mean", "compute_policy_loss_cispo",
          "compute_policy_loss_dppo_tv", "compute_policy_loss_dppo_kl", "compute_policy_loss_sapo",
          "compute_policy_loss_gpg", "compute_policy_loss_dro", "compute_policy_loss_reinforce",
          "compute_grpo_outcome_advantage", "kl_penalty", "kl_penalty_forward",
          "compute_grpo_vectorized_outcome_advantage", "compute_grpo_passk_outcome_advantage",
          "compute_reinforce_plus_plus_baseline_outcome_advantage", "compute_rloo_outcome_advantage",
          "compute_opo_outcome_advantage", "compute_reinforce_plus_plus_outcome_advantage",
          "compute_gpg_outcome_advantage", "compute_rloo_vectorized_outcome_advantage",
          "compute_optimal_token_baseline_advantage")  # fmt: skip
ADVANTAGES = {
    "grpo": ("compute_grpo_outcome_advantage", {}),
    "grpo without std": ("compute_grpo_outcome_advantage", {"norm_adv_by_std_in_grpo": False}),
    "grpo_vectorized": ("compute_grpo_vectorized_outcome_advantage", {}),
    "grpo_passk": ("compute_grpo_passk_outcome_advantage", {"config": {"norm_adv_by_std_in_grpo": True}}),
    "grpo_passk without std": ("compute_grpo_passk_outcome_advantage", {"config": {"norm_adv_by_std_in_grpo": False}}),
    "reinforce_plus_plus": ("compute_reinforce_plus_plus_outcome_advantage", {"config": SimpleNamespace(gamma=1.0)}),
    "reinforce_plus_plus_baseline": ("compute_reinforce_plus_plus_baseline_outcome_advantage", {}),
    "rloo": ("compute_rloo_outcome_advantage", {}),
    "rloo_vectorized": ("compute_rloo_vectorized_outcome_advantage", {}),
    "opo": ("compute_opo_outcome_advantage", {}),
    "gpg": ("compute_gpg_outcome_advantage", {}),
    "optimal_token_baseline": ("compute_optimal_token_baseline_advantage", {}),
}
MODES = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean")
LENGTHS = (5, 2, 3, 1, 6, 4, 2, 3)
GROUPS = (0, 0, 0, 0, 1, 1, 1, 1)
REWARDS = (1.0, 0.0, 0.0, 2.0, 1.0, 0.0, 1.0, 1.0)
MICROS = ((0, 1, 2, 3, 4), (5, 6, 7))
CLIP = {"clip_ratio": 0.2, "clip_ratio_low": 0.2, "clip_ratio_high": 0.28, "clip_ratio_c": 3.0}
NARROW = {**CLIP, "clip_ratio_low": 0.05, "clip_ratio_high": 0.04}
# A share of 1 silences every candidate, so that the draw does not matter.
COV = {
    "clip_cov_ratio": 1.0, "clip_cov_lb": 0.3, "clip_cov_ub": 5.0, "kl_cov_ratio": 0.2, "ppo_kl_coef": 0.7,
    "dro_beta": 0.6,
}  # fmt: skip
TRUST = {**CLIP, "clip_ratio_low": 0.04, "clip_ratio_high": 0.06, "clip_ratio_c": 1.3}
CASES = {
    "vanilla": ("compute_policy_loss_vanilla", CLIP, "token-mean"),
    "gspo": ("compute_policy_loss_gspo", NARROW, "seq-mean-token-mean"),
    "clip_cov": ("compute_policy_loss_clip_cov", CLIP, "token-mean"),
    "kl_cov": ("compute_policy_loss_kl_cov", CLIP, "token-mean"),
    "geo_mean": ("compute_policy_loss_geo_mean", {**CLIP, "clip_ratio_low": 0.2, "clip_ratio_high": 0.3}, "token-mean"),
    "cispo": ("compute_policy_loss_cispo", {**CLIP, "clip_ratio_low": 10.0, "clip_ratio_high": 0.2}, "token-mean"),
    "dppo_tv": ("compute_policy_loss_dppo_tv", TRUST, "token-mean"),
    "dppo_kl": (
        "compute_policy_loss_dppo_kl", {**TRUST, "clip_ratio_low": 0.01, "clip_ratio_high": 0.02}, "token-mean"
    ),
    "sapo": ("compute_policy_loss_sapo", {"tau_pos": 1.0, "tau_neg": 1.05}, "seq-mean-token-mean"),
    "gpg": ("compute_policy_loss_gpg", {}, "token-mean"),
    "dro": ("compute_policy_loss_dro", {}, "token-mean"),
    **{f"vanilla {mode}": ("compute_policy_loss_vanilla", CLIP, mode) for mode in MODES},
    # What `bypass_mode` calls: PPO's clip, or REINFORCE with the truncated ratio of a token or of an answer.
    "bypass_mode token": ("compute_policy_loss_reinforce", {}, "token-mean"),
    "bypass_mode sequence": ("compute_policy_loss_reinforce", {}, "token-mean"),
    "vanilla weighted": ("compute_policy_loss_vanilla", CLIP, "token-mean"),
}  # fmt: skip
BY_MICRO = ("clip_cov", "kl_cov", "vanilla", "vanilla seq-mean-token-mean")


def taken(path: Path, wanted: Sequence[str], names: dict[str, Any]) -> dict[str, Any]:
    """Return the wanted functions of a file, run in a namespace that holds what they use."""
    kept = [x for x in ast.parse(path.read_text()).body if isinstance(x, ast.FunctionDef) and x.name in wanted]
    for node in kept:
        node.decorator_list = []
    exec(compile(ast.Module(body=kept, type_ignores=[]), str(path), "exec"), names)
    return names


def functions(path: Path) -> dict[str, Any]:
    """Return the loss functions of verl's file and the masked means that they use."""
    helpers = path.parents[2] / "utils" / "torch_functional.py"
    masked = taken(helpers, ("masked_sum", "masked_mean", "masked_var", "masked_whiten"), {"torch": torch})
    grouped = taken(
        path.parents[2] / "utils" / "groupwise.py",
        ("as_torch_index", "group_mean_std", "_resolve_device", "_to_1d_numpy_object_array"),
        {"torch": torch, "np": numpy, "Optional": Optional, "Any": Any, "get_device_name": lambda: "cpu"},
    )
    weights = taken(
        path.with_name("rollout_corr_helper.py"),
        ("compute_rollout_correction_weights", "_parse_rollout_is_threshold"),
        {
            "torch": torch,
            "math": math,
            "Optional": Optional,
            "Any": Any,
            "SAFETY_BOUND": 20.0,
            "verl_F": SimpleNamespace(**masked),
            "compute_is_metrics": lambda **_: {},
        },
    )
    return weights | grouped | taken(path, WANTED, {
        **{name: grouped[name] for name in ("as_torch_index", "group_mean_std")},
        "torch": torch, "np": numpy, "Any": Any, "Optional": Optional, "Callable": Callable, "defaultdict": defaultdict,
        "ActorConfig": SimpleNamespace, "AlgoConfig": type("AlgoConfig", (), {}), "DictConfig": dict,
        "verl_F": SimpleNamespace(**masked),
    })  # fmt: skip


def inspect_of(path: Path, name: str) -> str:
    """Return the source of the tests of one function, without its docstring."""
    node = next(x for x in ast.parse(path.read_text()).body if isinstance(x, ast.FunctionDef) and x.name == name)
    return "".join(ast.unparse(x) for x in node.body[1:]).replace("'", '"')


def registered(path: Path, decorator: str) -> list[str]:
    """Return the names under which functions of verl's file are registered."""
    source = path.read_text()
    members = dict(re.findall(r'^    ([A-Z_]+) = "(\w+)"$', source, re.MULTILINE))
    found = re.findall(rf"^@{decorator}\(\s*([^)#]+?)\s*\)", source, re.MULTILINE)
    return [members.get(x.rpartition(".")[2], x).strip('"') for x in found]


def main(path: Path, version: str) -> None:
    verl = functions(path)
    generator = torch.Generator().manual_seed(7)
    shape = (len(LENGTHS), max(LENGTHS))
    mask = torch.tensor([[t < n for t in range(shape[1])] for n in LENGTHS])
    old = torch.where(mask, -3 * torch.rand(shape, generator=generator, dtype=torch.float64) - 0.01, 0.0)
    moved = torch.where(mask, 0.8 * torch.rand(shape, generator=generator, dtype=torch.float64) - 0.4, 0.0)
    rewards = torch.zeros(shape, dtype=torch.float64)
    rewards[:, 0] = torch.tensor(REWARDS, dtype=torch.float64)
    sampler = torch.where(mask, old + 0.4 * torch.rand(shape, generator=generator, dtype=torch.float64) - 0.2, 0.0)
    collision = torch.rand(shape, generator=generator, dtype=torch.float64)
    last = torch.zeros(shape, dtype=torch.float64)
    last[range(len(LENGTHS)), [n - 1 for n in LENGTHS]] = torch.tensor(REWARDS, dtype=torch.float64)
    advantage, _ = verl["compute_grpo_outcome_advantage"](rewards, mask.double(), index=[str(g) for g in GROUPS])

    def weights_of(name: str, rows: list[int], new: torch.Tensor) -> torch.Tensor | None:
        spec = {"bypass_mode token": ("token", 1.2), "bypass_mode sequence": ("sequence", 50.0),
                "vanilla weighted": ("token", 1.1)}.get(name)  # fmt: skip
        if spec is None:
            return None
        log_ratio = old - sampler if name == "vanilla weighted" else new - old
        return verl["compute_rollout_correction_weights"](log_ratio[rows], mask[rows].double(), *spec)[0]

    def advantages(name: str) -> list:
        function, arguments = ADVANTAGES[name]
        given = inspect.signature(verl[function]).parameters
        more = {"old_log_probs": old, "sum_pi_squared": collision, "index": numpy.array([str(g) for g in GROUPS])}
        found, _ = verl[function](
            token_level_rewards=last.clone(), response_mask=mask.double(),
            **{k: x for k, x in more.items() if k in given}, **arguments,
        )  # fmt: skip
        return found.tolist()

    def run(name: str, rows: list[int]) -> tuple[float, list]:
        function, config, mode = CASES[name]
        new = (old + moved).clone().requires_grad_()
        settings = SimpleNamespace(**config, policy_loss=SimpleNamespace(**COV), global_batch_info={}, get=config.get)
        weights = weights_of(name, rows, new.detach())
        loss, _ = verl[function](
            old[rows], new[rows], advantage[rows], mask[rows].double(), loss_agg_mode=mode, config=settings,
            rollout_is_weights=weights,
        )  # fmt: skip
        loss.backward()
        return loss.item(), new.grad.tolist()

    everyone = list(range(len(LENGTHS)))
    new, ref = old + moved, old - 0.3
    out: dict[str, Any] = {
        "source": f"verl {version} trainer/ppo/core_algos.py",
        "lengths": LENGTHS, "groups": GROUPS, "rewards": REWARDS, "micros": MICROS,
        "old": old.tolist(), "new": new.tolist(), "advantage": advantage.tolist(),
        "losses": {name: run(name, everyone) for name in CASES},
        "micro_losses": {name: [run(name, list(rows)) for rows in MICROS] for name in BY_MICRO},
        "sampler": sampler.tolist(), "collision": collision.tolist(),
        "advantages": {name: advantages(name) for name in ADVANTAGES},
        "registered": {kind: registered(path, kind) for kind in ("register_policy_loss", "register_adv_est")},
        "modes": re.findall(r'"([a-z]+(?:-[a-z]+)+)"', inspect_of(path, "agg_loss")),
        "kl": {},
    }  # fmt: skip
    for form, name in {"k1": "kl", "abs": "abs", "k2": "mse", "k3": "low_var_kl", "k1+": "k1+", "k3+": "k3+"}.items():
        at = new.clone().requires_grad_()
        value = verl["kl_penalty"](at, ref, name)
        (value * mask).sum().backward()
        out["kl"][form] = [(value.detach() * mask).tolist(), at.grad.tolist()]
    Path(__file__).with_name("verl_losses.json").write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
