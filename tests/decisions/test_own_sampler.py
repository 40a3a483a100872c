"""The sampler that docs/methods.md shows searches as it says."""

import re
from pathlib import Path

import openhpo as hpo

PAGE = (Path(__file__).parents[2] / "docs/methods.md").read_text()
(CODE,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "class Tournament" in block]


def test_it_finds_better_configurations_than_random_search():
    names = {}
    exec(compile(CODE, "docs/methods.md", "exec"), names)
    space = hpo.Space({f"x{place}": hpo.Float((0.0, 1.0)) for place in range(5)})
    found = []
    for sampler in (names["Tournament"](), hpo.Random()):
        for seed in range(5):
            study = hpo.Study(space, hpo.Minimize("loss"), engine=hpo.Full(1), sampler=sampler, trials=150, seed=seed)
            while (stage := study.ask()) is not None:
                study.tell(stage, 1, {"loss": sum((value - 0.5) ** 2 for value in stage.config.values())})
                study.end(stage)
            found.append(study.best.value)
    assert sum(found[:5]) < sum(found[5:]) / 2
