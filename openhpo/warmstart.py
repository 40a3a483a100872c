"""What a sampler is to know from an earlier study."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

from openhpo.errors import UserError
from openhpo.hyperparameters import Config
from openhpo.objective import NO_SCORE, Objective, Score
from openhpo.result import Result, load
from openhpo.space import Space
from openhpo.stages import State, TrialRecord
from openhpo.storage.reader import located
from openhpo.suggestions import Known

MOST = 1000  # trials that are taken over, the best of them


def known_from(source: str | Path, space: Space, objective: Objective) -> Known:
    """The trials of an earlier study that are configurations of this space too, as a sampler of this one is to see them.

    The spaces need only overlap. What the earlier one had besides is left out of account; a trial that has no value for a
    hyperparameter of this one, or one that is not allowed here, is none of this space. Their scores are computed anew, by this
    study's objective. Of learning curves what is kept is where they improve on all steps before.

    Args:
        source: The earlier study's folder.
        space: What may be tried now.
        objective: What counts now.

    Returns:
        The best thousand at most, and failed ones after them; numbered from -1 downwards.

    Raises:
        UserError: There is no such study, it did not report what the objective needs, or it has no trial in this space.
    """
    result = load(source)
    if result.forks:
        raise UserError(
            f"{source} cannot be learnt from: its trials took over each other's models, so what they came to is not a matter "
            "of their configurations"
        )
    missing = objective.needs - set(result.metrics)
    if missing:
        raise UserError(f"{source} cannot be learnt from: {objective.missing(set(result.metrics))}")
    found = [record for record in _records(result, space, objective) if record.state is State.FAILED or record.losses]
    if not found:
        raise UserError(
            f"{source} has nothing to learn from: of its {len(result.configs)} trials none that reported anything lies in the "
            f"space of this study, which has {', '.join(space.free)}"
        )
    found.sort(key=lambda record: (record.state is State.FAILED, record.score))
    for place, record in enumerate(found[:MOST]):
        record.number = -1 - place
    return Known(str(source), found[:MOST])


def known_for(study: Path, source: str | Path, space: Space, objective: Objective) -> Known:
    """What a study is to know of an earlier one: what it knew of it when it began, where it has begun, as that one may have
    grown since, or be gone.

    Raises:
        UserError: As `known_from` does.
    """
    if located(study)[0].exists():
        with contextlib.suppress(UserError):  # it is another one, which is told later
            described = load(study).definition.get("warm_start")
            if described is not None and described["source"] == str(source):
                return Known.from_definition(described)
    return known_from(source, space, objective)


def _records(result: Result, space: Space, objective: Objective) -> Iterator[TrialRecord]:
    for trial, (old, state) in enumerate(zip(result.configs, result.states, strict=True)):
        config = _config(old, space)
        if config is None or state in (State.RUNNING, State.SUSPENDED):
            continue
        record = TrialRecord(trial, config, State.STOPPED if state is State.PAUSED else state)
        for step, metrics in result.reports(trial):
            _tell(record, step, objective.score(step, metrics))
        yield record


def _config(old: Config, space: Space) -> Config | None:
    values = {name: old[name] for name in space.free if name in old}
    if not all(space.rules.legal(name, value) for name, value in values.items()):
        return None
    try:
        return space.configuration(values)
    except KeyError:  # one that is active here was not there
        return None


def _tell(record: TrialRecord, step: int, score: Score | None) -> None:
    if score is None or score == NO_SCORE:
        return
    record.losses.extend([math.nan] * (step - len(record.losses) - 1))
    record.step, record.last = step, score
    if score < record.score:
        record.score, record.best_step = score, step
        record.losses.append(score.loss)
    else:
        record.losses.append(math.nan)
