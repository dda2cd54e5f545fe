"""The pages in a real browser: what a reader sees and does. Work is counted, never timed; `page_speed.py` times."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browser import ABSENT, CHROMIUM, Tab, artefacts, tab
from synthetic_run import write_synthetic_run, write_table

from forkpoint.analyze.text import visible
from forkpoint.analyze.views.compare_runs import write_comparison
from forkpoint.analyze.views.report import report
from forkpoint.analyze.views.tokenview import ENTROPY_EDGES

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=ABSENT)

ANSWERS, LENGTH = 24, 2000
HOSTILE = [
    "<script>window.harm = 1; alert(1)</script>",
    "</script><script>window.harm = 2</script>",
    "<!--",
    "<!--<script>",
    "-->",
    "\"'><img src=x onerror='window.harm = 3'>",
    "</span></div></article>",
    "&lt;b&gt;",
    "\u202eabc\u2066",
    "\u2028",
    "\x00",
]
TEXT = "document.querySelector('[data-part=text]')"


def write_long_answers(path, answers: int = ANSWERS, length: int = LENGTH) -> None:
    """Write a run whose first and last step hold long answers, with ranks and alternatives in the last."""
    write_synthetic_run(path, length=4)
    rng = np.random.default_rng(0)
    half = answers // 2
    for step in (1, 12):
        size = half * length
        entropy = np.where(rng.random(size) < 0.6, 0.005 * rng.random(size), rng.gamma(2, 0.5, size))
        words = pa.array([f" word{i}" for i in range(3000)])
        chosen = rng.integers(0, 3000, size)
        offsets = pa.array(np.arange(0, size + 1, length, dtype=np.int32))
        kept = entropy >= np.quantile(entropy, 0.8)
        sign = np.repeat(np.where(np.arange(half) % 2 == 0, 1.0, -1.0), length)
        flat = {
            "tokens": words.take(pa.array(chosen)),
            "logp": pa.array((-rng.exponential(entropy + 1e-6)).astype(np.float32)),
            "entropy": pa.array(entropy.astype(np.float32)),
            "advantage": pa.array(sign.astype(np.float32)),
            "credit": pa.array(np.where(kept, sign, 0).astype(np.float32)),
            "kept": pa.array(kept),
        }
        if step == 12:
            flat["rank"] = pa.array(rng.integers(1, 9, size).astype(np.int32))
            five = pa.array(np.arange(0, 5 * size + 1, 5, dtype=np.int32))
            near = np.sort(-rng.exponential(2.0, (size, 5)).astype(np.float32))[:, ::-1].ravel()
            others = rng.integers(0, 3000, (size, 5))
            others[:, 0] = chosen
            flat["top_tokens"] = pa.ListArray.from_arrays(five, words.take(pa.array(others.ravel())))
            flat["top_logp"] = pa.ListArray.from_arrays(five, pa.array(near))
        columns = {name: pa.ListArray.from_arrays(offsets, values) for name, values in flat.items()}
        columns |= {"prompt_id": [f"p{i}" for i in range(half)], "prompt": ["Why?"] * half}
        columns |= {"verdict": ["right" if i % 2 == 0 else "wrong" for i in range(half)]}
        pq.write_table(pa.table(columns), path / "rollouts" / f"step-{step:05d}.parquet")


@pytest.fixture(scope="module")
def browser():
    with tab() as page:
        yield page


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_synthetic_run(tmp_path_factory.mktemp("browser") / "run")


@pytest.fixture(scope="module")
def page_file(run):
    return report(run)


@pytest.fixture(scope="module")
def long_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "run"
    write_long_answers(path)
    return undrawn_report(path)


def undrawn_report(path):
    """Write a report without figures, which take most of its time and are looked at elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("forkpoint.analyze.views.report._panels", lambda run, shown: [])
        return report(path)


def shown(browser: Tab) -> int:
    return int(browser.until("document.getElementById('tokens').dataset.shown"))


def opened(browser: Tab, path, **how) -> Tab:
    browser.open(path, **how)
    shown(browser)
    return browser


def share(browser: Tab) -> str:
    return browser.js("document.querySelector('[data-part=share]').textContent")


def entropies(path, step: int, row: int) -> np.ndarray:
    table = pq.read_table(path.parent / "rollouts" / f"step-{step:05d}.parquet", columns=["entropy"])
    return np.asarray(table.column("entropy")[row].as_py(), dtype=np.float32)


@pytest.mark.parametrize("dark", [False, True])
def test_summary_fits_one_screen_and_screenshots_are_kept(browser, page_file, dark):
    opened(browser, page_file, dark=dark)
    assert browser.js("document.getElementById('summary').getBoundingClientRect().bottom") <= 900
    name = "dark" if dark else "light"
    pictures = [browser.screenshot(artefacts() / f"report-{name}.png", whole=True)]
    browser.js(f"{TEXT}.scrollIntoView({{block: 'center'}})")
    browser.click("[data-part=top]")
    browser.hover(*browser.middle("[data-part=text] .t:nth-child(10)"))
    pictures.append(browser.screenshot(artefacts() / f"tokens-{name}.png"))
    assert all(picture.stat().st_size > 20_000 for picture in pictures)
    assert browser.errors == []
    ground = browser.js("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(16, 19, 24)" if dark else "rgb(246, 247, 249)")


def test_nothing_sticks_out_on_a_narrow_screen(browser, page_file):
    opened(browser, page_file, width=380, height=700)
    assert browser.js("document.documentElement.scrollWidth") <= 380
    browser.js("document.getElementById('answers-title').scrollIntoView()")
    browser.screenshot(artefacts() / "report-narrow.png")


def test_only_one_answer_is_drawn(browser, long_file):
    opened(browser, long_file)
    assert browser.js("document.querySelectorAll('.t').length") == LENGTH
    nodes = browser.js("document.querySelectorAll('*').length")
    assert nodes < LENGTH + ANSWERS + 3000, "the page holds 24 answers and draws one"
    browser.click("[data-part=next]")
    browser.until("document.getElementById('tokens').dataset.shown === '1'")
    assert abs(browser.js("document.querySelectorAll('*').length") - nodes) < 20


def test_colours_follow_the_numbers(browser, long_file):
    opened(browser, long_file)
    values = entropies(long_file, 1, shown(browser))
    classes = browser.js(f"[...{TEXT}.children].map((t) => t.className)")
    edges = np.asarray(ENTROPY_EDGES, dtype=np.float32)
    assert [f"e{n}" for n in np.searchsorted(edges, values, side="right")] == [name.split()[1] for name in classes]
    colour = "getComputedStyle(document.querySelector('.t.e4:not(.k)')).backgroundColor"
    assert browser.js(colour) == "rgb(95, 193, 192)"
    browser.click("input[value=credit]")
    assert browser.js(colour) == "rgba(0, 0, 0, 0)"
    assert browser.js("getComputedStyle(document.querySelector('.t.k')).backgroundColor") == "rgb(63, 18, 104)"


def test_the_slider_touches_only_tokens_that_cross_the_threshold(browser, long_file):
    opened(browser, long_file)
    values = entropies(long_file, 1, shown(browser))
    browser.js(
        f"""(() => {{ window.touched = 0;
        new MutationObserver((all) => {{ window.touched += all.length; }})
          .observe({TEXT}, {{ subtree: true, attributes: true, childList: true, characterData: true }});
        window.slide = async (to) => {{
          window.touched = 0;
          const slider = document.querySelector('[data-part=threshold]');
          slider.value = to;
          slider.dispatchEvent(new Event('input'));
          await new Promise((done) => setTimeout(done));
          return [window.touched, document.querySelectorAll('.t.off').length, Number(slider.value)];
        }}; }})()"""
    )
    before = 0.0
    for wanted in (0.5, 0.55, 1.2, 1.15, 0.0):
        touched, off, threshold = browser.js(f"window.slide({wanted})")
        assert off == (values < threshold).sum()
        low, high = sorted((before, threshold))
        assert touched == ((values >= low) & (values < high)).sum()
        count = int((values >= threshold).sum())
        assert share(browser) == f"≥ {threshold:.3f} nats: {count:,} of 2,000 tokens ({count / 20:.1f} %)"
        before = threshold


def test_top_button_marks_a_fifth(browser, long_file):
    opened(browser, long_file)
    values = entropies(long_file, 1, shown(browser))
    browser.click("[data-part=top]")
    assert share(browser) == f"≥ {np.sort(values)[-400]:.3f} nats: 400 of 2,000 tokens (20.0 %)"
    browser.click("[data-part=next]")
    browser.until("document.getElementById('tokens').dataset.shown === '1'")
    after = entropies(long_file, 1, 1)
    assert f"{(after >= np.sort(values)[-400]).sum():,} of 2,000" in share(browser), "the threshold stays"


def test_each_view_has_a_threshold_of_its_own(browser, long_file):
    opened(browser, long_file)
    browser.click("[data-part=top]")
    said = share(browser)
    browser.click("input[value=weight]")
    assert share(browser).startswith("≥ 0.000: 2,000 of 2,000")
    browser.click("input[value=entropy]")
    assert share(browser) == said


def test_hovering_tells_everything_recorded(browser, long_file):
    opened(browser, long_file)
    browser.js("(() => { const s = document.querySelector('[data-part=source]'); s.value = 'step 12';"
               " s.dispatchEvent(new Event('change')); })()")  # fmt: skip
    browser.until("document.getElementById('tokens').dataset.shown === '12'")
    row = pq.read_table(long_file.parent / "rollouts" / "step-00012.parquet").slice(0, 1).to_pylist()[0]
    browser.hover(*browser.middle("[data-part=text] .t:nth-child(7)"))
    assert not browser.js("document.getElementById('tip').hidden")
    said = dict(browser.js("[...document.querySelectorAll('#tip dt')].map((t) => [t.textContent, "
                           "t.nextElementSibling.textContent])"))  # fmt: skip
    assert said["probability"] == f"{100 * np.exp(row['logp'][6]):.2f} %"
    assert said["entropy"] == f"{row['entropy'][6]:.3f} nats"
    assert said["rank"] == str(row["rank"][6])
    assert float(said["credit"]) == pytest.approx(row["credit"][6])
    assert said["in the loss"] == ("yes" if row["kept"][6] else "no")
    others = browser.js("[...document.querySelectorAll('#tip li')].map((t) => t.textContent)")
    assert others == [
        f"{text} {100 * np.exp(logp):.2f} %"
        for text, logp in zip(row["top_tokens"][6], row["top_logp"][6], strict=True)
    ]
    assert browser.js("document.querySelector('#tip li.taken bdi').textContent") == row["tokens"][6]
    browser.screenshot(artefacts() / "tokens-alternatives.png")


def test_everything_works_from_the_keyboard(browser, page_file):
    opened(browser, page_file)
    place = f"[...{TEXT}.children].indexOf(document.querySelector('.t.at'))"
    browser.js("document.querySelector('input[value=entropy]').focus()")
    browser.press("ArrowRight")
    assert browser.js("document.getElementById('tokens').dataset.view") == "credit"
    browser.press("ArrowLeft")
    browser.press("Tab")
    assert browser.js("document.activeElement.dataset.part") == "threshold"
    browser.press("End")
    assert "(0.0 %)" in share(browser) or " 1 of " in share(browser)
    browser.press("Home")
    stops = []
    while (stop := browser.js("document.activeElement.dataset.part")) != "text":
        stops.append(stop)
        browser.press("Tab")
    assert stops == ["threshold", "top", "next", "filter", "source"], "there is nothing before the first answer"
    assert browser.js(place) == 0
    for key, where in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", -1), ("Home", 0)):
        browser.press(key)
        assert browser.js(place) == (browser.js(f"{TEXT}.children.length - 1") if where < 0 else where)
    assert browser.js("document.getElementById('tip').textContent").startswith("token 1 “")
    browser.press("Escape")
    assert browser.js("document.getElementById('tip').hidden")
    browser.click("[data-part=top]")
    browser.js(f"{TEXT}.focus()")
    for key in "ff":
        browser.press(key)
        assert browser.js("!document.querySelector('.t.at').classList.contains('off')")
    here = browser.js(place)
    browser.press("F")
    assert browser.js(place) < here
    browser.press("n")
    browser.until("document.getElementById('tokens').dataset.shown === '1'")
    browser.press("p")
    browser.until("document.getElementById('tokens').dataset.shown === '0'")
    assert browser.errors == []


def test_filters_and_ends(browser, page_file):
    opened(browser, page_file)
    index = json.loads(browser.js("document.getElementById('token-index').textContent"))["answers"]
    wrong = [number for number, answer in enumerate(index) if answer["verdict"] == "wrong"]
    choose = (
        "(([part, value]) => { const s = document.querySelector(`[data-part=${part}]`);"
        " s.value = value; s.dispatchEvent(new Event('change')); })"
    )
    browser.js(f"{choose}(['filter', 'wrong'])")
    browser.until(f"document.querySelector('[data-part=position]').textContent === '1 of {len(wrong)}'")
    assert browser.js("document.querySelector('[data-part=previous]').disabled")
    browser.click("[data-part=next]")
    browser.until(f"document.getElementById('tokens').dataset.shown === '{wrong[1]}'")
    assert browser.js("document.querySelector('[data-part=verdict]').textContent") == "✗ wrong"
    browser.js(f"{choose}(['source', 'step 12'])")
    late = [number for number in wrong if index[number]["source"] == "step 12"]
    browser.until(f"document.querySelector('[data-part=position]').textContent === '1 of {len(late)}'")
    for number in late[1:]:
        browser.js("document.querySelector('[data-part=next]').click()")
        browser.until(f"document.getElementById('tokens').dataset.shown === '{number}'")
    assert browser.js("document.querySelector('[data-part=next]').disabled")


def test_hostile_text_does_nothing(browser, tmp_path):
    recipe = {"name": HOSTILE[0], "model": HOSTILE[1], "task": "".join(HOSTILE)}
    (tmp_path / "recipe.json").write_text(json.dumps({"recipe": recipe, "chain": HOSTILE, "commit": HOSTILE[5]}))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 1.0, HOSTILE[0]: HOSTILE[5]}) + "\n")
    count = len(HOSTILE)
    row = {"tokens": HOSTILE, "entropy": [0.5] * count, "top_tokens": [HOSTILE] * count, "top_logp": [[-1.0]] * count}
    row |= dict.fromkeys(("prompt", "answer", "prompt_id", "verdict", "finish"), "".join(HOSTILE))
    write_table(tmp_path / "rollouts" / "step-00001.parquet", [row])
    opened(browser, undrawn_report(tmp_path))
    for place in range(1, count + 1):
        browser.hover(*browser.middle(f"[data-part=text] .t:nth-child({place})"))
    assert browser.errors == []
    assert browser.js("typeof window.harm") == "undefined"
    assert browser.js("document.querySelectorAll('img, script:not([type])').length") == 1
    assert browser.js(f"[...{TEXT}.children].map((t) => t.textContent)") == [visible(text) for text in HOSTILE]
    assert browser.js("[...document.querySelector('[data-part=prompt]').querySelectorAll('bdi')].map((t) => "
                      "t.textContent)") == [visible("".join(HOSTILE))] * 2  # fmt: skip
    assert browser.js("document.documentElement.scrollWidth") <= 1440
    browser.screenshot(artefacts() / "hostile.png")


def test_tables_sort(browser, run, page_file):
    opened(browser, page_file)
    browser.click("details summary")
    cells = "[...document.querySelector('table').tBodies[0].rows].map((r) => r.cells[{}].textContent)"
    heads = browser.js("[...document.querySelectorAll('table')[0].tHead.rows[0].cells].map((c) => c.textContent)")
    column = heads.index("eval/accuracy")
    button = f"table th:nth-child({column + 1}) button"
    browser.js("(() => { const c = document.querySelector('table').tBodies[0].rows[1].cells; "
               f"c[{column}].textContent = ''; }})()")  # fmt: skip
    before = browser.js(cells.format(column))
    numbers = sorted(float(text) for text in before if text)
    for key, wanted, said in (("Enter", numbers, "ascending"), ("Enter", numbers[::-1], "descending")):
        browser.js(f"document.querySelector('{button}').focus()")
        browser.press(key)
        found = browser.js(cells.format(column))
        assert [float(text) for text in found[:-1]] == wanted
        assert found[-1] == "", "gaps stay at the end"
        assert browser.js(f"document.querySelector('{button}').parentElement.getAttribute('aria-sort')") == said
    browser.click("table th:nth-child(1) button")
    assert browser.js(cells.format(0)) == ["0", "3", "6", "9", "12"], "numbers sort as numbers"
    none = browser.js("document.querySelectorAll('table')[0].querySelectorAll('[aria-sort=none]').length")
    assert none == len(heads) - 1


def test_comparison_in_a_browser(browser, run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    page = write_comparison([run, other], tmp_path / "comparison.html")
    for dark in (False, True):
        browser.open(page, dark=dark)
        assert browser.js("document.querySelectorAll('svg').length") >= 6
        assert browser.errors == []
        browser.screenshot(artefacts() / f"comparison-{'dark' if dark else 'light'}.png", whole=True)


def test_a_report_without_answers_runs_without_errors(browser, run, tmp_path):
    bare = shutil.copytree(run, tmp_path / "bare")
    shutil.rmtree(bare / "rollouts")
    browser.open(undrawn_report(bare))
    assert browser.errors == []
    assert browser.js("document.getElementById('tokens')") is None
