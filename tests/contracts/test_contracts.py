"""One table of methods, one set of contracts applied to all of them. A new method joins by one row."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from core_batches import forward_of, learn, random_rollouts, rollouts_of, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import pad

from forkpoint import methods
from forkpoint.credit import (
    Chain,
    chain,
    credit_of,
    entropy_bonus,
    init,
    kl,
    masked,
    run,
    scheduled,
    snapshot,
)
from forkpoint.errors import InputError
from forkpoint.methods import METHODS, forking
from forkpoint.rollouts import Forward, blank_credit
from forkpoint.scope import exact_count, one_batch

NAN, INF = float("nan"), float("inf")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method, or a variant of one, and what it declares."""

    method: str
    make: Callable[[], Chain]
    micro: bool = False
    """Whether its result depends on how a mini-batch is cut into passes."""


def row(method: str, make: Callable[[], Chain] | None = None, **arguments) -> Row:
    micro = arguments.pop("micro", False)
    return Row(method=method, make=make or (lambda: METHODS[method](**arguments)), micro=micro)


ROWS = {
    "grpo": row("grpo"),
    "grpo k1": row("grpo", kl_coefficient=0.3, kl_form="k1"),
    "grpo k2": row("grpo", kl_coefficient=0.3, kl_form="k2"),
    "grpo k3": row("grpo", kl_coefficient=0.3),
    "grpo without std": row("grpo", std=False),
    "grpo bonus": row("grpo", lambda: chain(methods.grpo(), entropy_bonus(coefficient=0.2))),
    "dr_grpo": row("dr_grpo"),
    "dr_grpo k3": row("dr_grpo", kl_coefficient=0.3),
    "dr_grpo constant": row("dr_grpo", constant=11.0),
    "rloo": row("rloo"),
    "reinforce_pp": row("reinforce_pp"),
    "reinforce_pp kl": row("reinforce_pp", kl_coefficient=0.3),
    "reinforce_pp group": row("reinforce_pp", baseline="group", kl_coefficient=0.3),
    "dapo": row("dapo"),
    "dapo dual": row("dapo", dual=1.1),
    "dapo k3": row("dapo", kl_coefficient=0.3),
    "gspo": row("gspo"),
    "gspo wide": row("gspo", clip_low=0.2, clip_high=0.2),
    "cispo": row("cispo"),
    "cispo capped": row("cispo", cap=1.1, floor=0.9),
    "entropy_bonus": row("entropy_bonus", coefficient=0.2),
    "forking": row("forking"),
    "forking authors-code": row("forking", preset="authors-code", micro=True),
    "forking trl": row("forking", preset="trl", micro=True),
    "forking micro": row("forking", scope="micro", micro=True),
    "forking micro behaviour": row("forking", scope="micro", source="behaviour", micro=True),
    "forking micro random": row("forking", scope="micro", keep="random", micro=True),
    "forking sequence": row("forking", scope="sequence"),
    "forking group": row("forking", scope="group"),
    "forking rollout": row("forking", scope="rollout"),
    "forking behaviour": row("forking", source="behaviour"),
    "forking behaviour sequence": row("forking", source="behaviour", scope="sequence"),
    "forking behaviour rollout": row("forking", source="behaviour", scope="rollout"),
    "forking threshold": row("forking", ties="threshold"),
    "forking threshold sequence": row("forking", ties="threshold", scope="sequence"),
    "forking all": row("forking", denominator="all"),
    "forking bottom": row("forking", keep="bottom"),
    "forking bottom threshold": row("forking", keep="bottom", ties="threshold", share=0.6),
    "forking random": row("forking", keep="random"),
    "forking random rollout": row("forking", keep="random", scope="rollout"),
    "forking half": row("forking", share=0.5),
    "forking bonus": row("forking", lambda: chain(forking(), entropy_bonus(coefficient=0.2))),
    "forking all bonus": row(
        "forking",
        lambda: chain(forking(denominator="all"), entropy_bonus(coefficient=0.2), kl(coefficient=0.3)),
    ),
    "forking gspo": row(
        "forking", lambda: chain(methods.gspo(clip_low=0.3, clip_high=0.3), *forking(share=0.4).links[-1:])
    ),
}
EVERY = pytest.mark.parametrize("name", ROWS)


def test_every_method_has_a_row():
    assert {entry.method for entry in ROWS.values()} == set(METHODS)


@EVERY
def test_what_a_row_declares_about_micro_batches_is_what_its_links_say(name):
    links = ROWS[name].make().links
    micro = any(x.scope == "micro" or x.arguments.get("denominator") == "micro-token" for x in links)
    assert micro == ROWS[name].micro


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def same_learning(got, expected, *, exactly=False):
    check = (lambda x, y: torch.testing.assert_close(x, y, rtol=0, atol=0)) if exactly else close
    check(torch.tensor(got.value).double(), torch.tensor(expected.value).double())
    check(got.logp_gradient_BT, expected.logp_gradient_BT)
    check(got.entropy_gradient_BT, expected.entropy_gradient_BT)


# Values -----------------------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize(
    ("dtype", "current"),
    [
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.bfloat16),
    ],
)
def test_shape_and_dtype(name, dtype, current):
    rollouts, forward = random_rollouts(1, dtype=dtype)
    forward = Forward(logp_BT=forward.logp_BT.to(current), entropy_BT=forward.entropy_BT.to(current))
    got = learn(ROWS[name].make(), rollouts, forward)
    wide = torch.promote_types(dtype, torch.float32)
    for value in (got.credit.advantage_BT, got.credit.weight_BT):
        assert value.dtype == wide
        assert value.shape == rollouts.mask_BT.shape
    assert got.credit.keep_BT.dtype == torch.bool
    assert got.logp_gradient_BT.dtype == current
    assert math.isfinite(got.value)


@EVERY
def test_recorded_bfloat16_learns_as_the_same_numbers_in_float64(name):
    """No statistic may saturate: 8 answers of 200 tokens are more than bfloat16 can count."""
    narrow, forward = random_rollouts(2, lengths=[200] * 8, dtype=torch.bfloat16)
    now = {"logp_BT": forward.logp_BT.double(), "entropy_BT": forward.entropy_BT.double()}
    fields = ("logp_BT", "entropy_BT", "ref_logp_BT", "reward_B")
    wide = dataclasses.replace(narrow, **{field: getattr(narrow, field).double() for field in fields})
    got = learn(ROWS[name].make(), narrow, Forward(**{k: x.float() for k, x in now.items()}))
    expected = learn(ROWS[name].make(), wide, Forward(**now))
    assert torch.equal(got.credit.keep_BT, expected.credit.keep_BT)
    error = (got.logp_gradient_BT - expected.logp_gradient_BT).abs().max()
    # A KL inside the return is a difference of recorded numbers, which bfloat16 rounds.
    assert (
        float(error) <= (0.02 if name == "reinforce_pp kl" else 1e-4) * expected.logp_gradient_BT.abs().max()
    )


@EVERY
def test_credit_is_detached_and_inputs_are_left_alone(name):
    rollouts, forward = random_rollouts(2)
    logp_BT, entropy_BT = (x.clone().requires_grad_() for x in (forward.logp_BT, forward.entropy_BT))
    carrying = Forward(logp_BT=logp_BT * 1, entropy_BT=entropy_BT * 1)
    before = {f: x.clone() for f, x in vars(rollouts).items() if isinstance(x, torch.Tensor)}
    credit = credit_of(ROWS[name].make(), rollouts, forward=carrying)
    tensors = [x for x in vars(credit).values() if isinstance(x, torch.Tensor)]
    tensors += [x for p in credit.penalties for x in (p.coefficient_BT, p.target_logp_BT)]
    assert len(tensors) >= 3
    assert not any(x.requires_grad for x in tensors)
    for field, value in before.items():
        assert torch.equal(getattr(rollouts, field), value), field


@EVERY
def test_nothing_is_credited_outside_the_mask(name):
    rollouts, forward = random_rollouts(3)
    got = learn(ROWS[name].make(), rollouts, forward)
    outside = ~rollouts.mask_BT
    assert outside.any()
    assert not (got.credit.keep_BT & outside).any()
    assert (got.credit.advantage_BT[outside] == 0).all()
    assert (got.logp_gradient_BT[outside] == 0).all()
    assert (got.entropy_gradient_BT[outside] == 0).all()
    assert (got.logp_gradient_BT != 0).any() or name == "gspo", "the batch teaches something"


def filled(rollouts, forward, value):
    """Put `value` wherever nothing was sampled."""
    dirty = lambda x: torch.where(rollouts.mask_BT, x, value)  # noqa: E731
    recorded = {f: dirty(getattr(rollouts, f)) for f in ("logp_BT", "entropy_BT", "ref_logp_BT")}
    ids_BT = torch.where(rollouts.mask_BT, rollouts.ids_BT, -100)
    return dataclasses.replace(rollouts, **recorded, ids_BT=ids_BT), Forward(
        logp_BT=dirty(forward.logp_BT), entropy_BT=dirty(forward.entropy_BT)
    )


@EVERY
def test_padding_is_irrelevant_whatever_it_holds(name):
    rollouts, forward = random_rollouts(4)
    clean = learn(ROWS[name].make(), rollouts, forward)
    for garbage in (NAN, INF, -INF, 1e30, -7.5):
        same_learning(learn(ROWS[name].make(), *filled(rollouts, forward, garbage)), clean, exactly=True)


@EVERY
@pytest.mark.parametrize("k", [1, 7])
def test_more_padding_on_the_right_changes_nothing(name, k):
    rollouts, forward = random_rollouts(5)
    rollouts = dataclasses.replace(rollouts, max_tokens=None)
    plain = learn(ROWS[name].make(), rollouts, forward)
    wider = dataclasses.replace(
        rollouts,
        **{
            f: pad(getattr(rollouts, f), (0, k))
            for f in ("ids_BT", "mask_BT", "logp_BT", "entropy_BT", "ref_logp_BT")
        },
    )
    got = learn(
        ROWS[name].make(),
        wider,
        Forward(logp_BT=pad(forward.logp_BT, (0, k)), entropy_BT=pad(forward.entropy_BT, (0, k))),
    )
    assert got.value == pytest.approx(plain.value, abs=1e-12)
    close(got.logp_gradient_BT, pad(plain.logp_gradient_BT, (0, k)))
    close(got.entropy_gradient_BT, pad(plain.entropy_gradient_BT, (0, k)))


# Degenerate batches -----------------------------------------------------------------------------------------------

DEGENERATE = {
    "all rows empty": {"logp": [[], [], []], "groups": [0, 0, 1], "reward": [1.0, 0.0, 1.0]},
    "an empty row": {"logp": [[], [-1.0, -2.0]], "groups": [0, 0], "reward": [1.0, 0.0]},
    "one token a row": {"logp": [[-1.0], [-2.0]], "groups": [0, 0], "reward": [1.0, 0.0]},
    "one token": {"logp": [[-1.0]], "groups": [0], "reward": [1.0]},
    "equal rewards": {"logp": [[-1.0, -1.0], [-2.0]] * 3, "groups": [0] * 6, "reward": [10.1] * 6},
    "one answer a problem": {"logp": [[-1.0, -3.0], [-2.0]], "groups": [0, 1], "reward": [1.0, 0.0]},
    "nothing judged": {
        "logp": [[-1.0], [-2.0, -1.0]], "groups": [0, 0], "reward": [NAN, INF], "judged": [False, False],
    },
    "nothing": {"logp": [], "groups": [], "reward": []},
}  # fmt: skip


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_batches_stay_finite(name, dtype):
    for batch in DEGENERATE:
        degenerate_batch_stays_finite(name, batch, dtype)


def degenerate_batch_stays_finite(name, batch, dtype):
    given = DEGENERATE[batch]
    rollouts = rollouts_of(**given, ref=[[x - 0.1 for x in r] for r in given["logp"]], dtype=dtype)
    got = learn(ROWS[name].make(), rollouts, forward_of(rollouts, 0.05))
    assert math.isfinite(got.value)
    assert got.logp_gradient_BT.isfinite().all()
    assert got.entropy_gradient_BT.isfinite().all()
    if batch in ("all rows empty", "nothing judged", "nothing"):
        assert got.value == 0
        assert not got.credit.keep_BT.any()
        assert (got.logp_gradient_BT == 0).all()
    if batch == "equal rewards" and "batch_advantage" not in [link.name for link in ROWS[name].make().links]:
        assert (got.credit.advantage_BT == 0).all()


# A KL inside the return differs between tokens of equal reward.
@pytest.mark.parametrize("name", [name for name in ROWS if name != "reinforce_pp kl"])
def test_equal_rewards_teach_exactly_nothing(name):
    plain = Chain(links=tuple(x for x in ROWS[name].make().links if x.name not in ("kl", "entropy_bonus")))
    rollouts, forward = random_rollouts(6)
    level = dataclasses.replace(rollouts, reward_B=torch.full_like(rollouts.reward_B, 2.0))
    got = learn(plain, level, forward)
    assert (got.logp_gradient_BT == 0).all()
    assert got.value == 0


@EVERY
def test_an_answer_that_was_not_judged_is_as_if_never_sampled(name):
    rollouts, forward = random_rollouts(7)
    unjudged = torch.tensor([False, True, False, False, False, False, True, False])
    reward_B = torch.where(unjudged, NAN, rollouts.reward_B)
    got = learn(
        ROWS[name].make(), dataclasses.replace(rollouts, reward_B=reward_B, judged_B=~unjudged), forward
    )
    rest = (~unjudged).nonzero().squeeze(1)
    expected = learn(ROWS[name].make(), rows_of(rollouts, rest), forward.select(rest))
    assert got.value == pytest.approx(expected.value, abs=1e-12)
    close(got.logp_gradient_BT[rest], expected.logp_gradient_BT)
    close(got.entropy_gradient_BT[rest], expected.entropy_gradient_BT)
    assert (got.logp_gradient_BT[unjudged] == 0).all()
    assert (got.entropy_gradient_BT[unjudged] == 0).all()


# Order and splits -------------------------------------------------------------------------------------------------


@EVERY
@settings(deadline=None, max_examples=8)
@given(order=st.permutations(range(8)), levels=st.sampled_from([None, 1, 3]))
def test_the_order_of_rows_does_not_matter(name, order, levels):
    rollouts, forward = random_rollouts(8, levels=levels)
    plain = learn(ROWS[name].make(), rollouts, forward, rng=5)
    rows = torch.tensor(order)
    got = learn(ROWS[name].make(), rows_of(rollouts, rows), forward.select(rows), rng=5)
    assert got.value == pytest.approx(plain.value, abs=1e-12)
    close(got.logp_gradient_BT, plain.logp_gradient_BT[rows])
    close(got.entropy_gradient_BT, plain.entropy_gradient_BT[rows])


@EVERY
@pytest.mark.parametrize("levels", [None, 2])
def test_the_order_of_groups_does_not_matter(name, levels):
    rollouts, forward = random_rollouts(9, levels=levels, groups=(0, 0, 0, 1, 1, 1, 2, 2))
    plain = learn(ROWS[name].make(), rollouts, forward, rng=5)
    renamed = dataclasses.replace(
        rollouts, prompts=tuple(rollouts.prompts[p] for p in (2, 0, 1)), group_B=(rollouts.group_B + 1) % 3
    )
    rows = torch.tensor([6, 7, 0, 1, 2, 3, 4, 5])
    got = learn(ROWS[name].make(), rows_of(renamed, rows), forward.select(rows), rng=5)
    close(got.logp_gradient_BT, plain.logp_gradient_BT[rows])
    close(got.entropy_gradient_BT, plain.entropy_gradient_BT[rows])


@st.composite
def splits(draw):
    """Mini-batches of whole groups (rows 0-3 and 4-7), each cut anywhere into micro-batches."""
    together = draw(st.booleans())

    def cut(rows):
        order = draw(st.permutations(rows))
        cuts = sorted(draw(st.sets(st.integers(1, len(rows) - 1), max_size=len(rows) - 1)))
        edges = [0, *cuts, len(rows)]
        return [order[x:y] for x, y in zip(edges, edges[1:], strict=False)]

    groups = [range(8)] if together else [range(4), range(4, 8)]
    return [cut(list(rows)) for rows in groups]


@pytest.mark.parametrize("name", [name for name, entry in ROWS.items() if not entry.micro])
@settings(deadline=None, max_examples=15)
@given(minis=splits(), levels=st.sampled_from([None, 2]))
def test_micro_batches_add_up_to_the_mini_batch(name, minis, levels):
    rollouts, forward = random_rollouts(10, levels=levels)
    whole = [[[row for micro in micros for row in micro]] for micros in minis]
    expected = learn(ROWS[name].make(), rollouts, forward, whole, rng=3)
    got = learn(ROWS[name].make(), rollouts, forward, minis, rng=3)
    same_learning(got, expected)
    assert torch.equal(got.credit.keep_BT, expected.credit.keep_BT)


@pytest.mark.parametrize("name", [name for name, entry in ROWS.items() if entry.micro])
def test_micro_scope_depends_on_the_split(name):
    """So that the test above can fail."""
    rollouts, forward = random_rollouts(10)
    whole = learn(ROWS[name].make(), rollouts, forward)
    parts = learn(ROWS[name].make(), rollouts, forward, [[[0, 1, 2], [3], [4, 5, 6, 7]]])
    assert float((whole.logp_gradient_BT - parts.logp_gradient_BT).abs().max()) > 1e-3


@pytest.mark.parametrize("name", [name for name, entry in ROWS.items() if entry.micro])
def test_micro_scope_of_one_pass_is_mini_scope(name):
    rollouts, forward = random_rollouts(10)
    links = [
        type(x)(**{**vars(x)}) if x.name != "top_entropy" else _select(**{**x.arguments, "scope": "mini"})
        for x in ROWS[name].make().links
    ]
    got, expected = learn(ROWS[name].make(), rollouts, forward), learn(chain(*links), rollouts, forward)
    same_learning(got, expected)


def _select(**arguments):
    from forkpoint.credit import top_entropy

    return top_entropy(**arguments)


# Reductions -------------------------------------------------------------------------------------------------------


def _open(method: str, **arguments) -> Chain:
    return METHODS[method](clip_low=None, clip_high=None, **arguments)


REDUCTIONS = {
    "forking(share=1) is DAPO": (lambda: forking(share=1), methods.dapo),
    "forking(share=1) of the bottom is DAPO": (lambda: forking(share=1, keep="bottom"), methods.dapo),
    "forking(share=1) at random is DAPO": (lambda: forking(share=1, keep="random"), methods.dapo),
    "forking(trl, share=1) is DAPO": (lambda: forking(preset="trl", share=1), methods.dapo),
    "entropy bonus 0 is DAPO": (lambda: methods.entropy_bonus(coefficient=0), methods.dapo),
    "KL 0 is GRPO": (lambda: chain(methods.grpo(), kl(coefficient=0.0)), methods.grpo),
    "DAPO with equal clips and GRPO's denominator is GRPO": (
        lambda: chain(methods.dapo(clip_high=0.2), methods.grpo().links[-1]),
        methods.grpo,
    ),
    "GRPO without std, constant denominator is Dr. GRPO": (
        lambda: chain(methods.grpo(std=False), methods.dr_grpo().links[-1]),
        methods.dr_grpo,
    ),
    "infinite clip is no clip": (
        lambda: methods.grpo(clip_low=1.0, clip_high=INF),
        lambda: _open("grpo"),
    ),
    "infinite dual clip is none": (lambda: methods.dapo(dual=INF), methods.dapo),
    "masked everywhere": (
        lambda: chain(*[masked(x, lambda r, c: torch.ones_like(c.keep_BT)) if x.name == "clip" else x
                        for x in methods.dapo().links]),
        methods.dapo,
    ),
    "a constant schedule": (
        lambda: chain(*forking().links[:-1], scheduled(_select, share=lambda n: 0.2)),
        forking,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name):
    special, parent = REDUCTIONS[name]
    for seed in range(5):
        rollouts, forward = random_rollouts(seed)
        same_learning(learn(special(), rollouts, forward), learn(parent(), rollouts, forward))


@pytest.mark.parametrize("method", ["gspo", "cispo"])
def test_on_policy_other_ratios_have_the_gradient_of_their_parent(method):
    """r = 1: GSPO's gradient is GRPO's, CISPO's is DAPO's."""
    parent = {"gspo": methods.grpo, "cispo": methods.dapo}[method]
    rollouts, _ = random_rollouts(11)
    got, expected = (learn(make(), rollouts, forward_of(rollouts)) for make in (METHODS[method], parent))
    close(got.logp_gradient_BT, expected.logp_gradient_BT)
    assert (got.logp_gradient_BT != 0).any()


@pytest.mark.parametrize("method", ["grpo", "dr_grpo", "rloo", "reinforce_pp", "dapo"])
def test_on_policy_without_clip_the_gradient_is_reinforce(method):
    """-coefficient * A, token by token."""
    from forkpoint.loss import coefficients

    rollouts, _ = random_rollouts(12)
    got = learn(_open(method), rollouts, forward_of(rollouts))
    coefficient_BT = coefficients(got.credit, rollouts, one_batch(rollouts.rows))
    close(got.logp_gradient_BT, -coefficient_BT * got.credit.advantage_BT)
    assert (got.logp_gradient_BT != 0).any()


# Chains, needs and state ------------------------------------------------------------------------------------------


@EVERY
def test_a_chain_is_its_links_one_after_another(name):
    whole = ROWS[name].make()
    rollouts, forward = random_rollouts(13)
    stepwise = blank_credit(rollouts)
    for when in ("rollout", "update"):
        for index, link in enumerate(whole.links):
            if link.when == when:
                stepwise, _ = link.update(
                    stepwise, rollouts, forward=forward, batching=one_batch(8), state=link.init(), rng=index
                )
    expected = credit_of(whole, rollouts, forward=forward)
    for field in ("advantage_BT", "weight_BT", "keep_BT"):
        assert torch.equal(getattr(stepwise, field), getattr(expected, field))
    assert (stepwise.ratio, stepwise.denominator, stepwise.constant, stepwise.dual_clip) == (
        expected.ratio, expected.denominator, expected.constant, expected.dual_clip,
    )  # fmt: skip


@EVERY
def test_unknown_extra_arguments_are_swallowed(name):
    rollouts, forward = random_rollouts(13)
    for link in ROWS[name].make().links:
        for extra in ({}, {"anything": object(), "later": 3}):
            link.update(
                blank_credit(rollouts), rollouts, forward=forward, batching=one_batch(8), state=link.init(),
                rng=0, **extra,
            )  # fmt: skip


@EVERY
def test_a_missing_need_is_named(name):
    whole = ROWS[name].make()
    rollouts, forward = random_rollouts(13)
    for need in whole.needs & {"reward", "ref_logp", "forward"}:
        lacking = {"reward": {"reward_B": None}, "ref_logp": {"ref_logp_BT": None}}.get(need, {})
        with pytest.raises(InputError, match=f"needs '{need}'"):
            credit_of(
                whole,
                dataclasses.replace(rollouts, **lacking),
                forward=None if need == "forward" else forward,
            )
    assert "reward" in whole.needs


@EVERY
def test_what_is_not_needed_may_be_absent(name):
    whole = ROWS[name].make()
    rollouts, forward = random_rollouts(13)
    if "ref_logp" not in whole.needs:
        rollouts = dataclasses.replace(rollouts, ref_logp_BT=None)
    credit_of(whole, rollouts, forward=forward if "forward" in whole.needs else None)


@EVERY
def test_state_survives_json_and_measuring_changes_nothing(name):
    plain = ROWS[name].make()
    watched = chain(plain, snapshot("end"))
    rollouts, forward = random_rollouts(14)
    same_learning(learn(watched, rollouts, forward), learn(plain, rollouts, forward), exactly=True)
    states = init(watched)
    kept, restored = states, json.loads(json.dumps(states))
    for _ in range(2):
        outcomes = []
        for begin in (kept, restored):
            credit, after = run(watched, blank_credit(rollouts), rollouts, begin, when="rollout")
            outcomes.append(run(watched, credit, rollouts, after, when="update", forward=forward))
        (one, kept), (two, after) = outcomes
        assert torch.equal(one.keep_BT, two.keep_BT)
        assert torch.equal(one.advantage_BT, two.advantage_BT)
        assert kept == after
        restored = json.loads(json.dumps(after))
    share = float((kept[-1])["metrics"]["end/share"])
    assert share == pytest.approx(float(one.keep_BT.sum() / rollouts.mask_BT.sum()), abs=1e-6)


@EVERY
def test_a_method_is_a_function_of_its_inputs(name):
    rollouts, forward = random_rollouts(15)
    torch.manual_seed(0)
    one = learn(ROWS[name].make(), rollouts, forward, rng=9)
    torch.manual_seed(1)
    same_learning(learn(ROWS[name].make(), rollouts, forward, rng=9), one, exactly=True)


# Selection --------------------------------------------------------------------------------------------------------

SELECTING = [name for name, entry in ROWS.items() if entry.method == "forking"]


@pytest.mark.parametrize("name", [n for n in SELECTING if "threshold" not in n and "trl" not in n])
@pytest.mark.parametrize("levels", [None, 1, 3])
def test_the_number_of_learning_tokens_is_exact(name, levels):
    whole = ROWS[name].make()
    (link,) = (x for x in whole.links if x.name == "top_entropy")
    rollouts, forward = random_rollouts(16, levels=levels)
    credit = learn(whole, rollouts, forward).credit
    learns_BT = credit.keep_BT & (credit.weight_BT != 0)
    lengths = rollouts.mask_BT.sum(1)
    sizes = {"sequence": lengths.tolist(), "group": [int(lengths[:4].sum()), int(lengths[4:].sum())]}
    share, keep = link.arguments["share"], link.arguments["keep"]
    total = 0
    for n in sizes.get(link.scope, [int(lengths.sum())]):
        total += n - exact_count(1 - share, n) if keep == "bottom" else exact_count(share, n)
    assert int(learns_BT.sum()) == total


@pytest.mark.parametrize("scope", ["sequence", "group", "micro", "mini", "rollout"])
@pytest.mark.parametrize("ties", ["count", "threshold"])
@pytest.mark.parametrize("levels", [None, 3])
def test_bottom_is_the_complement_of_top(scope, ties, levels):
    rollouts, forward = random_rollouts(17, levels=levels, lengths=[5] * 8)
    top = learn(forking(share=0.2, scope=scope, ties=ties), rollouts, forward).credit.keep_BT
    bottom = learn(
        forking(share=0.8, scope=scope, ties=ties, keep="bottom"), rollouts, forward
    ).credit.keep_BT
    assert torch.equal(top ^ bottom, rollouts.mask_BT)


@pytest.mark.parametrize("name", ["forking bonus", "forking all bonus"])
def test_the_bonus_acts_on_the_tokens_that_learn(name):
    rollouts, forward = random_rollouts(18)
    got = learn(ROWS[name].make(), rollouts, forward)
    learns_BT = got.credit.keep_BT & (got.credit.weight_BT != 0)
    assert torch.equal(got.entropy_gradient_BT != 0, learns_BT)
    n = learns_BT.sum() if "all" not in name else rollouts.mask_BT.sum()
    close(
        got.entropy_gradient_BT[learns_BT],
        torch.full((int(learns_BT.sum()),), -0.2 / float(n), dtype=torch.float64),
    )


def test_random_draws_anew_in_every_update_and_does_not_see_entropy():
    rollouts, forward = random_rollouts(19)
    whole = forking(keep="random")
    one, two = (learn(whole, rollouts, forward, rng=r).credit.keep_BT for r in (1, 2))
    assert not torch.equal(one, two)
    reversed_entropy = Forward(logp_BT=forward.logp_BT, entropy_BT=-forward.entropy_BT)
    assert torch.equal(learn(whole, rollouts, reversed_entropy, rng=1).credit.keep_BT, one)
