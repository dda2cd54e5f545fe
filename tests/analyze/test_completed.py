"""Methods drawn with what the model that wrote the answers gives, and what is said where it is not there."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from forkpoint.analyze.completed import check_plotted, completed_by
from forkpoint.analyze.measures.push import push
from forkpoint.analyze.recorded import rollouts_of_table
from forkpoint.analyze.rundata import read_rollouts, read_run
from forkpoint.analyze.views.methods_page import plot_methods
from forkpoint.entropy.nucleus import nucleus_entropy_of
from forkpoint.errors import InputError
from forkpoint.methods import method_chain
from forkpoint.model import load_model
from forkpoint.tasks.prompts import load_tokenizer
from forkpoint.train.loop import train
from forkpoint.train.recipe import load_recipe
from tiny import save

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
from test_loop import write

QUIET = ["train.steps=1", "train.lr=1e-12", "eval.before=false", "eval.after=false", "eval.every=0"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    train(load_recipe(write(folder), QUIET), run_dir=folder / "run")
    save(folder / "other", seed=5)
    return folder


@pytest.fixture(scope="module")
def batch(recorded):
    return rollouts_of_table(read_rollouts(recorded / "run" / "rollouts" / "step-00001.parquet"))


def recipe_of(recorded):
    return read_run(recorded / "run").recipe["recipe"]


def values(recorded, rollouts, row, temperature=1.0):
    """Hidden states and logits that predict the tokens of one answer, from the model itself."""
    model, words = load_model(recorded / "model"), load_tokenizer(recorded / "model")
    prompt = words(rollouts.prompts[int(rollouts.group_B[row])].text)["input_ids"]
    ids = torch.tensor([[*prompt, *rollouts.ids_BT[row][rollouts.mask_BT[row]].tolist()]])
    out = model(input_ids=ids, output_hidden_states=True)
    at = slice(len(prompt) - 1, -1)
    return out.hidden_states[-1][0, at].detach(), out.logits[0, at].detach() / temperature


def test_columns_are_those_of_the_model(recorded, batch):
    needs = {"forward_hidden", "forward_nucleus_entropy", "collision", "reward", "forward"}
    got, notes = completed_by(str(recorded / "model"), batch, needs, recipe_of(recorded))
    assert set(got.extra) == {"hidden", "nucleus_entropy", "collision"}
    for row in (0, 5, batch.rows - 1):
        size = int(batch.mask_BT[row].sum())
        hidden, logits = values(recorded, batch, row)
        torch.testing.assert_close(got.extra["hidden"][row, :size].float(), hidden, rtol=1e-4, atol=1e-4)
        nucleus = nucleus_entropy_of(logits)
        torch.testing.assert_close(got.extra["nucleus_entropy"][row, :size].float(), nucleus, rtol=1e-4, atol=1e-4)
        p = logits.softmax(-1)
        torch.testing.assert_close(got.extra["collision"][row, :size].float(), p.square().sum(-1), rtol=1e-4, atol=1e-5)
    assert got.logp_BT.dtype == torch.float64
    assert torch.equal(got.logp_BT, batch.logp_BT)
    assert torch.equal(got.entropy_BT, batch.entropy_BT)
    assert got.ref_logp_BT is None
    assert "recorded log-probs differ from that model's by" in notes[0]


def test_a_reference_gives_its_log_probs(recorded, batch):
    got, notes = completed_by(None, batch, (), recipe_of(recorded), reference=str(recorded / "model"))
    torch.testing.assert_close(got.ref_logp_BT, batch.logp_BT, rtol=1e-4, atol=1e-5)
    assert (notes, dict(got.extra)) == ([], {})
    other, _ = completed_by(None, batch, (), recipe_of(recorded), reference=str(recorded / "other"))
    assert float((other.ref_logp_BT - batch.logp_BT).abs().max()) > 0.5
    pulled = [push(method_chain("grpo_kl", coefficient=1.0), one).push_BT for one in (got, other)]
    free = push(method_chain("grpo_kl", coefficient=0.0), batch).push_BT
    torch.testing.assert_close(pulled[0], free, rtol=1e-3, atol=1e-3)
    assert float((pulled[1] - free).abs().max()) > 0.1


@pytest.mark.parametrize("names", [("siren", "hidden_align"), ("lp_reg", "delta"), ("ettrl",)])
def test_pages_are_drawn_with_the_model(names, recorded, tmp_path):
    given = {"hidden_align": {"coefficient": 0.1}, "delta": {"temperature": 1.0}}
    chains = {name: method_chain(name, **given.get(name, {})) for name in names}
    page = plot_methods(chains, recorded / "run", tmp_path / "p.html", model=str(recorded / "model")).read_text("utf-8")
    assert " and ".join(names) in page
    assert page.count("<figure") >= 2 + len(names)
    assert "16 answers compared" in page


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("siren", {}, "needs 'forward_nucleus_entropy' .*: add --model DIR, the model that wrote the answers"),
        ("lp_reg", {}, "needs 'proxy_logp' .*: add --model DIR"),
        ("grpo_kl", {}, "needs 'ref_logp' .*: add --reference DIR"),
        ("grpo_kl", {"model": True}, "needs 'ref_logp' .*: add --reference DIR"),
        ("srar", {"model": True}, "needs 'step_reward' .*no pass of a model gives it"),
        ("hicra", {"model": True}, r"needs 'planning' .*no phrases in columns\.planning"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(name, options, message, batch, recorded):
    asked = {"model": False, "reference": False} | options
    with pytest.raises(InputError, match=f"^it: link .* {message}") as error:
        check_plotted("it", method_chain(name), batch, recipe_of(recorded), **asked)
    assert "\n" not in str(error.value)


def test_what_is_there_is_not_asked_for(batch, recorded):
    own = dataclasses.replace(batch, extra={"proxy_logp": batch.logp_BT}, ref_logp_BT=batch.logp_BT)
    for name in ("lp_reg", "grpo_kl", "forking", "reasonmaxxer"):
        check_plotted(name, method_chain(name), own, {}, model=False, reference=False)
    phrases = {"columns": {"planning": ["wait"]}}
    check_plotted("hicra", method_chain("hicra"), batch, phrases, model=True, reference=False)
