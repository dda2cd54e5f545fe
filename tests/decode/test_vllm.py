"""vLLM's contract: distributions, bounds of the entropy, weights in place, ends and refusals.

Run against the stand-in of `vllm_double`, never against vLLM itself.
"""

import dataclasses
import sys

import pytest
import torch

import vllm_double
from forkpoint.decode.answers import TwoTemperatures
from forkpoint.decode.decoder import NotFiniteError, Sampling, decode
from forkpoint.decode.rollout import joined, of_prompts, sample_rollouts
from forkpoint.decode.vllm import logprobs_mode, open_vllm
from forkpoint.decode.weights import policy_weights
from forkpoint.errors import InputError, TrainingError
from forkpoint.model import add_lora
from forkpoint.rollouts import Prompt
from tiny import WORDS, qwen3, save, tokenizer

PROMPTS = [[3, 4, 13], [5, 14], [3, 4, 13], [6, 6, 6, 7]]
STREAMS = [11, 12, 13, 14]
PLAIN = Sampling(max_tokens=9, stop_ids=(1,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("model"))


@pytest.fixture
def opened(folder, monkeypatch):
    """Return a function that opens an engine and gives it the weights of a model."""
    vllm_double.install(monkeypatch)

    def opens(*samplings, model=None, path=folder, refresh=True, **changes):
        settings = {"device": torch.device("cpu"), "dtype": "float32", "context": 64, "top_logprobs": 5} | changes
        engine = open_vllm(path, samplings=samplings or [PLAIN], **settings)
        if refresh:
            engine.refresh(qwen3() if model is None else model)
        return engine

    return opens


def distribution(model, prompt, answer, temperature):
    """Return log softmax(logits / temperature) at every answer position, (T, V), from a pass of its own."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.double() / temperature, -1)


def entropy(logp_TV):
    return -(logp_TV.exp() * logp_TV).sum(-1)


CASES = {
    "plain": (PLAIN, "raw_logprobs"),
    "cut": (dataclasses.replace(PLAIN, top_p=0.7, top_k=9), "raw_logprobs"),
    "cool": (dataclasses.replace(PLAIN, temperature=0.6), "processed_logprobs"),
    "hot": (dataclasses.replace(PLAIN, temperature=1.7), "processed_logprobs"),
    "greedy": (dataclasses.replace(PLAIN, temperature=0.0), "raw_logprobs"),
}


@pytest.mark.parametrize("case", CASES)
def test_log_probs_are_those_of_the_full_distribution(opened, case):
    sampling, mode = CASES[case]
    assert logprobs_mode([sampling]) == mode
    for top in (0, 5, len(WORDS)):
        answers = opened(sampling, top_logprobs=top).decode(None, PROMPTS, STREAMS, sampling)
        assert len(answers) == len(PROMPTS)
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            logp_TV = distribution(qwen3(), prompt, answer.ids, sampling.temperature or 1.0)
            expected = logp_TV.gather(1, torch.tensor(answer.ids)[:, None]).squeeze(1)
            torch.testing.assert_close(torch.tensor(answer.logp).double(), expected, atol=2e-5, rtol=0)
            bound, exact = torch.tensor(answer.entropy).double(), entropy(logp_TV)
            if top == len(WORDS):
                torch.testing.assert_close(bound, exact, atol=2e-5, rtol=0)
            else:
                assert bool((bound <= exact + 2e-5).all())
                assert float((exact - bound).max()) > 1e-3


def test_greedy_entropies_fit_a_processed_engine_too(opened):
    cool, greedy = CASES["cool"][0], dataclasses.replace(CASES["greedy"][0], top_p=0.9)
    answers = opened(cool, greedy).decode(None, PROMPTS, STREAMS, greedy)
    logp_TV = distribution(qwen3(), PROMPTS[0], answers[0].ids, 1.0)
    expected = logp_TV.max(-1).values
    torch.testing.assert_close(torch.tensor(answers[0].logp).double(), expected, atol=2e-5, rtol=0)


def test_streams_decide_the_draws(opened):
    engine = opened()
    first = engine.decode(None, PROMPTS, STREAMS, PLAIN)
    again = engine.decode(None, PROMPTS[::-1], STREAMS[::-1], PLAIN)[::-1]
    assert [answer.ids for answer in first] == [answer.ids for answer in again]
    draws = engine.decode(None, [PROMPTS[0]] * 12, range(12), PLAIN)
    assert len({tuple(answer.ids) for answer in draws}) > 6


def test_stop_ids_and_nothing_else_end_an_answer(opened):
    sampling = dataclasses.replace(PLAIN, stop_ids=(5, 9), max_tokens=30)
    answers = opened(sampling).decode(None, [PROMPTS[0]] * 16, range(16), sampling)
    assert {answer.finish for answer in answers} == {"stop", "length"}
    for answer in answers:
        ended = answer.ids[-1] in (5, 9)
        assert answer.finish == ("stop" if ended else "length")
        assert not {5, 9} & set(answer.ids[:-1])
        assert ended or len(answer.ids) == 30
    # The model's own end token is no end here.
    assert any(1 in answer.ids[:-1] for answer in answers)


@pytest.mark.parametrize("tied", [True, False])
def test_new_weights_take_the_place_of_the_old(opened, tmp_path, tied):
    greedy = dataclasses.replace(PLAIN, temperature=0.0)
    path = save(tmp_path / "model", tie_word_embeddings=tied)
    before, after = qwen3(tie_word_embeddings=tied), qwen3(seed=5, tie_word_embeddings=tied)
    engine = opened(greedy, model=before, path=path)
    old = engine.decode(before, PROMPTS, STREAMS, greedy)
    engine.refresh(after)
    new = engine.decode(after, PROMPTS, STREAMS, greedy)
    for found, model in ((old, before), (new, after)):
        expected = decode(model, PROMPTS, STREAMS, greedy)
        assert [answer.ids for answer in found] == [answer.ids for answer in expected]
    assert [answer.ids for answer in old] != [answer.ids for answer in new]


def test_adapters_are_sent_merged_and_the_policy_is_not_touched(opened):
    greedy = dataclasses.replace(PLAIN, temperature=0.0)
    model = add_lora(qwen3(), rank=4, alpha=8, dropout=0.0, targets="all-linear", seed=0).eval()
    engine = opened(greedy, model=model)
    plain = engine.decode(model, PROMPTS, STREAMS, greedy)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    engine.refresh(model)
    adapted = engine.decode(model, PROMPTS, STREAMS, greedy)
    assert [a.ids for a in adapted] == [a.ids for a in decode(model, PROMPTS, STREAMS, greedy)]
    assert [a.ids for a in adapted] != [a.ids for a in plain]
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())
    names = {name for name, _ in policy_weights(model)}
    assert names == {name for name, _ in qwen3().named_parameters()}


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_an_adapter_on_a_tied_embedding_is_refused():
    model = add_lora(qwen3(), rank=2, alpha=2, dropout=0.0, targets=["embed_tokens"], seed=0)
    with pytest.raises(InputError, match=r"tied embeddings as one weight and \[model.lora\] adapts one of them"):
        list(policy_weights(model))


def test_vllm_runs_outside_the_trainers_autocast(opened):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        engine = opened()
        engine.decode(None, PROMPTS, STREAMS, PLAIN)
    assert vllm_double.LLM.latest.autocast == [False] * 5


def test_settings_reach_vllm(opened):
    opened(dataclasses.replace(PLAIN, slots=7), memory=0.3, context=50, top_logprobs=3, seed=8)
    assert vllm_double.LLM.latest.arguments == {
        "gpu_memory_utilization": 0.3, "seed": 8, "dtype": "float32", "max_model_len": 50, "max_num_seqs": 7,
        "max_logprobs": 3, "logprobs_mode": "raw_logprobs", "generation_config": "vllm",
    }  # fmt: skip
    assert vllm_double.LLM.latest.in_process


def test_progress_counts_answers(opened):
    seen = []
    opened().decode(None, PROMPTS, STREAMS, PLAIN, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def sampled(engine=None, seed=0):
    prompts = [Prompt(id=f"p{i}", text="x") for i in range(2)]
    extra = {} if engine is None else {"engine": engine}
    return sample_rollouts(
        qwen3(), tokenizer(), prompts, PROMPTS[:2], PLAIN, group=3, stream=(seed, "train"), version=4, **extra
    )


def test_rollouts_say_what_their_entropies_are(opened):
    bounds, exact = sampled(opened()), sampled()
    assert exact.entropy_kind == "exact"
    assert (bounds.entropy_kind, bounds.version, bounds.rows) == ("lower-bound", 4, 6)
    assert bounds.select(torch.tensor([0, 4])).entropy_kind == "lower-bound"
    assert of_prompts(bounds, [1]).entropy_kind == "lower-bound"
    assert joined([bounds, bounds]).entropy_kind == "lower-bound"
    with pytest.raises(InputError, match=r"different kinds \(exact, lower-bound\) cannot be joined"):
        joined([exact, bounds])


def test_without_vllm_the_remedy_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(InputError, match=r"pip install 'forkpoint\[vllm\]' on a machine with CUDA"):
        open_vllm(folder, samplings=[PLAIN], device=torch.device("cpu"), dtype="float32", context=64)


def test_another_device_is_refused(folder, monkeypatch):
    vllm_double.install(monkeypatch, device_type="cuda")
    with pytest.raises(InputError, match=r"the policy is on cpu and this vLLM runs on cuda: set model.device"):
        open_vllm(folder, samplings=[PLAIN], device=torch.device("cpu"), dtype="float32", context=64)


@pytest.mark.parametrize(
    ("samplings", "message"),
    [
        ([{"stop_text": lambda ids: False}], "decode.stop ends answers at a text"),
        ([{"two": TwoTemperatures(threshold=1.0, fork=1.0, other=0.5)}], "two temperatures need every token's entropy"),
        ([{"temperature": 2.5}], "temperature is 2.5 and vLLM takes 0, or 0.01 to 2"),
        ([{"temperature": 0.001}], "temperature is 0.001 and vLLM takes"),
        ([{"temperature": 0.6, "top_p": 0.9}], "only where every temperature"),
        ([{"temperature": 0.6}, {"top_p": 0.9}], "only where every temperature"),
        ([{"temperature": 0.6}, {"top_k": 3}], "only where every temperature"),
    ],
)
def test_samplings_that_vllm_cannot_measure_are_refused(opened, samplings, message):
    with pytest.raises(InputError, match=message):
        opened(*(dataclasses.replace(PLAIN, **changes) for changes in samplings))


def test_a_sampling_it_was_not_opened_for_is_refused(opened):
    with pytest.raises(InputError, match="vLLM was opened with raw_logprobs, wrong for this sampling"):
        opened().decode(None, PROMPTS, STREAMS, dataclasses.replace(PLAIN, temperature=0.6))
    with pytest.raises(InputError, match="vLLM was opened with processed_logprobs, wrong for this sampling"):
        opened(dataclasses.replace(PLAIN, temperature=0.6)).decode(
            None, PROMPTS, STREAMS, dataclasses.replace(PLAIN, top_p=0.9)
        )


def test_requests_are_checked(opened):
    engine = opened(context=12)
    with pytest.raises(InputError, match="4 prompts but 1 random streams"):
        engine.decode(None, PROMPTS, [1], PLAIN)
    with pytest.raises(InputError, match="prompt 1 is empty"):
        engine.decode(None, [[3], []], [1, 2], PLAIN)
    with pytest.raises(InputError, match="prompt 3 has 4 tokens, which with 9 of an answer is more than the 12"):
        engine.decode(None, PROMPTS, STREAMS, PLAIN)
    assert engine.decode(None, [], [], PLAIN) == []


def test_nothing_is_decoded_with_weights_nobody_sent(opened):
    with pytest.raises(InputError, match="has not been given the policy's weights"):
        opened(refresh=False).decode(None, PROMPTS, STREAMS, PLAIN)


def test_what_vllm_refuses_is_one_sentence(opened, monkeypatch):
    from transformers import GPT2Config, GPT2LMHeadModel

    with pytest.raises(
        InputError, match=r"cannot hold .*: Free memory on device .* utilization\.; change decode.vllm_"
    ):
        opened(memory=0.99)
    engine = opened()
    other = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(TrainingError, match="vLLM did not take the weights of GPT2LMHeadModel: There is no module"):
        engine.refresh(other)
    vllm_double.LLM.latest.busy = True
    with pytest.raises(TrainingError, match="prefix cache could not be reset"):
        engine.refresh(qwen3())
    monkeypatch.setattr(vllm_double.LLM, "finish", "abort")
    with pytest.raises(TrainingError, match="vLLM ended request 0 with 'abort' after"):
        engine.decode(None, PROMPTS, STREAMS, PLAIN)


def test_logits_that_are_not_finite_name_the_request(opened):
    broken = qwen3()
    with torch.no_grad():
        broken.model.embed_tokens.weight[14] = torch.nan
    engine = opened(model=broken)
    with pytest.raises(NotFiniteError) as caught:
        engine.decode(None, PROMPTS, STREAMS, PLAIN)
    # Tied to the lm-head, one NaN row spoils every request from its first token.
    assert (caught.value.request, caught.value.token) == (0, 0)
