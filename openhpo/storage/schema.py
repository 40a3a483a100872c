"""The layout of study.h5. docs/study-file.md describes it for readers with plain h5py.

Append-only tables of fixed-length rows, because SWMR (one writer, many readers) needs that: no table is added later, and
text of any length lies in one log of bytes, which rows point into by offset and size. A metric that appears late widens
`values` by a column.
"""

from __future__ import annotations

import numpy

VERSION = 5
FILE = "study.h5"

TRIALS = numpy.dtype(
    [("trial", "i4"), ("study", "i4"), ("seed", "i8"), ("time", "f8"), ("config_at", "i8"), ("config_size", "i4")]
)
STAGES = numpy.dtype(
    [
        ("stage", "i4"),
        ("trial", "i4"),
        ("study", "i4"),
        ("parent", "i4"),
        ("start", "i4"),
        ("stop", "i4"),
        ("rank", "i4"),
        ("ranks", "i4"),
        ("again", "i1"),
        ("event", "i4"),
        ("time", "f8"),
        ("config_at", "i8"),
        ("config_size", "i4"),
    ]
)
REPORTS = numpy.dtype([("trial", "i4"), ("stage", "i4"), ("step", "i4"), ("event", "i4"), ("time", "f8")])
EVENTS = numpy.dtype(
    [
        ("time", "f8"),
        ("kind", "S16"),
        ("trial", "i4"),
        ("study", "i4"),
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

# kinds of events: what the study heard ...
STARTED, RESUMED = "study_started", "study_resumed"
READY, LEFT = "trainer_ready", "trainer_lost"
STAGE_ENDED, STAGE_STOPPED, STAGE_FAILED, STAGE_RETURNED = "stage_ended", "stage_stopped", "stage_failed", "stage_returned"
STAGE_EXHAUSTED = "stage_exhausted"  # it ran out of memory, and is to go on with more ranks
STAGE_ENDS = (STAGE_ENDED, STAGE_STOPPED, STAGE_FAILED, STAGE_RETURNED, STAGE_EXHAUSTED)
SUGGESTED = "suggested"  # its text is a Suggestion: {"config": ..., "remarks": [...]}
STATE_SAVED, STATE_MOVED, STATE_LOST = "state_saved", "state_moved", "state_lost"
# ... and what came of it, or is only told
TRIAL, TRIAL_FORKED = "trial_", "trial_forked"  # and trial_paused, trial_done, trial_stopped, trial_failed
TRIAL_JOINED = "trial_joined"  # that stage's steps count for it up to that one, as far as they are reported
TROUBLE, SUSPENDED, FINISHED = "trouble", "study_suspended", "study_finished"
GROUP = "stage_group"  # its text is the ranks of a stage, where it has several: [leader, ...]
NONE = -1  # in a column that does not apply

# Not a number, as it was reported; where nothing was reported, `values` holds numpy.nan, which has other bits.
REPORTED_NAN = numpy.array(0x7FF8_0000_0000_0001, "u8").view("f8")[()]
ABSENT_BITS = int(numpy.array(numpy.nan, "f8").view("u8"))
