"""The studies against what the model itself says, computed anew in the plainest way."""

from __future__ import annotations

import dataclasses
import math
import re
import weakref

import numpy as np
import pytest
import torch

from forkpoint.analyze.measures.paper_figures import change_by_percentile
from forkpoint.analyze.measures.paper_tables import overlap_over_checkpoints
from forkpoint.analyze.studies import subject as subjects
from forkpoint.analyze.studies.checkpoints import checkpoint_panels, checkpoint_study
from forkpoint.analyze.studies.divergence import divergence_panels, divergence_study
from forkpoint.analyze.studies.endings import Convention, Ending
from forkpoint.analyze.studies.forced import forced_panels, forced_study
from forkpoint.analyze.studies.runs import Moment
from forkpoint.analyze.studies.subject import Subject, spread_rows, traces_of, written
from forkpoint.analyze.studies.temperatures import temperature_panels, temperature_study
from forkpoint.analyze.traces.sampling import ids_of
from forkpoint.decode.decoder import Sampling, decode
from forkpoint.errors import InputError
from forkpoint.rollouts import Judgement, Prompt, Verdict
from forkpoint.seeds import key
from tiny import qwen3, strange_head, tokenizer

TEXTS = ("1 + 2", "a b c", "yes no", "3 : 4")


def last_number(text):
    found = list(re.finditer(r"\d", text))
    return Ending(answer=found[-1][0], opener="=", start=found[-1].start()) if found else None


def judge(prompts, texts):
    verdicts = [Verdict.RIGHT if "a" in text.split() else Verdict.WRONG for text in texts]
    return [Judgement(verdict=verdict, reward=float(verdict == Verdict.RIGHT)) for verdict in verdicts]


def subject(model=None, **changes):
    words = tokenizer()
    values = {
        "name": "tiny", "model": qwen3() if model is None else model, "tokenizer": words,
        "prompts": tuple(Prompt(id=f"p{i}", text=text) for i, text in enumerate(TEXTS)),
        "encoded": tuple(words(text)["input_ids"] for text in TEXTS),
        "sampling": Sampling(max_tokens=12, stop_ids=(1,)), "group": 4, "seed": 3, "judge": judge,
        "convention": Convention(find=last_number, step=re.compile(":|,")),
    }  # fmt: skip
    return Subject(**(values | changes))


def log_probs(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double().log_softmax(-1)


def entropies(model, prompts, answers):
    found = []
    for prompt, answer in zip(prompts, answers, strict=True):
        logp = log_probs(model, [*prompt, *answer])[len(prompt) - 1 : -1]
        found.append(-(logp.exp() * logp).sum(-1).numpy())
    return np.concatenate(found)


def test_checkpoints_read_the_same_answers_one_at_a_time():
    rollouts = written(subject())
    prompts, answers = ids_of(rollouts)
    alive: list[weakref.ref] = []

    def load(seed):
        assert all(reference() is None for reference in alive)
        model = qwen3(seed=seed)
        alive.append(weakref.ref(model))
        return model

    def gone():
        raise InputError("checkpoint 4 is corrupt")

    moments = [Moment(step=step, load=lambda seed=seed: load(seed)) for step, seed in ((0, 5), (2, 1), (6, 0))]
    moments.insert(2, Moment(step=4, load=gone))
    names = [rollouts.prompts[group].id for group in rollouts.group_B.tolist()]
    found = checkpoint_study(moments, prompts, answers, problem=names, share=0.3, bins=4)
    assert found.missing == {4: "checkpoint 4 is corrupt"}
    assert (found.base, found.final) == (0, 6)
    assert len(alive) == 3

    own = {step: entropies(qwen3(seed=seed), prompts, answers) for step, seed in ((0, 5), (2, 1), (6, 0))}
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in answers])])
    cluster = rollouts.group_B.numpy()
    overlap = overlap_over_checkpoints(own, offsets, share=0.3, cluster_R=cluster)
    change = change_by_percentile(own[0], own[6], offsets, bins=4, cluster_R=cluster)
    for row, expected in zip(found.overlap.rows, overlap.rows, strict=True):
        assert row.base.value == pytest.approx(expected.base.value)
        assert row.final_each.value == pytest.approx(expected.final_each.value)
        assert row.base.low == pytest.approx(expected.base.low)
    np.testing.assert_allclose(found.change.change.value, change.change.value, atol=1e-5)
    assert 0 < found.overlap.rows[-1].base.value < 1
    study = checkpoint_panels(found)
    assert "Step 4 is not shown: checkpoint 4 is corrupt." in study.panels[0].caption
    assert [row["step"] for row in study.numbers["overlap"]["rows"]] == [0, 2, 6]


def test_one_model_is_nothing_to_compare():
    with pytest.raises(InputError, match="takes two models of the run and 1 can be read: the run has no other"):
        checkpoint_study([Moment(step=3, load=qwen3)], [[4]], [[5, 6]])
    with pytest.raises(InputError, match="share is 2"):
        checkpoint_study([], [[4]], [[5, 6]], share=2)


def test_answers_do_not_depend_on_the_problems_beside_them_being_judged():
    judged, plain = written(subject()), written(subject(judge=None))
    assert torch.equal(judged.ids_BT, plain.ids_BT)
    assert not plain.verdicts
    assert judged.rows == 16
    assert len({tuple(row) for row in judged.ids_BT.tolist()}) > 8
    # The first answer of every problem comes first.
    assert spread_rows(judged, 6) == [0, 4, 8, 12, 1, 5]


def test_temperatures_vary_one_at_a_time_around_the_percentile(monkeypatch):
    seen = []
    real = subjects.sample_rollouts

    def spy(model, words, prompts, encoded, sampling, **more):
        seen.append(sampling)
        return real(model, words, prompts, encoded, sampling, **more)

    monkeypatch.setattr(subjects, "sample_rollouts", spy)
    one = subject(sampling=Sampling(max_tokens=12, stop_ids=(1,), temperature=0.6, top_p=0.9))
    found = temperature_study(one, [2.0, 1.0, 0.0])
    assert (seen[0].two, seen[0].temperature, seen[0].top_p) == (None, 1.0, 1.0)
    assert [(s.two.fork, s.two.other) for s in seen[1:]] == [(0, 1), (1, 0), (2, 1), (1, 2)]

    base = written(dataclasses.replace(one, sampling=Sampling(max_tokens=12, stop_ids=(1,))))
    assert found.threshold == pytest.approx(np.quantile(base.entropy_BT[base.mask_BT].numpy(), 0.8), rel=1e-6)
    assert {s.two.threshold for s in seen[1:5]} == {found.threshold}
    for curve, pairs in ((found.curves.fork, ((0, 1), (1, 1), (2, 1))), (found.curves.other, ((1, 0), (1, 1), (1, 2)))):
        assert [point.temperature for point in curve] == [0, 1, 2]
        for point, (fork, other) in zip(curve, pairs, strict=True):
            two = dataclasses.replace(seen[1].two, fork=float(fork), other=float(other))
            streams = [key(3, "study", p, f"p{p}", s) for p in range(4) for s in range(4)]
            ids = [row for row in one.encoded for _ in range(4)]
            answers = decode(one.model, ids, streams, Sampling(max_tokens=12, stop_ids=(1,), two=two))
            texts = one.tokenizer.batch_decode([a.ids for a in answers], skip_special_tokens=True)
            assert point.accuracy.value == pytest.approx(np.mean(["a" in text.split() for text in texts]))
    assert found.cut_short[1.0, 1.0] == sum(finish == "length" for finish in base.finish) / 16
    study = temperature_panels(found, one)
    assert len(study.lines) == 4
    assert "forking tokens at 0 " in study.panels[0].caption
    assert len(study.numbers["cut_short"]) == 5


def test_temperatures_need_verdicts():
    with pytest.raises(InputError, match="the problems have none"):
        temperature_study(subject(judge=None), [0.5])

    def silent(prompts, texts):
        return [Judgement(verdict=Verdict.UNJUDGED, reward=0.0) for _ in texts]

    with pytest.raises(InputError, match="none of the answers could be judged"):
        temperature_study(subject(judge=silent), [0.5])


def test_divergence_intervenes_on_answers_of_many_problems():
    one = subject()
    rollouts = written(one)
    found = divergence_study(one, rollouts, 6, positions=1, samples=2)
    chosen = [rollouts.ids_BT[row][rollouts.mask_BT[row]].tolist() for row in (0, 4, 8, 12, 1, 5)]
    lengths = [len(ids) for ids in chosen]
    assert {case.response for case in found.cases} == set(range(6))
    assert all(case.position < lengths[case.response] for case in found.cases)
    forks = {case.response: case for case in found.cases if case.place == "fork"}
    for number, row in enumerate((0, 4, 8, 12, 1, 5)):
        values = rollouts.entropy_BT[row][rollouts.mask_BT[row]].numpy()
        cut = np.sort(values)[::-1][math.ceil(0.2 * len(values)) - 1]
        assert forks[number].entropy >= cut
        assert forks[number].entropy == pytest.approx(values[forks[number].position])
    assert {(rate.place, rate.action) for rate in found.rates} <= {
        (place, action) for place in ("fork", "near", "random") for action in ("redraw", "keep")
    }
    assert any(case.changed for case in found.cases)
    study = divergence_panels(found, share=0.2)
    assert study.numbers["answers"] == 6
    assert any(line.startswith("Fork minus random, redraw") for line in study.lines)
    greedy = dataclasses.replace(one, sampling=dataclasses.replace(one.sampling, temperature=0.0))
    with pytest.raises(InputError, match="nothing is drawn"):
        divergence_study(greedy, rollouts, 2)


@pytest.mark.parametrize("strange", [False, True])
def test_forced_answers_are_what_the_model_says(strange):
    model = strange_head() if strange else qwen3()
    one = subject(model, sampling=Sampling(max_tokens=12, stop_ids=(1,), head="plain" if strange else "fused"))
    rollouts = written(one)
    found = forced_study(one, rollouts, 3, positions=4)
    prompts, answers = ids_of(rollouts)
    rows = [row for row in spread_rows(rollouts, 16) if last_number(rollouts.text[row])]
    assert 0 < len(rows) < 16
    assert found.without == spread_rows(rollouts, 16).index(rows[2]) - 2
    longest = max(len(answers[row]) for row in rows[:3])
    assert found.stride == math.ceil((longest - 1) / 4)
    words = one.tokenizer
    digits = words("0 1 2 3 4 5 6 7 8 9")["input_ids"]
    for place, row in enumerate(rows[:3]):
        ending = last_number(rollouts.text[row])
        opener, answer = words("=")["input_ids"], words(ending.answer)["input_ids"]
        total = 0.0
        for t in range(1, len(answers[row]), found.stride):
            logp = log_probs(model, [*prompts[row], *answers[row][:t], *opener])[-1]
            p = logp.exp().sort(descending=True).values[:20]
            total -= float((p * p.log2()).sum()) * found.stride
        assert found.area.area[place] == pytest.approx(total, abs=1e-4)
        logp = log_probs(model, [*prompts[row], *opener])[-1]
        assert found.first[place] == pytest.approx(float(-(logp.exp() * logp).sum()), abs=1e-5)
        before = max(t for t, token in enumerate(answers[row]) if token in digits)
        logp = log_probs(model, [*prompts[row], *answers[row][:before], *opener])[-1]
        last = float(-(logp.exp() * logp).sum())
        assert found.reduction.total[place] == pytest.approx(found.first[place] - last, abs=1e-5)
        assert len(answer) == 1
    assert found.mean(found.first).value == pytest.approx(found.first.mean())
    study = forced_panels(found)
    assert study.numbers["answers"] == 3
    assert len(study.panels) == 2


def test_no_final_answer_is_nothing_to_force():
    silent = subject(convention=Convention(find=lambda text: None, step=re.compile(":")))
    with pytest.raises(InputError, match="none of the 16 answers ends in a final answer"):
        forced_study(silent, written(silent), 3)


def test_the_answers_of_a_study_make_a_page():
    one = subject(sampling=Sampling(max_tokens=12, stop_ids=(1,), slots=6))
    rollouts = written(one)
    batches = list(traces_of(one, rollouts, top=2))
    assert [batch.responses for batch in batches] == [6, 6, 4]
    assert np.concatenate([batch.id_N for batch in batches]).tolist() == rollouts.ids_BT[rollouts.mask_BT].tolist()
    assert [verdict for batch in batches for verdict in batch.verdict] == [v.value for v in rollouts.verdicts]
    assert all(np.isfinite(batch.attention_N).all() for batch in batches)
    assert "verdict" not in traces_of(one, rollouts).about.lacks
