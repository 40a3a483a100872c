"""What looking at a study costs: writing its report, opening it in a browser, and a run that is watched.

Reports: of 10,000 trials of ASHA and of 64 members of population based training, with trainings that cost nothing; seconds to
write, size, and in headless Chromium (if there is one, with playwright) seconds to the first chart and to all of them. Watched:
reports a second of a study in one process while `openhpo watch` reads it once a second in a terminal of its own, against the
same study alone; medians of runs that take turns.

Run with: OMP_NUM_THREADS=1 python benchmarks/looking.py [--trials 10000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import pty
import shutil
import statistics
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openhpo as hpo
from openhpo.report.page import write_report

AIMS = {"seconds to write": 15.0, "MB": 10.0, "seconds to the first chart": 3.0}
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
SPACE = hpo.Space(
    {
        "lr": hpo.Float((1e-4, 1.0), log=True),
        "width": hpo.Integer((8, 512), log=True),
        "dropout": hpo.Float((0.0, 0.5)),
        "momentum": hpo.Float((0.0, 0.99)),
        "optimizer": hpo.Categorical(["sgd", "adam"]),
        "batch": hpo.Categorical([16, 32, 64, 128], ordered=True),
    }
)


def train(trial: Any) -> Iterator[dict[str, float]]:
    """Costs nothing."""
    trial.track()
    base = 0.3 * abs(math.log10(trial["lr"] / 0.01)) + 0.3 * trial["dropout"] ** 2 + 0.001 * trial["width"]
    while True:
        loss = base + 1 / math.sqrt(trial.step) + 0.02 * trial.rng.standard_normal()
        yield {"val_loss": loss, "val_accuracy": 1 - loss / 4, "cost": trial["width"] / 512}


def searched(folder: Path, engine: Any, trials: int) -> hpo.Result:
    objective = hpo.Minimize("val_loss", require="cost <= 0.9")
    return hpo.run(train, SPACE, objective, engine=engine, trials=trials, study=folder, progress=False, app="benchmark")


def report(name: str, folder: Path) -> None:
    began = time.perf_counter()
    path = write_report(folder)
    found = {"seconds to write": time.perf_counter() - began, "MB": path.stat().st_size / 1e6, **opened(path)}
    for what, value in found.items():
        aim = AIMS.get(what)
        verdict = "" if aim is None else f" (aim {aim:g}: {'met' if value <= aim else 'NOT met'})"
        print(f"  {name:12s} {what:28s} {value:8.2f}{verdict}", flush=True)


def opened(path: Path) -> dict[str, float]:
    """Seconds until charts are drawn."""
    browser = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
    if browser is None or importlib.util.find_spec("playwright") is None:
        return {}
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=browser, args=FLAGS)
        launched.new_page().goto("about:blank")
        page = launched.new_page(viewport={"width": 1280, "height": 900})
        began = time.perf_counter()
        page.goto(path.as_uri())
        page.wait_for_function("document.querySelector('.chart[data-drawn]')", timeout=60_000)
        first = time.perf_counter() - began
        page.evaluate("drawAll()")
        page.wait_for_function("[...document.querySelectorAll('.chart')].every((chart) => chart.dataset.drawn)", timeout=60_000)
        everything = time.perf_counter() - began
        launched.close()
    return {"seconds to the first chart": first, "seconds to all charts": everything}


def rate(folder: Path) -> float:
    """Reports a second."""
    began = time.perf_counter()
    result = searched(folder, hpo.Full(200), 1500)
    return len(result.tables.reports) / (time.perf_counter() - began)


def watched(folder: Path, work: Callable[[Path], float]) -> float:
    """The same, with somebody looking."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    code = (
        "import sys, time, pathlib\n"
        "while not pathlib.Path(sys.argv[1], 'study.h5').exists(): time.sleep(0.05)\n"
        "from openhpo.cli.main import app\n"
        "app(['watch', sys.argv[1]], standalone_mode=False)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdin=theirs, stdout=theirs, stderr=theirs)
    threading.Thread(target=drain, args=(ours,), daemon=True).start()
    try:
        return work(folder)
    finally:
        process.kill()
        process.wait()
        os.close(theirs)


def drain(terminal: int) -> None:
    while True:
        try:
            os.read(terminal, 65536)
        except OSError:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        print("reports", flush=True)
        searched(top / "asha", hpo.ASHA(81, 1, 3), options.trials)
        report(f"ASHA {options.trials:,}", top / "asha")
        searched(top / "pbt", hpo.PopulationBased(60, 5), 64)
        report("PBT 64", top / "pbt")
        alone, together = list[float](), list[float]()
        for turn in range(options.rounds):
            alone.append(rate(top / f"alone-{turn}"))
            together.append(watched(top / f"watched-{turn}", rate))
        one, other = statistics.median(alone), statistics.median(together)
        print(f"watched: {other:,.0f} reports a second, alone {one:,.0f}: {other / one:.2f} times", flush=True)


if __name__ == "__main__":
    main()
