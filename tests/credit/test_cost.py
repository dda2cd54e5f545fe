"""What a chain may allocate: counted bytes, never clocks."""

from __future__ import annotations

import inspect
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from core_batches import random_rollouts
from forkpoint.credit import init, run
from forkpoint.methods import METHODS
from forkpoint.rollouts import blank_credit

ROWS, TOKENS = 32, 512


class Live(TorchDispatchMode):
    """Counts the bytes of the storages that operations have made and that are still in use."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
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

    def _gone(self, size):
        self.live -= size


@pytest.mark.parametrize("name", METHODS)
def test_credit_takes_less_than_twenty_times_its_inputs(name):
    """In units of one float32 (B, T) tensor, the credit that is returned included."""
    parameters = inspect.signature(METHODS[name]).parameters.items()
    chain = METHODS[name](**{key: 1.0 for key, value in parameters if value.default is value.empty})
    if any(need.endswith("hidden") for need in chain.needs):
        pytest.skip("reads hidden states, which are larger than everything here")
    groups = [row // 8 for row in range(ROWS)]
    rollouts, forward = random_rollouts(0, lengths=[TOKENS] * ROWS, groups=groups, dtype=torch.float32)
    with Live() as count:
        credit, states = run(chain, blank_credit(rollouts), rollouts, init(chain), when="rollout")
        run(chain, credit, rollouts, states, when="update", forward=forward)
    # 2 is the least there is: advantage and weight.
    assert 2 < count.peak / (4 * ROWS * TOKENS) < 20
