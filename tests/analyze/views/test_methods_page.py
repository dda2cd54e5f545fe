"""Methods drawn on a recorded batch."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
import torch
from synthetic_run import write_synthetic_run

from forkpoint.analyze.measures.push import push
from forkpoint.analyze.recorded import rollouts_of_table
from forkpoint.analyze.rundata import read_rollouts
from forkpoint.analyze.views.methods_page import _answer_drawn, plot_methods
from forkpoint.errors import InputError
from forkpoint.methods import method_chain

HOSTILE = "</script><b>x\u202e"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return write_synthetic_run(tmp_path_factory.mktemp("run") / "r", steps=2, length=20)


def page(run_dir, tmp_path, *names, **options):
    chains = {name: method_chain(name) for name in names}
    return plot_methods(chains, run_dir, tmp_path / "page.html", **options).read_text("utf-8")


def test_two_methods_side_by_side(run_dir, tmp_path):
    text = page(run_dir, tmp_path, "forking", "dapo")
    assert text.count("<figure") == 4
    assert "<h1><bdi>forking and dapo</bdi></h1>" in text
    assert "forking: tokens that learn" in text
    assert "group_advantage, clip, aggregate, top_entropy" in text
    index = json.loads(re.search(r'id="token-index">(.*?)</script>', text, re.DOTALL)[1])
    assert [answer["source"] for answer in index["answers"][:4]] == ["forking", "dapo", "forking", "dapo"]
    assert len(index["answers"]) == 80
    assert "Pull on the entropy" not in text
    rollouts = rollouts_of_table(read_rollouts(run_dir / "rollouts" / "step-00002.parquet"))
    size = [float(push(method_chain(name), rollouts).push_BT.abs().sum()) for name in ("forking", "dapo")]
    assert f"dapo pushes {size[1] / size[0]:.3g} times as hard as forking" in text


def test_the_summary_says_what_is_pushed(run_dir, tmp_path):
    rollouts = rollouts_of_table(read_rollouts(run_dir / "rollouts" / "step-00002.parquet"))
    learned = push(method_chain("forking"), rollouts).push_BT[rollouts.mask_BT] != 0
    text = page(run_dir, tmp_path, "forking")
    assert f"{float(learned.double().mean()):.1%}" in text
    assert "100.0% of the push is on the 20 % of tokens" in text
    assert text.count("<figure") == 3
    assert "Learn in both" not in text


def test_the_step_is_chosen_and_named(run_dir, tmp_path):
    assert "<dt>step</dt><dd>2</dd>" in page(run_dir, tmp_path, "dapo")
    assert "<dt>step</dt><dd>1</dd>" in page(run_dir, tmp_path, "dapo", step=1)
    with pytest.raises(InputError, match="no rollouts of step 9: it has 1, 2"):
        page(run_dir, tmp_path, "dapo", step=9)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="holds no rollouts"):
        page(tmp_path / "bare", tmp_path, "dapo")


def test_what_acts_on_the_entropy_itself_is_drawn_beside_the_push(run_dir, tmp_path):
    """A bonus of coefficient c pulls every token's entropy by c; a method without one has a pull of 0."""
    text = page(run_dir, tmp_path, "entropy_bonus", "dapo")
    assert text.count("<figure") == 5
    bonus = method_chain("entropy_bonus").links[-1].arguments["coefficient"]
    assert f"Pull on the entropy. entropy_bonus: {bonus:.3g} to {bonus:.3g}; dapo: 0 to 0." in text
    assert "pulls on no entropy" not in text
    assert "Pull on the entropy" not in page(run_dir, tmp_path, "dapo")
    text = page(run_dir, tmp_path, "targeted_entropy")
    assert "Pull on the entropy" in text


def test_a_term_that_is_idle_in_the_first_update_is_named(run_dir, tmp_path):
    chains = {"anchor": method_chain("siren", nucleus=False)}
    text = plot_methods(chains, run_dir, tmp_path / "page.html").read_text("utf-8")
    assert "anchor has a term of its own that pulls on no entropy in a first update." in text
    assert "Pull on the entropy" not in text


def test_a_need_that_is_not_recorded_is_named(run_dir, tmp_path):
    with pytest.raises(InputError, match="needs 'forward_hidden'"):
        plot_methods({"shear": method_chain("shear", epsilon=1.0)}, run_dir, tmp_path / "page.html")


def test_hostile_text_stays_text(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = write_synthetic_run(tmp_path / "r", steps=1, length=6)
    path = folder / "rollouts" / "step-00001.parquet"
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        row["prompt_id"] = row["prompt"] = row["tokens"][0] = HOSTILE
    pq.write_table(pa.Table.from_pylist(rows), path)
    text = plot_methods({HOSTILE: method_chain("dapo")}, folder, tmp_path / "page.html").read_text("utf-8")
    assert "<b>x" not in text
    assert "\u202e" not in text
    assert text.count("<script") == text.count("</script>")


def test_the_answer_that_is_drawn_is_the_one_that_differs_most():
    def pushed(rows):
        rollouts = rollouts_of(len(rows))
        found = push(method_chain("dapo"), rollouts)
        return rollouts, dataclasses.replace(found, push_BT=torch.tensor(rows).double())

    def rollouts_of(count):
        from core_batches import rollouts_of as make

        return make([[-1.0, -1.0]] * count, groups=[0] * count, reward=[1.0] * count)

    rollouts, one = pushed([[1.0, 1.0], [0.0, 0.0], [5.0, 5.0]])
    _, two = pushed([[1.0, 1.0], [0.0, 2.0], [5.0, 6.0]])
    assert _answer_drawn(rollouts, [one, two]) == 1
    assert _answer_drawn(rollouts, [two]) == 1
    assert _answer_drawn(rollouts, [one]) == 2, "nothing differs: the answer that is pushed hardest"
