from __future__ import annotations

import re

from forkpoint.analyze.studies.divergence import NO_ANSWER, final_outcome
from forkpoint.analyze.studies.endings import Ending, convention, steps_of, token_at
from forkpoint.analyze.studies.study import Study, attempted, json_ready, noted, percents
from forkpoint.analyze.views.page import Panel
from forkpoint.errors import InputError
from tiny import tokenizer


def test_outcomes_are_final_answers_and_none_is_one_of_them():
    outcome = final_outcome(tokenizer(), convention("number"), stop_ids=(1,))
    ids = [tokenizer()(text)["input_ids"] for text in ("a 7", "3 7", "a b", "")]
    assert outcome(range(4), [[*ids[0], 1], *ids[1:]]) == ["7", "7", NO_ANSWER, NO_ANSWER]


def test_reasoning_is_cut_into_steps_before_the_final_answer():
    words = tokenizer()
    text = "a b : c d : yes no 7 end"
    ids = words(text)["input_ids"]
    ending = Ending(answer="7", opener="no", start=text.index("no"))
    assert token_at(words, ids, ending.start) == 7
    assert token_at(words, ids, 0) == 0
    steps = steps_of(words, ids, text, ending, re.compile(":"))
    assert steps == [ids[:3], ids[3:6], ids[6:7]]
    assert steps_of(words, ids, text, Ending(answer="a", opener="", start=0), re.compile(":")) == []
    # A marker right before the final answer leaves no empty step.
    assert steps_of(words, ids, text, ending, re.compile("yes")) == [ids[:7]]


def test_a_token_over_the_end_of_a_step_belongs_to_the_step():
    class Pieces:
        def decode(self, ids, skip_special_tokens):
            return "".join(("ab", ":c", "d", "7")[token] for token in ids)

    ending = Ending(answer="7", opener="", start=5)
    assert steps_of(Pieces(), [0, 1, 2, 3], "ab:cd7", ending, re.compile(":")) == [[0, 1], [2]]


def test_a_study_that_cannot_be_made_leaves_its_reason():
    def make():
        raise InputError("there is nothing.")

    found = attempted("name", "Title", make)
    assert found.panels[0].absent == "Not made: there is nothing."
    assert found.panels[0].svg == ""
    assert found.numbers == {"absent": "there is nothing"}
    whole = noted(Study(name="n", panels=(Panel(title="a", caption="c"), Panel(title="b", caption="d"))), ["Note."])
    assert [panel.caption for panel in whole.panels] == ["c Note.", "d"]


def test_numbers_for_programs_and_people():
    assert json_ready({(1, 2): float("inf"), "p": (True, None, 3)}) == {"(1, 2)": None, "p": [True, None, 3]}
    assert percents(0.123, 0.1, float("nan")) == "12.3 %"
