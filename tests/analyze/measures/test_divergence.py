from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from forkpoint.analyze.measures.bands import ratio_band
from forkpoint.analyze.measures.divergence import Case, divergence_test, summarise
from forkpoint.analyze.measures.interventions import drawn_places, finished_ids, judged_outcome, started_ids
from forkpoint.decode.decoder import Answer, Sampling, decode
from forkpoint.decode.rollout import EMBEDDED, Engine
from forkpoint.errors import InputError
from forkpoint.rollouts import Judgement, Prompt, Verdict
from forkpoint.seeds import generator, key
from tiny import qwen3, tokenizer

SAMPLING = Sampling(max_tokens=14, stop_ids=(1,))


def written(model, count=6, sampling=SAMPLING):
    prompts = [[4 + i, 12] for i in range(count)]
    answers = decode(model, prompts, [key("origin", i) for i in range(count)], sampling)
    return prompts, [a.ids for a in answers], [a.entropy for a in answers]


def last_digit(numbers, ids):
    """The final answer of a response: its last token before the stop."""
    return [row[-2] if len(row) > 1 and row[-1] == 1 else row[-1] for row in ids]


def test_what_is_kept_is_kept_and_what_follows_is_the_models():
    model = qwen3()
    prompts, responses, _ = written(model)
    plan = [(r, t, "fork", action) for r in range(6) for t in (0, 3) if t < len(responses[r]) - 1
            for action in ("redraw", "keep", "swap")]  # fmt: skip
    requests = [(case, sample) for case in range(len(plan)) for sample in range(3)]
    started = started_ids(model, prompts, responses, plan, requests, SAMPLING, ("s",))
    done = finished_ids(model, prompts, responses, plan, requests, started, SAMPLING, ("s",), EMBEDDED)
    swaps = set()
    for (case, sample), ids in zip(requests, done, strict=True):
        response, t, _, action = plan[case]
        kept = responses[response][: t + (action == "keep")]
        assert ids[: len(kept)] == kept
        assert 1 <= len(ids) <= SAMPLING.max_tokens
        assert ids[-1] == 1 or len(ids) == SAMPLING.max_tokens
        assert 1 not in ids[:-1]
        if action == "swap":
            assert ids[t] != responses[response][t]
            swaps.add((case, ids[t]))
        if action == "redraw":
            stream = key("s", "write", response, t, "fork", action, sample)
            room = dataclasses.replace(SAMPLING, max_tokens=SAMPLING.max_tokens - t)
            assert ids[t:] == decode(model, [[*prompts[response], *kept]], [stream], room)[0].ids
    assert len(swaps) > len({case for case, _ in swaps})  # not always the same other token


def test_swapped_tokens_follow_the_distribution_without_the_original():
    model = qwen3(spread=0.1)
    prompts, responses = [[4, 5]], [[6, 7]]
    requests = [(0, sample) for sample in range(3000)]
    plan = [(0, 1, "fork", "swap")]
    drawn = [ids[1] for ids in started_ids(model, prompts, responses, plan, requests, SAMPLING, ("chi",))]
    with torch.no_grad():
        p = model(torch.tensor([[4, 5, 6]])).logits[0, -1].double().softmax(-1).numpy()
    p[7] = 0.0
    p /= p.sum()
    counts = np.bincount(drawn, minlength=p.size)
    assert counts[7] == 0
    possible = p > 0
    chi = ((counts - 3000 * p)[possible] ** 2 / (3000 * p[possible])).sum()
    assert chi < 60, f"chi-square {chi} with {possible.sum() - 1} degrees of freedom"


def test_finished_prefixes_are_not_decoded():
    asked = []

    def engine(model, prompts, streams, sampling, progress=None):
        asked.append((prompts, sampling.max_tokens))
        return [Answer(ids=[9] * sampling.max_tokens, logp=[], entropy=[], finish="length") for _ in prompts]

    responses = [[5, 6, 1], [7] * 14]
    plan = [(0, 2, "fork", "keep"), (1, 13, "fork", "keep"), (0, 1, "fork", "swap"), (0, 1, "fork", "redraw"),
            (1, 4, "fork", "keep")]  # fmt: skip
    requests = [(case, 0) for case in range(5)]
    started = [[5, 6, 1], [7] * 14, [5, 1], [5], [7] * 5]
    done = finished_ids(None, [[2], [3]], responses, plan, requests, started, SAMPLING, ("s",), Engine(decode=engine))
    assert asked == [([[2, 5], [3, 7, 7, 7, 7, 7]], 13)]
    assert done == [[5, 6, 1], [7] * 14, [5, 1], [5] + [9] * 13, [7] * 5 + [9] * 9]


def test_places():
    values = np.array([0.1, 5.0, 0.2, 0.3, 4.0, 0.1, 0.1, 0.1, 0.1, 0.1])
    found = drawn_places(values, 0.2, 2, ("fork", "random", "near"), generator("p", 1))
    assert sorted(found["fork"]) == [1, 4]
    assert sorted(found["near"]) in ([0, 3], [2, 3], [0, 5], [2, 5])
    assert len(set(found["random"])) == 2
    alone = drawn_places(values, 0.2, 2, ("random",), generator("p", 1))
    assert alone == {"random": found["random"]}
    assert drawn_places(np.array([1.0]), 0.2, 3, ("fork", "near"), generator("p", 1)) == {"fork": [0], "near": []}


def test_the_whole_test_on_a_small_model():
    model = qwen3()
    prompts, responses, entropies = written(model)
    arguments = {
        "stream": (7, "divergence"), "places": ("fork", "random", "near"), "actions": ("redraw", "keep", "swap"),
    }  # fmt: skip
    found = divergence_test(model, prompts, responses, entropies, last_digit, SAMPLING, **arguments)
    again = divergence_test(model, prompts, responses, entropies, last_digit, SAMPLING, **arguments)
    assert found == again
    assert {(r.place, r.action) for r in found.rates} == {
        (place, action) for place in ("fork", "random", "near") for action in ("redraw", "keep", "swap")
    }
    assert {(d.first, d.second) for d in found.differences} >= {
        (("fork", "redraw"), ("random", "redraw")),
        (("fork", "swap"), ("near", "swap")),
        (("random", "redraw"), ("random", "keep")),
    }
    fork, random = (next(r for r in found.rates if (r.place, r.action) == (p, "redraw")) for p in ("fork", "random"))
    assert fork.entropy > random.entropy
    assert 0 <= fork.changed.low <= fork.changed.value <= fork.changed.high <= 1
    assert found.unjudged == 0


def test_an_answer_decided_at_one_token_changes_there_and_nowhere_else():
    """A model whose only uncertain token is the answer: the fork is where intervening matters."""
    answers = {}

    def engine(model, prompts, streams, sampling, progress=None):
        found = []
        for prompt, stream in zip(prompts, streams, strict=True):
            rest = [4, 5, int(stream % 2) + 8, 6, 7][len(prompt) - 1 :]
            answers[stream] = rest
            found.append(Answer(ids=rest, logp=[], entropy=[], finish="length"))
        return found

    def third(numbers, ids):
        return [row[2] for row in ids]

    count = 60
    sampling = Sampling(max_tokens=5, stop_ids=(1,))
    found = divergence_test(
        None, [[2]] * count, [[4, 5, 8, 6, 7]] * count, [[0.0, 0.0, 0.7, 0.0, 0.0]] * count, third, sampling,
        stream=(0,), positions=1, samples=4, places=("fork", "random"), engine=Engine(decode=engine),
    )  # fmt: skip
    rate = {(r.place, r.action): r for r in found.rates}
    assert rate["fork", "keep"].changed.value == 0.0
    assert 0.4 < rate["fork", "redraw"].changed.value < 0.6  # half of the draws give the other digit
    assert rate["fork", "redraw"].position == pytest.approx(0.4)
    changed_at = {case.position for case in found.cases if case.changed and case.action == "keep"}
    assert changed_at == {0, 1}  # kept before the digit: it is drawn anew by chance, which is no effect of the place
    effect = next(d for d in found.differences if d.first == ("fork", "redraw") and d.second == ("fork", "keep"))
    assert effect.value.low > 0.3


def case(response, place, action, changed, judged=2, position=0):
    return Case(
        response=response, position=position, place=place, action=action, entropy=1.0, changed=changed, judged=judged
    )


def test_rates_and_differences_by_hand():
    cases = [
        case(0, "fork", "redraw", 2), case(0, "fork", "redraw", 1, position=3), case(1, "fork", "redraw", 0, judged=1),
        case(0, "random", "redraw", 1), case(1, "random", "redraw", 0, judged=0), case(2, "random", "redraw", 2),
    ]  # fmt: skip
    rates, differences = summarise(cases, [4, 2, 2])
    fork, random = rates
    assert fork.changed == ratio_band([0.75, 0.0], [1.0, 1.0]).at(0)
    assert (fork.responses, fork.samples, fork.position) == (2, 5, 0.25)
    assert (random.changed.value, random.responses) == (0.75, 2)
    (difference,) = differences
    assert (difference.first, difference.second) == (("fork", "redraw"), ("random", "redraw"))
    assert (difference.value.value, difference.responses) == (0.25, 1)


def test_problems_are_drawn_together():
    cases = [case(r, "fork", "redraw", 2 * (r < 3)) for r in range(6)]
    alone, together = (summarise(cases, [4] * 6, cluster=c)[0][0].changed for c in (None, list("aaabbb")))
    assert (together.low, together.high) == (0.0, 1.0)
    assert alone.low > 0.0


def test_outcomes_that_are_not_known_are_left_out():
    model = qwen3()
    prompts, responses, entropies = written(model)
    asked = []

    def outcome(numbers, ids):
        asked.append(list(numbers))
        if len(asked) == 1:
            return [None if number == 2 else 0 for number in numbers]
        return [None if place % 3 == 0 else 1 for place in range(len(ids))]

    responses[4], entropies[4] = [], []
    found = divergence_test(model, prompts, responses, entropies, outcome, SAMPLING, stream=(0,))
    assert asked[0] == [0, 1, 2, 3, 5]
    assert found.skipped == 2
    assert found.unjudged == len(range(0, len(asked[1]), 3))
    assert all(rate.changed.value == 1.0 for rate in found.rates)
    assert not {case.response for case in found.cases} & {2, 4}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"places": ("forks",)}, "did you mean 'fork'"),
        ({"actions": ("redrawn",)}, "did you mean 'redraw'"),
        ({"actions": ()}, "one action or more"),
        ({"positions": 0}, "positions and samples"),
        ({"share": 0.0}, "share is"),
        ({"sampling": Sampling(max_tokens=4, stop_ids=(), temperature=0)}, "temperature 0"),
        ({"prompts": []}, "give one of each"),
        ({"entropies": [[0.1], [float("nan")]]}, "response 1 has 1 tokens and 0 entropies"),
        ({"entropies": [[0.1, 0.2], [0.1]]}, "response 0 has 1 tokens and 2 entropies"),
        ({"outcome": lambda numbers, ids: [None] * len(ids)}, "nothing to intervene on"),
    ],
)
def test_arguments_that_do_not_fit(changes, says):
    arguments = {
        "model": None, "prompts": [[4], [5]], "responses": [[6], [7]], "entropies": [[0.1], [0.2]],
        "outcome": last_digit, "sampling": SAMPLING, "stream": (0,),
    } | changes  # fmt: skip
    with pytest.raises(InputError, match=says):
        divergence_test(**arguments)


def test_verdicts_as_outcomes():
    words = tokenizer()
    prompts = [Prompt(id=str(i), text="a", answer=str(i)) for i in range(3)]

    def judge(given, texts):
        verdicts = {"2": Verdict.UNJUDGED}
        return [
            Judgement(
                verdict=verdicts.get(p.id, Verdict.RIGHT if p.answer == t else Verdict.WRONG), reward=0.0, detail=""
            )
            for p, t in zip(given, texts, strict=True)
        ]

    outcome = judged_outcome(judge, words, prompts, stop_ids=(1,))
    ids = [[*words.encode("1"), 1], words.encode("1"), words.encode("2"), []]
    assert outcome([1, 0, 2, 1], ids) == ["right", "wrong", None, "wrong"]
