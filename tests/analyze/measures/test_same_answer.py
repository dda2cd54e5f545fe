"""Which final answers are the same: conventions of where they stand, and equality by a verifier."""

import pytest

from forkpoint.analyze.measures.same_answer import Equality, final_answers


def test_the_convention_in_which_most_answers_are_marked_counts():
    texts = [r"\boxed{1}", "#### 2", "#### 3", "A: 4", None, "5"]
    found = final_answers(texts)
    assert found.convention == "gsm8k"
    assert found.answers == (None, "2", "3", None, None, None)
    assert final_answers([r"\boxed{}", r"\boxed{7}"]).answers == (None, "7")


def test_the_last_number_where_nothing_is_marked_and_the_text_ended():
    found = final_answers(["= 57 no stop", "= 24 yes", "12 +", None, ""], whole=[True, True, False, True, True])
    assert found.convention == "number"
    assert found.answers == ("57", "24", None, None, None)
    assert final_answers(["7"]).answers == ("7",)


def test_equality_is_exact_then_by_algebra():
    with Equality() as equal:
        assert equal("1/2", "0.50")
        assert not equal("3", "4")
        assert equal("x+1", "1+x")
        assert equal("1+x", "x+1")
        assert not equal("x+1", "x+2")
        assert not equal("9^{9^{9^{9}}}", "x")  # over the cap: never computed
        assert equal.given_up == 0


@pytest.mark.parametrize("most", [0, 1])
def test_open_pairs_beyond_the_limit_are_different_and_counted(most):
    with Equality(most=most) as equal:
        assert [equal("x+1", "1+x"), equal("y+1", "1+y"), equal("y+1", "1+y")] == [most == 1, False, False]
        assert equal.given_up == 2 - most
        assert equal("1", "1.0")  # what needs no algebra is not counted
