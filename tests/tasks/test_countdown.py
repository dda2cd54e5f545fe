import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkpoint.errors import InputError
from forkpoint.rollouts import Prompt, Verdict
from forkpoint.tasks.countdown import (
    CONNECTIVES,
    MAX_ATTEMPTS,
    SETTINGS,
    attempt_values,
    countdown_judge,
    countdown_prompt,
    countdown_task,
    is_heldout,
    targets,
)
from forkpoint.tasks.countdown_chains import pretraining_chain, vocabulary
from forkpoint.tasks.streams import random_stream

PROMPT = countdown_prompt("countdown", (3, 7, 12), 29)
RIGHT = "wait 12 * 3 = 36 , 36 - 7 = 29 yes"


def verdict(text: str, prompt: Prompt = PROMPT) -> tuple[Verdict, float, str]:
    [judgement] = countdown_judge([prompt], [text])
    return judgement.verdict, judgement.reward, judgement.detail


@pytest.mark.parametrize("setting", SETTINGS)
def test_train_prompt_is_a_pure_function_of_seed_and_position(setting):
    once, again = countdown_task(setting), countdown_task(setting)
    forward = [once.train_prompt(3, i) for i in range(20)]
    backward = [again.train_prompt(3, i) for i in reversed(range(20))]
    assert forward == backward[::-1]
    assert [once.train_prompt(4, i).text for i in range(20)] != [p.text for p in forward]


def test_streams_differ_between_purposes_positions_and_seeds():
    drawn = {
        int(random_stream(seed, position, purpose).integers(2**62))
        for seed, position, purpose in itertools.product(range(5), range(5), range(3))
    }
    assert len(drawn) == 75
    neighbours = [set(random_stream(0, position).integers(2**62, size=40).tolist()) for position in (0, 1)]
    assert not neighbours[0] & neighbours[1]


@pytest.mark.parametrize(("seed", "position"), [(-1, 0), (0, -1), (2**64, 0)])
def test_random_stream_rejects_what_is_out_of_range(seed, position):
    with pytest.raises(InputError, match=r"2\*\*64"):
        random_stream(seed, position)


def test_heldout_problems_are_fixed_distinct_and_never_trained_on():
    task = countdown_task()
    identity = [(tuple(sorted(p.meta["numbers"])), p.meta["target"]) for p in task.heldout]
    assert len(set(identity)) == len(identity) == 256
    assert all(is_heldout(*p) for p in identity)
    assert task.heldout == countdown_task(seed=0).heldout
    assert task.heldout != countdown_task(seed=1).heldout
    seen = {
        (tuple(sorted(p.meta["numbers"])), p.meta["target"])
        for i in range(1500)
        for p in (task.train_prompt(0, i), pretraining_chain(0, i)[0])
    }
    assert not seen & set(identity)
    assert not any(is_heldout(*p) for p in seen)


def test_holding_out_ignores_the_order_of_the_numbers_and_takes_a_fifth():
    problems = [
        (numbers, target)
        for numbers in itertools.combinations_with_replacement(range(1, 13), 3)
        for target in targets(numbers)
    ]
    assert 0.17 < sum(is_heldout(*p) for p in problems) / len(problems) < 0.23
    for numbers, target in problems[::50]:
        assert len({is_heldout(order, target) for order in itertools.permutations(numbers)}) == 1


def test_both_settings_pose_the_same_problems_and_differ_in_the_first_word():
    wide, coin = countdown_task("countdown"), countdown_task("countdown-coin")
    for a, b in zip(wide.heldout, coin.heldout, strict=True):
        assert a.text.split()[1:] == b.text.split()[1:]
        assert (a.text.split()[0], b.text.split()[0]) == ("countdown", "coin")
        assert a.id != b.id
    assert wide.train_prompt(0, 9).meta == coin.train_prompt(0, 9).meta


def test_attempt_values_by_hand():
    # 1 1 1: first 2, 0 or 1 (1/3 each); from 2: 3 1 2; from 0: 1 and 0 (0 - 1 is below 0); from 1: 2 0 1.
    expected = {3: 1 / 9, 1: 1 / 9 + 1 / 6 + 1 / 9, 2: 1 / 9 + 1 / 9, 0: 1 / 6 + 1 / 9}
    assert attempt_values((1, 1, 1)) == pytest.approx(expected)
    assert sum(attempt_values((3, 7, 12)).values()) == pytest.approx(1)
    assert attempt_values((3, 7, 12)) == pytest.approx(attempt_values((12, 3, 7)))
    # 3 7 12 to 29: 12 * 3 - 7 and 3 * 12 - 7; * is one of two open operators after 3 and of three after 12
    # (3 - 12 is below 0), and - is one of two at 36, since 36 * 7 is above 99.
    assert attempt_values((3, 7, 12))[29] == pytest.approx((1 / 2 + 1 / 3) / 12)


@pytest.mark.parametrize("setting", SETTINGS)
def test_pretraining_chains_follow_the_rules(setting):
    words = set(vocabulary())
    rights = stops = failed = 0
    after_failure = dict.fromkeys((*CONNECTIVES, "again", "stop"), 0)
    longest = 0
    for position in range(3000):
        prompt, text = pretraining_chain(5, position, setting)
        tokens = text.split()
        assert text == " ".join(tokens)
        assert set(tokens) | set(prompt.text.split()) <= words
        assert tokens[0] in CONNECTIVES
        [judgement] = countdown_judge([prompt], [text])
        assert judgement.verdict is (Verdict.RIGHT if tokens[-1] == "yes" else Verdict.WRONG)
        assert judgement.detail in ("reached", "gave up")
        rights += tokens[-1] == "yes"
        stops += tokens[-1] == "stop"
        longest = max(longest, tokens.count("no"))
        if tokens.count("no") < MAX_ATTEMPTS:
            failed += tokens.count("no")
            for here, after in itertools.pairwise(tokens):
                if here == "no":
                    after_failure[after] += 1
    assert rights + stops == 3000
    assert longest == MAX_ATTEMPTS
    share = {word: count / failed for word, count in after_failure.items()}
    assert share["stop"] == pytest.approx(0.4, abs=0.03)
    if setting == "countdown":
        assert [share[c] for c in CONNECTIVES] == pytest.approx([0.15] * 4, abs=0.03)
    else:
        assert share["again"] == pytest.approx(0.6, abs=0.03)
    assert 0.2 < rights / 3000 < 0.35


def test_pretraining_mixes_both_settings():
    first = [pretraining_chain(0, i)[0].text.split()[0] for i in range(400)]
    assert 150 < first.count("coin") < 250


@pytest.mark.parametrize(
    "text",
    [
        RIGHT,
        "maybe 3 * 12 = 36 , 36 - 7 = 29 yes",
        "first 12 + 3 = 15 , 15 + 7 = 22 no " + RIGHT,
        "first 12 + 3 = 15 , 15 + 7 = 22 no again " + RIGHT,
        "no such words 1 2 3 " + RIGHT,
    ],
)
def test_right_answers(text):
    assert verdict(text) == (Verdict.RIGHT, 1.0, "reached")


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("", "no final yes"),
        ("yes", "last attempt is not complete"),
        ("wait 12 * 3 = 36 , 36 - 7 = 29", "no final yes"),
        ("wait 12 * 3 = 36 , 36 - 7 = 29 no", "no final yes"),
        ("wait 12 * 3 = 36 , 36 - 7 = 29 no stop", "gave up"),
        (RIGHT + " stop", "gave up"),
        (RIGHT + " " + RIGHT[:-4], "no final yes"),
        ("12 * 3 = 36 , 36 - 7 = 29 yes", "last attempt is not complete"),
        ("wait 12 * 3 = 36 , 36 - 7 29 yes", "last attempt is not complete"),
        ("wait 12 * 3 = 36 , 36 - seven = 29 yes", "last attempt is not arithmetic"),
        ("wait 12 / 3 = 4 , 4 - 7 = 29 yes", "last attempt is not arithmetic"),
        ("wait 12 * 3 = ٣٦ , 36 - 7 = 29 yes", "last attempt is not arithmetic"),
        ("wait 12 * 3 = 36 , 36 - 7 = -29 yes", "last attempt is not arithmetic"),
        ("wait 12 * 3 = 36 , 36 - 12 = 24 yes", "does not use the given numbers once each"),
        ("wait 30 - 4 = 26 , 26 + 3 = 29 yes", "does not use the given numbers once each"),
        ("wait 12 * 3 = 35 , 36 - 7 = 29 yes", "second step does not start from the first result"),
        ("wait 12 * 3 = 35 , 35 - 7 = 29 yes", "false arithmetic"),
        ("wait 12 + 3 = 36 , 36 - 7 = 29 yes", "false arithmetic"),
        ("wait 12 * 3 = 36 , 36 - 7 = 28 yes", "false arithmetic"),
        ("wait 12 + 3 = 15 , 15 + 7 = 22 yes", "ends in 22, not 29"),
        (RIGHT + " first 12 + 3 = 15 , 15 + 7 = 22 yes", "ends in 22, not 29"),
    ],
)
def test_wrong_answers_say_why(text, detail):
    assert verdict(text) == (Verdict.WRONG, 0.0, detail)


def test_equal_numbers_are_counted():
    prompt = countdown_prompt("countdown", (4, 4, 10), 26)
    assert verdict("first 4 * 4 = 16 , 16 + 10 = 26 yes", prompt)[0] is Verdict.RIGHT
    twice = countdown_prompt("countdown", (4, 10, 10), 26)
    assert verdict("first 4 * 4 = 16 , 16 + 10 = 26 yes", twice)[0] is Verdict.WRONG


@pytest.mark.parametrize("text", ["", "2 + 2 =", "countdown 1 2 target 3 :", "countdown 1 2 x target 3 :"])
def test_a_foreign_prompt_is_not_judged(text):
    [judgement] = countdown_judge([Prompt(id="x", text=text)], [RIGHT])
    assert (judgement.verdict, judgement.reward) == (Verdict.UNJUDGED, 0.0)


WORDS = st.sampled_from([*vocabulary(), "-3", "1e9", "٣", "²", "9" * 5000, "<end>", "\x00", "🙂"])


@given(
    st.one_of(st.text(), st.lists(WORDS, max_size=30).map(" ".join)),
    st.one_of(st.just(PROMPT.text), st.text()),
)
def test_judge_never_raises_and_rewards_only_right_answers(text, problem):
    [judgement] = countdown_judge([Prompt(id="x", text=problem)], [text])
    assert (judgement.reward == 1.0) is (judgement.verdict is Verdict.RIGHT)
    if problem == PROMPT.text and judgement.reward:
        assert text.split()[-1] == "yes"
        assert {"3", "7", "12", "29"} <= set(text.split())


@given(st.integers(0, 12), WORDS)
def test_one_changed_word_spoils_a_right_answer(place, word):
    words = RIGHT.split()
    before = words[place]
    words[place] = word
    same = word == before or (place == 0 and word in CONNECTIVES)
    assert (verdict(" ".join(words))[0] is Verdict.RIGHT) is same


def test_wrong_arguments_are_told():
    with pytest.raises(InputError, match="did you mean 'countdown-coin'"):
        countdown_task("countdown-coins")
    with pytest.raises(InputError, match="choose 1 to"):
        countdown_task(heldout=100_000)
    with pytest.raises(InputError, match="choose 1 to"):
        countdown_task(heldout=0)
    with pytest.raises(InputError, match="one answer per prompt"):
        countdown_judge([PROMPT], [])
