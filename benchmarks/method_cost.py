"""What does the credit of every method cost on 65,536 tokens, in CPU time and in memory?

    OMP_NUM_THREADS=1 python benchmarks/method_cost.py [--rounds 7] [--only NAME …] [--out benchmarks/results]

One rollout batch of 64 answers of 1,024 tokens in 8 groups, float32, one thread: both stages of the chain with its
default arguments (1 where the source gives none) and everything it may need at hand; hidden states have 256 numbers
a token. The loss and the model's passes are not in it. Time is the least CPU time of the rounds; memory the most that
lived at one time of what operations made, result included, in units of one float32 number a token (256 KiB).

Goals: under 50 ms without hidden states; at most 20 times the inputs, which are four such units and more.
"""

from __future__ import annotations

import argparse
import inspect
import time
import weakref
from pathlib import Path
from typing import Any

import benchtables
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROWS, TOKENS, GROUP, HIDDEN = 64, 1024, 8, 256
GOAL_MS, GOAL_UNITS = 50, 20


class Live(TorchDispatchMode):
    """Counts the bytes of the storages that operations have made and that are still in use."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        given = [x for x in tree_leaves((arguments, keywords)) if isinstance(x, torch.Tensor)]
        before = {x.untyped_storage()._cdata for x in given}
        out = function(*arguments, **(keywords or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in before:
                storage = tensor.untyped_storage()
                self.live += storage.nbytes()
                weakref.finalize(storage, self._gone, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return out

    def _gone(self, size: int) -> None:
        self.live -= size


def batch() -> tuple[Any, Any]:
    """Return the rollouts and the current policy's forward, with a value for everything a link may need."""
    from forkpoint.rollouts import Forward, Prompt, Rollouts

    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
    shape = (ROWS, TOKENS)
    row_B, position_BT = torch.arange(ROWS), torch.arange(TOKENS).expand(shape)
    logp_BT = -3 * draw(*shape) ** 3 - 0.01
    entropy_BT = 2 * draw(*shape) ** 2
    hidden_BTH = torch.randn(*shape, HIDDEN, generator=generator)
    rollouts = Rollouts(
        prompts=tuple(Prompt(id=f"problem-{i}", text="") for i in range(ROWS // GROUP)),
        prompt_BS=torch.ones(ROWS, 1, dtype=torch.int64),
        prompt_length_B=torch.ones(ROWS, dtype=torch.int64),
        ids_BT=torch.randint(0, 1000, shape, generator=generator),
        mask_BT=torch.ones(shape, dtype=torch.bool),
        group_B=row_B // GROUP,
        sample_B=row_B % GROUP,
        logp_BT=logp_BT,
        entropy_BT=entropy_BT,
        finish=("stop",) * ROWS,
        text=("",) * ROWS,
        reward_B=torch.randint(0, 2, (ROWS,), generator=generator).float(),
        ref_logp_BT=logp_BT + 0.1 * draw(*shape),
        max_tokens=TOKENS,
        extra={
            "hidden": hidden_BTH, "cluster": GROUP * (row_B // GROUP) + row_B % 3, "error_class": row_B % 3,
            "step": position_BT // 50, "planning": position_BT % 7 == 1, "thinking": position_BT < 800,
            "turn": position_BT // 200, "anchor": torch.full((ROWS,), TOKENS - 5), "proxy_logp": logp_BT + 0.01,
            "sampled_flow": -0.3 * draw(*shape), "collision": draw(*shape), "attention_entropy": draw(*shape),
            "step_reward": draw(*shape).round(), "kind": row_B % 2, "explore": row_B % 8 == 7,
            "sampler_logp": logp_BT + 0.01,
        },
    )  # fmt: skip
    forward = Forward(
        logp_BT=logp_BT + 0.2 * draw(*shape) - 0.1,
        entropy_BT=entropy_BT + 0.05,
        extra={"hidden": hidden_BTH, "nucleus_entropy": 0.8 * entropy_BT},
    )
    return rollouts, forward


def credited(chain: Any, rollouts: Any, forward: Any) -> Any:
    """Run both stages of a chain from its first state."""
    from forkpoint.credit import init, run
    from forkpoint.rollouts import blank_credit

    credit, states = run(chain, blank_credit(rollouts), rollouts, init(chain), when="rollout")
    return run(chain, credit, rollouts, states, when="update", forward=forward)[0]


def measured(name: str, rollouts: Any, forward: Any, rounds: int) -> dict[str, Any]:
    """Return time, memory and needs of one method."""
    from forkpoint.methods import METHODS

    parameters = inspect.signature(METHODS[name]).parameters.items()
    chain = METHODS[name](**{key: 1.0 for key, value in parameters if value.default is value.empty})
    clock = lambda: benchtables.cpu_seconds(lambda: credited(chain, rollouts, forward))  # noqa: E731
    first = clock()
    seconds = [first] if first > 5 else [clock() for _ in range(rounds)]  # without a warm-up where it would cost much
    with Live() as count:
        credit = credited(chain, rollouts, forward)
    del credit
    return {
        "milliseconds": 1e3 * min(seconds),
        "rounds": len(seconds),
        "units": count.peak / (4 * ROWS * TOKENS),
        "hidden": any(need.endswith("hidden") for need in chain.needs),
    }


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--out", type=Path, default=benchtables.RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)

    from forkpoint.methods import METHODS

    rollouts, forward = batch()
    start = time.process_time()
    found = {name: measured(name, rollouts, forward, given.rounds) for name in given.only or METHODS}
    rows = [
        [f"{name}{' (hidden states)' if x['hidden'] else ''}", f"{x['milliseconds']:.1f}", f"{x['units']:.1f}"]
        for name, x in sorted(found.items(), key=lambda item: -item[1]["milliseconds"])
    ]
    plain = [x for x in found.values() if not x["hidden"]]
    where = benchtables.surroundings(threads=1)
    within = sum(x["milliseconds"] < GOAL_MS for x in plain)
    text = "\n\n".join([
        benchtables.heading("Credit on 65,536 tokens", where),
        f"{ROWS} answers of {TOKENS:,} tokens in groups of {GROUP}, float32; hidden states of {HIDDEN} numbers. Least "
        f"CPU time of {given.rounds} rounds, fewer where one took seconds; memory in units of one float32 a token.",
        benchtables.table(["method", "ms", "memory"], rows),
        f"{within} of {len(plain)} methods without hidden states take less than {GOAL_MS} ms, "
        f"{sum(x['units'] <= GOAL_UNITS for x in plain)} at most {GOAL_UNITS} units.",
    ])  # fmt: skip
    print(text)
    if given.only is None:
        data = {"where": where, "cpu_seconds": time.process_time() - start, "methods": found}
        benchtables.write(given.out, "method_cost", text, data)


if __name__ == "__main__":
    main()
