"""Columns filled where a chain reads them: by hand, at no cost where none is read, refusals in one sentence."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from test_loop import logged, write

from core_batches import rollouts_of
from forkpoint.credit import LINKS, chain
from forkpoint.credit.link import EXTRA
from forkpoint.errors import InputError, TrainingError
from forkpoint.methods import METHODS
from forkpoint.rollouts import Prompt, Verdict
from forkpoint.tasks.prompts import load_tokenizer
from forkpoint.train import columns, gather
from forkpoint.train.columns import FILLED, Context, filled, last_match
from forkpoint.train.columns_table import ColumnsTable
from forkpoint.train.dryrun import plan
from forkpoint.train.loop import train
from forkpoint.train.needs import check_chain, columns_needed
from forkpoint.train.policy import forward_rows
from forkpoint.train.recipe import credit_chain, load_recipe
from forkpoint.verify.endings import convention
from tiny import WORDS, qwen3, tokenizer

ROOT = Path(__file__).resolve().parents[2]
ANSWERS = ("a 1 + 1 = 2 , b 2 = 3 yes", "no no 1 = 2", "yes 1 = 3", "a : = 3", "b", "yes = 2")


def answers(texts=ANSWERS, groups=(0, 0, 0, 0, 1, 1)):
    """Verified answers of the tiny word tokenizer; those that start with `yes` are right."""
    rows = [[WORDS.index(word) for word in text.split()] for text in texts]
    batch = rollouts_of([[-1.0] * len(row) for row in rows], groups=groups, reward=[0.0] * len(rows))
    for row, ids in enumerate(rows):
        batch.ids_BT[row, : len(ids)] = torch.tensor(ids)
    verdicts = tuple(Verdict.RIGHT if text.startswith("yes") else Verdict.WRONG for text in texts)
    return dataclasses.replace(batch, text=tuple(texts), verdicts=verdicts)


def context(program=None, extraction="number", **table):
    return Context(
        table=ColumnsTable(**table), tokenizer=tokenizer(), convention=convention(extraction), model=qwen3(),
        temperature=1.0, program=program,
    )  # fmt: skip


def column(name, batch=None, **settings):
    batch = answers() if batch is None else batch
    return filled(batch, {name}, context(**settings)).extra[name]


def shown(column_BT, batch):
    """Values of every answer without padding, one sign a token."""
    signs = {-1: ".", True: "x", False: "-"}
    rows = [row[mask] for row, mask in zip(column_BT, batch.mask_BT, strict=True)]
    if column_BT.dtype == torch.bool:
        return ["".join(signs[v] for v in row.tolist()) for row in rows]
    return ["".join(signs.get(v, str(v)) if v < 0 else str(v) for v in row.tolist()) for row in rows]


def test_steps_and_headers():
    batch = answers()
    assert shown(column("step", step=r" , "), batch) == ["0000000" + "11111", "00000", "0000", "0000", "0", "000"]
    found = column("step", step_header=r"\b[ab]\b")
    assert shown(found, batch) == ["0000000" + "11111", ".....", "....", "0000", "0", "..."]
    assert found[4, 1:].tolist() == [-1] * (batch.mask_BT.shape[1] - 1)
    assert found.dtype == torch.int64


def test_the_tasks_own_steps_are_paragraphs_and_attempts():
    text = "first 1 + 2 = 3 , 3 + 4 = 7 no wait 1 + 2 = 3 , 3 * 4 = 12 yes"
    numbers = columns.step_numbers(words_of(text), convention("countdown").step)
    assert numbers == [0] * 13 + [1] * 13
    assert columns.step_numbers(words_of("a \n\n b \n c"), convention("boxed").step) == [0, 0, 1, 1, 1]


def test_attempts_of_the_shipped_tokenizer():
    words = load_tokenizer(ROOT / "models" / "countdown")
    texts = (
        "first 1 + 2 = 3 , 3 + 4 = 7 no wait 2 * 4 = 8 , 8 + 1 = 9 yes <end>",
        "maybe 1 + 2 = 3 , 3 + 4 = 7 no stop <end>",
    )
    rows = [words(text)["input_ids"] for text in texts]
    batch = rollouts_of([[-1.0] * len(row) for row in rows], groups=[0, 0])
    for row, ids in enumerate(rows):
        batch.ids_BT[row, : len(ids)] = torch.tensor(ids)
    settings = dataclasses.replace(context(extraction="countdown"), tokenizer=words)
    found = filled(batch, {"step", "anchor"}, settings).extra
    assert found["anchor"].tolist() == [13, -1]
    assert shown(found["step"], batch) == ["0" * 13 + "1" * 14, "0" * 13 + "11"]


def words_of(text):
    from forkpoint.train.columns_text import Spans

    starts, at = [], 0
    for word in text.split(" "):
        starts.append(at)
        at += len(word) + 1
    return Spans(text=text, start=tuple(starts), end=(*starts[1:], len(text)))


def test_planning_and_thinking():
    batch = answers()
    assert shown(column("planning", planning=("B", "1 + 1")), batch)[0] == "-xxx---x----"
    assert shown(column("planning", planning=("no",)), batch)[1] == "xx---"
    assert shown(column("thinking", thinking=":"), batch) == ["-" * 12, "-" * 5, "-" * 4, "xx--", "-", "---"]
    assert column("thinking").dtype == torch.bool


def test_the_anchor_is_the_first_token_of_what_opens_the_final_answer():
    assert column("anchor").tolist() == [10, 4, 3, 3, -1, 2]
    # The last of several matches.
    assert column("anchor", anchor=r"= \d").tolist() == [9, 3, 2, 2, -1, 1]
    # A group is the answer and not the marker.
    assert column("anchor", anchor=r"= (\d)").tolist() == [9, 3, 2, 2, -1, 1]
    assert column("anchor", anchor=r"= \d").dtype == torch.int64


def test_classes_are_equal_final_answers_and_right_ones_are_one():
    def same(found):
        pairs = [(a, b) for a in range(6) for b in range(a) if found[a] == found[b]]
        return sorted(pairs)

    # 3 and 2 in the first group are other answers; the right one is by itself although it ends with 3 as well.
    assert same(column("cluster")) == [(3, 0)]
    two = answers(("yes 1", "yes 2", "no", "a", "no", "a"))
    assert same(column("cluster", two)) == [(1, 0), (3, 2), (5, 4)]
    assert column("error_class", two).tolist() == column("cluster", two).tolist()
    # An expression of the user's: what stands before the last sign.
    signs = answers(("2 = 1", "2 = 3", "1 = 3", "= 2", "1 = 1", "1 ="))
    assert same(column("error_class", signs, answer=r"(\w) =")) == [(1, 0), (5, 4)]


def test_last_match():
    find = last_match(r"(\d)?x")
    assert find("1x 2x").answer == "2"
    assert (find("1x x").answer, find("1x x").start) == ("x", 3)
    assert find("none") is None


def test_kinds_are_values_of_a_field_of_the_problems():
    batch = answers()
    metas = ({"subject": "b"}, {"subject": "a"})
    prompts = tuple(Prompt(id=str(i), text="", meta=meta) for i, meta in enumerate(metas))
    batch = dataclasses.replace(batch, prompts=prompts)
    assert column("kind", batch, kind="subject").tolist() == [1, 1, 1, 1, 0, 0]
    assert column("kind", batch).tolist() == [0] * 6
    with pytest.raises(TrainingError, match=r"columns\.kind = 'subjekt', and problem '0'.*did you mean 'subject'"):
        column("kind", batch, kind="subjekt")


def test_an_answer_is_one_turn():
    found = column("turn")
    assert found.dtype == torch.int64
    assert found.shape == answers().mask_BT.shape
    assert not found.any()


def test_nothing_is_computed_that_no_link_reads(tmp_path, monkeypatch):
    made = []
    for table in ("TEXT", "ROWS", "FORMULAS"):
        counted = {
            name: (lambda *args, name=name, make=make: made.append(name) or make(*args))
            for name, make in getattr(columns, table).items()
        }
        monkeypatch.setattr(columns, table, counted)
    monkeypatch.setattr(columns, "distribution_columns", lambda *args, **settings: made.append("scored") or {})
    asked = []
    real = gather.filled
    monkeypatch.setattr(gather, "filled", lambda *args: asked.append(sorted(args[1])) or real(*args))
    short = ["train.steps=1", "eval.before=false", "eval.after=false"]
    train(load_recipe(write(tmp_path), short), run_dir=tmp_path / "plain")
    assert not asked
    assert not made
    assert "time/columns" not in logged(tmp_path / "plain")[0]
    train(load_recipe(tmp_path / "toy.toml", [*short, "credit.method=seed_grpo"]), run_dir=tmp_path / "seed")
    assert asked == [["cluster"]]
    assert made == ["cluster"]
    assert logged(tmp_path / "seed")[0]["time/columns"] > 0


def test_log_probs_are_taken_again_and_the_engines_kept():
    batch = answers()
    explore = torch.tensor([False] * 5 + [True])
    batch = dataclasses.replace(batch, logp_BT=batch.logp_BT.float(), extra={"explore": explore})
    found = filled(batch, {"sampler_logp"}, context())
    assert torch.equal(found.extra["sampler_logp"][:5], batch.logp_BT[:5])
    assert found.extra["sampler_logp"][5].isnan().all()
    with torch.no_grad():
        expected = forward_rows(qwen3(), batch).logp_BT
    torch.testing.assert_close(found.logp_BT, expected)
    assert (found.logp_BT - batch.logp_BT).abs().max() > 0.1


def test_a_column_that_is_there_is_left_alone():
    there = torch.arange(6)
    batch = dataclasses.replace(answers(), extra={"cluster": there})
    assert filled(batch, {"cluster", "turn"}, context()).extra["cluster"] is there


def test_every_column_that_the_methods_read_is_filled_but_those_of_a_judge():
    read = {need for link in METHODS.values() for need in needs_of(link)}
    assert {need for need in read if need in EXTRA} - FILLED == {"step_reward", "explore"}


def needs_of(method):
    """Needs of a method at its defaults, and of its recipe where it has arguments without."""
    try:
        return method().needs
    except TypeError:
        return credit_chain(load_recipe_of(method.__name__)).needs


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("columns.step='('", r"columns\.step = '\(' is no regular expression: "),
        ("columns.anchor=''", r"columns\.anchor is empty: write a regular expression"),
        ("columns.thinking=' '", r"columns\.thinking is blank"),
        ("columns.planning=['a', ' ']", r"columns\.planning has a blank phrase"),
        ("columns.program='judge.py'", r"columns\.program = 'judge\.py' must read path/to/file\.py:function"),
        ("columns.min_p=0.0", r"columns\.min_p = 0\.0"),
        ("columns.attention_layer=-1", r"columns\.attention_layer = -1"),
        ("columns={step='a', step_header='b'}", "^columns has both step, which ends one, and step_header"),
        ("columns.steps=' , '", r"columns\.steps is not a setting: did you mean 'train\.steps'"),
        ("columns.plan=['a']", r"columns\.plan is not a setting: did you mean 'columns\.planning'"),
    ],
)
def test_wrong_settings_are_told_in_one_sentence(override, message, tmp_path):
    with pytest.raises(InputError, match=message) as found:
        load_recipe(write(tmp_path), [override])
    assert "\n" not in str(found.value)


def test_what_has_to_be_set_is_named(tmp_path):
    path = write(tmp_path)
    with pytest.raises(InputError, match=r"'planning_push' needs 'planning'"):
        plan(load_recipe(path, ["credit.method=hicra"]))
    with pytest.raises(InputError, match=r"'planning_push' needs 'planning' \(.*columns\.planning = \["):
        train(load_recipe(path, ["credit.method=hicra"]), run_dir=tmp_path / "run")
    with pytest.raises(InputError, match=r"'step_advantage' needs 'step_reward' \(.*set columns\.program"):
        train(load_recipe(path, ["credit.method=srar"]), run_dir=tmp_path / "run")
    layer = ["credit={method='attention_shift', start=0.0, end=1.0, steps=2}", "columns.attention_layer=9"]
    with pytest.raises(InputError, match=r"columns\.attention_layer = 9"):
        train(load_recipe(path, layer), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_need_of_a_link_of_ones_own_comes_from_a_program(tmp_path):
    recipe = load_recipe(write(tmp_path))
    lonely = dataclasses.replace(LINKS["clip"](), needs=frozenset({"mood"}))
    with pytest.raises(InputError, match=r"needs 'mood': this engine does not record it; set columns\.program"):
        check_chain(recipe, chain(lonely))
    assert columns_needed(chain(lonely)) == {"mood"}
    table = recipe.columns.model_copy(update={"program": "judge.py:verdicts"})
    check_chain(recipe.model_copy(update={"columns": table}), chain(lonely))
    ahead = dataclasses.replace(LINKS["clip"](), needs=frozenset({"forward_mood"}))
    with pytest.raises(InputError, match="forward pass of this engine does not give it"):
        check_chain(recipe.model_copy(update={"columns": table}), chain(ahead))


def test_kinds_of_a_data_set_are_read_with_its_problems(tmp_path):
    path = write(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    named = [row | {"info": {"subject": "ab"[i % 2]}} for i, row in enumerate(rows)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, named)))
    kinds = ["credit.method=trr_pp", "train.steps=1", "eval.before=false", "columns.kind=info.subject"]
    train(load_recipe(path, kinds), run_dir=tmp_path / "run")
    assert math.isfinite(logged(tmp_path / "run")[0]["loss"])
    with pytest.raises(InputError, match=r"no field 'info\.subjekt'; did you mean 'info\.subject'"):
        train(load_recipe(path, [*kinds, "columns.kind=info.subjekt"]), run_dir=tmp_path / "other")


def test_the_columns_are_those_of_the_chain():
    for method, needs in (("grpo", set()), ("srar", {"step", "step_reward"}), ("aepo", set())):
        recipe = load_recipe_of(method)
        assert columns_needed(credit_chain(recipe)) == needs


def load_recipe_of(method):
    return load_recipe(next((ROOT / "recipes").rglob(f"{method}.toml")))
