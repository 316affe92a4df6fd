"""Unit: time limits of running calls; the clock and the timers are the test's."""

from math import inf

import pytest

from forkrpc import CallTimeout, progress
from forkrpc.child import deadlines as deadlines_module
from forkrpc.child.deadlines import Deadlines
from forkrpc.progress import OLDEST, SINCE

TIMEOUT = 2.0


class Bench:
    """A Deadlines whose time passes by `wait`."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        self.timers, self.expired = [], []
        self.page = progress.Page(memoryview(bytearray(progress.BLOCK)))
        monkeypatch.setattr(
            deadlines_module, "monotonic_ns", lambda: int(self.now * 1e9)
        )
        self.deadlines = Deadlines(self.page, TIMEOUT, self._later, self.expired.append)

    def _later(self, delay, function):
        self.timers.append((self.now + delay, function))

    def wait(self, seconds):
        end = self.now + seconds
        while self.timers and min(self.timers)[0] <= end:
            due = min(self.timers, key=lambda timer: timer[0])
            self.timers.remove(due)
            self.now = max(self.now, due[0])
            due[1]()
        self.now = end

    def oldest(self):
        return self.page.words[OLDEST], self.page.words[SINCE]


@pytest.fixture
def bench(monkeypatch):
    return Bench(monkeypatch)


def test_a_call_that_runs_too_long_is_told_once(bench):
    bench.deadlines.begin(1)
    bench.wait(TIMEOUT - 0.1)
    assert bench.expired == []
    assert not bench.deadlines.passed(1)
    bench.wait(0.2)
    assert bench.expired == [1]
    assert bench.deadlines.passed(1)
    bench.wait(100)
    assert bench.expired == [1]


def test_a_call_that_ends_in_time_is_not_told(bench):
    bench.deadlines.begin(1)
    bench.wait(1)
    bench.deadlines.end(1)
    bench.wait(100)

    assert bench.expired == []
    assert not bench.deadlines.passed(1)


def test_each_call_has_its_own_time(bench):
    for call_id in range(1, 5):
        bench.deadlines.begin(call_id)
        bench.wait(0.5)
    bench.deadlines.end(2)
    bench.wait(0.1)
    assert bench.expired == [1]
    bench.wait(1)
    assert bench.expired == [1, 3]
    bench.wait(1)
    assert bench.expired == [1, 3, 4]


def test_one_timer_is_enough(bench):
    for call_id in range(1, 1000):
        bench.deadlines.begin(call_id)

    assert len(bench.timers) == 1


def test_the_page_names_the_call_that_has_been_running_longest(bench):
    assert bench.oldest() == (0, 0)
    bench.deadlines.begin(1)
    since = int(bench.now * 1e9)
    bench.wait(0.5)
    bench.deadlines.begin(2)
    assert bench.oldest() == (1, since)
    bench.deadlines.end(1)
    assert bench.oldest() == (2, int(bench.now * 1e9))
    bench.deadlines.end(2)
    assert bench.oldest()[0] == 0


def test_the_page_still_names_a_call_that_was_told(bench):
    bench.deadlines.begin(1)
    bench.wait(TIMEOUT + 1)

    assert bench.oldest()[0] == 1


def test_a_call_may_end_twice(bench):
    bench.deadlines.begin(1)
    bench.deadlines.end(1)
    bench.deadlines.end(1)

    assert bench.oldest()[0] == 0


def test_the_error_names_the_function_and_the_limit(bench):
    bench.deadlines.begin(1)
    error = bench.deadlines.error("m.f", 1)

    assert isinstance(error, CallTimeout)
    assert "m.f ran longer than its timeout of 2.0 s" in str(error)


def test_a_call_may_have_a_limit_of_its_own(bench):
    bench.deadlines.begin(1)
    bench.deadlines.begin(2, 0.5)
    bench.deadlines.begin(3, inf)
    bench.deadlines.begin(4, 5.0)
    assert bench.oldest()[0] == 2

    bench.wait(1)
    assert bench.expired == [2]
    assert bench.oldest()[0] == 2  # it has still no answer
    assert "timeout of 0.5 s" in str(bench.deadlines.error("m.f", 2))
    bench.deadlines.end(2)
    assert bench.oldest()[0] == 1
    bench.wait(1.5)
    assert bench.expired == [2, 1]
    bench.deadlines.end(1)
    assert bench.oldest()[0] == 4
    bench.wait(100)
    assert bench.expired == [2, 1, 4]
    assert not bench.deadlines.passed(3)


def test_without_a_timeout_only_calls_with_a_limit_are_watched(bench):
    deadlines = Deadlines(bench.page, None, bench._later, bench.expired.append)

    deadlines.begin(1)
    assert bench.timers == []
    assert bench.oldest()[0] == 0
    deadlines.begin(2, 1.0)
    bench.wait(100)

    assert bench.expired == [2]
    assert not deadlines.passed(1)
