import pytest

from openhpo.training.communicator import LeftAlone, finish
from openhpo.training.group import is_of_group


class Request:
    """An operation that is done after so many questions; never where that is None."""

    def __init__(self, after):
        self.after = after
        self.asked = 0

    def Test(self):  # noqa: N802
        self.asked += 1
        return self.asked == self.after


def test_an_operation_is_asked_for_until_it_is_done():
    request = Request(5)
    finish(request, lambda: False)
    assert request.asked == 5


def test_an_operation_of_a_group_that_breaks_raises_what_another_rank_is_asked_the_reason_of():
    request = Request(None)
    with pytest.raises(LeftAlone) as raised:
        finish(request, lambda: request.asked == 3)
    assert is_of_group(raised.value)


def test_what_is_done_counts_although_the_group_is_broken():
    finish(Request(1), lambda: True)
