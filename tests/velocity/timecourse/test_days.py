from __future__ import annotations

import numpy as np
import pytest

from muport.velocity.timecourse._days import MAX_DAYS, Days, is_time_course


def days(*times: float, n: int = 12) -> Days:
    time = np.repeat(np.asarray(times, np.float64), n)
    return Days(np.arange(2 * len(time), dtype=np.float32).reshape(-1, 2), time)


def test_cells_are_grouped_by_time_in_ascending_order():
    course = days(5, 0, 1)
    assert course.times.tolist() == [0, 1, 5]
    assert course.n_cells.tolist() == [12, 12, 12]
    assert course.cells(2).tolist() == course.x[:12].tolist()


def test_days_are_left_out_whole():
    course = days(0, 1, 5)
    assert course.without(1).times.tolist() == [0, 5]
    assert course.until(1).times.tolist() == [0, 1]
    assert course.without(1).digest() != course.digest()
    assert days(0, 1, 5).digest() == course.digest()


def test_an_unknown_time_lists_the_times():
    with pytest.raises(KeyError, match=r"target_time=2 .*\[0.0, 1.0, 5.0\]"):
        days(0, 1, 5).position(2, "target_time")
    with pytest.raises(KeyError, match="'day'"):
        days(0, 1, 5).position("day", "time")
    with pytest.raises(KeyError, match="time=True"):
        days(0, 1, 5).position(True, "time")


@pytest.mark.parametrize(
    ("course", "words"),
    [
        (days(3), "one time"),
        (days(0, 1, n=9), "time 0 has 9 cells.*at least 10"),
        (days(*range(MAX_DAYS + 1)), f"{MAX_DAYS + 1} distinct times"),
    ],
)
def test_what_is_no_time_course_is_refused(course, words):
    assert not is_time_course(course.time)
    with pytest.raises(ValueError, match=words):
        course.check()


def test_days_are_told_from_a_pseudotime():
    assert is_time_course(days(0, 1, 5).time)
    assert not is_time_course(np.linspace(0, 1, 300))
