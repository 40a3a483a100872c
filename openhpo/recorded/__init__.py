"""What was recorded, learning curves and their times from studies and tables, and what other studies of it would take."""

from openhpo.recorded.candidates import Candidates, Recorded
from openhpo.recorded.prediction import Plan, Prediction
from openhpo.recorded.recording import Recording
from openhpo.recorded.studies import read_study
from openhpo.recorded.tables import SUFFIXES, Layout, read_table

__all__ = ["SUFFIXES", "Candidates", "Layout", "Plan", "Prediction", "Recorded", "Recording", "read_study", "read_table"]
