import threading

import pytest

from openhpo.training.peaks import Peaks


def test_the_largest_peak_counts_and_the_smallest_memory_that_is_known():
    peaks = Peaks((1, 2))
    assert peaks.with_own(5, 0) == (5, 0)
    peaks.told(1, 7, 20, last=False)
    assert peaks.with_own(5, 30) == (7, 20)
    peaks.told(1, 6, 20, last=True)
    peaks.told(2, 0, 0, last=True)
    assert peaks.with_own(5, 30) == (6, 20)
    assert Peaks().with_own(5, 30) == (5, 30)


def test_the_last_word_of_the_last_rank_ends_the_wait():
    peaks = Peaks((1, 2))
    waiting = threading.Thread(target=peaks.wait, args=(60,))
    waiting.start()
    peaks.told(1, 1, 1, last=True)
    peaks.told(2, 1, 1, last=False)
    assert not peaks.complete
    peaks.told(2, 1, 1, last=True)
    waiting.join(10)
    assert not waiting.is_alive()


@pytest.mark.timeout(10)
def test_a_rank_that_is_lost_is_not_waited_for_beyond_the_limit():
    peaks = Peaks((1,))
    peaks.told(1, 7, 20, last=False)
    peaks.wait()
    assert not peaks.complete
    assert peaks.with_own(5, 20) == (7, 20)


def test_a_rank_alone_waits_for_nobody():
    assert Peaks().complete
