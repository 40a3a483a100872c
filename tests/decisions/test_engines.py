import pytest

import openhpo as hpo
from openhpo.testing import EngineContract


class TestFull(EngineContract):
    @pytest.fixture
    def engine(self):
        return hpo.Full(8)


class TestSuccessiveHalving(EngineContract):
    @pytest.fixture
    def engine(self):
        return hpo.SuccessiveHalving(9)


class TestASHA(EngineContract):
    @pytest.fixture
    def engine(self):
        return hpo.ASHA(9)


class TestASHAStopping(EngineContract):
    @pytest.fixture
    def engine(self):
        return hpo.ASHA(9, stopping=True)


class TestHyperband(EngineContract):
    @pytest.fixture
    def engine(self):
        return hpo.Hyperband(9)


class TestHyperbandThatSelectsBrackets(EngineContract):
    @pytest.fixture
    def engine(self):
        return hpo.Hyperband(9, select_brackets=True)


class TestMedianStopping(EngineContract):
    @pytest.fixture
    def engine(self):
        return hpo.MedianStopping(9, grace=2)


class TestLearningCurveMatching(EngineContract):
    @pytest.fixture
    def engine(self):
        return hpo.LearningCurveMatching(8, accumulation=4)


class TestPopulationBased(EngineContract):
    @pytest.fixture
    def engine(self):
        return hpo.PopulationBased(8, interval=2)
