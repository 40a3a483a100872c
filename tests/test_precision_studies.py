"""Whole studies in 16 bits: trials pause, go on from states, fork and are repeated."""

import numpy
import pytest
import torch

import openhpo as hpo
from openhpo.replay import space_of

SPACE = hpo.Space({"lr": hpo.Float((1e-3, 1e-1), log=True)})
MIXED = hpo.Space({"lr": hpo.Float((1e-3, 1e-1), log=True), "precision": hpo.Categorical(["fp32", "bf16", "fp16"])})


def train(trial):
    """A small net, of whose updates in fp16 one in three is skipped."""
    layer = torch.nn.Linear(4, 3)
    optimizer = torch.optim.Adam(layer.parameters(), lr=trial["lr"])
    trial.track(layer=layer, optimizer=optimizer)
    while True:
        optimizer.param_groups[0]["lr"] = trial["lr"]
        for batch in range(3):
            with trial.autocast():
                loss = (layer(torch.randn(8, 4)) ** 2).mean()
            factor = 1e38 if trial.get("precision", "fp16") == "fp16" and batch == trial.step % 3 else 1.0
            trial.backward(loss.float() * factor, optimizer)
        yield {"loss": loss}


def study(folder, engine, space=SPACE, trials=9, **more):
    more = {"precision": "fp16", "device": "cpu", "progress": False, **more}
    return hpo.run(train, space, hpo.Minimize("loss"), engine=engine, trials=trials, study=folder, **more)


def test_trials_that_pause_in_fp16_repeat_those_that_do_not(tmp_path):
    whole = study(tmp_path / "whole", hpo.Full(9))
    for memory in (None, 0):  # states in memory, and through files
        paused = study(tmp_path / f"paused-{memory}", hpo.SuccessiveHalving(9), state_memory=memory)
        for name in ("loss", "skipped_updates"):
            curves = paused.curves(name)
            there = ~numpy.isnan(curves)
            assert 9 < there.sum() < 81
            assert numpy.array_equal(curves[there], whole.curves(name)[there])
    assert numpy.nanmin(whole.curves("skipped_updates")) == 1.0


def test_population_based_training_may_mutate_the_precision_and_its_winner_is_repeated(tmp_path):
    found = study(
        tmp_path / "s",
        hpo.PopulationBased(12, interval=2, resample=1.0, mutate=["lr", "precision"]),
        MIXED,
        trials=6,
        precision="fp32",
    )
    lineages = [found.lineage(trial) for trial in range(6)]
    mutated = next(one for one in lineages if len({span.config["precision"] for span in one}) > 1)
    again = study(tmp_path / "again", hpo.Full(mutated[-1].stop), space_of(MIXED, mutated), trials=1, precision="fp32")
    for span in mutated:
        theirs = found.curves("loss")[span.trial, span.start : span.stop]
        assert numpy.array_equal(again.curves("loss")[0, span.start : span.stop], theirs)


def test_states_in_16_bits_are_halves_that_belong_to_the_study(tmp_path):
    folder = tmp_path / "s"
    exact = study(tmp_path / "exact", hpo.SuccessiveHalving(9), precision="fp32", state_memory=0)
    found = study(folder, hpo.SuccessiveHalving(9), precision="fp32", state_dtype="bf16", state_memory=0)
    assert "state_dtype" not in exact.definition
    assert found.definition["state_dtype"] == "bf16"
    first = found.curves("loss")[:, 0]
    assert numpy.array_equal(first, exact.curves("loss")[:, 0])
    later = numpy.nanmax(numpy.abs(found.curves("loss")[:, 1:] - exact.curves("loss")[:, 1:]))
    assert 0 < later < 0.1  # going on is not exact, and not far off
    with pytest.raises(hpo.UserError, match='its state_dtype is "bf16", and here it is null'):
        study(folder, hpo.SuccessiveHalving(9), precision="fp32")
    with pytest.raises(hpo.UserError, match="states cannot be stored in 'int8': choose bf16 or fp16"):
        study(tmp_path / "other", hpo.Full(1), state_dtype="int8")
