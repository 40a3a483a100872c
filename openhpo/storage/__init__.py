"""The study file: written by rank 0 alone, readable by anyone, also while it grows."""

from openhpo.storage.reader import read
from openhpo.storage.tables import Tables
from openhpo.storage.writer import StudyWriter

__all__ = ["StudyWriter", "Tables", "read"]
