"""Rock tokens: divergences by the models' own logits, scores by hand, and the mask they make."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from forkpoint.credit import chain, init, run
from forkpoint.credit.penalty import kl
from forkpoint.credit.sampled import rock_ids, without_ids
from forkpoint.errors import InputError
from forkpoint.loss import token_losses
from forkpoint.rollouts import blank_credit
from forkpoint.train import offline_rocks, rescore
from forkpoint.train.offline import prompted
from forkpoint.train.offline_data import rollouts_of_rows
from forkpoint.train.offline_rocks import RockSettings, find_rocks, rocks_of, teacher_kl
from tiny import qwen3, save, strange_head

ROWS = [
    {"prompt_id": "a", "prompt": "a", "ids": [5, 6, 7, 1], "reward": 1.0},
    {"prompt_id": "a", "prompt": "a", "ids": [6, 1], "reward": 0.0},
    {"prompt_id": "b", "prompt": "b", "ids": [7, 7, 1], "reward": 1.0},
]
PROMPTS = [[3, 4], [8]]


def batch():
    return prompted(rollouts_of_rows(ROWS), PROMPTS)


@pytest.mark.parametrize(
    ("head", "temperature", "held"), [("fused", 1.0, 1 << 24), ("fused", 0.5, 40), ("plain", 1.0, 40)]
)
def test_divergence_is_that_of_the_full_distributions(head, temperature, held, monkeypatch):
    monkeypatch.setattr(offline_rocks, "LOGITS_HELD", held)
    monkeypatch.setattr(rescore, "PASS_TOKENS", 8 if held == 40 else 100)
    make = strange_head if head == "plain" else qwen3
    student, teacher = make(seed=0), make(seed=1)
    got = teacher_kl(student, teacher, batch(), temperature=temperature, head=head)
    for row, (answer, prompt) in enumerate(zip(ROWS, (PROMPTS[0], PROMPTS[0], PROMPTS[1]), strict=True)):
        logp, target = (
            (model(input_ids=torch.tensor([prompt + answer["ids"]])).logits[0, len(prompt) - 1 : -1] / temperature)
            .double().log_softmax(-1).detach()
            for model in (student, teacher)
        )  # fmt: skip
        size = len(answer["ids"])
        expected = (logp.exp() * (logp - target)).sum(-1)
        torch.testing.assert_close(got[row, :size].double(), expected, rtol=1e-4, atol=1e-6)
        assert not got[row, size:].any()
    assert float(got.max()) > 0.1


def test_a_model_is_not_away_from_itself():
    assert float(teacher_kl(qwen3(), qwen3(), batch()).abs().max()) < 1e-6


def test_one_set_of_answers_scores_as_rock_ids_do():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 30, (8, 40), generator=generator)
    kl_BT = torch.rand(8, 40, generator=generator).double()
    mask = torch.rand(8, 40, generator=generator) < 0.8
    for count, skip in ((100, 5), (4, 0), (3, 7)):
        rocks, tokens, share = rocks_of([(kl_BT, ids, mask)], count=count, skip=skip)
        listed = [rock.id for rock in rocks]
        assert listed == rock_ids(kl_BT, ids, mask, count=count, skip=skip)
        on = mask & torch.isin(ids, torch.tensor(listed))
        assert tokens == pytest.approx(float(on.sum() / mask.sum()))
        assert share == pytest.approx(float(kl_BT[on].sum() / kl_BT[mask].sum()))
        assert rocks[0].mean == pytest.approx(float(kl_BT[mask & (ids == listed[0])].mean()))


def test_what_stays_hard_in_both_sets_by_hand():
    """Totals before: 3 has 4, 4 has 3, 5 has 2; after: 1, 2, none. Minima: 1, 2, 0; 9 is most frequent."""
    ids = torch.tensor([[3, 3, 4, 5, 9, 9, 9]])
    every = torch.ones_like(ids, dtype=torch.bool)
    before = (torch.tensor([[1.0, 3.0, 3.0, 2.0, 9.0, 9.0, 9.0]]), ids, every)
    after = (torch.tensor([[0.5, 0.5, 2.0, 7.0, 9.0, 9.0, 9.0]]), ids, every & (ids != 5))
    rocks, tokens, share = rocks_of([before, after], skip=1)
    assert [(rock.id, rock.score, rock.frequency, rock.mean) for rock in rocks] == [(4, 2, 2, 2.5), (3, 1, 4, 1.25)]
    assert tokens == pytest.approx(6 / 13)
    assert share == pytest.approx((4 + 3 + 1 + 2) / (4 + 3 + 2 + 27 + 1 + 2 + 27))


def test_a_distillation_leaves_rocks_out_of_its_divergence():
    """A chain whose only loss is the distance to the teacher: dropped tokens lose nothing, the others what they did."""
    rollouts = batch()
    zeros = torch.zeros_like(rollouts.logp_BT)
    rollouts = dataclasses.replace(rollouts, logp_BT=zeros - 1, ref_logp_BT=zeros - 2, entropy_BT=zeros)

    def losses(*links):
        made = chain(kl(coefficient=1.0, form="k2"), *links)
        credit, _ = run(made, blank_credit(rollouts), rollouts, init(made), when="rollout")
        return token_losses(rollouts.logp_BT, rollouts, credit)

    masked = losses(without_ids(ids=[6, 7], denominator="selected"))
    rocks = torch.isin(rollouts.ids_BT, torch.tensor([6, 7]))
    assert not masked[rocks].any()
    assert torch.equal(masked[~rocks], losses()[~rocks])
    assert float(masked[~rocks].max()) == 0.5


def test_from_files_to_ids_and_what_cannot_be_compared(tmp_path):
    save(tmp_path / "student")
    save(tmp_path / "teacher", seed=1)
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": "1 +", "completion": text}) for text in ("a b", "b c c")))
    paths = [str(tmp_path / name) for name in ("student", "teacher")]
    settings = RockSettings(skip=0, threads=1)
    rocks, tokens, share, words = find_rocks([path], paths[:1], paths[1], settings)
    assert {words.decode([rock.id]) for rock in rocks} == {"a", "b", "c", "<end>"}
    assert (tokens, share) == (1.0, pytest.approx(1.0))
    same, _, _, _ = find_rocks([path, path], paths[:1], paths[1], settings)
    assert [(rock.id, rock.score) for rock in same] == [(rock.id, rock.score) for rock in rocks]
    itself, _, _, _ = find_rocks([path], paths[:1], paths[0], settings)
    assert all(rock.score < 1e-5 < rocks[-1].score for rock in itself)
    config = json.loads((tmp_path / "teacher" / "tokenizer.json").read_text())
    vocabulary = config["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (tmp_path / "teacher" / "tokenizer.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"does not have the vocabulary of .*choose a teacher of the same family"):
        find_rocks([path], paths[:1], paths[1], settings)
    with pytest.raises(InputError, match="the answers hold no token"):
        rocks_of([])
