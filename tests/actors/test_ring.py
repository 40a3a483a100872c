"""The README's actor runs over all three transports, and is the one that README shows."""

import re
from pathlib import Path

import pytest

from openhpo.actors import Simulation, run_actors
from tests.conftest import ROOT

from .ring import Ring

SCRIPT = Path(__file__).with_name("ring.py")
EXPECTED = [f"rank {hop % 3} has the token after {hop} hops" for hop in range(4)]


@pytest.mark.parametrize(
    "run", [lambda cast: run_actors(cast, ranks=3), lambda cast: Simulation(cast, 3).run()], ids=["local", "simulated"]
)
def test_the_token_goes_round_in_one_process(run, capsys):
    run(lambda rank, size: {"ring": Ring()})
    assert capsys.readouterr().out.splitlines() == EXPECTED


def test_the_token_goes_round_over_mpi(mpi):
    done = mpi.run(3, str(SCRIPT))
    assert done.returncode == 0, done.stderr
    # a launcher may put a line of one rank between another one's text and its end of line
    assert sorted(re.findall(r"rank \d has the token after \d hops", done.stdout)) == sorted(EXPECTED)


def test_readme_shows_this_very_code():
    shown = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    code = SCRIPT.read_text().split('"""\n\n', 1)[1]
    assert any(" ".join(code.split()) == " ".join(block.split()) for block in shown)
