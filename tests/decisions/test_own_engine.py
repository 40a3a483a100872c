"""The engine that docs/methods.md shows keeps every engine's promises."""

import re
from pathlib import Path

import pytest

import openhpo as hpo
from openhpo.stages import State
from openhpo.testing import EngineContract, Workers

PAGE = (Path(__file__).parents[2] / "docs/methods.md").read_text()
(CODE,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "class Knockout" in block]


def knockout(steps):
    names = {}
    exec(compile(CODE, "docs/methods.md", "exec"), names)
    return names["Knockout"](steps)


class TestKnockout(EngineContract):
    @pytest.fixture
    def engine(self):
        return knockout(50)

    @pytest.fixture
    def trials(self):
        return 12


def test_it_is_as_short_as_promised():
    assert len(CODE.splitlines()) <= 50


def test_it_drops_one_trial_a_round():
    study = hpo.Study(hpo.Space({"x": hpo.Float((0.0, 1.0))}), hpo.Minimize("loss"), engine=knockout(12), trials=6)
    Workers(study, 2, lambda stage, step, model: {"loss": stage.config["x"]}).play()
    assert sorted(trial.step for trial in study.trials) == [2, 4, 6, 8, 10, 12]
    assert min(study.trials, key=lambda trial: trial.config["x"]).state is State.DONE
