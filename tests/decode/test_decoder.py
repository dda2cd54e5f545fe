"""The decoder against the model's own full forward pass, and against itself one row at a time."""

import math

import numpy as np
import pytest
import torch
from looking import Looks

from forkpoint.decode.answers import TwoTemperatures
from forkpoint.decode.decoder import BLOCK, Sampling, decode
from forkpoint.decode.graphs import AHEAD
from forkpoint.entropy.token import token_logp_entropy
from forkpoint.errors import InputError, TrainingError
from forkpoint.seeds import key, uniforms
from tiny import qwen3, strange_head

STOPS = (1, 2, 3)


def requests(count: int, copies: int, vocabulary: int = 23):
    rng = np.random.default_rng(0)
    prompts = [rng.integers(4, vocabulary, size=int(rng.integers(1, 12))).tolist() for _ in range(count)]
    prompts = [prompt for prompt in prompts for _ in range(copies)]
    return prompts, [key("test", i) for i in range(len(prompts))]


def family(name: str):
    import transformers as hf

    shared = {
        "vocab_size": 23, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2,
        "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None,
    }  # fmt: skip
    torch.manual_seed(0)
    if name == "qwen3":
        return qwen3()
    if name == "llama":
        return hf.LlamaForCausalLM(hf.LlamaConfig(**shared)).eval()
    if name == "mistral-sliding":
        return hf.MistralForCausalLM(hf.MistralConfig(**shared, sliding_window=8)).eval()
    # Soft-capped logits and alternating sliding layers.
    capped = {"attn_logit_softcapping": 1.0, "query_pre_attn_scalar": 4}
    config = hf.Gemma2Config(**shared, **capped, head_dim=8, sliding_window=8, attn_implementation="eager")
    return hf.Gemma2ForCausalLM(config).eval()


@pytest.mark.parametrize("name", ["qwen3", "llama", "mistral-sliding", "gemma2"])
def test_recorded_values_are_those_of_a_full_forward_pass(name):
    model = family(name)
    prompts, streams = requests(5, 3)
    answers = decode(model, prompts, streams, Sampling(max_tokens=80, stop_ids=(1,), slots=4))
    assert len({len(answer.ids) for answer in answers}) > 3
    # Long enough to need a second block of random numbers.
    assert any(len(answer.ids) > BLOCK for answer in answers) or name == "mistral-sliding"
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([prompt + answer.ids])
        with torch.no_grad():
            logits = model(ids).logits[0, len(prompt) - 1 : -1]
        logp, entropy = token_logp_entropy(logits, ids[0, len(prompt) :])
        torch.testing.assert_close(torch.tensor(answer.logp), logp, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(torch.tensor(answer.entropy), entropy, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("slots", [1, 2, 5, 64])
def test_answers_do_not_depend_on_the_rows_beside_them(slots):
    model = qwen3()
    prompts, streams = requests(6, 2)
    sampling = Sampling(max_tokens=70, stop_ids=STOPS, slots=slots)
    together = decode(model, prompts, streams, sampling)
    alone = [decode(model, [prompt], [stream], sampling)[0] for prompt, stream in zip(prompts, streams, strict=True)]
    assert [answer.ids for answer in together] == [answer.ids for answer in alone]
    assert [answer.finish for answer in together] == [answer.finish for answer in alone]


def test_the_stream_decides_the_answer():
    model = qwen3()
    sampling = Sampling(max_tokens=30, stop_ids=STOPS)
    first, again, other = (
        decode(model, [[4, 5, 6]] * 4, [key(name, i) for i in range(4)], sampling) for name in ("a", "a", "b")
    )
    assert [a.ids for a in first] == [a.ids for a in again]
    assert [a.ids for a in first] != [a.ids for a in other]
    assert len({tuple(a.ids) for a in first}) > 1


def test_sampled_tokens_follow_the_distribution():
    model = qwen3(spread=0.1)
    with torch.no_grad():
        expected = model(torch.tensor([[4, 5]])).logits[0, -1].softmax(-1).numpy()
    n = 4000
    answers = decode(
        model, [[4, 5]] * n, [key("chi", i) for i in range(n)], Sampling(max_tokens=1, stop_ids=STOPS, slots=n)
    )
    counts = np.bincount([answer.ids[0] for answer in answers], minlength=len(expected))
    chi = ((counts - n * expected) ** 2 / (n * expected)).sum()
    assert chi < 60, f"chi-square {chi} with {len(expected) - 1} degrees of freedom"


def test_finish_reasons_and_stop_token():
    model = qwen3()
    prompts, streams = requests(8, 2)
    answers = decode(model, prompts, streams, Sampling(max_tokens=12, stop_ids=STOPS))
    for answer in answers:
        assert (answer.finish == "stop") == (answer.ids[-1] in STOPS)
        assert not set(answer.ids[:-1]) & set(STOPS)
        assert len(answer.ids) == 12 or answer.finish == "stop"
    assert {answer.finish for answer in answers} == {"stop", "length"}


def test_stop_text_ends_an_answer():
    model = qwen3()
    prompts, streams = requests(4, 2)
    answers = decode(model, prompts, streams, Sampling(max_tokens=40, stop_ids=(), stop_text=lambda ids: ids[-1] == 7))
    assert any(answer.finish == "stop" for answer in answers)
    assert all(answer.ids[-1] == 7 for answer in answers if answer.finish == "stop")
    assert all(7 not in answer.ids[:-1] for answer in answers)


def test_greedy_takes_the_most_likely_token():
    model = qwen3()
    answer = decode(model, [[4, 5]], [0], Sampling(max_tokens=5, stop_ids=(), temperature=0))[0]
    ids = [4, 5]
    for token in answer.ids:
        with torch.no_grad():
            assert int(model(torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids.append(token)


@pytest.mark.parametrize("static", [False, True])
def test_two_temperatures_follow_the_entropy_of_every_token(static):
    model = qwen3()
    prompts, streams = requests(6, 2)

    def run(**two):
        two = TwoTemperatures(**two) if two else None
        return decode(model, prompts, streams, Sampling(max_tokens=12, stop_ids=(), two=two), static=static)

    one = run()
    threshold = sorted(h for answer in one for h in answer.entropy)[60]
    mixed = run(threshold=threshold, fork=1.0, other=0.0)
    assert [a.ids for a in run(threshold=threshold, fork=1.0, other=1.0)] == [a.ids for a in one]
    assert {h > threshold for answer in mixed for h in answer.entropy} == {True, False}
    for prompt, answer in zip(prompts, mixed, strict=True):
        with torch.no_grad():
            logits_TV = model(torch.tensor([prompt + answer.ids])).logits[0, len(prompt) - 1 : -1]
        logp_TV = logits_TV.log_softmax(-1)
        for place, (token, entropy) in enumerate(zip(answer.ids, answer.entropy, strict=True)):
            assert entropy > threshold or token == int(logp_TV[place].argmax())
            assert answer.logp[place] == pytest.approx(float(logp_TV[place, token]), abs=1e-4)


@pytest.fixture
def looks():
    return Looks()


@pytest.fixture
def passes(monkeypatch):
    """The shapes of everything the model's body reads: prompts, and one token a row."""
    import forkpoint.decode.decoder as module

    shapes = []
    real, choose = module.read, module.token_body

    def counting(model, head, **inputs):
        shapes.append(tuple(inputs["input_ids"].shape))
        return real(model, head, **inputs)

    def chosen(model, head):
        body, split = choose(model, head)

        def reading(ids, *rest):
            shapes.append((len(ids), 1))
            return body(ids, *rest)

        return reading, split

    monkeypatch.setattr(module, "read", counting)
    monkeypatch.setattr(module, "token_body", chosen)
    return shapes


def test_no_work_on_finished_rows(passes):
    """Rows that have finished leave the batch: the rows read stay near the tokens written."""
    prompts, streams = requests(40, 4)
    answers = decode(qwen3(), prompts, streams, Sampling(max_tokens=80, stop_ids=STOPS, slots=16))
    distinct = {tuple(prompt) for prompt in prompts}
    floor = sum(len(answer.ids) - 1 for answer in answers) + sum(map(len, distinct))
    assert floor <= sum(map(math.prod, passes)) < 1.5 * floor


def test_prompts_that_occur_often_are_read_once(passes):
    decode(qwen3(), [[4, 5, 6]] * 8, list(range(8)), Sampling(max_tokens=1, stop_ids=STOPS))
    assert passes == [(1, 3)]


@pytest.mark.parametrize("static", [False, True])
def test_the_plain_head_asks_the_model_for_its_logits(static):
    model = strange_head()
    prompts, streams = requests(4, 2)
    answers = decode(
        model, prompts, streams, Sampling(max_tokens=12, stop_ids=STOPS, slots=3, head="plain"), static=static
    )
    for prompt, answer in zip(prompts, answers, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *answer.ids]])).logits[0, len(prompt) - 1 : -1]
        logp, entropy = token_logp_entropy(logits, torch.tensor(answer.ids))
        assert answer.logp == pytest.approx(logp.tolist(), abs=1e-4)
        assert answer.entropy == pytest.approx(entropy.tolist(), abs=1e-4)


def test_progress_counts_up_to_the_total():
    calls = []
    prompts, streams = requests(5, 2)
    decode(
        qwen3(), prompts, streams, Sampling(max_tokens=9, stop_ids=STOPS, slots=3), progress=lambda *c: calls.append(c)
    )
    assert calls == [(k, 10) for k in range(1, 11)]


def test_empty_prompt_is_named():
    with pytest.raises(InputError, match="prompt 1 is empty"):
        decode(qwen3(), [[4], []], [0, 1], Sampling(max_tokens=3, stop_ids=STOPS))


def test_weights_that_are_not_numbers_stop_the_decoder():
    model = qwen3()
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(TrainingError, match="not finite for request 0, answer token 0"):
        decode(model, [[4, 5]], [0], Sampling(max_tokens=3, stop_ids=STOPS))


def test_recurrent_layers_are_refused():
    model = qwen3()
    model.config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(InputError, match="linear_attention"):
        decode(model, [[4]], [0], Sampling(max_tokens=3, stop_ids=STOPS))


@pytest.mark.parametrize("bad", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1}, {"slots": 0}])
def test_sampling_values_outside_their_range(bad):
    with pytest.raises(InputError):
        Sampling(**({"max_tokens": 4, "stop_ids": (1,)} | bad))


def test_every_token_has_a_random_number_of_its_own():
    """With equal logits everywhere, token t is floor(V u_t): the answer spells its stream, block after block."""
    model = qwen3()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    length, vocabulary = 2 * BLOCK + 5, model.config.vocab_size
    answer = decode(model, [[4]], [99], Sampling(max_tokens=length, stop_ids=()))[0]
    drawn = np.concatenate([uniforms(99, block, BLOCK) for block in range(3)])[:length]
    assert answer.ids == np.floor(drawn * vocabulary).astype(int).tolist()


def test_rows_leave_when_nobody_waits(passes):
    prompts, streams = requests(40, 4)
    answers = decode(qwen3(), prompts, streams, Sampling(max_tokens=80, stop_ids=STOPS, slots=1000))
    lengths = [len(answer.ids) for answer in answers]
    # Without leaving, every row would be read as often as the longest.
    assert max(lengths) * len(lengths) > 3 * sum(lengths)
    assert sum(map(math.prod, passes)) < 1.5 * (sum(lengths) + sum(map(len, {tuple(prompt) for prompt in prompts})))


def test_the_number_of_rows_stays_a_multiple_of_sixteen(passes):
    """Where many rows write, every product has a shape seen before; up to 32 rows it does not matter."""
    prompts, streams = requests(40, 4)
    answers = decode(qwen3(), prompts, streams, Sampling(max_tokens=80, stop_ids=STOPS, slots=96))
    assert len(answers) == 160
    rows = {shape[0] for shape in passes if shape[1] == 1}
    assert {count for count in rows if count > 32} <= {48, 64, 80, 96}
    assert len(rows) > 4


@pytest.mark.parametrize("static", [False, True])
def test_the_host_looks_at_the_device_once_a_token(static, looks):
    """Or once in `AHEAD` tokens, where steps are static."""
    prompts, streams = requests(5, 4)
    counts = {}
    for length in (9, 41):
        looks.clear()
        with looks:
            decode(qwen3(), prompts, streams, Sampling(max_tokens=length, stop_ids=()), static=static)
        counts[length] = len(looks)
    assert counts[41] - counts[9] == (32 // AHEAD if static else 32)


def test_attention_is_as_before_after_a_decode():
    model = qwen3()
    decode(model, [[4, 5]], [0], Sampling(max_tokens=3, stop_ids=STOPS))
    assert model.config._attn_implementation == "sdpa"
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(TrainingError):
        decode(model, [[4, 5]], [0], Sampling(max_tokens=3, stop_ids=STOPS))
    assert model.config._attn_implementation == "sdpa"


def test_weights_that_go_bad_on_the_way_are_named():
    """The first tokens are fine; the logits of a later one are not."""
    model = qwen3()
    answer = decode(model, [[4, 5]], [0], Sampling(max_tokens=6, stop_ids=()))[0]
    bad = next(token for token in answer.ids[:-1] if token not in (4, 5))
    with torch.no_grad():
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
        model.model.embed_tokens.weight[bad] = float("nan")
    with pytest.raises(TrainingError, match=f"request 0, answer token {answer.ids.index(bad) + 1}:"):
        decode(model, [[4, 5]], [0], Sampling(max_tokens=6, stop_ids=()))
