"""Write `verl_losses.json`: the policy losses of an installed verl on fixed tensors, with their gradients.

    python tests/engines_parity/record_verl.py path/to/verl/trainer/ppo/core_algos.py VERSION

Only the loss functions are taken out of that file and run; the rest of verl and what it imports are not needed.
"""

from __future__ import annotations

import ast
import json
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
          "compute_grpo_outcome_advantage", "kl_penalty", "kl_penalty_forward")  # fmt: skip
LENGTHS = (5, 2, 3, 1, 6, 4, 2, 3)
GROUPS = (0, 0, 0, 0, 1, 1, 1, 1)
REWARDS = (1.0, 0.0, 0.0, 2.0, 1.0, 0.0, 1.0, 1.0)
MICROS = ((0, 1, 2, 3, 4), (5, 6, 7))
CLIP = {"clip_ratio": 0.2, "clip_ratio_low": 0.2, "clip_ratio_high": 0.28, "clip_ratio_c": 3.0}
NARROW = {**CLIP, "clip_ratio_low": 0.05, "clip_ratio_high": 0.04}
# A share of 1 silences every candidate, so that the draw does not matter.
COV = {"clip_cov_ratio": 1.0, "clip_cov_lb": 0.3, "clip_cov_ub": 5.0, "kl_cov_ratio": 0.2, "ppo_kl_coef": 0.7}
CASES = {
    "vanilla": ("compute_policy_loss_vanilla", CLIP, "token-mean"),
    "gspo": ("compute_policy_loss_gspo", NARROW, "seq-mean-token-mean"),
    "clip_cov": ("compute_policy_loss_clip_cov", CLIP, "token-mean"),
    "kl_cov": ("compute_policy_loss_kl_cov", CLIP, "token-mean"),
    "geo_mean": ("compute_policy_loss_geo_mean", {**CLIP, "clip_ratio_low": 0.2, "clip_ratio_high": 0.3}, "token-mean"),
    "cispo": ("compute_policy_loss_cispo", {**CLIP, "clip_ratio_low": 10.0, "clip_ratio_high": 0.2}, "token-mean"),
}


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
    masked = taken(helpers, ("masked_sum", "masked_mean"), {"torch": torch})
    return taken(path, WANTED, {
        "torch": torch, "np": numpy, "Any": Any, "Optional": Optional, "Callable": Callable, "defaultdict": defaultdict,
        "ActorConfig": SimpleNamespace, "AlgoConfig": type("AlgoConfig", (), {}), "DictConfig": dict,
        "verl_F": SimpleNamespace(**masked),
    })  # fmt: skip


def main(path: Path, version: str) -> None:
    verl = functions(path)
    generator = torch.Generator().manual_seed(7)
    shape = (len(LENGTHS), max(LENGTHS))
    mask = torch.tensor([[t < n for t in range(shape[1])] for n in LENGTHS])
    old = torch.where(mask, -3 * torch.rand(shape, generator=generator, dtype=torch.float64) - 0.01, 0.0)
    moved = torch.where(mask, 0.8 * torch.rand(shape, generator=generator, dtype=torch.float64) - 0.4, 0.0)
    rewards = torch.zeros(shape, dtype=torch.float64)
    rewards[:, 0] = torch.tensor(REWARDS, dtype=torch.float64)
    advantage, _ = verl["compute_grpo_outcome_advantage"](rewards, mask.double(), index=[str(g) for g in GROUPS])

    def run(name: str, rows: list[int]) -> tuple[float, list]:
        function, config, mode = CASES[name]
        new = (old + moved).clone().requires_grad_()
        settings = SimpleNamespace(**config, policy_loss=SimpleNamespace(**COV), global_batch_info={}, get=config.get)
        loss, _ = verl[function](
            old[rows], new[rows], advantage[rows], mask[rows].double(), loss_agg_mode=mode, config=settings
        )
        loss.backward()
        return loss.item(), new.grad.tolist()

    everyone = list(range(len(LENGTHS)))
    new, ref = old + moved, old - 0.3
    out: dict[str, Any] = {
        "source": f"verl {version} trainer/ppo/core_algos.py",
        "lengths": LENGTHS, "groups": GROUPS, "rewards": REWARDS, "micros": MICROS,
        "old": old.tolist(), "new": new.tolist(), "advantage": advantage.tolist(),
        "losses": {name: run(name, everyone) for name in CASES},
        "micro_losses": {name: [run(name, list(rows)) for rows in MICROS] for name in ("clip_cov", "kl_cov")},
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
