"""Faster ways to read one token a row, against the model's own code."""

import dataclasses
from functools import partial

import pytest
import torch
from test_decoder import STOPS, family, requests
from torch.nn import functional as F

from forkpoint.decode import body as bodies
from forkpoint.decode.attention import over_blocks
from forkpoint.decode.cache import Block, SlotLayer, rebuilt
from forkpoint.decode.decoder import Sampling, decode
from forkpoint.decode.lean import lean
from forkpoint.linear import row_linears
from tiny import qwen3


@pytest.mark.parametrize(
    ("name", "way"), [("qwen3", "_lean"), ("llama", "_lean"), ("mistral-sliding", "_blocks"), ("gemma2", "_blocks")]
)
def test_which_way_a_family_takes_and_that_it_changes_nothing(name, way, monkeypatch):
    model = family(name)
    with torch.no_grad():
        for place, weight in model.named_parameters():
            if "norm" in place:
                weight += 0.5 * torch.randn_like(weight)
    with torch.inference_mode():
        chosen, split = bodies.token_body(model)
    assert (chosen.func.__name__, split) == (way, True)
    prompts, streams = requests(8, 3)
    sampling = Sampling(max_tokens=80, stop_ids=STOPS, slots=7)
    ours = decode(model, prompts, streams, sampling)
    ways = {"_own": (partial(bodies._own, model, "fused"), False), "_blocks": (partial(bodies._blocks, model), True)}
    for other in ways.values():
        monkeypatch.setattr("forkpoint.decode.decoder.token_body", lambda *_, other=other: other)
        theirs = decode(model, prompts, streams, sampling)
        assert [answer.ids for answer in theirs] == [answer.ids for answer in ours]


def test_row_linears_change_nothing():
    prompts, streams = requests(8, 8)
    sampling = Sampling(max_tokens=40, stop_ids=STOPS, slots=48)
    before, after = (decode(model, prompts, streams, sampling) for model in (qwen3(), row_linears(qwen3())))
    assert [answer.ids for answer in before] == [answer.ids for answer in after]


@torch.inference_mode()
def test_a_way_that_does_not_agree_is_not_taken(monkeypatch):
    model = qwen3()
    real = bodies.step
    monkeypatch.setattr(bodies, "step", lambda *a: real(*a) + 1e-2)
    assert bodies.token_body(model)[0].func is bodies._blocks
    monkeypatch.setattr(bodies, "block_attention", lambda *a, **k: (torch.zeros(1, 1, 4, 8), None))
    assert bodies.token_body(model)[0].func is bodies._own


@torch.inference_mode()
@pytest.mark.parametrize(
    "change",
    [{"hidden_act": "gelu"}, {"attention_bias": True}, {"sliding_window": 8, "use_sliding_window": True}],
)
def test_models_that_are_not_written_down_are_left_alone(change):
    model = qwen3(**change)
    assert lean(model) is None


YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}


@torch.inference_mode()
def test_stretched_positions_are_read_as_the_model_reads_them():
    model = qwen3(rope_parameters=YARN)
    assert model.base_model.rotary_emb.attention_scaling != 1
    assert bodies.token_body(model)[0].func is bodies._lean


@torch.inference_mode()
def test_positions_that_change_with_the_length_are_left_to_the_model():
    assert lean(qwen3(rope_parameters=DYNAMIC)) is None


@torch.inference_mode()
def test_attention_over_blocks_of_fewer_and_fewer_rows():
    torch.manual_seed(0)
    R, kv, group, width, counts, widths = 5, 2, 3, 8, (1, 2, 5), (4, 7, 3)
    blocks = [
        Block(torch.randn(n, kv, w + 2, width), torch.randn(n, kv, w + 2, width), w)
        for n, w in zip(counts, widths, strict=True)
    ]
    layer = SlotLayer(blocks, split=True)
    keys, values = torch.zeros(2, R, kv, sum(widths), width)
    seen, at = torch.zeros(R, 1, 1, sum(widths), dtype=torch.bool), 0
    for block, n, w in zip(blocks, counts, widths, strict=True):
        keys[:n, :, at : at + w], values[:n, :, at : at + w] = block.keys[:, :, :w], block.values[:, :, :w]
        seen[:n, ..., at : at + w] = torch.rand(n, 1, 1, w) < 0.7
        at += w
    seen[..., -1] = True
    q = torch.randn(R, kv * group, width)
    bias = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)
    expected = F.scaled_dot_product_attention(q[:, :, None], keys, values, attn_mask=seen, scale=1.0, enable_gqa=True)
    torch.testing.assert_close(over_blocks(layer, q, bias), expected[:, :, 0], atol=1e-6, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("split", [True, False])
def test_a_cache_keeps_every_row_through_leaving_and_entering(split):
    """Against a list of the columns of every row."""
    rng = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=rng)

    rows, cache = [], None
    for _ in range(12):
        keep = [i for i in range(len(rows)) if float(torch.rand(1, generator=rng)) < 0.6]
        lengths = [1 + int(torch.randint(0, 70, (1,), generator=rng)) for _ in range(3)]
        fresh = [draw(length, 2, 4) for length in lengths]
        padded = torch.zeros(3, 2, max(lengths), 4)
        for i, x in enumerate(fresh):
            padded[i, :, max(lengths) - len(x) :] = x.transpose(0, 1)
        rows = [rows[i] for i in keep]
        cache = rebuilt(cache, keep, [len(row) for row in rows], [(padded, -padded)], split=split, room=40)
        rows += fresh
        for _ in range(9):
            new = draw(len(rows), 2, 4)
            cache.layers[0].update(new[:, :, None], -new[:, :, None])
            rows = [torch.cat([row, new[i][None]]) for i, row in enumerate(rows)]
        layer = cache.layers[0]
        for i, row in enumerate(rows):
            parts = [b.keys[i, :, : b.filled] for b in layer.blocks if i < len(b.keys)]
            mirror = [b.values[i, :, : b.filled] for b in layer.blocks if i < len(b.values)]
            assert torch.equal(torch.cat(parts, 1)[:, -len(row) :], row.transpose(0, 1))
            assert torch.equal(torch.cat(mirror, 1)[:, -len(row) :], -row.transpose(0, 1))
        assert all(b.keys[:, :, : b.filled].isfinite().all() for b in layer.blocks)
    if split:
        held = sum(b.keys.shape[0] * b.keys.shape[2] for b in layer.blocks)
        assert held < 0.8 * len(rows) * layer.length


def test_the_laid_out_weights_are_those_of_now():
    """Weights that learn between two decodes are read anew."""
    model = qwen3()
    sampling = Sampling(max_tokens=20, stop_ids=())
    before = decode(model, [[4, 5]], [0], sampling)[0]
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter.mul_(1.5)
    after = decode(model, [[4, 5]], [0], sampling)[0]
    ids = torch.tensor([[4, 5, *after.ids]])
    with torch.no_grad():
        logp = model(ids).logits[0, 1:-1].log_softmax(-1).gather(1, ids[0, 2:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(after.logp), logp, atol=2e-5, rtol=1e-4)
    assert dataclasses.asdict(before) != dataclasses.asdict(after)
