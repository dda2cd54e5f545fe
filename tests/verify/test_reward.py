"""Rewards from judgements, and which groups are useful."""

import dataclasses

import pytest
import torch

from forkpoint.rollouts import Judgement, Prompt, Rollouts, Verdict
from forkpoint.verify.endings import convention
from forkpoint.verify.reward import answer_classes, rewarded, useful_groups

LENGTHS = (2, 8, 10, 4, 6, 1)


def rollouts() -> Rollouts:
    mask_BT = torch.arange(10)[None] < torch.tensor(LENGTHS)[:, None]
    zeros = torch.zeros(6, 10)
    return Rollouts(
        prompts=tuple(Prompt(id=name, text=name) for name in "abc"),
        prompt_BS=torch.zeros(6, 1, dtype=torch.int64), prompt_length_B=torch.ones(6, dtype=torch.int64),
        ids_BT=zeros.long(), mask_BT=mask_BT, group_B=torch.tensor([0, 0, 1, 1, 2, 2]),
        sample_B=torch.tensor([0, 1] * 3), logp_BT=zeros, entropy_BT=zeros,
        finish=("stop",) * 6, text=tuple("uvwxyz"), max_tokens=10,
    )  # fmt: skip


def judge(*verdicts):
    def one(word):
        verdict = {"r": Verdict.RIGHT, "w": Verdict.WRONG, "u": Verdict.UNJUDGED}[word]
        return Judgement(verdict=verdict, reward=float(word == "r"))

    return lambda prompts, texts: [one(word) for word in verdicts]


def test_every_answer_is_judged_with_its_own_problem():
    seen = []

    def look(prompts, texts):
        seen.extend(zip([p.id for p in prompts], texts, strict=True))
        return judge(*"rwrwrw")(prompts, texts)

    out = rewarded(rollouts(), look)
    assert seen == list(zip("aabbcc", "uvwxyz", strict=True))
    assert out.reward_B.tolist() == [1, 0, 1, 0, 1, 0]
    assert out.verdicts[:2] == (Verdict.RIGHT, Verdict.WRONG)


def test_overlong_answers_lose_reward_by_hand():
    # Limit 10, buffer 4: free up to 6 tokens, then a quarter a token: lengths 2 8 10 4 6 1 lose 0 .5 1 0 0 0, halved.
    out = rewarded(rollouts(), judge(*"rrrrrr"), overlong_buffer=4, overlong_factor=0.5)
    assert out.reward_B.tolist() == pytest.approx([1, 0.75, 0.5, 1, 1, 1])
    assert out.reward_parts["overlong"].tolist() == pytest.approx([0, -0.25, -0.5, 0, 0, 0])
    assert out.reward_parts["answer"].tolist() == [1] * 6


def test_what_was_not_judged_earns_nothing_and_says_so():
    out = rewarded(rollouts(), judge(*"rurwuu"), overlong_buffer=4)
    assert out.judged_B.tolist() == [True, False, True, True, False, False]
    assert out.reward_B.tolist() == pytest.approx([1, 0, 0, 0, 0, 0])


def test_named_parts_add_up():
    def parts(prompts, texts):
        values = {"answer": 1.0, "format": -0.25}
        return [Judgement(verdict=Verdict.RIGHT, reward=0.75, parts=values) for _ in texts]

    out = rewarded(rollouts(), parts)
    assert out.reward_B.tolist() == [0.75] * 6
    assert set(out.reward_parts) == {"answer", "format"}


@pytest.mark.parametrize(
    ("verdicts", "useful"),
    [("rwrrww", [0]), ("rwwrrw", [0, 1, 2]), ("rrwwrr", []), ("ruwwrw", [2]), ("uuuuuu", [])],
)
def test_useful_groups_have_right_and_wrong_answers(verdicts, useful):
    assert useful_groups(rewarded(rollouts(), judge(*verdicts), overlong_buffer=4)) == useful


def classes(texts, verdicts):
    out = dataclasses.replace(rewarded(rollouts(), judge(*verdicts)), text=tuple(texts))
    return answer_classes(out, convention("boxed").find).tolist()


def test_equal_final_answers_of_a_group_are_one_class():
    half, third = r"\boxed{1/2}", r"\boxed{0.5}"
    assert classes([half, third, half, half, "none", r"\boxed{1}"], "wwwwww") == [0, 0, 1, 1, 2, 3]
    # Answers without a final one are one class of their own, and groups never share a class.
    assert classes(["a", "b", "a", "b", "a", "b"], "wwwwww") == [0, 0, 1, 1, 2, 2]


def test_right_answers_are_one_class_whatever_their_form():
    assert classes([r"\boxed{\pi}", r"\boxed{x}"] * 3, "rrwwrw") == [0, 0, 1, 2, 3, 4]
    # What was not judged goes by its form, also beside a right answer of the same form.
    assert classes([r"\boxed{1}"] * 6, "ruuwww") == [0, 1, 2, 2, 3, 3]


def test_a_right_answer_and_one_without_a_final_answer_are_two():
    assert classes([r"\boxed{1}", "none"] * 3, "rwrwrw") == [0, 1, 2, 3, 4, 5]
