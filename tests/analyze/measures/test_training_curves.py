from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from forkpoint.analyze.measures.training_curves import Arm, arm_of_run, plot_arms, share_ablation, smoothed
from forkpoint.analyze.rundata import RunData
from forkpoint.errors import InputError
from forkpoint.evaluate.stats import unpaired_difference

NAN = float("nan")


def arm(label, share, accuracy, entropy=(0.5, 0.4)):
    value = np.array(accuracy, dtype=float)
    step = np.arange(value.size) * 10.0
    return Arm(
        label=label, share=share, step=step, accuracy=value, low=value - 0.1, high=value + 0.1,
        length=value * 100, train_step=np.arange(len(entropy)) * 1.0, entropy=np.array(entropy, dtype=float),
    )  # fmt: skip


def test_ablation_compares_with_learning_from_all_tokens():
    full, top, bottom = arm("all", 1, [0.2, 0.4]), arm("top", 0.2, [0.2, 0.6, NAN]), arm("bottom", 0.8, [NAN, NAN])
    found = share_ablation([full, bottom, top])
    assert [row.label for row in found] == ["top", "bottom", "all"]
    assert (found[0].step, found[0].accuracy.value, found[0].length) == (10.0, 0.6, 60.0)
    expected = unpaired_difference((0.4, 0.30000000000000004, 0.5), (0.6, 0.5, 0.7))
    assert (found[0].difference.value, found[0].difference.low, found[0].difference.high) == pytest.approx(expected)
    assert math.isnan(found[1].accuracy.value)
    assert math.isnan(found[2].difference.value)


def test_entropy_of_an_arm_is_that_of_its_last_tenth():
    row = share_ablation([arm("all", 1, [0.1], entropy=[9.0] * 18 + [1.0, NAN, 2.0])])[0]
    assert row.entropy == 1.5
    assert math.isnan(share_ablation([arm("all", 1, [0.1], entropy=[])])[0].entropy)


def test_ablations_that_cannot_be_compared():
    with pytest.raises(InputError, match="one or more runs"):
        share_ablation([])
    with pytest.raises(InputError, match="2 arms learn from all tokens"):
        share_ablation([arm("a", 1, [0.1]), arm("b", 1.0, [0.2])])
    assert math.isnan(share_ablation([arm("top", 0.2, [0.1])])[0].difference.value)
    with pytest.raises(InputError, match="panels are"):
        plot_arms([arm("a", 1, [0.1])], shown=["reward"])


def test_smoothing_by_hand():
    assert smoothed([1.0, 2.0, 6.0, NAN, 5.0], 3).tolist() == [1.0, 1.5, 3.0, 4.0, 5.5]
    assert np.isnan(smoothed([NAN, NAN], 2)).all()
    assert smoothed([], 4).size == 0
    with pytest.raises(InputError, match="window"):
        smoothed([1.0], 0)


def test_arm_of_a_run():
    run = RunData(
        path=Path("runs/x"),
        recipe={},
        metrics=[{"step": 1, "entropy/mean": 0.5}, {"step": 2}],
        evaluations=[
            {"step": 0, "eval/accuracy": 0.25, "eval/accuracy_low": 0.2, "eval/accuracy_high": 0.3, "eval/length": 9}
        ],
        rollout_files=(),
        eval_files=(),
    )
    found = arm_of_run(run, label="top", share=0.2)
    assert (found.step.tolist(), found.accuracy.tolist(), found.length.tolist()) == ([0.0], [0.25], [9.0])
    assert (found.low.tolist(), found.high.tolist()) == ([0.2], [0.3])
    assert found.entropy[0] == 0.5
    assert math.isnan(found.entropy[1])
    with pytest.raises(InputError, match="x has no metrics yet"):
        arm_of_run(dataclasses.replace(run, metrics=[], evaluations=[]), label="top", share=0.2)
