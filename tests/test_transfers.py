"""States on their way: the real coordinator and trainers, several ranks in one process."""

import errno
import json
from collections import Counter

import numpy
import pytest

import openhpo as hpo
from openhpo.actors import run_actors
from openhpo.coordinator import Coordinator
from openhpo.progress import Silent
from openhpo.protocol import COORDINATOR, TRAINER
from openhpo.storage import checkpoints
from openhpo.store import StateStore
from openhpo.trainer import Trainer
from openhpo.training.devices import TorchDevice

SPACE = hpo.Space({"lr": hpo.Float((0.01, 0.5), log=True)})


def learn(trial):
    weights = trial.rng.normal(size=50)
    trial.track(weights=weights)
    while True:
        weights -= trial["lr"] * (weights - 0.1 * trial.rng.normal(size=50))
        yield {"loss": float((weights**2).sum()), "fingerprint": float(numpy.frombuffer(weights.tobytes(), numpy.uint32).sum())}


class Notes(Silent):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def play(folder, engine, *, ranks=3, train=learn, space=SPACE, trials=12, budget=1 << 30, view=None, **more):
    """Run a study on so many ranks of this process."""

    def make():
        return hpo.Study(space, hpo.Minimize("loss"), engine=engine, trials=trials, **more)

    def cast(rank, size):
        actors = {}
        if rank == COORDINATOR.rank:
            actors[COORDINATOR.name] = Coordinator(make, folder, {}, {}, view or Silent())
        actors[TRAINER] = Trainer(train, {"": space}, TorchDevice("cpu"), "fp32", folder, budget, forks=engine.forks)
        return actors

    run_actors(cast, ranks=ranks, deadline=60)
    return hpo.load(folder)


def kinds(result):
    return Counter(kind.decode() for kind in result.tables.events["kind"])


def whole_curves(tmp_path, trials=12, steps=9, **more):
    return play(tmp_path / "whole", hpo.Full(steps), ranks=1, trials=trials, **more).curves("fingerprint")


def assert_same(result, whole):
    """Every curve is the beginning of the one that the trial has when it trains alone from its first step to its last."""
    curves = result.curves("fingerprint")
    there = ~numpy.isnan(curves)
    assert numpy.array_equal(curves[there], whole[:, : curves.shape[1]][there])
    assert there[:, 0].all()


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize(
    "engine",
    [hpo.ASHA(9, 1, 2), hpo.SuccessiveHalving(9, 1, 2), hpo.Hyperband(9), hpo.MedianStopping(9)],
    ids=lambda e: type(e).__name__,
)
def test_a_trial_that_pauses_and_goes_on_has_the_curve_of_one_that_never_did(engine, ranks, tmp_path):
    result = play(tmp_path / "s", engine, ranks=ranks)
    assert_same(result, whole_curves(tmp_path))
    assert result.curves().shape[1] >= 4


def test_going_on_where_the_state_is_alive_calls_and_copies_nothing(tmp_path, monkeypatch):
    calls, copies = [], []

    def counted(trial):
        calls.append(trial.number)
        yield from learn(trial)

    original = StateStore.add
    monkeypatch.setattr(
        StateStore, "add", lambda self, state, snapshot: (copies.append(state), original(self, state, snapshot))
    )
    space = hpo.Space({"lr": hpo.Exponential(0.3, 0.5, [hpo.Categorical([2, 4])])})
    result = play(tmp_path / "s", hpo.SuccessiveHalving(8, 1, 2), ranks=1, trials=1, train=counted, space=space)
    assert len(result.table("stages")) == 4
    assert calls == [0]
    assert copies == []


def test_states_over_the_budget_go_through_files_and_change_nothing(tmp_path):
    seen = []

    class Watching(Notes):
        period = 0.001

        def show(self, progress):
            seen.extend(path.name for path in (tmp_path / "s").glob("checkpoints/*.h5"))

    result = play(tmp_path / "s", hpo.ASHA(9, 1, 2), budget=0, view=Watching())
    assert_same(result, whole_curves(tmp_path))
    assert seen
    assert not (tmp_path / "s" / "checkpoints").exists()  # nobody needs them any more


def test_a_full_disk_is_reported_and_training_goes_on(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "write", full)
    notes = Notes()
    result = play(tmp_path / "s", hpo.ASHA(9, 1, 2), budget=0, view=notes)
    assert_same(result, whole_curves(tmp_path))
    assert "could not write a checkpoint: No space left on device" in notes.notes[0]
    assert kinds(result)["trouble"] >= 1


def test_a_checkpoint_that_is_damaged_is_replaced_by_training_again(tmp_path, monkeypatch):
    original, damaged = checkpoints.read, []

    def read(path):
        if len(damaged) < 3:
            damaged.append(path)
            path.write_bytes(b"not this")
        return original(path)

    monkeypatch.setattr(checkpoints, "read", read)
    notes = Notes()
    result = play(tmp_path / "s", hpo.SuccessiveHalving(9, 1, 2), ranks=1, budget=0, view=notes)
    assert damaged
    assert_same(result, whole_curves(tmp_path))
    assert kinds(result)["state_lost"] >= 1
    assert "its steps are trained again" in notes.notes[0]


def test_a_donor_that_has_lost_its_state_is_answered_by_training_again(tmp_path, monkeypatch):
    original, lost = StateStore.use, []

    def use(self, state, *, lend=False):
        if lend and len(lost) < 2:  # asked for by another rank
            lost.append(state)
            self.take(state)
            return None
        return original(self, state, lend=lend)

    monkeypatch.setattr(StateStore, "use", use)
    result = play(tmp_path / "s", hpo.PopulationBased(6, 1), trials=8)
    assert len(lost) == 2
    assert kinds(result)["state_lost"] >= 2
    assert kinds(result)["trial_done"] == 8


def test_a_state_that_cannot_be_lowered_fails_its_trial_and_names_the_key(tmp_path):
    class Odd:
        def state_dict(self):
            return {"inner": {"handle": open}}

        def load_state_dict(self, state):
            pass

    def train(trial):
        trial.track(odd=Odd())
        while True:
            yield {"loss": 0.0}

    result = play(tmp_path / "s", hpo.ASHA(9, 1, 2), train=train, trials=3)
    assert len(result.failures) == 3
    assert "odd.inner.handle is a" in result.failures[0]["traceback"]


def test_a_population_whose_training_tracks_nothing_is_a_users_mistake(tmp_path):
    def train(trial):
        while True:
            yield {"loss": trial.rng.random()}

    with pytest.raises(hpo.UserError, match=r"train never calls trial\.track"):
        play(tmp_path / "s", hpo.PopulationBased(6, 1), train=train, trials=8)


# ---- populations


@pytest.fixture
def population(tmp_path):
    return play(tmp_path / "s", hpo.PopulationBased(8, 2, resample=0.0), trials=8)


def test_a_members_curve_is_that_of_the_model_it_holds_and_its_lineage_explains_it(population):
    assert kinds(population)["trial_forked"] > 0
    curves = population.curves("fingerprint")
    assert curves.shape == (8, 8)
    assert not numpy.isnan(curves).any()
    for trial in range(8):
        spans = population.lineage(trial, 8)
        assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])]
        assert spans[-1].stop == 8
        for span in spans:  # each part of the curve was reported by the stage that trained it
            rows = population.tables.reports["stage"] == span.stage
            steps = population.tables.reports["step"][rows]
            values = population.tables.values[rows][:, population.metrics.index("fingerprint")]
            part = (steps > span.start) & (steps <= span.stop)
            assert numpy.array_equal(values[part], curves[trial, span.start : span.stop])


def test_replaying_a_lineage_on_a_fresh_model_gives_the_same_bits(population, tmp_path):
    from openhpo.replay import space_of

    for trial in range(8):
        space = space_of(SPACE, population.lineage(trial, 8))
        again = play(tmp_path / f"again{trial}", hpo.Full(8), ranks=1, trials=1, space=space)
        assert numpy.array_equal(again.curves("fingerprint")[0], population.curves("fingerprint")[trial])


def test_the_best_of_a_population_comes_with_the_hyperparameters_that_were_in_force(population):
    best = population.best
    assert best.config == population.lineage(best.trial, best.step)[-1].config
    forked = [
        json.loads(population.tables.text(int(e["text_at"]), int(e["text_size"])))
        for e in population.tables.events
        if e["kind"] == b"trial_forked"
    ]
    assert all(set(config) == {"lr"} for config in forked)


def test_what_is_told_of_a_member_belongs_to_the_model_that_was_best(population):
    metric = str(population.objective.metric)
    for best in population.top(len(population.configs)):
        assert best.curve[best.step - 1] == best.value
        assert population.metrics_at(best.trial, best.step)[metric] == best.value
        assert population.trials["lr"][best.trial] == best.config["lr"]
    assert all(config == population.lineage(trial)[-1].config for trial, config in enumerate(population.best_configs))


# ---- trials that share stages


def test_trials_that_share_stages_have_whole_curves_in_the_file(tmp_path):
    space = hpo.Space(
        {"lr": hpo.Exponential(hpo.Categorical([0.3, 0.1]), 0.5, [hpo.Categorical([2, 3]), hpo.Categorical([2, 4])])}
    )
    results = {}
    for merge in (True, False):
        for ranks in (1, 3):
            results[merge, ranks] = play(
                tmp_path / f"{merge}{ranks}",
                hpo.Full(9),
                ranks=ranks,
                space=space,
                trials=None,
                sampler=hpo.Grid(),
                merge=merge,
            )
    reference = results[False, 1].curves("fingerprint")
    assert reference.shape == (8, 9)
    for (merge, _), result in results.items():
        assert numpy.array_equal(result.curves("fingerprint"), reference)
        assert (len(result.tables.reports) < 72) == merge
        assert result.best == results[False, 1].best
        assert list(result.table("trials")["steps"]) == [9] * 8
