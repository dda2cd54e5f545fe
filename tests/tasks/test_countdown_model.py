"""The shipped model: it loads, it fits, it knows the words, and its entropy profile is the one it is for."""

from pathlib import Path

import pytest
import torch

from forkpoint.tasks.countdown import SETTINGS, countdown_task
from forkpoint.tasks.countdown_chains import pretraining_chain, vocabulary

FOLDER = Path(__file__).resolve().parents[2] / "models" / "countdown"


@pytest.fixture(scope="module")
def shipped():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(FOLDER).eval(), AutoTokenizer.from_pretrained(FOLDER)


def test_size_architecture_and_end_token(shipped):
    model, tokenizer = shipped
    assert 1e6 <= model.num_parameters() <= 3e6
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 8e6
    assert model.config.model_type == "qwen3"
    assert tokenizer.eos_token == "<end>"
    assert model.generation_config.eos_token_id == model.config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == model.config.pad_token_id == tokenizer.pad_token_id


def test_every_word_is_one_token_and_text_survives_the_round_trip(shipped):
    _, tokenizer = shipped
    assert len(tokenizer(" ".join(vocabulary()))["input_ids"]) == len(vocabulary())
    for position in range(50):
        prompt, answer = pretraining_chain(3, position)
        for text in (prompt.text, answer):
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text


@pytest.mark.parametrize("setting", SETTINGS)
def test_entropy_profile_on_fresh_chains(shipped, setting):
    model, tokenizer = shipped
    entropies = []
    for position in range(150):
        prompt, answer = pretraining_chain(77, position, setting)
        ids = tokenizer(f"{prompt.text} {answer} <end>", return_tensors="pt")["input_ids"]
        start = len(prompt.text.split())
        with torch.no_grad():
            logp = model(input_ids=ids).logits[0, start - 1 : -1].log_softmax(-1)
        entropies.append(-(logp.exp() * logp).sum(-1))
    entropy = torch.cat(entropies)
    assert 0.40 <= float((entropy < 0.01).float().mean()) <= 0.65
    assert 0.4 <= float(entropy.quantile(0.8)) <= 1.2


def test_greedy_attempts_calculate_truly(shipped):
    model, tokenizer = shipped
    prompts = [p.text for p in countdown_task(heldout=64).heldout]
    with torch.no_grad():
        out = model.generate(
            **tokenizer(prompts, return_tensors="pt"), do_sample=False, max_new_tokens=13, min_new_tokens=13
        )
    true = 0
    for row in out[:, 7:]:
        _, a, op, b, _, m, _, again, op2, c, _, e, _ = tokenizer.decode(row).split()
        results = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}
        results2 = {"+": int(m) + int(c), "-": int(m) - int(c), "*": int(m) * int(c)}
        true += again == m and int(m) == results[op] and int(e) == results2[op2]
    assert true >= 62
