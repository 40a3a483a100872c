"""Studies in virtual time in which everything goes wrong; more of them by `pytest --fault-seeds 100000`."""

import subprocess
import sys
from collections import deque

import pytest

from openhpo.storage import StudyWriter
from openhpo.testing.faults import ENGINES, once

PER_TEST = 25


def pytest_generate_tests(metafunc):
    if "seeds" in metafunc.fixturenames:
        each = -(-metafunc.config.getoption("--fault-seeds") // len(ENGINES))
        blocks = [range(first, min(first + PER_TEST, each)) for first in range(0, each, PER_TEST)]
        names = [f"{block.start} to {block.stop - 1}" for block in blocks]
        metafunc.parametrize("seeds", blocks, ids=names)


@pytest.mark.parametrize("engine", ENGINES)
def test_whatever_goes_wrong_the_promises_hold(engine, seeds):
    for seed in seeds:
        try:
            once(engine, seed)
        except Exception as error:
            again = f"python -m openhpo.testing.faults --engine '{engine}' --seed {seed}"
            pytest.fail(f"{type(error).__name__}: {error}\nplay it again: {again}")


def test_a_seed_is_played_again_by_one_command_and_always_the_same():
    command = [sys.executable, "-m", "openhpo.testing.faults", "--engine", "Hyperband", "--seed", "3"]
    one, other = (subprocess.run(command, check=False, capture_output=True, text=True, timeout=60) for _ in range(2))
    assert one.returncode == other.returncode == 0, one.stderr

    def without_folder(text):
        return [line for line in text.splitlines() if "goes on" not in line and "continued" not in line]

    assert without_folder(one.stdout) == without_folder(other.stdout)
    assert "life 1" in one.stdout


def test_a_broken_promise_is_noticed(monkeypatch):
    flush = StudyWriter.flush

    def late(self):  # reports are answered although they are not in the file yet
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls % 2:
            flush(self)

    monkeypatch.setattr(StudyWriter, "flush", late)
    with pytest.raises(AssertionError, match="acknowledged|differ"):
        deque((once("Random", seed) for seed in range(20)), maxlen=0)
