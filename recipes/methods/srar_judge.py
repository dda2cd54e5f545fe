"""The judge of srar.toml: how near to the target every attempt of a Countdown answer came."""

import re

import torch


def nearness(rollouts, tokenizer):
    """Return `step_reward`: 1 / (1 + |value - target|) on the tokens of an attempt, NaN where it has no value."""
    step_BT = rollouts.extra["step"]
    reward_BT = torch.full(step_BT.shape, torch.nan, device=step_BT.device)
    for row, group in enumerate(rollouts.group_B.tolist()):
        target = rollouts.prompts[group].meta["target"]
        for number in range(int(step_BT[row].max()) + 1):
            there_T = step_BT[row] == number
            values = re.findall(r"= (\d+)", tokenizer.decode(rollouts.ids_BT[row][there_T]))
            if values:
                reward_BT[row, there_T] = 1 / (1 + abs(int(values[-1]) - target))
    return {"step_reward": reward_BT}
