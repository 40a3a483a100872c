"""What the event loop may order of a training thread that rests."""

import pytest

from openhpo.course import Course
from openhpo.session import Continue, Copy, Leave, Session
from openhpo.stages import Stage, StateName


@pytest.fixture
def resting():
    stage = Stage(7, 0, None, 0, 2, {"x": 1.0}, 0, (0,), park=True)
    session = Session(stage, Course(stage.config, stage.config, {}), lambda notice: None, lambda size: None)
    session.rests()
    return session


def orders(session):
    found = []
    while not session._orders.empty():
        found.append(session._orders.get())
    return found


def test_a_state_is_copied_once_and_nobody_waits_for_a_second_copy(resting):
    assert resting.copy()
    assert not resting.copy()
    assert orders(resting) == [Copy()]


def test_nobody_waits_for_a_copy_of_what_is_left_already(resting):
    resting.leave()
    assert resting.promised == {StateName(7, 2)}
    assert not resting.copy()  # it arrives once, and may have been moved to a file since
    assert orders(resting) == [Leave(keep=True)]


def test_a_copied_state_is_not_copied_again_on_going_on(resting):
    assert resting.copy()
    following = Stage(8, 0, 7, 2, 4, {"x": 1.0}, 0, (0,), origin=7, keep=True)
    course = Course(following.config, following.config, {})
    assert resting.fits(following, course)
    resting.go_on(following, course)
    assert orders(resting) == [Copy(), Continue(following, course, keep=False)]
