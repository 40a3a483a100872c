"""The study file: written by rank 0 alone, readable by anyone, also while it grows."""

from openhpo.storage.reader import Tables, read
from openhpo.storage.writer import StudyWriter

__all__ = ["StudyWriter", "Tables", "read"]
