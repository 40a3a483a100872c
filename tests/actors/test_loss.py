"""The death of a rank, where it can be played in one process."""

import pytest

import openhpo as hpo
from openhpo.actors import Notice, Simulation
from openhpo.actors.drive import Mailbox, WorkerThreads, drive
from openhpo.actors.local import local_transports
from openhpo.actors.loop import EventLoop


class Hello(hpo.Message):
    pass


class Survivor(hpo.Actor):
    def __init__(self):
        self.lost = []

    @hpo.handles(hpo.PeerLost)
    def on_lost(self, message, sender):
        self.lost.append(message.rank)
        self.send(hpo.Address(message.rank, "survivor"), Hello())  # dropped without a word
        self.stop()

    @hpo.handles(Hello)
    def on_hello(self, message, sender):
        raise AssertionError


class Waiting(hpo.Actor):
    @hpo.handles(Hello)
    def on_hello(self, message, sender):
        pass


@pytest.mark.parametrize("seed", range(5))
def test_survivors_hear_of_a_death_in_the_simulation(seed):
    simulation = Simulation(lambda rank, size: {"survivor": Survivor()}, 4, seed=seed)
    simulation.at(1.0, lambda: simulation.kill(2))
    actors = simulation.run()
    assert [actors[hpo.Address(rank, "survivor")].lost for rank in range(4)] == [[2], [2], [], [2]]
    assert 1.0 < simulation.time < 1.1


def test_survivors_hear_of_a_death_among_local_ranks():
    ends = local_transports(3)
    mailbox = Mailbox()
    loops = [EventLoop(end, mailbox, WorkerThreads()) for end in ends]
    cast = [Survivor() for _ in loops]
    for loop, actor in zip(loops, cast, strict=True):
        loop.start({"survivor": actor})
    ends[1].kill()
    loops[1].actors.clear()
    drive(loops, mailbox, deadline=10)
    assert [actor.lost for actor in cast] == [[1], [], [1]]


def test_a_death_that_nobody_handles_is_a_failure():
    simulation = Simulation(lambda rank, size: {"waiting": Waiting()}, 2)
    simulation.at(1.0, lambda: simulation.kill(1))
    with pytest.raises(hpo.ActorFailed, match="watching its peers"):
        simulation.run()


def test_a_dying_rank_takes_a_suffix_of_its_messages_along_never_one_in_the_middle():
    class Number(hpo.Message):
        value: int

    class Next(Notice):
        value: int

    class Talking(hpo.Actor):
        def __init__(self):
            self.heard = []

        def on_start(self):
            if self.rank == 1:
                self.after(1e-7, Next(0))

        @hpo.handles(Next)
        def on_next(self, message, sender):
            self.send(hpo.Address(0, "talking"), Number(message.value))
            self.after(1e-7, Next(message.value + 1))

        @hpo.handles(Number)
        def on_number(self, message, sender):
            self.heard.append(message.value)

        @hpo.handles(hpo.PeerLost)
        def on_lost(self, message, sender):
            self.stop()

    lengths = set()
    for seed in range(20):
        simulation = Simulation(lambda rank, size: {"talking": Talking()}, 2, seed=seed)
        simulation.at(2e-5, lambda simulation=simulation: simulation.kill(1))
        heard = simulation.run()[hpo.Address(0, "talking")].heard
        assert heard == list(range(len(heard)))
        lengths.add(len(heard))
    assert len(lengths) > 1  # the seed decides how much is lost
