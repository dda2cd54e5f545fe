"""Packing answers into rollouts, joining and filtering them."""

import torch

from forkpoint.decode.decoder import Sampling
from forkpoint.decode.rollout import joined, of_prompts, sample_rollouts
from forkpoint.rollouts import Prompt
from tiny import qwen3, tokenizer

PROMPTS = [Prompt(id="one", text="1 + 1 ="), Prompt(id="two", text="2 ="), Prompt(id="three", text="a b c :")]


def sampled(prompts, stream=("s",), group=3):
    words = tokenizer()
    encoded = [words(prompt.text)["input_ids"] for prompt in prompts]
    sampling = Sampling(max_tokens=9, stop_ids=(1,), slots=4)
    return sample_rollouts(qwen3(), words, prompts, encoded, sampling, group=group, stream=stream)


def test_shapes_and_order():
    batch = sampled(PROMPTS)
    assert batch.rows == 9
    assert batch.group_B.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert batch.sample_B.tolist() == [0, 1, 2] * 3
    assert batch.prompt_length_B.tolist() == [4] * 3 + [2] * 3 + [4] * 3
    lengths = batch.mask_BT.sum(1)
    assert int(lengths.max()) == batch.ids_BT.shape[1]
    for value in (batch.ids_BT, batch.logp_BT, batch.entropy_BT):
        assert bool((value[~batch.mask_BT] == 0).all())
    for row, finish in enumerate(batch.finish):
        assert (finish == "stop") == (int(batch.ids_BT[row, lengths[row] - 1]) == 1)
        assert "<end>" not in batch.text[row]


def test_answers_do_not_depend_on_the_other_prompts_of_the_batch():
    whole, part = sampled(PROMPTS), sampled(PROMPTS[:1])
    assert whole.text[:3] == part.text


def test_joined_and_of_prompts_keep_every_row():
    a, b = sampled(PROMPTS[:2]), sampled(PROMPTS[2:], stream=("t",))
    both = joined([a, b])
    assert both.group_B.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert both.text == a.text + b.text
    only = of_prompts(both, [2, 0])
    assert [prompt.id for prompt in only.prompts] == ["three", "one"]
    assert only.text == a.text[:3] + b.text
    assert only.group_B.tolist() == [1, 1, 1, 0, 0, 0]
    rows = torch.tensor([0, 1, 2])
    T = only.ids_BT.shape[1]
    assert torch.equal(
        only.logp_BT[:3], torch.nn.functional.pad(a.logp_BT[rows], (0, max(0, T - a.logp_BT.shape[1])))[:, :T]
    )
