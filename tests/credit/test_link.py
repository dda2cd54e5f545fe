"""Chains: order, stages, needs, state and wrappers."""

from __future__ import annotations

import dataclasses
import inspect
import json

import pytest
import torch

from core_batches import forward_of, learn, padded, random_rollouts, rollouts_of
from forkpoint import methods
from forkpoint.credit import (
    LINKS,
    Link,
    aggregate,
    chain,
    clip,
    credit_of,
    dual_clip,
    entropy_bonus,
    group_advantage,
    init,
    kl,
    masked,
    run,
    scheduled,
    sequence_ratio,
    snapshot,
    stop_ratio,
    top_entropy,
)
from forkpoint.errors import InputError
from forkpoint.rollouts import Forward, blank_credit

ROLLOUTS = rollouts_of([[-1.0, -2.0, -0.5], [-0.5]], groups=[0, 0], reward=[1.0, 0.0], ref=[[-1.1, -1.9, -0.6], [-0.4]])


def add(amount: float, **fields) -> Link:
    """Link: advantage = 2 advantage + amount, so that order matters."""

    def update(credit, rollouts, *, state, **_):
        return dataclasses.replace(credit, advantage_BT=2 * credit.advantage_BT + amount), {
            "calls": state.get("calls", 0) + 1
        }

    return Link(name=f"add{amount}", update=update, **fields)


def advantage(link, **kwargs):
    return float(credit_of(chain(link), ROLLOUTS, **kwargs).advantage_BT[0, 0])


def test_links_run_in_order():
    assert advantage(chain(add(1), add(5))) == 7
    assert advantage(chain(add(5), add(1))) == 11


def test_chain_flattens_and_is_associative():
    one, two, three = add(1), add(2), add(3)
    assert chain(chain(one, two), three) == chain(one, chain(two, three)) == chain(one, two, three)
    assert chain().links == ()


def test_stages_run_apart_and_state_is_returned():
    both = chain(add(1), add(10, when="update"))
    states = init(both)
    credit, after = run(both, blank_credit(ROLLOUTS), ROLLOUTS, states, when="rollout")
    assert float(credit.advantage_BT[0, 0]) == 1
    assert (states, after) == ([{}, {}], [{"calls": 1}, {}])
    for calls in (1, 2):
        late, after = run(both, credit, ROLLOUTS, after, when="update")
        assert float(late.advantage_BT[0, 0]) == 12
        assert after == [{"calls": 1}, {"calls": calls}]
    assert json.loads(json.dumps(after)) == after


def test_every_link_draws_from_a_key_of_its_own():
    seen = []

    def update(credit, rollouts, *, rng, state, **_):
        seen.append(rng)
        return credit, state

    link = Link(name="listens", update=update)
    run(chain(link, link), blank_credit(ROLLOUTS), ROLLOUTS, [{}, {}], when="rollout", rng=40)
    assert seen == [40, 41]


def test_links_see_the_forward_without_gradient():
    seen = []

    def update(credit, rollouts, *, forward, state, **_):
        seen.append(forward.logp_BT.requires_grad or forward.entropy_BT.requires_grad)
        return credit, state

    logp_BT = ROLLOUTS.logp_BT.clone().requires_grad_()
    forward = Forward(logp_BT=logp_BT, entropy_BT=logp_BT)
    credit_of(chain(Link(name="looks", update=update, when="update")), ROLLOUTS, forward=forward)
    assert seen == [False]


@pytest.mark.parametrize(
    ("link", "missing", "message"),
    [
        (
            group_advantage(),
            {"reward_B": None},
            "link 'group_advantage' needs 'reward' .* verify the rollouts first",
        ),
        (kl(coefficient=1.0), {"ref_logp_BT": None}, r"link 'kl' needs 'ref_logp' .* set \[reference\]"),
        (top_entropy(), {}, "link 'top_entropy' needs 'forward' .* pass the current policy's"),
    ],
)
def test_a_missing_need_is_named_with_its_remedy(link, missing, message):
    with pytest.raises(InputError, match=message):
        credit_of(chain(link), dataclasses.replace(ROLLOUTS, **missing))


@pytest.mark.parametrize(
    ("link", "span", "reads", "drops"),
    [
        (clip(), "micro", False, False),
        (top_entropy(scope="sequence"), "micro", True, True),
        (top_entropy(scope="micro", denominator="all"), "micro", True, False),
        (top_entropy(scope="group"), "mini", True, True),
        (top_entropy(scope="mini"), "mini", True, True),
        (top_entropy(scope="rollout"), "rollout", True, True),
        (top_entropy(scope="mini", source="behaviour"), "mini", False, True),
        (top_entropy(scope="rollout", source="behaviour"), "micro", False, False),
        (top_entropy(scope="mini", keep="random"), "mini", False, True),
        (chain(top_entropy(scope="mini"), top_entropy(scope="rollout")), "rollout", True, True),
        (chain(top_entropy(scope="rollout"), top_entropy(scope="sequence")), "rollout", True, True),
    ],
)
def test_what_the_update_stage_must_see(link, span, reads, drops):
    both = chain(group_advantage(), link)
    assert (both.span, both.reads_forward, both.drops) == (span, reads, drops)


def test_needs_and_regularisers_add_up():
    both = chain(group_advantage(), kl(coefficient=1.0), entropy_bonus(coefficient=1.0), top_entropy())
    assert both.needs == {"reward", "ref_logp", "entropy_gradient", "forward"}
    assert len(both.regularisers) == 1


def test_describe_is_json_ready():
    rows = json.loads(json.dumps(methods.forking().describe()))
    assert rows[-1] == {
        "link": "top_entropy", "when": "update", "scope": "mini", "needs": ["forward"],
        "arguments": {
            "share": 0.2, "source": "current", "scope": "mini", "ties": "count", "denominator": "selected",
            "keep": "top",
        },
    }  # fmt: skip


def test_links_are_named_as_a_recipe_names_them():
    for name, make in LINKS.items():
        parameters = inspect.signature(make).parameters
        required = {key: 1.0 for key, parameter in parameters.items() if parameter.default is parameter.empty}
        assert make(**required | {key: "x" for key in required if key == "name"}).name == name


FIRST = lambda rollouts, credit: torch.arange(rollouts.rows)[:, None] == 0  # noqa: E731
NOWHERE = lambda rollouts, credit: torch.zeros_like(credit.keep_BT)  # noqa: E731
EVERYWHERE = lambda rollouts, credit: torch.ones_like(credit.keep_BT)  # noqa: E731
MASKABLE = {
    "group_advantage": group_advantage(),
    "leave_one_out_advantage": LINKS["leave_one_out_advantage"](),
    "batch_advantage": LINKS["batch_advantage"](),
    "clip": clip(),
    "clip open": clip(low=None, high=None),
    "kl": kl(coefficient=0.5),
    "top_entropy": top_entropy(),
    "top_entropy all": top_entropy(denominator="all"),
    "snapshot": snapshot("x"),
}


def equal(one, two):
    for field in dataclasses.fields(one):
        x, y = getattr(one, field.name), getattr(two, field.name)
        if field.name == "penalties":
            assert len(x) == len(y)
            for p, q in zip(x, y, strict=True):
                assert torch.equal(p.coefficient_BT, q.coefficient_BT)
                assert torch.equal(p.target_logp_BT, q.target_logp_BT)
                assert p.form == q.form
        elif isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor):
            assert torch.equal(x, y), field.name
        else:
            assert x == y or x is y, (field.name, x, y)


@pytest.mark.parametrize("name", MASKABLE)
def test_masked_everywhere_is_the_link_and_nowhere_changes_nothing(name):
    link = MASKABLE[name]
    rollouts, forward = random_rollouts(1)
    before = credit_of(chain(group_advantage(std=False), clip(low=0.1, high=0.1), kl(coefficient=0.2)), rollouts)

    def after(link):
        return run(chain(link), before, rollouts, init(chain(link)), when=link.when, forward=forward)[0]

    opened = {"clip open"}  # open bounds come out as 0 and infinity
    everywhere = after(masked(link, EVERYWHERE))
    if name in opened:
        assert (everywhere.low_BT == 0).all()
        assert everywhere.high_BT.isinf().all()
    else:
        equal(everywhere, after(link))
    nowhere = after(masked(link, NOWHERE))
    silent = tuple(p for p in nowhere.penalties if (p.coefficient_BT != 0).any())
    equal(dataclasses.replace(nowhere, penalties=silent), before)


def test_masked_applies_where_the_condition_holds():
    link = masked(clip(low=0.2, high=0.28), FIRST, name="first")
    assert link.name == "first(clip)"
    fresh = credit_of(chain(link), ROLLOUTS)
    assert fresh.low_BT[:, 0].tolist() == [0.8, 0.0]
    assert fresh.high_BT[:, 0].tolist() == [1.28, float("inf")]
    over = credit_of(chain(clip(low=0.1, high=0.1), link), ROLLOUTS)
    assert over.low_BT[:, 0].tolist() == [0.8, 0.9]
    assert over.high_BT[:, 0].tolist() == [1.28, 1.1]
    opened = credit_of(chain(clip(low=0.1, high=0.1), masked(clip(low=None, high=None), FIRST)), ROLLOUTS)
    assert opened.low_BT[:, 0].tolist() == [0.0, 0.9]
    assert opened.high_BT[:, 0].tolist() == [float("inf"), 1.1]
    pull = credit_of(chain(kl(coefficient=0.5), masked(kl(coefficient=0.25), FIRST)), ROLLOUTS)
    assert [p.coefficient_BT[:, 0].tolist() for p in pull.penalties] == [[0.5, 0.5], [0.25, 0.0]]
    some = credit_of(
        chain(masked(top_entropy(share=0.1, source="behaviour"), FIRST)),
        ROLLOUTS,
        forward=forward_of(ROLLOUTS),
    )
    assert some.keep_BT.sum(1).tolist()[1] == 1, "the second answer passes through"


def test_bounds_left_open_by_a_mask_do_not_bind():
    """Answer 1 lies outside the mask: its ratio 3 is not clipped and the loss is 3 |A|."""
    rollouts = rollouts_of([[-1.0], [-1.0]], groups=[0, 1])
    credit = dataclasses.replace(credit_of(chain(masked(clip(), FIRST)), rollouts), advantage_BT=padded([[1.0], [1.0]]))
    from forkpoint.loss import surrogate

    loss = surrogate(rollouts.logp_BT + torch.tensor(3.0, dtype=torch.float64).log(), rollouts, credit)
    torch.testing.assert_close(loss, padded([[-1.2], [-3.0]]), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "link",
    [
        stop_ratio(),
        sequence_ratio(),
        dual_clip(),
        aggregate(denominator="sequence"),
        aggregate(denominator="constant"),
    ],
)
def test_a_property_of_the_whole_batch_cannot_be_masked(link):
    with pytest.raises(InputError, match="sets a property of the whole batch and cannot be masked"):
        credit_of(chain(masked(link, FIRST)), ROLLOUTS)
    again = chain(aggregate(denominator="constant", constant=2.0), masked(aggregate(denominator="constant"), FIRST))
    with pytest.raises(InputError, match="cannot be masked"):
        credit_of(again, ROLLOUTS)


def test_a_regulariser_cannot_be_masked():
    with pytest.raises(InputError, match="'entropy_bonus' is a regulariser and cannot be masked"):
        masked(entropy_bonus(coefficient=1.0), FIRST)


def test_scheduled_follows_its_schedule_and_remembers_where_it_was():
    link = scheduled(clip, low=0.2, high=lambda n: 0.1 * (n + 1))
    one = chain(link)
    states = init(one)
    highs = []
    for _ in range(3):
        credit, states = run(one, blank_credit(ROLLOUTS), ROLLOUTS, states, when="rollout")
        highs.append(float(credit.high_BT[0, 0]))
        states = json.loads(json.dumps(states))
    assert highs == pytest.approx([1.1, 1.2, 1.3], abs=1e-12)
    assert states == [{"calls": 3}]
    assert link.arguments == {"low": 0.2, "high": "schedule"}


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (clip, {"low": 0.1}),
        (kl, {"coefficient": 0.3}),
        (top_entropy, {"share": 0.4}),
        (group_advantage, {"eps": 0.1}),
    ],
)
def test_scheduled_by_constants_is_the_link(make, arguments):
    rollouts, forward = random_rollouts(2)
    plain = make(**arguments)
    for link in (
        scheduled(make, **arguments),
        scheduled(make, **{k: lambda n, v=v: v for k, v in arguments.items()}),
    ):
        assert (link.when, link.scope, link.needs, link.drops) == (
            plain.when,
            plain.scope,
            plain.needs,
            plain.drops,
        )
        equal(
            credit_of(chain(group_advantage(), link), rollouts, forward=forward),
            credit_of(chain(group_advantage(), plain), rollouts, forward=forward),
        )


def test_a_schedule_that_starts_at_zero_still_names_what_it_lacks():
    one = chain(scheduled(kl, coefficient=lambda n: 0.1 * n))
    bare = dataclasses.replace(ROLLOUTS, ref_logp_BT=None)
    _, states = run(one, blank_credit(bare), bare, init(one), when="rollout")
    with pytest.raises(InputError, match="link 'kl' needs 'ref_logp'"):
        run(one, blank_credit(bare), bare, states, when="rollout")
    credit, _ = run(one, blank_credit(ROLLOUTS), ROLLOUTS, states, when="rollout")
    assert float(credit.penalties[0].coefficient_BT[0, 0]) == 0.1


def test_what_cannot_be_scheduled_is_refused():
    with pytest.raises(InputError, match="is a regulariser and cannot be scheduled"):
        scheduled(entropy_bonus, coefficient=lambda n: 0.1 * (n + 1))
    late = chain(scheduled(entropy_bonus, coefficient=lambda n: 0.1 * n))
    credit, states = run(late, blank_credit(ROLLOUTS), ROLLOUTS, init(late), when="update")
    with pytest.raises(InputError, match="is a regulariser and cannot be scheduled"):
        run(late, credit, ROLLOUTS, states, when="update")
    with pytest.raises(InputError, match="keeps state of its own"):
        scheduled(lambda: Link(name="remembers", init=lambda: {"mean": 0.0}))


def test_snapshot_measures_and_changes_nothing():
    """Kept: 2 of 4 tokens, weights 1 and 0.5, advantages 3 and -1."""
    link = snapshot("here")
    credit = dataclasses.replace(
        blank_credit(ROLLOUTS),
        advantage_BT=padded([[3.0, 9.0, -1.0], [9.0]]),
        weight_BT=padded([[1.0, 9.0, 0.5], [9.0]]),
        keep_BT=padded([[1, 0, 1], [0]]) > 0,
    )
    after, (state,) = run(chain(link), credit, ROLLOUTS, init(chain(link)), when="update")
    assert after is credit
    assert state == {"metrics": {"here/share": 0.5, "here/weight": 0.75, "here/advantage": 2.0}}
    assert json.loads(json.dumps(state)) == state


def test_snapshot_of_nothing_is_finite():
    link = snapshot("x")
    nothing = dataclasses.replace(blank_credit(ROLLOUTS), keep_BT=torch.zeros_like(ROLLOUTS.mask_BT))
    _, (state,) = run(chain(link), nothing, ROLLOUTS, [{}], when="update")
    assert state["metrics"] == {"x/share": 0.0, "x/weight": 0.0, "x/advantage": 0.0}


def test_a_snapshot_in_the_middle_of_a_method_leaves_it_alone():
    rollouts, forward = random_rollouts(4)
    plain = methods.forking()
    watched = chain(*plain.links[:2], snapshot("a"), *plain.links[2:], snapshot("b"))
    assert torch.equal(
        learn(plain, rollouts, forward).logp_gradient_BT, learn(watched, rollouts, forward).logp_gradient_BT
    )
