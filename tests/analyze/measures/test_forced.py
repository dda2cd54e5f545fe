from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from forkpoint.analyze.measures import forced
from forkpoint.analyze.measures.forced import (
    answer_entropies,
    forced_answer_bits,
    forced_logp,
    forced_measure,
    top_k_bits_of,
)
from forkpoint.analyze.measures.sequence import top_k_bits
from forkpoint.entropy.token import entropy_of
from forkpoint.errors import InputError
from tiny import qwen3


def own(model, ids, temperature=1.0):
    """What the model itself says after all of `ids`."""
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0] / temperature, -1)


def test_distributions_are_the_models_own():
    model = qwen3()
    contexts, targets = [[3, 4, 5], [9], [6, 7]], [[8, 9], [5, 6, 7, 8], [4]]
    seen = {}
    for index, logp in forced_logp(model, contexts, targets, temperature=0.5, tokens_at_once=9):
        seen[index] = logp
    for index, (context, target) in enumerate(zip(contexts, targets, strict=True)):
        expected = own(model, [*context, *target], 0.5)[len(context) - 1 : -1]
        assert torch.allclose(seen[index], expected, atol=2e-5)


def test_batches_are_full_and_none_is_too_large(monkeypatch):
    shapes = []
    real = forced.read
    monkeypatch.setattr(
        forced, "read", lambda m, head, **i: (shapes.append(tuple(i["input_ids"].shape)), real(m, head, **i))[1]
    )
    forced_measure(qwen3(), [[5] * n for n in (1, 6, 2, 5, 3)], [[4]] * 5, entropy_of, tokens_at_once=12)
    assert shapes == [(2, 6), (3, 3)]
    shapes.clear()
    forced_measure(qwen3(), [[5] * 20], [[4]], entropy_of, tokens_at_once=12)  # one request is never cut
    assert shapes == [(1, 20)]


def test_the_model_is_left_as_it_was():
    model = qwen3().train()
    forced_measure(model, [[3]], [[4]], entropy_of)
    assert model.training


@pytest.mark.parametrize(("contexts", "targets"), [([[]], [[4]]), ([[4]], [[]]), ([[4]], [])])
def test_requests_that_cannot_be_forced(contexts, targets):
    with pytest.raises(InputError):
        list(forced_logp(qwen3(), contexts, targets))


def test_forced_answer_bits_by_hand():
    model = qwen3()
    prompt, response, opener, answer = [3, 4], [5, 6, 7, 8], [14], [9, 10]
    found = forced_answer_bits(model, prompt, response, opener, answer, k=3)
    expected = [
        top_k_bits(own(model, [*prompt, *response[:t], *opener, 9])[-1:].double().numpy(), 3)[0] for t in (1, 2, 3)
    ]
    assert found == pytest.approx(expected, abs=1e-5)
    assert forced_answer_bits(model, prompt, response, opener, answer, k=3, stride=2) == pytest.approx(found[[0, 2]])
    assert forced_answer_bits(model, prompt, [5], opener, answer).size == 0
    with pytest.raises(InputError, match="needs a response"):
        forced_answer_bits(model, prompt, [], opener, answer)


def test_bits_on_tensors_equal_those_on_arrays():
    logp = torch.log_softmax(torch.randn(5, 30, dtype=torch.float64), -1)
    assert np.allclose(top_k_bits_of(7)(logp), top_k_bits(logp.numpy(), 7))
    assert top_k_bits_of(99)(torch.tensor([[0.5, 0.5]]).log())[0] == pytest.approx(1.0)


def test_answer_entropies_by_hand():
    model = qwen3()
    found = answer_entropies(model, [3], [[4, 5], [6]], [9, 10], opener=[14])
    for k, before in enumerate(([3, 14], [3, 4, 5, 14], [3, 4, 5, 6, 14])):
        logp = own(model, [*before, 9, 10])[len(before) - 1 : len(before) + 1]
        assert found[k] == pytest.approx(float(entropy_of(logp).mean()), abs=1e-5)
    assert found.shape == (3,)
    assert math.isfinite(answer_entropies(model, [3], [], [9])[0])
