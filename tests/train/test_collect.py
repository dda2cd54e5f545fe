"""Filling a rollout batch: dynamic sampling, its cap, and what could not be judged."""

import dataclasses

import pytest
import torch

from forkpoint.decode.decoder import Sampling
from forkpoint.errors import TrainingError
from forkpoint.rollouts import Judgement, Prompt, Verdict
from forkpoint.tasks.task import Task
from forkpoint.train.collect import CollectSettings, collect, entropy_metrics
from forkpoint.verify.reward import useful_groups
from tiny import qwen3, tokenizer

WORDS = tokenizer()
MODEL = qwen3()
SAMPLING = Sampling(max_tokens=8, stop_ids=(1,), slots=64)


def task(judge):
    def prompt(seed, position):
        return Prompt(id=f"p{position}", text=" ".join(str(position + 10)))

    return Task(name="toy", train_prompt=prompt, heldout=(), judge=judge)


def verdict(right):
    return Judgement(verdict=Verdict.RIGHT if right else Verdict.WRONG, reward=float(right))


def odd_length(prompts, texts):
    return [verdict(len(text.split()) % 2) for text in texts]


def every_other_problem_is_too_easy(prompts, texts):
    return [verdict(int(p.id[1:]) % 2 or len(t.split()) % 2) for p, t in zip(prompts, texts, strict=True)]


def filled(judge, **changes):
    settings = CollectSettings(**({"prompts": 4, "group": 6} | changes))
    return collect(
        MODEL, WORDS, task(judge), lambda prompts: [WORDS(p.text)["input_ids"] for p in prompts],
        SAMPLING, settings, step=1, position=0, version=0,
    )  # fmt: skip


def test_groups_that_teach_nothing_are_replaced():
    found = filled(every_other_problem_is_too_easy)
    batch = found.rollouts
    assert len(batch.prompts) == 4
    assert len(useful_groups(batch)) == 4
    assert all(int(prompt.id[1:]) % 2 == 0 for prompt in batch.prompts)
    assert batch.rows == 24
    assert found.position == found.metrics["groups/resampled"] + 4
    assert found.metrics["groups/resampled"] >= 3
    assert found.note is None


def test_without_dynamic_sampling_every_group_stays():
    found = filled(every_other_problem_is_too_easy, dynamic_sampling=False)
    assert [prompt.id for prompt in found.rollouts.prompts] == ["p0", "p1", "p2", "p3"]
    assert found.position == 4
    assert found.metrics["groups/resampled"] == 0


def test_the_cap_is_told_and_the_batch_goes_on_smaller():
    found = filled(every_other_problem_is_too_easy, max_rounds=1)
    assert len(found.rollouts.prompts) == 2
    assert "only 2 of 4 groups were useful after 1 rounds" in found.note


@pytest.mark.parametrize(("right", "word"), [(False, "easier"), (True, "harder")])
def test_a_batch_without_a_useful_group_stops_the_run(right, word):
    with pytest.raises(TrainingError, match=rf"every one of 8 groups was degenerate after 2 rounds.*{word} problems"):
        filled(lambda prompts, texts: [verdict(right)] * len(texts), max_rounds=2)


def test_answers_that_cannot_be_judged_stop_the_run_by_name():
    unjudged = Judgement(verdict=Verdict.UNJUDGED, reward=0.0)
    with pytest.raises(TrainingError, match="none of the 48 answers could be judged"):
        filled(lambda prompts, texts: [unjudged] * len(texts), max_rounds=2)


def test_unjudged_answers_do_not_make_a_group_useful():
    def judge(prompts, texts):
        return [
            Judgement(verdict=Verdict.UNJUDGED, reward=0.0) if i % 6 == 0 else verdict(True) for i in range(len(texts))
        ]

    with pytest.raises(TrainingError, match="degenerate"):
        filled(judge, max_rounds=1)


def test_length_punishment_counts_in_the_reward_but_makes_no_group_useful():
    with pytest.raises(TrainingError, match="degenerate"):
        filled(lambda prompts, texts: [verdict(True)] * len(texts), overlong_buffer=4, max_rounds=1)
    batch = filled(odd_length, overlong_buffer=4, overlong_factor=0.5).rollouts
    length_B = batch.mask_BT.sum(1)
    # Buffer 4 of 8 tokens: nothing up to 4, then a quarter a token, half of it by the factor.
    expected_B = -0.5 * ((length_B - 4).clamp(min=0) / 4)
    torch.testing.assert_close(batch.reward_parts["overlong"], expected_B)
    torch.testing.assert_close(batch.reward_B, batch.reward_parts["answer"] + expected_B)


def test_a_problem_that_is_too_long_is_left_out():
    found = collect(
        MODEL, WORDS, task(odd_length),
        lambda prompts: [[] if p.id in ("p0", "p2") else WORDS(p.text)["input_ids"] for p in prompts],
        SAMPLING, CollectSettings(prompts=3, group=4, dynamic_sampling=False), step=1, position=0, version=0,
    )  # fmt: skip
    assert [prompt.id for prompt in found.rollouts.prompts] == ["p1", "p3", "p4"]
    assert found.position == 5


def test_the_same_key_gives_the_same_batch():
    first, again = filled(odd_length), filled(odd_length)
    assert first.rollouts.text == again.rollouts.text
    assert first.rollouts.text != filled(odd_length, seed=1).rollouts.text


def test_entropy_metrics_split_by_advantage_sign():
    batch = filled(odd_length, dynamic_sampling=False).rollouts
    T = batch.ids_BT.shape[1]
    batch = dataclasses.replace(batch, entropy_BT=torch.arange(T).float().expand_as(batch.entropy_BT) * batch.mask_BT)
    # Advantage 1 on the first two tokens, 0 on the third, -1 after that.
    sign_BT = (2.0 - torch.arange(T)).clamp(-1, 1).expand_as(batch.entropy_BT)
    found = entropy_metrics(batch, sign_BT)
    values = batch.entropy_BT[batch.mask_BT]
    assert found["entropy/mean"] == pytest.approx(float(values.mean()))
    assert found["entropy/positive"] == pytest.approx(float(values[values < 2].mean()))
    assert found["entropy/negative"] == pytest.approx(float(values[values > 2].mean()))
    assert found["entropy/below_0.01"] == pytest.approx(float((values == 0).float().mean()))


def test_empty_answers_are_answers():
    """A model that ends at once: one token an answer, no text, and still a verdict and a gradient's worth of rows."""
    always_ends = Sampling(max_tokens=8, stop_ids=tuple(range(len(WORDS))), slots=64)
    seen = []

    def judge(prompts, texts):
        seen.extend(texts)
        return [verdict(i % 2) for i in range(len(texts))]

    batch = collect(
        MODEL, WORDS, task(judge), lambda prompts: [WORDS(p.text)["input_ids"] for p in prompts],
        always_ends, CollectSettings(prompts=2, group=4), step=1, position=0, version=0,
    ).rollouts  # fmt: skip
    assert set(seen) == {""}
    assert batch.ids_BT.shape == (8, 1)
    assert bool(batch.mask_BT.all())
    assert batch.finish == ("stop",) * 8
