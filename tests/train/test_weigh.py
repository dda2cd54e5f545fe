"""Supervised selection: weights by hand, and the step they make."""

from __future__ import annotations

import math

import pytest
import torch
from test_sft import make_model, stream

from forkpoint.errors import InputError, TrainingError
from forkpoint.train.coldstart import ColdStart, read_ids
from forkpoint.train.examples import bucketed, collate
from forkpoint.train.sft import SftState, adamw, sft, sft_step
from forkpoint.train.weigh import TokenValues, forks, leaving_out, selection_of, surprise, token_values


def tokens(loss, entropy, ids=None):
    n = len(loss)
    return TokenValues(
        loss_N=torch.tensor(loss, dtype=torch.float64),
        entropy_N=torch.tensor(entropy, dtype=torch.float64),
        ids_N=torch.arange(n) if ids is None else torch.tensor(ids),
    )


def test_entropy_sft_by_hand():
    """δ = loss - 0.5 H: 1, 2, -0.5, 1, 0.5; 0.7 of 5 is 3.5, so 3; of the equal ones the earlier is kept."""
    five = tokens([1.0, 3.0, 0.5, 2.0, 0.5], [0.0, 2.0, 2.0, 2.0, 0.0])
    assert surprise(share=0.7, kappa=0.5)(five).tolist() == [1, 1, 0, 1, 0]
    assert surprise(share=0.4, kappa=0.5)(five).tolist() == [1, 1, 0, 0, 0]
    assert surprise(share=0.2, kappa=0.0)(five).tolist() == [0, 1, 0, 0, 0]
    assert surprise(share=0.01)(five).sum() == 1
    assert surprise(share=1.0)(five).sum() == 5


def test_forks_by_hand():
    """0.3 of 5 is 1.5, so 2: H 2.0 twice, the earlier of three equal ones."""
    five = tokens([0.0] * 5, [0.0, 2.0, 2.0, 2.0, 0.0])
    assert forks(share=0.3)(five).tolist() == [0, 1, 1, 0, 0]
    assert forks(share=0.3, rest=0.5)(five).tolist() == [0.5, 1, 1, 0.5, 0.5]
    assert forks(share=1.0)(five).tolist() == [1] * 5


def test_what_is_left_out_is_not_ranked():
    """Ids 7 have the largest entropies; of the other three one third is one."""
    five = tokens([0.0] * 5, [0.1, 9.0, 0.3, 9.0, 0.2], ids=[1, 7, 2, 7, 3])
    assert leaving_out([7, 8], forks(share=1 / 3, rest=0.25))(five).tolist() == [0.25, 0, 1, 0, 0.25]
    assert leaving_out([1, 7, 2, 3])(five).tolist() == [0] * 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: surprise(share=0.0), "share is 0.0"),
        (lambda: surprise(kappa=-1.0), "kappa is -1.0"),
        (lambda: forks(rest=1.5), "rest is 1.5"),
        (lambda: forks(share=math.nan), "share is nan"),
        (lambda: selection_of("fork"), "did you mean 'forking'"),
        (lambda: selection_of("all", share=0.5), "'all' does not read share"),
        (lambda: selection_of("forking", kappa=0.5), "entropy-sft do"),
        (lambda: ColdStart(data="d", model="m", steps=1, select="forking", share=2.0), "share is 2.0"),
    ],
)
def test_bad_settings_are_named(call, message):
    with pytest.raises(InputError) as error:
        call()
    assert message in str(error.value)


def gradient(micros, **options):
    model = make_model()
    metrics = sft_step(model, SftState(step=0, optimizer=adamw(model)), micros, lr=0.0, grad_clip=1e9, **options)
    return metrics, torch.cat([p.grad.flatten() for p in model.parameters()])


ROWS = [stream(p) for p in range(9)]


@pytest.mark.parametrize("head", ["fused", "plain"])
def test_values_are_those_of_the_logits(head):
    model = make_model()
    batch = collate(ROWS)
    got = token_values(model, batch, head=head)
    logp = model(input_ids=batch.ids_BT).logits[:, :-1].log_softmax(-1).detach()
    mask, target = batch.mask_BT[:, 1:], batch.ids_BT[:, 1:]
    torch.testing.assert_close(got.loss_N, -logp.gather(-1, target[..., None])[..., 0][mask])
    torch.testing.assert_close(got.entropy_N, -(logp.exp() * logp).sum(-1)[mask])
    assert got.ids_N.equal(target[mask])
    assert got.loss_N.requires_grad
    assert not got.entropy_N.requires_grad


@pytest.mark.parametrize("head", ["fused", "plain"])
def test_equal_weights_are_the_plain_step(head):
    _, expected = gradient([collate(ROWS)])
    for weigh in (forks(share=1.0), surprise(share=1.0), lambda values: torch.full_like(values.entropy_N, 0.3)):
        metrics, got = gradient([collate(ROWS)], weigh=weigh, head=head)
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
        assert metrics["tokens/learned"] == sum(len(row.ids) - 2 for row in ROWS)


@pytest.mark.parametrize("head", ["fused", "plain"])
@pytest.mark.parametrize("weigh", [forks(share=0.3), forks(share=0.3, rest=0.2), surprise(share=0.4)])
def test_a_step_is_the_weighted_mean_of_its_losses(weigh, head):
    model = make_model()
    values = token_values(model, collate(ROWS))
    weight_N = weigh(values)
    loss = (weight_N * values.loss_N).sum() / weight_N.sum()
    loss.backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    metrics, got = gradient([collate(ROWS)], weigh=weigh, head=head)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
    assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-12)
    assert metrics["tokens/learned"] == int((weight_N > 0).sum())


@pytest.mark.parametrize("max_tokens", [1, 8, 20])
def test_the_selection_is_of_the_whole_step_however_it_is_cut(max_tokens):
    batches = bucketed(stream, rows=9, max_tokens=max_tokens)(0)
    assert len(batches) > 1
    for weigh in (forks(share=0.3), surprise(share=0.4)):
        expected = gradient([collate(sorted(ROWS, key=lambda row: -len(row.ids)))], weigh=weigh)
        metrics, got = gradient(batches, weigh=weigh)
        torch.testing.assert_close(got, expected[1], rtol=1e-9, atol=1e-12)
        assert metrics["tokens/learned"] == expected[0]["tokens/learned"]


def test_a_step_in_which_nothing_counts_stops_the_run():
    with pytest.raises(TrainingError, match="step 1 has no token to learn from: its selection"):
        sft(make_model(), bucketed(stream, rows=2), steps=1, lr=0.1, weigh=leaving_out(range(17)))


def test_a_model_that_is_not_finite_is_told_in_one_sentence():
    model = make_model()
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan
    with pytest.raises(TrainingError, match="logits of step 1 are not finite"):
        sft(model, bucketed(stream, rows=2), steps=1, lr=0.1, weigh=forks())


def test_it_learns():
    model, lines = make_model().float(), []
    sft(model, bucketed(stream, rows=35), steps=60, lr=0.02, warmup=5, log=lines.append, weigh=forks(share=0.5))
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]


@pytest.mark.parametrize("text", ["", "{}", "[1.5]", "[-1]", "[true]", '["a"]', "[" * 100_000])
def test_ids_that_cannot_be_read_are_named(tmp_path, text):
    path = tmp_path / "ids.json"
    path.write_text(text)
    with pytest.raises(InputError, match="JSON list of token ids"):
        read_ids(path)


def test_ids_are_read(tmp_path):
    path = tmp_path / "ids.json"
    path.write_text("[3, 1]")
    assert read_ids(path) == (3, 1)
    with pytest.raises(InputError, match="cannot be read"):
        read_ids(tmp_path / "none.json")
