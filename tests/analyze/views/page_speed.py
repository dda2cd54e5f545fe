"""How fast a page of 200 answers of 2,000 tokens is in Chromium: `python tests/analyze/views/page_speed.py`.

Prints a table, median [least, most] of the rounds; asserts nothing. Bounds: a first paint below 2 s and a slider
below 100 ms.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from browser import tab
from test_report_browser import shown, write_long_answers

from forkpoint.analyze.views.report import report

# From the change of the control until the browser has drawn the frame after it.
TIMED = """(async () => {
  const frame = () => new Promise((done) => requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = done;
    channel.port2.postMessage(0);
  }));
  await frame();
  const began = performance.now();
  %s
  await frame();
  return performance.now() - began;
})()"""
SLIDE = "const s = document.querySelector('[data-part=threshold]'); s.value = %s; s.dispatchEvent(new Event('input'));"
PAINT = "performance.getEntriesByType('paint').find((one) => one.name === 'first-contentful-paint')?.startTime"


def main(rounds: int = 9) -> None:
    """Measure and print."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_long_answers(Path(folder) / "run", answers=200)
        page = report(Path(folder) / "run")
        print(f"{page.stat().st_size / 1e6:.1f} MB, 200 answers of 2,000 tokens")
        for number in range(rounds):
            with tab() as browser:
                browser.open(page)
                shown(browser)
                found.setdefault("first paint", []).append(browser.until(PAINT))
                found.setdefault("nothing, two frames", []).append(browser.js(TIMED % ""))
                to = {"slider, all tokens cross": 99, "slider, back": 0, "slider, a small step": 0.05}
                for name, value in to.items():
                    found.setdefault(name, []).append(browser.js(TIMED % (SLIDE % value)))
                for view in ("credit", "entropy"):
                    click = f"document.querySelector('input[value={view}]').click();"
                    found.setdefault(f"switch to {view}", []).append(browser.js(TIMED % click))
                draw = (
                    "document.querySelector('[data-part=next]').click();"
                    " while (document.getElementById('tokens').dataset.shown !== '1') await frame();"
                )
                found.setdefault("next answer", []).append(browser.js(TIMED % draw))
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
    for name, values in found.items():
        print(f"{name:<26} {statistics.median(values):7.1f} ms [{min(values):.1f}, {max(values):.1f}]")


if __name__ == "__main__":
    main()
