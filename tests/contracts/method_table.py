"""The table of methods that every contract is applied to: the rows below and those of `tests/methods`."""

from __future__ import annotations

import pytest
import torch

from forkpoint import methods
from forkpoint.credit import (
    chain,
    entropy_bonus,
    kl,
)
from forkpoint.methods import forking
from method_kit import collected, row

ROWS = {
    "grpo": row("grpo"),
    "grpo k1": row("grpo", kl_coefficient=0.3, kl_form="k1"),
    "grpo k2": row("grpo", kl_coefficient=0.3, kl_form="k2"),
    "grpo k3": row("grpo", kl_coefficient=0.3),
    "grpo without std": row("grpo", std=False),
    "grpo bonus": row("grpo", lambda: chain(methods.grpo(), entropy_bonus(coefficient=0.2))),
    "dr_grpo": row("dr_grpo"),
    "dr_grpo k3": row("dr_grpo", kl_coefficient=0.3),
    "dr_grpo constant": row("dr_grpo", constant=11.0),
    "rloo": row("rloo"),
    "reinforce_pp": row("reinforce_pp"),
    "reinforce_pp kl": row("reinforce_pp", kl_coefficient=0.3, bfloat16=0.02, level_teaches=True),
    "reinforce_pp group": row("reinforce_pp", baseline="group", kl_coefficient=0.3),
    "dapo": row("dapo"),
    "dapo dual": row("dapo", dual=1.1),
    "dapo k3": row("dapo", kl_coefficient=0.3),
    "gspo": row("gspo", teaches=False),
    "gspo wide": row("gspo", clip_low=0.2, clip_high=0.2),
    "cispo": row("cispo"),
    "cispo capped": row("cispo", cap=1.1, floor=0.9),
    "entropy_bonus": row("entropy_bonus", coefficient=0.2),
    "forking": row("forking"),
    "forking authors-code": row("forking", preset="authors-code", micro=True),
    "forking trl": row("forking", preset="trl", micro=True),
    "forking micro": row("forking", scope="micro", micro=True),
    "forking micro behaviour": row("forking", scope="micro", source="behaviour", micro=True),
    "forking micro random": row("forking", scope="micro", keep="random", micro=True),
    "forking sequence": row("forking", scope="sequence"),
    "forking group": row("forking", scope="group"),
    "forking rollout": row("forking", scope="rollout"),
    "forking behaviour": row("forking", source="behaviour"),
    "forking behaviour sequence": row("forking", source="behaviour", scope="sequence"),
    "forking behaviour rollout": row("forking", source="behaviour", scope="rollout"),
    "forking threshold": row("forking", ties="threshold"),
    "forking threshold sequence": row("forking", ties="threshold", scope="sequence"),
    "forking all": row("forking", denominator="all"),
    "forking bottom": row("forking", keep="bottom"),
    "forking bottom threshold": row("forking", keep="bottom", ties="threshold", share=0.6),
    "forking random": row("forking", keep="random"),
    "forking random rollout": row("forking", keep="random", scope="rollout"),
    "forking half": row("forking", share=0.5),
    "forking bonus": row("forking", lambda: chain(forking(), entropy_bonus(coefficient=0.2))),
    "forking all bonus": row(
        "forking",
        lambda: chain(forking(denominator="all"), entropy_bonus(coefficient=0.2), kl(coefficient=0.3)),
    ),
    "forking gspo": row(
        "forking", lambda: chain(methods.gspo(clip_low=0.3, clip_high=0.3), *forking(share=0.4).links[-1:])
    ),
}
ROWS = {**ROWS, **collected("ROWS")}
EVERY = pytest.mark.parametrize("name", ROWS)


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def same_learning(got, expected, *, exactly=False):
    check = (lambda x, y: torch.testing.assert_close(x, y, rtol=0, atol=0)) if exactly else close
    check(torch.tensor(got.value).double(), torch.tensor(expected.value).double())
    check(got.logp_gradient_BT, expected.logp_gradient_BT)
    check(got.entropy_gradient_BT, expected.entropy_gradient_BT)
