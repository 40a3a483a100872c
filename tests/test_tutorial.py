"""Every command of docs/tutorial.md runs, in order, as it stands there."""

import re
import shlex
import sys
from pathlib import Path

import pytest

import openhpo as hpo

from .conftest import finished

PAGE = (Path(__file__).parents[1] / "docs/tutorial.md").read_text()
APP = re.search(r"Save this as `(\S+)`:\n\n```python\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line[2:] for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]

pytest.importorskip("plotly")


def test_every_command_of_the_tutorial_runs(tmp_path):
    (tmp_path / APP[1]).write_text(APP[2])
    assert len(COMMANDS) == 12
    said = {}
    for command in COMMANDS:
        program, *words = shlex.split(command)
        assert program == "openhpo"
        done = finished([sys.executable, "-m", "openhpo", *words], 120, cwd=tmp_path)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        said[command] = done.stdout
    asha = hpo.load(tmp_path / "runs/asha")
    assert len(asha.configs) == 80
    assert asha.best.value > 0.93
    assert not asha.failures
    assert (tmp_path / "runs/asha/report.html").exists()
