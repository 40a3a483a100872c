"""The part of a trainer that has to do with other ranks training the same trial: following a leader, and leading."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from openhpo.actors import Actor, Address, Notice, handles
from openhpo.course import Course
from openhpo.following import Following
from openhpo.protocol import COORDINATOR, TRAINER, Broken, Follow, Leave, Meet, Next, Onward, Took, Unfit
from openhpo.session import Passed
from openhpo.space import Space
from openhpo.stages import Stage
from openhpo.training import Trial
from openhpo.training.devices import Device
from openhpo.training.group import Group, is_of_group
from openhpo.training.memory import describe, forget_frames, measured, out_of_memory, release_memory, start_measuring
from openhpo.training.runner import train_stage
from openhpo.training.states import Snapshot
from openhpo.training.thread import TrainingThread

ABANDONED = 10.0  # seconds that a training which is to end at once has for it


class Meeting(Notice, frozen=True):
    """The leader's training has something to tell the others'."""

    group: int
    text: str


class Measured(Notice, frozen=True):
    """A training that follows has told how much memory it takes."""

    following: Following
    took: Took


class StillFollowing(Notice, frozen=True):
    """A training that was to end at once should have ended by now."""

    following: Following


class Invitation(NamedTuple):
    """To follow, once nothing else is trained here."""

    following: Following
    snapshot: Snapshot | None


class GroupFailed(Exception):
    """What training raises on a leader when another rank of its group has failed."""


class Member(Actor):
    """A rank that trains with others where it is told to.

    Args:
        train: The user's training function.
        spaces: What may be tried, by the name of the study; "" where it is the only one.
        device: This rank's device.
        precision: The study's arithmetic.
        state_dtype: The type in which tensors of fp32 are kept in states; None for their own.
    """

    def __init__(
        self,
        train: Callable[[Trial], Any],
        spaces: Mapping[str, Space],
        device: Device,
        precision: str,
        state_dtype: str | None = None,
    ) -> None:
        self._train = train
        self._names, self._spaces = list(spaces), list(spaces.values())
        self._device = device
        self._precision = precision
        self._state_dtype = state_dtype
        self._group: Group | None = None  # the last one, which may be used again
        self._groups = 0  # that this rank has led
        self._following: Following | None = None
        self._follow_ticket = -1
        self._invitation: Invitation | None = None

    # ---- what a subclass says

    @property
    def busy(self) -> bool:
        """Whether a training of this rank's own is alive."""
        raise NotImplementedError

    def vacate(self) -> None:
        """Have such a training end, and call `go_on` when it has."""
        raise NotImplementedError

    def go_on(self) -> None:
        """Nothing is being trained here any more: begin what is next."""
        raise NotImplementedError

    def broken(self, message: Broken) -> None:
        """A follower trains no more."""
        raise NotImplementedError

    def _called(self, stage: Stage) -> str:
        """What a stage's trial is called."""
        name = self._names[stage.study]
        return f"trial {stage.trial}{f' of {name}' if name else ''}"

    def _course(self, stage: Stage) -> Course:
        return self._spaces[stage.space].course(stage.config, stage.seed)

    # ---- leading

    def _lead(self, stage: Stage, snapshot: Snapshot | None) -> Group | None:
        """Have the other ranks of a stage follow; return the group, None where there are none."""
        if len(stage.ranks) == 1:
            return None
        group = self._group
        if group is None or group.broken or group.ranks != stage.ranks or group.member != 0:
            self._part_with_group()
            self._groups += 1
            group = self._group = Group(self._groups, stage.ranks, 0, self._tell)
        header, buffers = b"", list[Any]()
        if snapshot is not None:
            header, buffers = snapshot.header, [snapshot.data] if snapshot.data.size else []
        for rank in stage.ranks[1:]:
            self.send(Address(rank, TRAINER), Follow(group.number, stage, header), buffers)
        return group

    def _part_with_group(self) -> None:
        """This rank has another group from now on: the leader of the last one must not take that for usable."""
        group = self._group
        if group is None:
            return
        group.free_comm()
        if group.member != 0 and not group.broken:
            self.send(Address(group.ranks[0], TRAINER), Broken(group.number))

    def _tell(self, text: str | None) -> str:
        """Called from the leader's training thread."""
        assert text is not None
        assert self._group is not None
        self.post(Meeting(self._group.number, text))
        return text

    def _say(self, group: Group, message: Onward | Next | Leave | Meet) -> None:
        for rank in group.ranks[1:]:
            self.send(Address(rank, TRAINER), message)

    def _dismiss(self, group: Group | None, *, abrupt: bool) -> None:
        """The training that this rank led is over; nothing happens where it led none."""
        if group is not None:
            group.broken = group.broken or abrupt
            self._say(group, Leave(group.number, group.broken))

    @handles(Meeting)
    def on_meeting(self, message: Meeting, sender: Address) -> None:
        if self._group is not None and self._group.number == message.group:
            self._say(self._group, Meet(message.group, message.text))

    @handles(Passed)
    def on_passed(self, message: Passed, sender: Address) -> None:
        if self._group is not None and self._group.member == 0 and not self._group.broken:
            self._say(self._group, Next(self._group.number, message.step))

    @handles(Broken)
    def on_broken(self, message: Broken, sender: Address) -> None:
        group = self._group
        if group is not None and group.member == 0 and group.number == message.group:
            group.broken = True
            self.broken(message)

    # ---- following

    @handles(Follow)
    def on_follow(self, message: Follow, sender: Address, buffers: list[NDArray[numpy.uint8]]) -> None:
        snapshot = None
        if message.header:
            snapshot = Snapshot(message.header, buffers[0] if buffers else numpy.empty(0, numpy.uint8))
        self._invitation = Invitation(self._following_of(sender.rank, message.group, message.stage), snapshot)
        self._join_in()

    def _following_of(self, leader: int, number: int, stage: Stage) -> Following:
        def measure(stage: Stage, last: bool) -> None:
            self.post(Measured(following, Took(number, stage.id, *measured(self._device.name), last)))

        following = Following(leader, number, stage, measure)
        return following  # to which the closure refers

    @handles(Measured)
    def on_measured(self, message: Measured, sender: Address) -> None:
        if message.following is self._following:
            self.send(Address(message.following.leader, TRAINER), message.took)

    def _join_in(self) -> bool:
        """Begin to follow, once nothing else is trained here; return whether there is anybody to follow."""
        if self._invitation is None:
            return False
        if self._following is not None:
            self._quit()
        elif self.busy:
            self.vacate()
        else:
            invitation, self._invitation = self._invitation, None
            self._begin_to_follow(*invitation)
        return True

    def _begin_to_follow(self, following: Following, snapshot: Snapshot | None) -> None:
        stage, group = following.stage, self._group
        if group is None or group.broken or (group.ranks[0], group.number) != (following.leader, following.number):
            self._part_with_group()
            group = self._group = Group(following.number, stage.ranks, stage.ranks.index(self.rank), following.heard)
        group.exchange = following.heard
        following.group = group
        self._following = following
        start_measuring(self._device.name)
        self._follow_ticket = self.work(self._run_following, following, stage, self._course(stage), snapshot)
        self.relaxed = True

    def _run_following(self, following: Following, stage: Stage, course: Course, snapshot: Snapshot | None) -> None:
        given = [snapshot]
        del snapshot  # which the trial is to let go as soon as it is read

        def trial() -> Trial:
            return Trial(
                stage,
                self._device,
                following,
                self._precision,
                course=course,
                state=given.pop(),
                owned=True,
                state_dtype=self._state_dtype,
                group=following.group,
            )

        run_in_group(self._train, trial, following.thread, following.group, following.end)

    def _led_by(self, sender: Address, number: int) -> Following | None:
        """What is followed, or about to be."""
        waiting = None if self._invitation is None else self._invitation.following
        for found in (waiting, self._following):
            if found is not None and (found.leader, found.number) == (sender.rank, number):
                return found
        return None

    @handles(Next)
    def on_next(self, message: Next, sender: Address) -> None:
        following = self._led_by(sender, message.group)
        if following is not None:
            following.next()

    @handles(Onward)
    def on_onward(self, message: Onward, sender: Address) -> None:
        following = self._led_by(sender, message.group)
        if following is None or following.told:
            self.send(sender, Broken(message.group))
        else:
            start_measuring(self._device.name)
            following.onward(message.stage, self._course(message.stage))

    @handles(Meet)
    def on_meet(self, message: Meet, sender: Address) -> None:
        following = self._led_by(sender, message.group)
        if following is not None:
            following.meet(message.text)

    @handles(Leave)
    def on_leave(self, message: Leave, sender: Address) -> None:
        following = self._led_by(sender, message.group)
        if following is None:
            return
        if following is self._following:
            self._leave(following, abrupt=message.abrupt)
        else:
            self._invitation = None

    def _leave(self, following: Following, *, abrupt: bool) -> None:
        following.leave(abrupt=abrupt)
        if abrupt:
            self.after(ABANDONED, StillFollowing(following))

    @handles(StillFollowing)
    def on_still_following(self, message: StillFollowing, sender: Address) -> None:
        if message.following is self._following:
            self.send(COORDINATOR, Unfit("a training that was to end does not, so it cannot begin another one"))

    def _quit(self) -> None:
        """Follow no more, whatever the leader is about: this rank has something else to do."""
        following = self._following
        if following is not None and not following.told:
            self.send(Address(following.leader, TRAINER), Broken(following.number))
            self._leave(following, abrupt=True)

    def _lose_leader(self, rank: int) -> None:
        """A rank is gone."""
        if self._invitation is not None and self._invitation.following.leader == rank:
            self._invitation = None
        if self._following is not None and self._following.leader == rank:
            self._leave(self._following, abrupt=True)

    def _followed(self, error: BaseException | None) -> None:
        """The thread that followed has ended."""
        following, self._following, self.relaxed = self._following, None, False
        assert following is not None
        if not following.told:
            self.send(Address(following.leader, TRAINER), _reason(following, error))
        if error is not None:
            release_memory(error)
        self.go_on()


def run_in_group(
    train: Callable[[Trial], Any],
    make_trial: Callable[[], Trial],
    thread: TrainingThread,
    group: Group | None,
    end: Callable[[], None],
) -> None:
    """Train in this thread, and call `end`; leave the group for good where training fails, or the group is broken by then."""
    try:
        with thread.training():
            train_stage(train, make_trial())
    except BaseException as error:
        forget_frames(error)
        if group is not None:
            group.broken = True
        raise
    finally:
        end()
        if group is not None and group.broken:
            group.close()


def _reason(following: Following, error: BaseException | None) -> Broken:
    """Why a rank has stopped following before it was told to."""
    number = following.number
    if error is None:
        text = "train returned on a rank that follows, and goes on at the leader: it has to end at the same step on all ranks"
        return Broken(number, text, text)
    if is_of_group(error):
        return Broken(number)  # whoever left first knows why
    text = "".join(traceback.format_exception(error))
    return Broken(number, describe(error), text, out_of_memory(error) != "")
