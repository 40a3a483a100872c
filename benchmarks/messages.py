"""Actor messages against bare mpi4py with the same codec: one way, and round trip.

Run with: mpiexec -n 2 python benchmarks/messages.py
"""

import statistics
import time

import msgspec
from mpi4py import MPI

import openhpo.actors as hpo

MESSAGES, ROUND_TRIPS, REPEATS = 100_000, 5_000, 5


class Report(hpo.Message):
    trial: int
    step: int
    loss: float


class Ping(hpo.Message):
    count: int


class Done(hpo.Message):
    pass


class Sender(hpo.Actor):
    """Sends a burst of reports, or returns a ping, to the actor on rank 0."""

    def __init__(self, reports: int) -> None:
        self.reports = reports

    def on_start(self) -> None:
        for step in range(self.reports):
            self.send(hpo.Address(0, "receiver"), Report(1, step, 0.5))

    @hpo.handles(Ping)
    def on_ping(self, ping: Ping, sender: hpo.Address) -> None:
        self.send(sender, ping)


class Receiver(hpo.Actor):
    """Counts reports, or plays ping pong, and takes the time."""

    def __init__(self, reports: int, rounds: int) -> None:
        self.reports, self.rounds = reports, rounds
        self.received = 0
        self.seconds = 0.0

    def on_start(self) -> None:
        self.began = time.perf_counter()
        if self.rounds:
            self.send(hpo.Address(1, "sender"), Ping(0))

    @hpo.handles(Report)
    def on_report(self, report: Report, sender: hpo.Address) -> None:
        self.received += 1
        if self.received == 1:
            self.began = time.perf_counter()
        if self.received == self.reports:
            self.finish()

    @hpo.handles(Ping)
    def on_ping(self, ping: Ping, sender: hpo.Address) -> None:
        if ping.count == self.rounds:
            self.finish()
        else:
            self.send(sender, Ping(ping.count + 1))

    def finish(self) -> None:
        self.seconds = time.perf_counter() - self.began
        self.stop_all()


def actors_seconds(reports: int, rounds: int) -> float:
    receiver = Receiver(reports, rounds)
    hpo.run_actors(lambda rank, size: {"receiver": receiver} if rank == 0 else {"sender": Sender(reports)}, deadline=60)
    return receiver.seconds


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Report | Ping | Done).decode
comm = MPI.COMM_WORLD


def receive(room: bytearray, view: memoryview, status: MPI.Status) -> object:
    while (message := comm.Improbe(MPI.ANY_SOURCE, MPI.ANY_TAG, status)) is None:
        pass
    count = status.Get_count(MPI.BYTE)
    message.Recv([room, count, MPI.BYTE])
    return decode(view[:count])


def bare_seconds(reports: int, rounds: int) -> float:
    """The same exchange by hand: blocking sends, and a loop that does nothing but receive and decode."""
    room, status = bytearray(1 << 16), MPI.Status()
    view = memoryview(room)
    comm.Barrier()
    began = time.perf_counter()
    if rounds:
        for count in range(rounds):
            if comm.rank == 0:
                comm.Send([encode(Ping(count)), MPI.BYTE], 1)
            ping = receive(room, view, status)
            if comm.rank == 1:
                comm.Send([encode(ping), MPI.BYTE], 0)
    elif comm.rank == 1:
        for step in range(reports):
            comm.Send([encode(Report(1, step, 0.5)), MPI.BYTE], 0)
    else:
        receive(room, view, status)
        began = time.perf_counter()
        for _ in range(reports - 1):
            receive(room, view, status)
    return time.perf_counter() - began


def main() -> None:
    """Run both in turn, and print medians and the ratios of the pairs."""
    one_way: list[tuple[float, float]] = []
    round_trip: list[tuple[float, float]] = []
    for _ in range(REPEATS):
        one_way.append((bare_seconds(MESSAGES, 0), actors_seconds(MESSAGES, 0)))
        round_trip.append((bare_seconds(0, ROUND_TRIPS), actors_seconds(0, ROUND_TRIPS)))
    if comm.rank == 0:
        middle = statistics.median
        bare, ours = (middle(MESSAGES / pair[side] for pair in one_way) for side in (0, 1))
        ratio = middle(pair[0] / pair[1] for pair in one_way)
        print(f"{MPI.Get_library_version().split(',')[0].splitlines()[0].strip()}, medians of {REPEATS} runs")
        print(f"{'':34}{'bare mpi4py':>16}{'actors':>16}{'ratio':>8}{'aim':>10}")
        print(f"{'one way, messages a second':34}{bare:16,.0f}{ours:16,.0f}{ratio:8.2f}{'>= 0.60':>10}")
        bare, ours = (middle(pair[side] / ROUND_TRIPS * 1e6 for pair in round_trip) for side in (0, 1))
        ratio = middle(pair[1] / pair[0] for pair in round_trip)
        print(f"{'round trip, microseconds':34}{bare:16.2f}{ours:16.2f}{ratio:8.2f}{'<= 3.00':>10}")


main()
