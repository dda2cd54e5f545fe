from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest

from forkpoint.analyze.views import figures

STEPS = [1, 2, 3, 4]
DRAWN = {
    "accuracy": lambda **name: figures.accuracy(STEPS, [0.2, 0.3, 0.4, 0.5], [0.1] * 4, [0.6] * 4, **name),
    "reward": lambda **name: figures.reward(STEPS, [0.2, 0.3, np.nan, 0.5], [0.1] * 4, **name),
    "entropy": lambda **name: figures.entropy(STEPS, [0.3] * 4, {"p50": [0.1] * 4, "p95": [2.0] * 4}, **name),
    "credit": lambda **name: figures.credited(STEPS, [0.2] * 4, [0.7, 0.6, 0.6, 0.5], **name),
    "length": lambda **name: figures.response_length(STEPS, [30] * 4, [90] * 4, [0.0] * 4, **name),
    "loss": lambda **name: figures.optimisation(STEPS, [0.4, 0.2, -0.1, 0.3], [1.0, 2.0, 0.5, 0.7], **name),
    "groups": lambda **name: figures.useful_groups(STEPS, [0.7] * 4, [0, 1, 2, 3], **name),
    "histogram": lambda **name: figures.entropy_histogram({"step 1": [0.0, 0.5, 1.0]}, **name),
}


def ids(svg: str) -> list[str]:
    return re.findall(r'\bid="([^"]+)"', svg)


@pytest.mark.filterwarnings("error")
def test_text_that_the_font_lacks_is_kept_without_a_warning():
    assert "\N{ROCKET} 火" in figures.entropy_histogram({"\N{ROCKET} 火": [0.0, 0.5, 1.0]})


@pytest.mark.parametrize("kind", DRAWN)
def test_every_figure_is_self_contained_and_labelled(kind):
    svg = DRAWN[kind]()
    root = ET.fromstring(svg)
    assert root.tag.endswith("svg")
    assert root.get("role") == "img"
    assert len(root.get("aria-label")) > 20
    assert len(svg) < 30_000
    assert "<text" in svg
    assert "<style" not in svg
    assert "<metadata" not in svg
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", svg)


@pytest.mark.parametrize("kind", DRAWN)
def test_references_resolve_inside_the_figure(kind):
    svg = DRAWN[kind]()
    wanted = set(re.findall(r"url\(#([^)]+)\)", svg)) | set(re.findall(r'href="#([^"]+)"', svg))
    assert wanted
    assert wanted <= set(ids(svg))


def test_figures_do_not_share_ids():
    found = [name for draw in DRAWN.values() for name in ids(draw())]
    found += ids(DRAWN["reward"](name="other"))
    assert len(found) == len(set(found))


def test_same_numbers_give_the_same_bytes_and_nothing_global_changes():
    before = dict(matplotlib.rcParams)
    assert DRAWN["entropy"]() == DRAWN["entropy"]()
    assert dict(matplotlib.rcParams) == before


def test_aria_label_tells_first_and_last_value():
    svg = figures.accuracy([0, 5], [0.25, 0.5], [0.2, 0.4], [0.3, 0.6])
    assert "Accuracy 25.0% at step 0, 50.0% at step 5." in svg


def test_histogram_names_share_and_percentile():
    values = [0.0] * 6 + [0.5, 0.5, 1.0, 3.0]
    # Ten values: six below 0.01; position 0.8 * 9 = 7.2 lies between 0.5 and 1.0, a fifth of the way.
    assert "step 1: 60.0 % below 0.01, 80th percentile 0.600" in figures.entropy_histogram({"step 1": values})


def test_gaps_single_points_and_emptiness_are_drawn():
    assert "not recorded" in figures.accuracy([1], [np.nan], [np.nan], [np.nan])
    assert "at step 1." in figures.reward([1], [0.5], [0.1])
    assert figures.entropy_histogram({"step 1": [0.0, 0.0]}).startswith("<svg")
    assert figures.entropy_histogram({"step 1": [np.nan], "step 2": []}).startswith("<svg")


def test_single_step_has_whole_numbers_on_its_axis():
    assert ">0<" in figures.credited([1], [0.2], [0.7])
    assert not re.search(r">0?\.9\d*<|>1\.0\d+<", figures.credited([1], [0.2], [0.7]))


def test_labels_are_escaped():
    svg = figures.entropy_histogram({"<script>": [0.1, 0.2]})
    assert "<script>" not in svg
    assert "&lt;script&gt;" in svg
