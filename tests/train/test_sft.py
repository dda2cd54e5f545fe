import copy
import itertools
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forkpoint.errors import InputError, TrainingError
from forkpoint.train.sft import (
    Example,
    SftState,
    TextBatch,
    adamw,
    bucketed,
    collate,
    negative_log_likelihood,
    read_examples,
    schedule,
    sft,
    sft_step,
    shuffled,
)
from forkpoint.train.weigh import forks

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "{{ m.role }} {{ m.content }} <end> line {% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
)


def make_model(seed=0):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=17,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config).double().eval()


def make_tokenizer(end="<end>"):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<end>", "<unk>", "a", "b", "c", "d", "user", "assistant", "line"]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token=end, unk_token="<unk>")


def stream(position):
    """Return a short pattern that can be learned: after the prompt n, count upwards."""
    n = position % 7
    return Example(ids=(n, 16, *[(n + k) % 13 for k in range(1, 2 + position % 5)], 15), start=2)


def write(tmp_path, *lines):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


@pytest.mark.parametrize("head", ["fused", "plain"])
def test_loss_is_the_cross_entropy_of_the_tokens_that_count(head):
    model = make_model()
    rows = [stream(0), stream(3), stream(4)]
    expected = 0.0
    for row in rows:
        logp = model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1).detach()
        expected -= sum(float(logp[t - 1, row.ids[t]]) for t in range(row.start, len(row.ids)))
    got = float(negative_log_likelihood(model, collate(rows), head=head).detach())
    assert got == pytest.approx(expected, rel=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 12), st.floats(0.05, 1.0), st.integers(1, 60))
def test_gradient_does_not_depend_on_the_cut_into_micro_batches(rows, fill, max_tokens):
    def gradient(micros):
        model = make_model()
        state = SftState(step=0, optimizer=adamw(model))
        metrics = sft_step(model, state, micros, lr=0.0, grad_clip=1e9)
        return metrics, torch.cat([p.grad.flatten() for p in model.parameters()])

    whole, expected = gradient([collate([stream(p) for p in range(rows)])])
    cut, got = gradient(bucketed(stream, rows=rows, fill=fill, max_tokens=max_tokens)(0))
    assert cut["loss"] == pytest.approx(whole["loss"], rel=1e-12)
    assert cut["tokens/learned"] == whole["tokens/learned"]
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


@given(st.lists(st.integers(2, 40), min_size=1, max_size=30), st.floats(0.1, 1.0), st.integers(1, 200))
def test_buckets_hold_every_row_once_and_bound_the_padding(lengths, fill, max_tokens):
    examples = [Example(ids=(i, *range(1, n)), start=1 + i % (n - 1)) for i, n in enumerate(lengths)]
    micros = bucketed(examples.__getitem__, rows=len(examples), fill=fill, max_tokens=max_tokens)(0)
    found = {}
    for micro in micros:
        B, T = micro.ids_BT.shape
        assert int(micro.length_B.max()) == T
        assert int(micro.length_B.min()) >= fill * T
        assert B == 1 or max_tokens >= B * T
        for row, length, mask in zip(
            micro.ids_BT.tolist(), micro.length_B.tolist(), micro.mask_BT.tolist(), strict=True
        ):
            assert not any(row[length:])
            assert mask == [examples[row[0]].start <= t < length for t in range(T)]
            found[row[0]] = tuple(row[:length])
    assert found == {i: e.ids for i, e in enumerate(examples)}
    assert sum(len(m.ids_BT) for m in micros) == len(examples)


def test_steps_read_the_stream_in_order_without_overlap():
    batches = bucketed(lambda position: Example(ids=(position, 1), start=1), rows=3)
    seen = [sorted(int(i) for m in batches(step) for i in m.ids_BT[:, 0]) for step in range(3)]
    assert seen == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_shuffled_goes_once_through_every_epoch_in_different_orders():
    examples = [Example(ids=(n, n), start=1) for n in range(20)]
    a, b = shuffled(examples, seed=1), shuffled(examples, seed=2)
    epochs = [[a(e * 20 + i).ids[0] for i in range(20)] for e in range(3)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [b(i).ids[0] for i in range(20)] != epochs[0]
    assert [shuffled(examples, seed=1)(i).ids[0] for i in (45, 3)] == [epochs[2][5], epochs[0][3]]
    with pytest.raises(InputError, match="no example"):
        shuffled([], seed=1)


def test_schedule_rises_to_one_and_falls_to_zero():
    factors = [schedule(s, steps=100, warmup=10) for s in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0.0, abs=1e-12)
    assert all(a > b for a, b in itertools.pairwise(factors[10:]))


def test_first_update_is_adamw_by_hand():
    model = make_model()
    batch = collate([stream(p) for p in range(4)])
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    lines = []
    sft(model, lambda step: [batch], steps=1, lr=0.01, weight_decay=0.1, grad_clip=1e9, log=lines.append)
    for name, p in model.named_parameters():
        # The first AdamW update is lr * g / (|g| + eps) after a decay of lr * weight_decay.
        decay = 0.1 if p.ndim >= 2 else 0.0
        expected = before[name] * (1 - 0.01 * decay) - 0.01 * p.grad / (p.grad.abs() + 1e-8)
        torch.testing.assert_close(p.detach(), expected)
    assert lines[0]["lr"] == 0.01
    assert lines[0]["step"] == 1


def test_gradient_is_clipped_to_the_given_norm():
    model = make_model()
    state = SftState(step=0, optimizer=adamw(model))
    metrics = sft_step(model, state, [collate([stream(1)])], lr=0.0, grad_clip=1e-3)
    norm = math.sqrt(sum(float((p.grad**2).sum()) for p in model.parameters()))
    assert metrics["grad_norm"] > 1e-2
    assert norm == pytest.approx(1e-3, rel=1e-2)


def test_every_step_reads_its_own_batch():
    read = []

    def batches(step):
        read.append(step)
        return [collate([stream(step)])]

    sft(make_model(), batches, steps=3, lr=0.01)
    assert read == [0, 1, 2]


def test_it_learns_and_logs_every_step():
    model, lines = make_model().float(), []
    sft(model, bucketed(stream, rows=35), steps=80, lr=0.02, warmup=5, log=lines.append)
    assert [line["step"] for line in lines] == list(range(1, 81))
    assert [line["lr"] for line in lines] == [0.02 * schedule(s, steps=80, warmup=5) for s in range(80)]
    assert lines[0]["loss"] > 2.5
    assert lines[-1]["loss"] < 1.0
    assert set(lines[0]) == {
        "step", "loss", "grad_norm", "lr", "tokens/learned", "tokens/padding", "time/step",
    }  # fmt: skip
    expected = sum(len(stream(p).ids) - 2 for p in range(35))
    assert lines[0]["tokens/learned"] == expected
    assert 0 <= lines[0]["tokens/padding"] < 0.25
    assert not model.training


def test_a_resumed_run_ends_bit_for_bit_where_an_uninterrupted_one_does():
    batches = bucketed(stream, rows=8)
    options = {"steps": 6, "lr": 0.01, "warmup": 2, "weight_decay": 0.1}
    whole = make_model()
    sft(whole, batches, **options)

    saved = {}
    first = make_model()

    def keep(state):
        if state.step == 3:
            saved.update(model=copy.deepcopy(first.state_dict()), optimizer=copy.deepcopy(state.optimizer.state_dict()))

    sft(first, batches, **options, after_step=keep)
    second = make_model(seed=9)
    second.load_state_dict(saved["model"])
    optimizer = adamw(second)
    optimizer.load_state_dict(saved["optimizer"])
    lines = []
    end = sft(second, batches, **options, state=SftState(step=3, optimizer=optimizer), log=lines.append)
    assert (end.step, [line["step"] for line in lines]) == (6, [4, 5, 6])
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_loss_that_is_not_finite_stops_before_the_weights_change():
    model = make_model()
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TrainingError, match="step 1 "):
        sft(model, bucketed(stream, rows=2), steps=2, lr=0.1)
    assert all(torch.equal(before[n].nan_to_num(7.0), v.nan_to_num(7.0)) for n, v in model.state_dict().items())


def test_a_step_without_tokens_is_an_error():
    empty = TextBatch(
        ids_BT=torch.zeros(1, 3, dtype=torch.int64),
        length_B=torch.tensor([3]),
        mask_BT=torch.zeros(1, 3, dtype=torch.bool),
    )
    with pytest.raises(TrainingError, match="no token to learn from"):
        sft(make_model(), lambda step: [empty], steps=1, lr=0.1)


def test_read_examples_in_all_three_forms(tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    path = write(
        tmp_path,
        {"prompt": "a b", "response": "c d"},
        "",
        {"text": "a b c"},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b c"}]},
    )
    names = [(tokenizer.convert_ids_to_tokens(list(e.ids)), e.start) for e in read_examples(path, tokenizer)]
    assert names == [
        (["a", "b", "c", "d", "<end>"], 2),
        (["a", "b", "c", "<end>"], 1),
        (["user", "a", "<end>", "line", "assistant", "b", "c", "<end>"], 5),
    ]


def test_a_prompt_starts_as_the_tokenizer_starts_a_text_and_a_response_does_not(tmp_path):
    from tokenizers import processors

    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="line $A", special_tokens=[("line", tokenizer.convert_tokens_to_ids("line"))]
    )
    [one] = read_examples(write(tmp_path, {"prompt": "a b", "response": "c"}), tokenizer)
    assert tokenizer.convert_ids_to_tokens(list(one.ids)) == ["line", "a", "b", "c", "<end>"]
    assert one.start == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "a JSON list where an object is needed"),
        ("[" * 100_000, "not valid JSON"),
        ({"question": "a"}, "needs `prompt` and `response`, `messages`, or `text`; it has question"),
        ({}, "it has nothing"),
        ({"prompt": "a", "response": 3}, "`response` is a int"),
        ({"prompt": "", "response": "a"}, "no token before"),
        ({"text": ""}, "no token before"),
        ({"text": "a b c d"}, "max_length is 4"),
        ({"messages": "a"}, "`messages` must be"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "`messages` must be"),
        ({"messages": [{"role": "user", "content": "a"}] * 2}, "`messages` must be"),
        ({"messages": [{"role": "tool", "content": "a"}, {"role": "assistant", "content": "b"}]}, "no tools"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    path = write(tmp_path, {"text": "a"}, "", line)
    with pytest.raises(InputError) as error:
        read_examples(path, tokenizer, max_length=4)
    assert message in str(error.value)
    assert f"{path}, line 3: " in str(error.value)


def test_files_and_tokenizers_that_cannot_be_used(tmp_path):
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    with pytest.raises(InputError, match="no end token"):
        read_examples(write(tmp_path, {"text": "a"}), make_tokenizer(end=None))
    with pytest.raises(InputError, match="no chat template"):
        read_examples(write(tmp_path, chat), make_tokenizer())
    with pytest.raises(InputError, match="holds no example"):
        read_examples(write(tmp_path, "", " "), make_tokenizer())
    with pytest.raises(InputError, match=r"absent\.jsonl does not exist: check the path"):
        read_examples(tmp_path / "absent.jsonl", make_tokenizer())
    with pytest.raises(InputError, match=r"cannot be read as UTF-8 text: .*Is a directory"):
        read_examples(tmp_path, make_tokenizer())
    (tmp_path / "data.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as UTF-8"):
        read_examples(tmp_path / "data.jsonl", make_tokenizer())
    rewriting = make_tokenizer()
    rewriting.chat_template = "{% if messages | length == 1 %}a{% else %}b c d{% endif %}"
    with pytest.raises(InputError, match="earlier messages differently"):
        read_examples(write(tmp_path, chat), rewriting)


def test_a_selection_tells_what_it_left_and_what_all_tokens_lose():
    """Two rows by the model's own logits; a weight of 0 leaves a token out of the loss, not of the rest."""
    model, batch = make_model(), collate([stream(2), stream(5)])
    logp = model(input_ids=batch.ids_BT).logits[:, :-1].log_softmax(-1).detach()
    mask, target = batch.mask_BT[:, 1:], batch.ids_BT[:, 1:]
    loss_N, entropy_N = -logp.gather(-1, target[..., None])[..., 0][mask], -(logp.exp() * logp).sum(-1)[mask]
    state = SftState(step=0, optimizer=adamw(model))
    seen = sft_step(model, state, [batch], lr=0.0, weigh=forks(share=0.4))
    kept_N = entropy_N >= entropy_N.topk(math.ceil(0.4 * len(entropy_N))).values[-1]
    assert seen["loss"] == pytest.approx(float(loss_N[kept_N].mean()))
    assert seen["loss/all"] == pytest.approx(float(loss_N.mean()))
    assert seen["entropy/mean"] == pytest.approx(float(entropy_N.mean()))
    assert seen["credit/share"] == pytest.approx(int(kept_N.sum()) / len(kept_N))
    assert "loss/all" not in sft_step(model, state, [batch], lr=0.0)
