"""Held-out accuracy of a model."""

import pytest
import torch

from forkpoint.decode.decoder import Sampling
from forkpoint.errors import InputError
from forkpoint.evaluate.heldout import evaluate_heldout
from forkpoint.rollouts import Judgement, Prompt, Verdict
from tiny import qwen3, tokenizer

WORDS = tokenizer()
PROMPTS = [Prompt(id=f"p{i}", text=f"{i} + 1 =") for i in range(6)]


def evaluated(judge, **changes):
    encoded = [WORDS(prompt.text)["input_ids"] for prompt in PROMPTS]
    settings = {"samples": 3, "seed": 0} | changes
    encoded = settings.pop("encoded", encoded)
    sampling = Sampling(max_tokens=6, stop_ids=(1,))
    return evaluate_heldout(qwen3(), WORDS, PROMPTS, encoded, judge, sampling, **settings)


def first_problems_right(prompts, texts):
    return [
        Judgement(verdict=Verdict.RIGHT if p.id in ("p0", "p1") else Verdict.WRONG, reward=float(p.id in ("p0", "p1")))
        for p in prompts
    ]


def test_accuracy_is_over_problems_with_an_interval():
    found = evaluated(first_problems_right)
    metrics = found.metrics()
    assert metrics["eval/accuracy"] == pytest.approx(2 / 6)
    assert metrics["eval/problems"] == 6
    assert metrics["eval/samples"] == 3
    assert metrics["eval/accuracy_low"] < 2 / 6 < metrics["eval/accuracy_high"]
    # Standard error of six problem means, four 0 and two 1: sqrt(variance 8/30 / 6).
    assert metrics["eval/accuracy_error"] == pytest.approx((8 / 30 / 6) ** 0.5)
    rows = found.rollouts
    assert metrics["eval/length"] == pytest.approx(float(rows.mask_BT.sum()) / 18)
    assert metrics["eval/entropy"] == pytest.approx(float(rows.entropy_BT[rows.mask_BT].mean()), rel=1e-5)


def test_draws_depend_on_seed_problem_and_sample_alone():
    first, again, other = (evaluated(first_problems_right, seed=seed) for seed in (0, 0, 1))
    assert first.rollouts.text == again.rollouts.text
    assert first.rollouts.text != other.rollouts.text


def test_what_could_not_be_judged_is_counted_and_left_out():
    def judge(prompts, texts):
        rows = first_problems_right(prompts, texts)
        return [
            Judgement(verdict=Verdict.UNJUDGED, reward=0.0) if p.id in ("p4", "p5") else row
            for p, row in zip(prompts, rows, strict=True)
        ]

    metrics = evaluated(judge).metrics()
    assert metrics["eval/accuracy"] == pytest.approx(0.5)
    assert metrics["eval/unjudged"] == pytest.approx(1 / 3)
    assert metrics["eval/reward"] == pytest.approx(0.5)


def test_dropped_problems_are_left_out_and_none_is_an_error():
    encoded = [WORDS(prompt.text)["input_ids"] if i < 4 else [] for i, prompt in enumerate(PROMPTS)]
    assert evaluated(first_problems_right, encoded=encoded).metrics()["eval/problems"] == 4
    with pytest.raises(InputError, match="no held-out problem"):
        evaluated(first_problems_right, encoded=[[]] * 6)


def test_the_model_is_left_as_it_was():
    model = qwen3().train()
    before = [p.clone() for p in model.parameters()]
    encoded = [WORDS(prompt.text)["input_ids"] for prompt in PROMPTS]
    sampling = Sampling(max_tokens=6, stop_ids=(1,))
    evaluate_heldout(model, WORDS, PROMPTS, encoded, first_problems_right, sampling, samples=1, seed=0)
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
