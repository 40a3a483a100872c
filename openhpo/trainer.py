"""The actor that trains: one a rank."""

from __future__ import annotations

import socket
import sys
import traceback
from array import array
from collections.abc import Callable
from typing import Any

from openhpo.actors import Actor, ActorFailed, Address, Notice, WorkDone, WorkFailed, handles
from openhpo.errors import UserError
from openhpo.outbox import GATHER, Outbox
from openhpo.protocol import COORDINATOR, Accepted, Ended, Failed, Ready, Reports, Train, Welcome
from openhpo.stages import Stage
from openhpo.training import Trial
from openhpo.training.devices import Device
from openhpo.training.runner import train_stage

PATIENCE = 300.0  # seconds to hear from the coordinator, whose rank may still be importing


class StepsReady(Notice, frozen=True):
    """The training thread has left reports."""


class Alone(Notice, frozen=True):
    """The coordinator should have answered by now."""


class Trainer(Actor):
    """Trains what the coordinator hands out, in a worker thread, and passes its reports on.

    Args:
        train: The user's training function.
        device: This rank's device.
        precision: The study's arithmetic.
    """

    def __init__(self, train: Callable[[Trial], Any], device: Device, precision: str) -> None:
        self._train = train
        self._device = device
        self._precision = precision
        self._stage: Stage | None = None
        self._outbox = Outbox(self._wake)
        self._sent = 0  # steps of the stage that have left
        self._waiting = False  # for the coordinator to accept a batch
        self._due = False  # a batch should have left while another was in flight

    def on_start(self) -> None:
        self.send(COORDINATOR, Ready(socket.gethostname(), self._device.name))
        self._alone = self.after(PATIENCE, Alone())

    def on_stop(self) -> None:
        self._outbox.stop()

    @handles(Welcome)
    def on_welcome(self, message: Welcome, sender: Address) -> None:
        self._alone.cancel()

    @handles(Alone)
    def on_alone(self, message: Alone, sender: Address) -> None:
        raise TimeoutError(f"rank {COORDINATOR.rank} has not started a coordinator within {PATIENCE:.0f} s")

    @handles(Train)
    def on_train(self, message: Train, sender: Address) -> None:
        self._stage = message.stage
        self._sent = message.stage.start
        self._waiting = self._due = False
        self._outbox = Outbox(self._wake, message.stage.stop)
        self.relaxed = True  # until the training ends, nothing that arrives is urgent
        self.work(self._run, message.stage, self._outbox)

    def _run(self, stage: Stage, outbox: Outbox) -> None:
        train_stage(self._train, Trial(stage, self._device, outbox, self._precision))

    def _wake(self) -> None:
        self.post(StepsReady())

    @handles(StepsReady)
    def on_steps(self, message: StepsReady, sender: Address) -> None:
        if self._waiting:
            self._due = True
        elif self._stage is not None:
            self._pass_on(self._stage)

    @handles(Accepted)
    def on_accepted(self, message: Accepted, sender: Address) -> None:
        if self._stage is None or message.stage != self._stage.id:
            return  # of a stage that has ended here meanwhile
        self._waiting = False
        if message.stop:
            self._outbox.stop()
        if self._due:
            self._pass_on(self._stage)

    def _pass_on(self, stage: Stage) -> None:
        """Send what the training thread has left, consecutive steps with the same metrics together."""
        self._due = False
        rows = self._outbox.take()
        if rows:
            self.after(GATHER, StepsReady())  # nobody wakes this actor for what comes before
        while rows:
            names = tuple(rows[0])
            count = next((at for at, row in enumerate(rows) if tuple(row) != names), len(rows))
            values = array("d")
            for row in rows[:count]:
                values.extend(row.values())
            self.send(COORDINATOR, Reports(stage.id, self._sent + 1, count, names, values.tobytes()))
            self._sent += count
            self._waiting = True
            rows = rows[count:]

    @handles(WorkDone)
    def on_done(self, message: WorkDone, sender: Address) -> None:
        assert self._stage is not None
        self._pass_on(self._stage)
        self.send(COORDINATOR, Ended(self._stage.id))
        self._stage, self.relaxed = None, False

    @handles(WorkFailed)
    def on_failed(self, message: WorkFailed, sender: Address) -> None:
        assert self._stage is not None
        error = message.error
        if isinstance(error, UserError | ActorFailed):
            raise error
        self._pass_on(self._stage)
        told = f"{type(error).__name__}: {error}".strip()
        self.send(COORDINATOR, Failed(self._stage.id, told.splitlines()[0], "".join(traceback.format_exception(error))))
        print(f"trial {self._stage.trial} failed on rank {self.rank}: {told}", file=sys.stderr, flush=True)
        self._stage, self.relaxed = None, False
