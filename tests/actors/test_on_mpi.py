"""The transport contract and failures on real MPI."""

import textwrap
from pathlib import Path

import pytest


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_the_transport_contract_holds(mpi, ranks):
    contract = Path(__file__).with_name("contract_on_mpi.py")
    done = mpi.run(ranks, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(contract), timeout=110)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert done.stdout.count(" passed") == ranks
    assert "failed" not in done.stdout


FAILING = """
    import openhpo as hpo

    class Tick(hpo.Message):
        pass

    class Working(hpo.Actor):
        def on_start(self):
            self.after(0.1, Tick())
            self.work(endless)

        @hpo.handles(Tick)
        def on_tick(self, tick, sender):
            if self.rank == self.size - 1:
                raise RuntimeError("a bug on purpose")

    def endless():
        while True:
            sum(range(1000))

    hpo.run_actors(lambda rank, size: {"working": Working()})
"""


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_a_bug_in_a_handler_ends_all_ranks_with_its_traceback(mpi, ranks, tmp_path):
    script = tmp_path / "failing.py"
    script.write_text(textwrap.dedent(FAILING))
    done = mpi.run(ranks, str(script), timeout=20)
    assert done.returncode not in (0, None)
    output = done.stdout + done.stderr
    assert "RuntimeError: a bug on purpose" in output
    assert f"'working' on rank {ranks - 1} failed while handling Tick" in output


LEAVING_TORCH = """
    import openhpo as hpo, torch

    class Working(hpo.Actor):
        def on_start(self):
            self.work(self.train)

        def train(self):
            self.post(hpo.WorkDone(0, None))
            weights = torch.ones(300, 300)
            while True:
                weights = weights @ torch.eye(300)

        @hpo.handles(hpo.WorkDone)
        def on_begun(self, message, sender):
            raise hpo.UserError("mend this") if self.rank == 0 else RuntimeError("a bug")

    hpo.run_actors(lambda rank, size: {"working": Working()})
"""


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_job_ends_in_order_while_a_thread_is_inside_torch(mpi, ranks, tmp_path):
    script = tmp_path / "leaving.py"
    script.write_text(textwrap.dedent(LEAVING_TORCH))
    done = mpi.run(ranks, str(script), timeout=30)
    assert done.returncode in (1, 2, 3)  # MPICH's launcher joins the bits of 1 and 2
    assert "terminate called" not in done.stderr
    assert "signal" not in done.stderr.lower()


LOSING = """
    import os, signal
    import openhpo as hpo

    class Hello(hpo.Message):
        pass

    class Survivor(hpo.Actor):
        heard = 0

        def on_start(self):
            if self.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)

        @hpo.handles(hpo.PeerLost)
        def on_lost(self, lost, sender):
            print(f"rank {self.rank} lost {lost.rank}", flush=True)
            self.send(hpo.Address(0, "survivor"), Hello())

        @hpo.handles(Hello)
        def on_hello(self, hello, sender):
            self.heard += 1
            if self.heard == self.size - 1:
                print("all survivors met", flush=True)
                self.stop_all()

    hpo.run_actors(lambda rank, size: {"survivor": Survivor()}, deadline=15)
    os._exit(0)  # MPI_Finalize would wait for the dead
"""


def test_the_death_of_a_rank_is_a_message_under_ulfm(mpi, tmp_path):
    if mpi.name != "openmpi":
        pytest.skip("only Open MPI goes on after a death")
    script = tmp_path / "losing.py"
    script.write_text(textwrap.dedent(LOSING))
    done = mpi.run(4, str(script), options=("--with-ft", "ulfm"), timeout=30)
    assert "all survivors met" in done.stdout, done.stdout + done.stderr
    assert sorted(line for line in done.stdout.splitlines() if "lost" in line) == [f"rank {rank} lost 1" for rank in (0, 2, 3)]
