"""Files that are damaged, foreign or of another version: each is refused in our own words, and left as it was.

The fuzzing runs in a process of its own, as a library in C may crash where Python raises. To see one file again:
`python -m tests.storage.test_damaged studies 123`.
"""

import ast
import contextlib
import faulthandler
import functools
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy
import pytest

import openhpo as hpo
from openhpo.cli.inspect import _status
from openhpo.objective import Objective
from openhpo.resume import replay
from openhpo.scheduler import Scheduler
from openhpo.storage import StudyWriter, checkpoints, opening, reader, schema

ROOT = Path(__file__).parent.parent.parent
FILES = {"studies": 5_000, "checkpoints": 5_000}
MEMORY = 4 << 30  # bytes of address space
PATIENCE = 20  # seconds for a file


# ---- small studies of all kinds


class Sum:
    """A model."""

    value = 0.0

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def plain(trial):
    for step in range(1, 5):
        yield {"loss": trial["x"] / step, "accuracy": step / 4}


def long(trial):
    for step in range(1, 601):
        yield {"loss": trial["x"] / step, "late" if step > 300 else "early": step}


def failing(trial):
    while True:
        if trial.number % 3 == 1 and trial.step == 2:
            raise RuntimeError("on purpose: ä")
        yield {"loss": trial["x"] / trial.step, "accuracy": trial.step / 4}


def summing(trial):
    model = Sum()
    trial.track(model=model)
    while True:
        model.value += trial["x"]
        yield {"loss": abs(model.value - 3)}


@dataclass
class Kind:
    """How to run a study, and to build it again without running it."""

    train: Callable
    space: hpo.Space
    objective: Objective
    engine: hpo.Engine
    trials: int

    def run(self, folder, train=None):
        options = {"engine": self.engine, "trials": self.trials, "study": folder, "progress": False, "app": "x"}
        return hpo.run(train or self.train, self.space, self.objective, **options)

    def study(self, trials=None):
        return hpo.Study(self.space, self.objective, engine=self.engine, trials=trials or self.trials)


MIXED = hpo.Space(
    {"x": hpo.Float((1.0, 2.0)), "kind": hpo.Categorical(["ä", "b"]), "y": hpo.Integer((1, 9)), "k": True},
    conditions={"y": "kind == 'b'"},
)
ONE = hpo.Space({"x": hpo.Float((0.1, 2.0), log=True)})
SCHEDULES = hpo.Space({"x": hpo.Exponential(hpo.Categorical([0.5, 1.0]), hpo.Categorical([0.1, 0.5]), hpo.Integer((2, 4)))})
KINDS = {
    "finished": Kind(plain, MIXED, hpo.Minimize("loss", require="accuracy <= 0.75"), hpo.Full(4), 8),
    "long": Kind(long, ONE, hpo.Maximize("loss"), hpo.Full(600), 2),
    "failures": Kind(failing, ONE, hpo.Maximize("gap", derived={"gap": "loss - accuracy"}), hpo.Full(4), 8),
    "population": Kind(summing, ONE, hpo.Minimize("loss"), hpo.PopulationBased(6, 2), 6),
    "merged": Kind(summing, SCHEDULES, hpo.Minimize(hpo.first_step("loss < 1")), hpo.Full(6), 8),
    "killed": Kind(summing, ONE, hpo.Minimize("loss"), hpo.ASHA(9, 1, 3), 9),
}


def written(folder):
    """The study files, by kind."""
    found = {}
    for name, kind in KINDS.items():
        if name == "killed":

            def train(trial):
                if trial.number == 7:  # what the operating system has at this moment is what a kill would leave
                    found["killed"] = (folder / "killed" / schema.FILE).read_bytes()
                yield from summing(trial)

            kind.run(folder / name, train)
        else:
            kind.run(folder / name)
            found[name] = (folder / name / schema.FILE).read_bytes()
    return found


def checkpoint(path, tensors=5, size=300):
    """Write a checkpoint, and return its header and bytes."""
    data = numpy.arange(tensors * size, dtype=numpy.float32).view(numpy.uint8)
    parts = [(f"w.{number}", "float32", (size,), number * size * 4, size * 4) for number in range(tensors)]
    header = b'{"w": null}'
    checkpoints.write(path, header, data, parts)
    return header, data.tobytes()


# ---- damage


def damaged(rng, data):
    """Change bytes at some places; return what was done as well."""
    data, done = bytearray(data), []
    used = numpy.flatnonzero(numpy.frombuffer(bytes(data), numpy.uint8))

    def place():
        at = int(used[rng.randrange(len(used))]) if rng.random() < 0.8 else rng.randrange(len(data))
        return min(at, len(data) - 1)

    for _ in range(rng.choice([1, 1, 1, 2, 3, 10])):
        way, at, to = rng.choice(["bit", "byte", "random", "zeros", "ones", "copy", "swap", "cut", "more"]), place(), place()
        size = min(rng.choice([1, 2, 4, 8, 64, 512, 4096]), len(data) - max(at, to))
        here, there = slice(at, at + size), slice(to, to + size)
        if way == "bit":
            data[at] ^= 1 << rng.randrange(8)
        elif way == "byte":
            data[at] = rng.randrange(256)
        elif way == "random":
            data[here] = rng.randbytes(size)
        elif way in ("zeros", "ones"):
            data[here] = bytes([255 * (way == "ones")]) * size
        elif way == "copy":
            data[there] = data[here]
        elif way == "swap":
            first, second = bytes(data[here]), bytes(data[there])
            data[here], data[there] = second, first
        elif way == "cut":
            del data[max(1, at) :]
        else:
            data += rng.randbytes(size)
        done.append(f"{way} of {size} at {at} and {to}")
    return bytes(data), done


NUMBERS = [-(2**31), -2, -1, 0, 1, 2, 3, 5, 7, 100, 1_000_000, 2**31 - 1]
REALS = [-1.0, 0.0, 1e300, float("inf"), float("nan")]
RIGHT = {
    "trials": 8,
    "seed": 0,
    "engine": "Full(8)",
    "sampler": "Random()",
    "objective": {"direction": "minimize", "metric": "loss", "require": [], "derived": {}},
}
TEXTS = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b"[" * 5000,
    *(
        json.dumps(definition).encode()
        for definition in (
            RIGHT,
            {**RIGHT, "trials": "8"},
            {name: RIGHT[name] for name in ("trials", "objective")},
            {**RIGHT, "objective": {**RIGHT["objective"], "direction": "sideways"}},
            {**RIGHT, "objective": {**RIGHT["objective"], "metric": 7}},
            {**RIGHT, "objective": {**RIGHT["objective"], "require": ["x"], "derived": {"a": "("}}},
        )
    ),
]


def damage_rows(rng, path):
    """Change what h5py reaches: cells, sizes of tables, texts; return what was done."""
    done = []
    with h5py.File(path, "r+", libver="latest", locking=False) as file:
        for _ in range(rng.choice([1, 1, 2, 4])):
            name = rng.choice(list(file))
            table = file[name]
            way = rng.choice(["cell", "cell", "cell", "size", "text"])
            if way == "size" and table.maxshape[0] is None:
                shape = list(table.shape)
                axis = rng.randrange(len(shape))
                shape[axis] = rng.choice([0, 1, 2, 7, 1000] if axis else [0, 1, 2, 7, 1000, 1100, 2**20])
                table.resize(shape)
                done.append(f"{name} of {shape}")
            elif table.dtype.names and len(table):
                row, column = rng.randrange(len(table)), rng.choice(table.dtype.names)
                rows = table[row : row + 1]
                rows[column] = cell(rng, rows[column].dtype)
                table[row : row + 1] = rows
                done.append(f"{name}[{row}, {column!r}] = {rows[column][0]!r}")
            elif name in ("definition", "environment") and way == "text":
                text = rng.choice(TEXTS)
                del file[name]
                file[name] = numpy.frombuffer(text, numpy.uint8)
                done.append(f"{name} = {text[:120]!r}")
            elif table.size:
                at = tuple(rng.randrange(length) for length in table.shape)
                table[at] = cell(rng, table.dtype)
                done.append(f"{name}[{at}] = {table[at]!r}")
    return done


def cell(rng, dtype):
    if dtype.kind == "f":
        return rng.choice(REALS)
    if dtype.kind == "S":
        return rng.choice([b"", b"loss", b"trial_done", b"trial_forked", b"state_lost", b"study_finished", b"\xff\xfe"])
    limits = numpy.iinfo(dtype)
    return min(max(rng.choice(NUMBERS), limits.min), limits.max)


# ---- fuzzing, in a process of its own


def questions(result):
    """All that a result is asked, one by one."""
    trials = range(len(result.tables.trials))
    yield from (functools.partial(getattr, result, name) for name in ("phase", "finished", "metrics", "states", "failures"))
    yield from (functools.partial(getattr, result, name) for name in ("configs", "scores", "best", "best_configs", "trials"))
    yield from (functools.partial(result.curves, metric) for metric in (None, *result.metrics))
    yield from (functools.partial(result.table, name) for name in ("stages", "reports", "events"))
    yield from (functools.partial(result.lineage, trial) for trial in trials)
    yield from (functools.partial(result.metrics_at, trial, 1) for trial in trials)
    yield functools.partial(result.top, 3)
    if {"app", "engine", "sampler"} <= set(result.definition):
        yield functools.partial(_status, result)


def ask_study(path, kind):
    """Read a study in every way; return how that went."""
    try:
        result = hpo.load(path)
    except hpo.UserError:
        return "refused"
    for question in questions(result):
        with contextlib.suppress(hpo.UserError):
            question()
    events = result.tables.events
    try:
        replay(result.tables, Scheduler(kind.study(int(events["step"][0]) if len(events) else None)))
    except hpo.UserError:
        return "read"
    return "continued"


def one_study(rng, folder, files):
    name = rng.choice(list(files))
    path = folder / schema.FILE
    if rng.random() < 0.4 and name != "killed":  # which h5py cannot open for writing
        path.write_bytes(files[name])
        done = damage_rows(rng, path)
        data = path.read_bytes()
    else:
        data, done = damaged(rng, files[name])
        path.write_bytes(data)
    yield [name, *done]
    yield ask_study(path, KINDS[name])
    assert path.read_bytes() == data, "the file was changed"


def one_checkpoint(rng, folder, files):
    content, data = files
    data, done = damaged(rng, data)
    path = folder / "x.h5"
    path.write_bytes(data)
    yield done
    try:
        header, found = checkpoints.read(path)
    except checkpoints.Unreadable:
        yield "refused"
    else:
        assert (header, found.tobytes()) == content, "it was read, and is not what was written"
        yield "read"


def fuzz(what, numbers):
    """Damage so many files and read them; print how that went, and what went wrong."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    opening.ATTEMPTS = 8  # nobody writes, so there is nothing to wait for
    seen, wrong = Counter(), 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        folder = Path(name)
        if what == "studies":
            one, files = one_study, written(folder)
        else:
            one, content = one_checkpoint, checkpoint(folder / "original.h5")
            files = content, (folder / "original.h5").read_bytes()
        for number in numbers:
            print(f"{what} {number}", end="", flush=True)  # so that the last one is known after a crash
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            steps = one(random.Random(f"{what} {number}"), folder, files)
            try:
                done = next(steps)
                if len(numbers) == 1:
                    print(f": {'; '.join(done)}", flush=True)
                outcome = next(steps)
                next(steps, None)
            except Exception:
                wrong += 1
                print(f": {'; '.join(done)}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
            else:
                seen[outcome] += 1
                print(f" {outcome}", flush=True)
        faulthandler.cancel_dump_traceback_later()
    print(*(f"{outcome}={count}" for outcome, count in sorted(seen.items())), flush=True)
    sys.exit(bool(wrong))


# ---- one by one


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a finished study."""
    folder = tmp_path_factory.mktemp("whole")
    KINDS["finished"].run(folder)
    return (folder / schema.FILE).read_bytes()


@pytest.fixture
def study(whole, tmp_path):
    """A finished study, to be damaged."""
    file = tmp_path / schema.FILE
    file.write_bytes(whole)
    return file


def refused(file, match):
    """Make sure that a study is refused in these words, by whoever reads it, and left as it was."""
    before = file.read_bytes()
    with pytest.raises(hpo.UserError, match=match) as caught:
        hpo.load(file)
    assert str(file) in str(caught.value)
    with pytest.raises(hpo.UserError, match=match):
        KINDS["finished"].run(file.parent)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_study_that_is_cut_short_anywhere_is_refused_or_has_all_that_counts(study, whole, monkeypatch):
    monkeypatch.setattr(opening, "ATTEMPTS", 8)  # to be quick
    expected, seen = reader.read(study), Counter()
    for size in [1, 7, 8, 47, 48, 100, *range(1000, len(whole), 4001), len(whole) - 1]:
        study.write_bytes(whole[:size])
        try:
            found = reader.read(study)
        except hpo.UserError as error:
            seen["told"] += f"{size:,} bytes of {len(whole):,}" in str(error)
            continue
        seen["whole"] += 1
        for name in ("trials", "stages", "reports", "events", "values"):
            assert numpy.array_equal(getattr(found, name), getattr(expected, name)), (size, name)
    assert seen["told"] > 50 > seen["whole"]


def test_an_empty_file_is_no_study(study):
    study.write_bytes(b"")
    refused(study, "cannot be read as a study: it is empty")


def test_a_text_is_no_study(study):
    study.write_text("A study, or so it says.")
    refused(study, "cannot be read as a study: it is no HDF5 file")


@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_a_file_of_somebody_else_is_no_study(study, version):
    with h5py.File(study, "w", libver=version) as file:
        file["reports"] = numpy.arange(5)
    refused(study, "it is an HDF5 file, but no study of openhpo")


@pytest.mark.parametrize(("by", "age"), [(1, "newer"), (-1, "older")])
def test_a_study_of_another_version_of_the_layout_is_left_to_the_openhpo_that_wrote_it(study, by, age):
    with h5py.File(study, "r+") as file:
        file.attrs["openhpo"] = schema.VERSION + by
    refused(study, f"was written by an? {age} openhpo: .*version {schema.VERSION + by} .*Use the openhpo that wrote it")


@pytest.mark.parametrize("read", [hpo.load, reader.read])
def test_a_folder_of_that_name_is_no_study(read, tmp_path):
    (tmp_path / "a" / schema.FILE).mkdir(parents=True)
    for path in (tmp_path / "a", tmp_path / "a" / schema.FILE):
        with pytest.raises(hpo.UserError, match=r"Is a directory|does not exist"):
            read(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_told(study):
    study.chmod(0)
    with pytest.raises(hpo.UserError, match="cannot be read as a study: Permission denied"):
        hpo.load(study)


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 5000, "study.h5/study.h5"])
def test_a_path_that_cannot_be_is_told(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / schema.FILE).write_text("")
    with pytest.raises(hpo.UserError):
        hpo.load(path)


def change(file, table, row, column, value):
    with h5py.File(file, "r+", libver="latest") as h5:
        rows = h5[table][row : row + 1]
        rows[column] = value
        h5[table][row : row + 1] = rows


@pytest.mark.parametrize(
    ("cell", "what"),
    [
        (("trials", 2, "trial", 5), "its trials are not in order"),
        (("trials", 2, "config_at", -1), "a text lies outside"),
        (("trials", 2, "config_size", 2**31 - 1), "a text lies outside"),
        (("trials", 2, "config_at", 0), "a text lies in the midst"),
        (("stages", 3, "trial", 8), "a stage is of no trial"),
        (("stages", 3, "parent", 3), "a stage goes on from none"),
        (("stages", 3, "parent", -2), "a stage goes on from none"),
        (("stages", 3, "stop", 0), "the steps of a stage are damaged"),
        (("reports", 9, "stage", 8), "a report is of no stage"),
        (("reports", 9, "trial", -1), "a report is of another trial's stage"),
        (("reports", 9, "step", 0), "the step of a report"),
        (("reports", 9, "step", 2**31 - 1), "the step of a report"),
        (("reports", 9, "time", numpy.nan), "a report is damaged"),
        (("events", 4, "kind", b"stage_mended"), "the kind of an event"),
        (("events", 0, "kind", b"trial_done"), "its first event"),
        (("events", 5, "stage", 100), "an event is of no"),
    ],
)
def test_rows_that_contradict_each_other_are_refused(study, cell, what):
    change(study, *cell)
    refused(study, f"it is damaged \\({what}")


@pytest.mark.parametrize("table", ["trials", "stages", "reports", "events", "metrics", "log"])
@pytest.mark.parametrize("rows", [1000, 2**40])
def test_rows_that_nobody_wrote_are_refused(study, table, rows):
    with h5py.File(study, "r+", libver="latest") as file:
        file[table].resize((100 * rows if table == "log" else rows,))
    if (table, rows) in (("log", 1000), ("metrics", 1000)):  # which may have more than others ask for
        assert hpo.load(study).best is not None
    else:
        refused(study, "it is damaged")


def test_a_configuration_that_is_damaged_is_named(study):
    with h5py.File(study, "r+", libver="latest") as file:
        at = int(file["trials"]["config_at"][3])
        file["log"][at] = ord("x")
    with pytest.raises(hpo.UserError, match="the configuration of trial 3"):
        hpo.load(study).configs  # noqa: B018


def test_the_index_of_names_is_what_it_should_be(study, whole):
    chunks, names = whole.index(b"BTHD\x00\x0a"), whole.index(b"BTHD\x00\x05")  # HDF5 crashes on one in the other's place
    study.write_bytes(whole[:names] + whole[chunks : chunks + 38] + whole[names + 38 :])
    refused(study, "its list of tables is none")


def test_a_study_that_was_killed_is_read_with_more_rows_than_its_events_account_for(tmp_path):
    file = StudyWriter(tmp_path, {**RIGHT, "trials": 3}, {})
    file.event(schema.STARTED, 0.0, step=3)
    file.event(schema.READY, 0.0, rank=0)
    file.flush()
    file.trial(0, 0, {"x": 1.0}, 1.0)
    file.stage(0, 0, None, 0, 4, 0, 1.0)
    file.reports(0, 0, 1, ["loss"], numpy.ones((3, 1)), 2.0)
    file.event(schema.STAGE_ENDED, 3.0, trial=0, stage=0, rank=0, step=3)
    file._flush_rows("events")
    with pytest.raises(hpo.UserError, match="an event is of no"):  # which no kill leaves: what it refers to goes first
        reader.read(tmp_path)
    file.flush()
    assert len(reader.read(tmp_path).reports) == 3
    file.trial(1, 0, {"x": 1.0}, 1.0)
    file.stage(1, 1, None, 0, 4, 0, 1.0)
    file.reports(1, 1, 1, ["loss", "late"], numpy.ones((2, 2)), 2.0)
    file.event(schema.STAGE_ENDED, 3.0, trial=1, stage=1, rank=0, step=2)
    monkey, file._flush_rows = file._flush_rows, lambda table: table != "events" and monkey(table)
    file.flush()
    (tmp_path / "copy.h5").write_bytes((tmp_path / schema.FILE).read_bytes())
    tables = reader.read(tmp_path / "copy.h5")
    assert (len(tables.trials), len(tables.reports), len(tables.events)) == (2, 5, 3)
    file.abandon()


# ---- nothing is unpickled

PICKLING = {"pickle", "_pickle", "cPickle", "cloudpickle", "copyreg", "dill", "joblib", "jsonpickle", "marshal", "shelve"}
LOADING = {
    "Unpickler",
    "read_pickle",
    "load_pickle",
    "from_pickle",
    "Reference",
    "RegionReference",
    "ref_dtype",
    "special_dtype",
}
OF_MPI = {"allgather", "allreduce", "alltoall", "bcast", "irecv", "mrecv", "recv", "scatter", "sendrecv"}  # in small letters
KNOWN = {
    "openhpo/place.py: allgather",  # of one job's ranks on one node, and of no file
    # what training code itself sends between the ranks of its group, by mpi4py's methods for Python objects
    "openhpo/training/communicator.py: allgather",
    "openhpo/training/communicator.py: pickle",
}


def unpickling(path):
    """What in a module could unpickle."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            yield from (name for name in names if PICKLING & {*name.split(".")})
        elif isinstance(node, ast.Attribute) and node.attr in PICKLING | LOADING | OF_MPI:
            yield node.attr
        elif isinstance(node, ast.Constant) and node.value in PICKLING:
            yield node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load":
            refuses = any(word.arg == "allow_pickle" and word.value.value is False for word in node.keywords)
            if not (refuses and ast.unparse(node.func) == "numpy.load"):
                yield ast.unparse(node.func)


def test_nothing_in_the_package_unpickles():
    files = sorted((ROOT / "openhpo").rglob("*.py"))
    assert len(files) > 50
    found = {f"{file.relative_to(ROOT)}: {what}" for file in files for what in unpickling(file)}
    assert found <= KNOWN


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from torch import pickle",
        "torch.load(x)",
        "numpy.load(x)",
        "numpy.load(x, allow_pickle=True)",
        "c.bcast(x)",
    ],
)
def test_what_unpickles_would_be_found(line, tmp_path):
    (tmp_path / "x.py").write_text(line)
    assert list(unpickling(tmp_path / "x.py"))


# ---- many at once


@pytest.mark.parametrize("what", FILES)
def test_thousands_of_damaged_files_are_each_read_or_refused(what):
    command = [sys.executable, "-m", "tests.storage.test_damaged", what]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"status {done.returncode}, the last was {lines[-1:]}\n{done.stderr[-6000:]}"
    seen = dict(pair.split("=") for pair in lines[-1].split())
    counts = {outcome: int(count) for outcome, count in seen.items()}
    assert sum(counts.values()) == FILES[what]
    assert min(counts.values()) > 20, counts  # or else it would show little


if __name__ == "__main__":
    chosen = sys.argv[1]
    fuzz(chosen, [int(sys.argv[2])] if len(sys.argv) > 2 else range(FILES[chosen]))
