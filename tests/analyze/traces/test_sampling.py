"""A model as a source: values against an independent forward pass, recorded in a file nobody here can change."""

import json

import numpy as np
import pytest
import torch
from stories import golden, save_stories

from forkpoint.analyze.measures.agreement import attention_entropy, gradient_norm
from forkpoint.analyze.traces.records import batch_of
from forkpoint.analyze.traces.sampling import ModelSettings, sampled_traces
from forkpoint.analyze.traces.scoring import score_tokens, scored_traces
from forkpoint.analyze.traces.sources import open_traces
from forkpoint.analyze.traces.trace import TraceInfo, Traces
from forkpoint.analyze.views.held import hold
from forkpoint.decode.decoder import Sampling, decode
from forkpoint.errors import InputError
from forkpoint.model import load_model
from forkpoint.rollouts import Prompt
from forkpoint.tasks.prompts import load_tokenizer
from tiny import qwen3, strange_head, tokenizer


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    recorded = golden()
    return recorded, save_stories(tmp_path_factory.mktemp("stories"))


def test_scores_equal_the_golden_file(stories):
    recorded, folder = stories
    ids, values = recorded["greedy_ids"], recorded["computed_here"]
    scores = score_tokens(load_model(folder), [ids[:1]], [ids[1:]], top=3)
    np.testing.assert_allclose(scores.entropy_N, values["entropy"][: len(ids) - 1], atol=1e-4)
    np.testing.assert_allclose(scores.logp_N, values["logprob"][: len(ids) - 1], atol=1e-4)
    # Greedy text: every token is the most likely one.
    assert (scores.rank_N == 1).all()
    assert (scores.top_id_NK[:, 0] == ids[1:]).all()


def test_sampling_the_model_directory_equals_the_golden_file(stories):
    """The whole way: directory, tokenizer, prompt, decoder, alternatives; greedy, so that the text is known."""
    recorded, folder = stories
    start, length = "Once upon a time", 150
    traces = open_traces(
        folder,
        prompts=[Prompt(id="story", text=start)],
        settings=ModelSettings(temperature=0.0, group=1, max_tokens=length, top=4, template="none", device="cpu"),
    )
    (batch,) = traces
    ids = recorded["greedy_ids"]
    first = len(load_tokenizer(folder)(start)["input_ids"])
    assert batch.id_N.tolist() == ids[first : first + length]
    assert start + batch.completion[0] == recorded["greedy_text"][: len(start + batch.completion[0])]
    np.testing.assert_allclose(batch.entropy_N, recorded["computed_here"]["entropy"][first - 1 :][:length], atol=1e-4)
    assert batch.entropy_kind == ("exact",)
    assert (batch.rank_N == 1).all()
    assert (batch.top.id_M[::4] == batch.id_N).all()
    np.testing.assert_allclose(batch.top.logp_M[::4], batch.logp_N, atol=1e-4)
    assert batch.texts[batch.text_N[1]].strip() in recorded["greedy_text"]
    assert traces.about.kind == "model"


def test_texts_without_tokens_are_scored_with_a_model(stories, tmp_path):
    """A verl dump holds texts alone; read by the model that wrote them they have the golden entropies."""
    recorded, folder = stories
    row = {"input": "", "output": recorded["greedy_text"], "gts": "", "score": 1.0, "step": 1}
    (tmp_path / "1.jsonl").write_text(json.dumps(row))
    (batch,) = open_traces(tmp_path, score_with=folder, settings=ModelSettings(device="cpu"))
    assert batch.id_N.tolist() == recorded["greedy_ids"][1:]
    np.testing.assert_allclose(batch.entropy_N, recorded["computed_here"]["entropy"][: batch.tokens], atol=1e-4)
    assert batch.entropy_kind == ("rescored",)
    assert batch.reward_R.tolist() == [1.0]


@pytest.mark.parametrize("passes", [1, 40, 10_000])
def test_scores_equal_one_full_forward_pass_a_row(monkeypatch, passes):
    """Packing rows into padded passes, and cutting logits into chunks, changes nothing."""
    import forkpoint.analyze.traces.scoring as module

    monkeypatch.setattr(module, "PASS_TOKENS", passes)
    monkeypatch.setattr(module, "LOGITS", 23 * 7)
    model = qwen3()
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 23, size=int(n)).tolist() for n in (1, 5, 2, 9)]
    answers = [rng.integers(3, 23, size=int(n)).tolist() for n in (6, 1, 0, 12)]
    scores = score_tokens(model, prompts, answers, temperature=0.7, top=5)
    place = 0
    for prompt, answer in zip(prompts, answers, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].double() / 0.7
        p = logits.softmax(-1).numpy()
        for row, token in zip(p, answer, strict=False):
            order = np.argsort(-row)
            assert scores.logp_N[place] == pytest.approx(np.log(row[token]), abs=1e-4)
            assert scores.entropy_N[place] == pytest.approx(-(row * np.log(row)).sum(), abs=1e-4)
            assert scores.rank_N[place] == 1 + (row > row[token]).sum()
            assert scores.top_id_NK[place].tolist() == order[:5].tolist()
            place += 1
    assert place == len(scores.logp_N) == 19


def sampled(**changes):
    settings = {"group": 3, "top": 2, "name": "tiny"} | changes
    prompts = [Prompt(id=f"p{i}", text=text) for i, text in enumerate(("1 + 2", "a b c", "yes no"))]
    return sampled_traces(qwen3(), tokenizer(), prompts, Sampling(max_tokens=9, stop_ids=(1,), slots=6), **settings)


def test_samples_are_the_same_in_every_pass_and_come_in_batches():
    traces = sampled()
    once, again = list(traces), list(traces)
    assert [batch.responses for batch in once] == [6, 3]
    assert [batch.id_N.tolist() for batch in once] == [batch.id_N.tolist() for batch in again]
    assert [batch.id_N.tolist() for batch in once] != [batch.id_N.tolist() for batch in sampled(seed=1)]
    assert once[0].prompt_id == ("p0", "p0", "p0", "p1", "p1", "p1")
    assert once[0].sample_R.tolist() == [0, 1, 2, 0, 1, 2]
    assert once[1].where(0) == "tiny answer 7"


def test_alternatives_belong_to_the_tokens_beside_them():
    for batch in sampled(top=23):
        place = np.arange(batch.tokens) * 23 + batch.rank_N - 1
        np.testing.assert_allclose(batch.top.logp_M[place], batch.logp_N, atol=1e-5)
        # All of the vocabulary: the alternatives are the whole distribution.
        p = np.exp(batch.top.logp_M.reshape(-1, 23).astype(np.float64))
        np.testing.assert_allclose(-(p * np.log(p)).sum(1), batch.entropy_N, atol=1e-4)


def test_without_alternatives_there_is_no_second_pass(monkeypatch):
    import forkpoint.analyze.traces.sampling as module

    monkeypatch.setattr(module, "score_tokens", None)
    (batch, _) = sampled(top=0)
    assert batch.top is None
    assert sampled(top=0).about.lacks[-2:] == ("rank", "top")


@pytest.mark.parametrize(("change", "said"), [({"group": 0}, "group is 0"), ({"top": -1}, "top is -1")])
def test_settings_outside_their_range(change, said):
    with pytest.raises(InputError, match=said):
        sampled(**change)


def test_no_prompts_is_one_sentence():
    with pytest.raises(InputError, match="no prompts to sample m with"):
        sampled_traces(qwen3(), tokenizer(), [], Sampling(max_tokens=2, stop_ids=(1,)), name="m")


def of_records(*records):
    info = TraceInfo(kind="plain", name="f.jsonl")
    return Traces(about=info, batches=lambda: iter([batch_of(list(records), file="f.jsonl")]))


def test_scoring_a_trace_of_another_tokenizer_is_refused():
    traces = of_records({"ids": [3, 4], "tokens": ["quite", "other"], "logp": [-1.0, -1.0]})
    with pytest.raises(InputError, match=r"the tokenizer is not the trace's: id 3 is 'quite' in the trace"):
        list(scored_traces(traces, qwen3(), tokenizer()))


def test_what_cannot_be_scored_is_noted_and_the_rest_is_scored():
    traces = of_records(
        {"ids": [3, 4, 5], "prompt": "a b"},
        {"ids": [3, 99], "prompt": "a b"},
        {"ids": [3] * 300, "prompt": "a b"},
        {"completion": "1 + 2", "prompt": "a b"},
    )
    (batch,) = scored_traces(traces, qwen3(), tokenizer(), top=3)
    assert np.diff(batch.offsets_R).tolist() == [3, 0, 0, 3]
    assert batch.entropy_kind == ("rescored", "none", "none", "rescored")
    said = [str(note) for note in batch.notes]
    assert any("token id 99 is outside the tokenizer's vocabulary of 23" in note and "line 2" in note for note in said)
    assert any("longer than the 256 tokens" in note and "line 3" in note for note in said)
    assert batch.text(4).strip() == "+"


def rows(count=4, seed=0):
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(3, 23, size=int(n)).tolist() for n in (1, 5, 2, 9)[:count]]
    return prompts, [rng.integers(3, 23, size=int(n)).tolist() for n in (6, 1, 3, 12)[:count]]


def test_the_gradient_norm_keeps_its_digits_where_one_token_is_certain():
    model, (prompts, _) = qwen3(spread=2.0), rows()
    sampling = Sampling(max_tokens=9, stop_ids=(), temperature=0)
    answers = [answer.ids for answer in decode(model, prompts, [0] * len(prompts), sampling)]
    scores = score_tokens(model, prompts, answers, temperature=0.7, top=0)
    place = 0
    for prompt, answer in zip(prompts, answers, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].double() / 0.7
        for p, token in zip(logits.softmax(-1), answer, strict=False):
            p[token] = 0
            others = (p**2).sum()
            assert scores.others_N[place] == pytest.approx(float(others), rel=1e-3, abs=1e-30)
            place += 1
    assert scores.others_N.min() < 1e-8  # beside 1, float32 would have lost it


@pytest.mark.parametrize("limit", [1 << 26, 4 * 21**2 * 2])
def test_attention_entropies_are_those_of_the_middle_layer(monkeypatch, limit):
    """The model's own attention weights, one row at a time, through the measure on arrays."""
    import forkpoint.analyze.traces.scoring as module

    monkeypatch.setattr(module, "WEIGHTS", limit)
    prompts, answers = rows()
    model = qwen3(num_hidden_layers=3)
    plain = score_tokens(model, prompts, answers, top=2)
    scores = score_tokens(model, prompts, answers, top=2, attention=True)
    assert np.isnan(plain.attention_N).all()
    np.testing.assert_allclose(scores.entropy_N, plain.entropy_N, atol=1e-5)
    assert model.config._attn_implementation == "sdpa"
    assert not any(layer._forward_hooks for layer in model.modules())
    eager = qwen3(num_hidden_layers=3)
    eager.set_attn_implementation("eager")
    expected = []
    for prompt, answer in zip(prompts, answers, strict=True):
        with torch.no_grad():
            weights_HLL = eager(torch.tensor([prompt + answer]), output_attentions=True).attentions[1][0]
        expected += attention_entropy(weights_HLL.transpose(0, 1).numpy())[len(prompt) - 1 : -1].tolist()
    np.testing.assert_allclose(scores.attention_N, expected, atol=1e-5)
    assert scores.attention_N[0] == 0  # the first token of a prompt sees itself alone


def test_rows_with_too_many_attention_weights_are_read_without(monkeypatch):
    import forkpoint.analyze.traces.scoring as module

    monkeypatch.setattr(module, "WEIGHTS", 4 * 10**2)
    prompts, answers = rows()
    shapes = []
    real = module.read
    monkeypatch.setattr(
        module, "read", lambda m, head, **i: (shapes.append((m.config._attn_implementation, *i["input_ids"].shape)),
                                              real(m, head, **i))[1],
    )  # fmt: skip
    scores = score_tokens(qwen3(), prompts, answers, top=2, attention=True)
    assert all(count * 4 * width**2 <= 400 for kind, count, width in shapes if kind == "eager")
    assert [kind for kind, _, _ in shapes] == ["eager", "eager", "sdpa"]
    known = np.isfinite(scores.attention_N)
    assert known[:10].all()
    assert not known[10:].any()
    np.testing.assert_allclose(scores.entropy_N, score_tokens(qwen3(), prompts, answers, top=2).entropy_N, atol=1e-5)


def test_scored_traces_carry_what_the_agreement_of_rules_needs():
    batch = batch_of([{"ids": [5, 6, 7], "completion": "2 3 4", "prompt": "1"}], file="a")
    traces = Traces(about=TraceInfo(kind="plain", name="a"), batches=lambda: iter([batch]))
    (plain,) = scored_traces(traces, qwen3(), tokenizer())
    (watched,) = scored_traces(traces, qwen3(), tokenizer(), attention=True)
    assert plain.attention_N is None
    assert np.isfinite(watched.attention_N).all()
    assert (plain.others_N > 0).all()
    norm = gradient_norm(plain.logp_N, hold([plain]).collision)
    np.testing.assert_allclose(norm, np.hypot(-np.expm1(plain.logp_N), np.sqrt(plain.others_N)), rtol=1e-5)
    strange = score_tokens(strange_head(), [[5]], [[6, 7]], head="plain")
    with torch.no_grad():
        logp = strange_head()(torch.tensor([[5, 6, 7]])).logits[0].double().log_softmax(-1)
    np.testing.assert_allclose(strange.logp_N, [logp[0, 6], logp[1, 7]], atol=1e-5)
