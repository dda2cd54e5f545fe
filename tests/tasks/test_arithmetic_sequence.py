"""verl's arithmetic sequences: tokenizer, truth, reward, task."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkpoint.errors import InputError
from forkpoint.rollouts import Prompt, Verdict
from forkpoint.tasks.arithmetic_sequence import (
    arithmetic_sequence_task,
    char_tokenizer,
    continuation,
    judge,
    sequence_reward,
)
from forkpoint.tasks.prompts import load_tokenizer, render

DATA = Path(__file__).resolve().parents[2] / "../shared/data/weights/verl_arithmetic_sequence"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="verl's files are not in ../shared/data")


def verl_reward(prompt, response):
    """The per-character walk of verl's test, written out as loops."""
    first, rest = prompt.split(":")
    a, b = map(int, first.split(","))
    modulus, count = map(int, rest.split(","))
    numbers = []
    for _ in range(count):
        a, b = b, (b + (b - a)) % modulus
        numbers.append(str(b))
    truth = ",".join(numbers)
    total = 0.0
    for at, character in enumerate(response):
        if at == len(truth) or truth[at] != character:
            break
        total += 1 / (len(truth) + 1)
    return total


@pytest.mark.parametrize(
    ("prompt", "truth"),
    [
        ("8,3:9,4", "7,2,6,1"),
        ("3,3:9,6", "3,3,3,3,3,3"),
        ("9,0:9,2", "0,0"),
        ("1,3:12,3", "5,7,9"),
        ("5,8:9,0", ""),
    ],
)
def test_continuation(prompt, truth):
    assert continuation(prompt) == truth


@pytest.mark.parametrize("text", ["", "8,3:9", "8,3:0,4", "a,3:9,4", "8,3:9,4x", "1,2:9,9999999999", "-1,3:9,4"])
def test_a_prompt_of_another_form_is_named(text):
    with pytest.raises(InputError, match="first,second:modulus,count"):
        continuation(text)


def test_the_reward_by_hand():
    assert sequence_reward("7,2,6,1", "7,2,6,1") == 7 / 8
    assert sequence_reward("7,2,6,1", "7,2,5,1") == 4 / 8
    assert sequence_reward("7,2,6,1", "7,2,6,1,5,0") == 7 / 8
    assert sequence_reward("7,2,6,1", "7,") == 2 / 8
    assert sequence_reward("7,2,6,1", "") == 0
    assert sequence_reward("7,2,6,1", "2") == 0
    assert sequence_reward("", "") == sequence_reward("", "7") == 0


@given(
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(2, 12), st.integers(0, 9)),
    st.text("0123456789,SPU", max_size=20),
    st.integers(0, 20),
)
def test_the_reward_is_verls(numbers, noise, correct):
    prompt = "{},{}:{},{}".format(*numbers)
    response = continuation(prompt)[:correct] + noise
    assert sequence_reward(continuation(prompt), response) == pytest.approx(verl_reward(prompt, response), abs=1e-12)


def verdict(answer, text):
    return judge([Prompt(id="x", text="q", answer=answer)], [text])[0]


def test_right_is_exactly_the_whole_sequence():
    assert verdict("7,2", "7,2").verdict is Verdict.RIGHT
    assert verdict("7,2", "7,2,").verdict is Verdict.WRONG
    assert verdict("7,2", "7").verdict is Verdict.WRONG
    assert verdict("7,2", "7,2").parts == {"answer": 0.75}
    assert (verdict("", "").verdict, verdict("", "").reward) == (Verdict.RIGHT, 0.0)
    assert (verdict("", "7").verdict, verdict("", "7").reward) == (Verdict.WRONG, 0.0)
    assert verdict(None, "7").verdict is Verdict.UNJUDGED


@given(st.text())
def test_no_text_raises(text):
    assert 0 <= verdict("7,2,6", text).reward < 1


@needs_data
def test_the_tokenizer_has_verls_ids_and_template():
    tokenizer = char_tokenizer(DATA)
    assert tokenizer("SEPU0123456789,:")["input_ids"] == list(range(16))
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, len(tokenizer)) == (1, 1, 16)
    assert tokenizer("1 x\n")["input_ids"] == [5, 3, 3, 3]
    chat = [{"role": "user", "content": "8,3:9,4"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == "8,3:9,4S"
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "8,3:9,4"
    assert render(Prompt(id="a", text="8,3:9,4"), tokenizer) == [12, 14, 7, 15, 13, 14, 8, 0]


@needs_data
def test_wrong_tokens_stay_visible_and_the_end_does_not():
    tokenizer = char_tokenizer(DATA)
    assert tokenizer.decode([11, 0, 14, 2, 6, 3, 1], skip_special_tokens=True) == "7S,P2U"


@needs_data
def test_the_tokenizer_survives_saving(tmp_path):
    tokenizer = load_tokenizer(DATA)
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    text = "8,3:9,4S7,2E"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"] == [12, 14, 7, 15, 13, 14, 8, 0, 11, 14, 6, 1]
    assert again.chat_template == tokenizer.chat_template
    assert again.decode([11, 0, 14, 2, 6, 3, 1], skip_special_tokens=True) == "7S,P2U"


@needs_data
def test_the_task_over_verls_files():
    task = arithmetic_sequence_task(DATA / "train.parquet", DATA / "test.parquet")
    assert len(task.heldout) == 193
    epoch = Counter(task.train_prompt(0, position).text for position in range(707))
    assert len(epoch) == 707
    assert not {prompt.text for prompt in task.heldout} & set(epoch)
    prompt = task.heldout[0]
    assert (prompt.text, prompt.answer, prompt.messages[0]["role"]) == ("7,7:9,4", "7,7,7,7", "user")
    judged = task.judge(task.heldout, [prompt.answer for prompt in task.heldout])
    assert all(j.verdict is Verdict.RIGHT for j in judged)
    assert judged[0].reward == 7 / 8


@needs_data
def test_verls_model_answers_through_this_tokenizer():
    import torch
    from transformers import AutoModelForCausalLM

    model, tokenizer = AutoModelForCausalLM.from_pretrained(DATA), load_tokenizer(DATA)
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.eos_token_id == tokenizer.eos_token_id
    ids = torch.tensor([render(Prompt(id="a", text="8,3:9,4"), tokenizer)])
    with torch.no_grad():
        assert model(ids).logits.shape == (1, 8, 16)


@pytest.mark.parametrize(
    "content", [None, "{", "[]", '{"char_ords": 3}', '{"char_ords": [-1]}', '{"char_ords": ["a"]}']
)
def test_a_damaged_character_tokenizer_is_one_sentence(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(InputError, match="char_ords"):
        char_tokenizer(tmp_path)
