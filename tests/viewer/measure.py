"""Measure the page in headless Chromium: ``python -m tests.viewer.measure [--forwards F] [--tokens N]``.

Prints, for blocks of 32 tokens and for one block of all tokens, the size of the page, the time until it is shown, and
the time of a frame: the program's, and with style and layout. The mean of the processor time of the page's thread is
what a machine that is busy with other work does not change.
"""

import argparse
import tempfile
import time
from pathlib import Path

from dmaxlit.viewer import Panel, page
from tests.viewer.chromium import Browser, chromium
from tests.viewer.recordings import synthetic, texts_of

# Steps through all forwards as the right arrow does; reading a height makes the browser compute the layout.
_STEPS = """(() => {
  const times = [], total = [];
  for (let step = 0; step < FORWARDS; step++) {
    const begin = performance.now();
    document.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
    times.push(performance.now() - begin);
    document.body.offsetHeight;
    total.push(performance.now() - begin);
  }
  return [times, total].map((list) => list.sort((a, b) => a - b));
})()"""


def frame_times(browser: Browser, forwards: int) -> dict[str, float]:
    """Return median, 95th percentile and maximum of milliseconds per step, from the first forward to the last."""
    browser.run("document.body.focus()")
    script, total = browser.run(_STEPS.replace("FORWARDS", str(forwards)))
    names = {"median": 0.5, "95%": 0.95, "max": 1.0}
    found = {f"program {name}": script[round(share * (len(script) - 1))] for name, share in names.items()}
    return found | {f"with layout {name}": total[round(share * (len(total) - 1))] for name, share in names.items()}


def thread_seconds(browser: Browser) -> float:
    """Return the processor time that the page's thread has spent on its tasks, style and layout among them."""
    metrics = browser.send("Performance.getMetrics")["metrics"]
    return float(next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration"))


def main() -> None:
    """Measure both kinds of recordings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--forwards", type=int, default=500)
    parser.add_argument("--tokens", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, chromium(Path(folder) / "profile") as browser:
        browser.send("Performance.enable", timeDomain="threadTicks")
        for block_length in (32, options.tokens):
            recording = synthetic(options.forwards, options.tokens, block_length)
            path = Path(folder) / "page.html"
            path.write_text(page([Panel("synthetic", {0: recording}, texts_of(recording))]), encoding="utf-8")
            begin = time.perf_counter()
            browser.open(path)
            seconds = time.perf_counter() - begin
            spent = thread_seconds(browser)
            times = ", ".join(
                f"{name} {value:.1f} ms" for name, value in frame_times(browser, options.forwards).items()
            )
            spent = 1000 * (thread_seconds(browser) - spent) / options.forwards
            size = path.stat().st_size / 1e6
            times += f", processor {spent:.1f} ms"
            print(f"blocks of {block_length}: {size:.2f} MB, shown after {seconds:.2f} s; {times}")  # noqa: T201


if __name__ == "__main__":
    main()
