"""The layout of study.h5. docs/study-file.md describes it for readers with plain h5py.

Append-only tables of fixed-length rows, because SWMR (one writer, many readers) needs that: no table is added later, and
text of any length lies in one log of bytes, which rows point into by offset and size. A metric that appears late widens
`values` by a column.
"""

from __future__ import annotations

import numpy

VERSION = 2
FILE = "study.h5"

TRIALS = numpy.dtype([("trial", "i4"), ("seed", "i8"), ("time", "f8"), ("config_at", "i8"), ("config_size", "i4")])
STAGES = numpy.dtype(
    [
        ("stage", "i4"),
        ("trial", "i4"),
        ("parent", "i4"),
        ("start", "i4"),
        ("stop", "i4"),
        ("rank", "i4"),
        ("time", "f8"),
        ("config_at", "i8"),
        ("config_size", "i4"),
    ]
)
REPORTS = numpy.dtype([("trial", "i4"), ("stage", "i4"), ("step", "i4"), ("time", "f8")])
EVENTS = numpy.dtype(
    [
        ("time", "f8"),
        ("kind", "S16"),
        ("trial", "i4"),
        ("stage", "i4"),
        ("rank", "i4"),
        ("step", "i4"),
        ("text_at", "i8"),
        ("text_size", "i4"),
    ]
)
METRICS = numpy.dtype("S64")
TABLES = {"trials": TRIALS, "stages": STAGES, "reports": REPORTS, "events": EVENTS, "metrics": METRICS}
CHUNK = 1024  # rows
LOG_CHUNK = 1 << 16  # bytes

# kinds of events
STARTED, FINISHED = "study_started", "study_finished"
STAGE_ENDED, STAGE_STOPPED, STAGE_FAILED = "stage_ended", "stage_stopped", "stage_failed"
TRIAL, TRIAL_FORKED = "trial_", "trial_forked"  # and trial_paused, trial_done, trial_stopped, trial_failed
STATE_LOST, TROUBLE = "state_lost", "trouble"
NONE = -1  # in a column that does not apply
