"""Responsiveness of the page of `caad-ds report` in Chromium: filters, and frames while scrolling its list.

    python benchmarks/report_page.py [--items 10000] [--systems 3] [--out benchmarks/results/report_page.md]

The page shows synthetic evaluations, four conditions each, without audio. A filter is timed from the change of its
field to the end of the next frame. The list is scrolled in steps of the wheel and in jumps of the scroll bar. The time
between frames is from requestAnimationFrame and includes other work on the machine; the work of a frame is the page's
own script, style and layout. Needs Debian's chromium and chromium-driver.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import cpu_name
from caad_ds.evaluation.asked_items import write_items
from caad_ds.evaluation.benchmarks.benchmark import CONDITIONS
from caad_ds.evaluation.benchmarks.items import Item
from caad_ds.evaluation.html_report.report import report
from caad_ds.evaluation.scoring.matching import RULES, VERSION
from caad_ds.utils.files import write_atomic, write_json, write_jsonl
from tests.chromium import chromium

WORDS = "the speaker says that it rains in a quiet room while someone laughs far away and nobody answers".split()
FILTERS = {
    "attribute": ("subset", "1"),
    "condition": ("condition", "2"),
    "rule": ("rule", "1"),
    "right or wrong": ("verdict", "0"),
    "search, first": ("search", "laughs"),
    "search, then": ("search", "laughs far item"),
    "a flip cell": (None, ""),
    "all cleared": ("clear", ""),
}
TIMED = """
const [id, value, done] = arguments;
const begin = performance.now();
if (id === null) document.querySelector("#flips .lost button").click();
else if (id === "clear") document.getElementById("clear").click();
else {
  const field = document.getElementById(id);
  field.value = value;
  field.dispatchEvent(new Event(id === "search" ? "input" : "change"));
}
const worked = performance.now() - begin;
requestAnimationFrame(() => { const channel = new MessageChannel();
  channel.port1.onmessage = () => done([worked, performance.now() - begin]); channel.port2.postMessage(0); });
"""
SCROLLED = """
const [step, frames, done] = arguments;
const list = document.getElementById("list"), times = [], works = [];
const next = () => { list.scrollTop = (list.scrollTop + step) % (list.scrollHeight - list.clientHeight); };
list.scrollTop = 0;
let before = null;
function frame(now) {
  if (before !== null) times.push(now - before);
  before = now;
  if (times.length === frames) return work();
  next();
  requestAnimationFrame(frame);
}
function work() {
  for (let k = 0; k < frames; k += 1) {
    next();
    const begin = performance.now();
    drawRows();
    space.lastElementChild.getBoundingClientRect();
    works.push(performance.now() - begin);
  }
  done([times, works]);
}
requestAnimationFrame(frame);
"""


def main(argv: list[str] | None = None) -> None:
    """Measure and print; write the page of results if --out is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--systems", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5, help="of each filter, the slowest counts (default 5)")
    parser.add_argument("--out", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    with TemporaryDirectory() as place:
        folder = Path(place)
        runs = [_run(folder, k, args.items) for k in range(args.systems)]
        begin = time.perf_counter()
        report(runs, folder / "report.html", audio=False)
        seconds = time.perf_counter() - begin
        size = (folder / "report.html").stat().st_size / 1e6
        text = _page(args, seconds, size, *_measured(folder / "report.html", args.rounds))
    print(text, end="")
    if args.out:
        write_atomic(args.out, text.encode())


def _run(folder: Path, number: int, count: int) -> Path:
    """Write a finished evaluation with `count` rows; returns its folder."""
    rng = np.random.default_rng(number)
    right = rng.random((count, len(CONDITIONS))) < 0.7
    text_rng = np.random.default_rng(1000)  # the same for all
    texts = [" ".join(text_rng.choice(WORDS, 20)) for _ in range(count)]
    items, lines = [], []
    for k in range(count):
        subset = f"attribute {k % 8}"
        for c, condition in enumerate(CONDITIONS):
            hint = None if c == 0 else f"Hint {condition}: {texts[k]}"
            items.append(
                Item(f"{subset}/{k}", subset, condition, (), (), f"Item {k}: {texts[k]}?", f"gold {k % 5}", hint)
            )
            said = f"The answer is {'gold' if right[k, c] else 'lead'} {k % 5}, {texts[int(rng.integers(count))]}."
            verdicts = dict.fromkeys(RULES, bool(right[k, c])) | {"strict": bool(right[k, c] and k % 3)}
            lines.append({"id": f"{subset}/{k}", "condition": condition, "subset": subset, "gt": f"gold {k % 5}",
                          "prediction": said, **verdicts})  # fmt: skip
    run = folder / f"run{number}"
    write_jsonl(run / "predictions.jsonl", lines)
    write_items(run, items)
    setup = {"name": run.name, "benchmark": "mcr-bench", "benchmark_sha256": "", "model_sha256": run.name}
    scores = {"name": run.name, "setup": setup, "rejected": [], "matching": VERSION}
    write_json(run / "scores.json", scores | {"groups": {"all": {"items": count}}})
    return run


def _measured(page: Path, rounds: int) -> tuple[str, float, dict[str, list[list[float]]], dict[str, list[list[float]]]]:
    """Return the browser, milliseconds to load, work and time to the frame by filter, and frame times by scrolling."""
    with chromium((1400, 1000)) as driver:
        driver.get(page.as_uri())
        loaded = driver.execute_script("return performance.getEntriesByType('navigation')[0].loadEventEnd")
        filters: dict[str, list[list[float]]] = {name: [] for name in FILTERS}
        for _ in range(rounds):
            for name, (field, value) in FILTERS.items():
                filters[name].append(driver.execute_async_script(TIMED, field, value))
        driver.execute_script("document.getElementById('list').scrollIntoView()")
        scrolls = {"120 pixels a frame": 120, "1500 pixels a frame": 1500, "jumps of 77,777 pixels": 77_777}
        frames = {name: driver.execute_async_script(SCROLLED, step, 300) for name, step in scrolls.items()}
        return f"Chromium {driver.capabilities['browserVersion']}", loaded, filters, frames


def _page(
    args: argparse.Namespace, seconds: float, size: float, browser: str, loaded: float,
    filters: dict[str, list[list[float]]], frames: dict[str, list[list[float]]],
) -> str:  # fmt: skip
    where = f"{cpu_name()} (load average {os.getloadavg()[0]:.0f}), {browser} (headless, no GPU)"
    lines = [
        "# How fluid a report is",
        f"`python benchmarks/report_page.py --items {args.items} --systems {args.systems}`: {args.items} items under "
        f"{len(CONDITIONS)} conditions, {args.systems} systems, without audio. {where}.",
        f"Written in {seconds:.0f} s, {size:.1f} MB; open after {loaded / 1000:.1f} s.",
        "Asked for: a filter under 200 ms, no scrolled frame over 50 ms.",
        "| filter | work, median ms | to the end of its frame, median | slowest |\n| --- | ---: | ---: | ---: |\n"
        + "\n".join(
            f"| {name} | {np.median([w for w, _ in times]):.0f} | {np.median([t for _, t in times]):.0f} | "
            f"{max(t for _, t in times):.0f} |"
            for name, times in filters.items()
        ),
        "| scrolling, 300 frames each | between frames, median ms | slowest | work of a frame, median | slowest |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        + "\n".join(
            f"| {name} | {np.median(between):.1f} | {max(between):.1f} | {np.median(work):.1f} | {max(work):.1f} |"
            for name, (between, work) in frames.items()
        ),
    ]
    return "\n\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
