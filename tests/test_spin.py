"""Unit: for how long it is looked again before sleeping; the time is told."""

import pytest

from forkrpc import spin as spin_module
from forkrpc.spin import LONGEST, SHORTEST, WORTH_IT, Spin

STEP = 1e-6  # seconds that one look takes


class Clock:
    """The time; every look takes STEP seconds, so that nothing depends on the machine.

    true_at: the number of the look from which on there is something, None for never.
    """

    def __init__(self):
        self.now = 100.0
        self.looks = 0
        self.true_at = None

    def __call__(self):
        return self.now

    def look(self):
        self.looks += 1
        self.now += STEP
        return self.true_at is not None and self.looks >= self.true_at


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(spin_module, "monotonic", clock)
    return clock


@pytest.fixture(params=[2, 64])
def spin(monkeypatch, request, clock):
    monkeypatch.setattr(spin_module, "usable_cpus", lambda: request.param)
    return Spin()


def miss(spin, clock):
    """Look in vain; return for how many seconds."""
    clock.looks, clock.true_at = 0, None
    assert spin.until(clock.look) is False
    return (clock.looks - 1) * STEP


def hit(spin, clock, true_at=2):
    clock.looks, clock.true_at = 0, true_at
    return spin.until(clock.look)


def sleep(spin, clock, seconds):
    clock.now += seconds
    spin.woken()


def test_what_is_there_at_once_is_seen_by_one_look(spin, clock):
    assert hit(spin, clock, true_at=1) is True
    assert clock.looks == 1


def test_what_comes_soon_is_seen_without_sleeping(spin, clock):
    assert hit(spin, clock, true_at=10) is True
    assert clock.looks == 10


def test_looking_ends(spin, clock):
    assert miss(spin, clock) == pytest.approx(LONGEST, abs=2 * STEP)


def test_a_miss_that_a_long_sleep_follows_halves_the_time(spin, clock):
    miss(spin, clock)
    sleep(spin, clock, 1.0)

    assert miss(spin, clock) == pytest.approx(LONGEST / 2, abs=2 * STEP)


def test_misses_end_all_looking_but_the_first_look(spin, clock):
    for _ in range(20):
        miss(spin, clock)
        sleep(spin, clock, 1.0)

    miss(spin, clock)
    assert clock.looks == 1


def test_a_short_sleep_brings_the_looking_back(spin, clock):
    for _ in range(20):
        miss(spin, clock)
        sleep(spin, clock, 1.0)

    miss(spin, clock)
    sleep(spin, clock, WORTH_IT / 4)
    first = miss(spin, clock)
    sleep(spin, clock, WORTH_IT / 4)
    second = miss(spin, clock)

    assert first == pytest.approx(SHORTEST, abs=2 * STEP)
    assert second == pytest.approx(2 * SHORTEST, abs=2 * STEP)


def test_a_hit_doubles_the_time(spin, clock):
    for _ in range(2):
        miss(spin, clock)
        sleep(spin, clock, 1.0)
    quarter = miss(spin, clock)

    assert hit(spin, clock)

    assert quarter == pytest.approx(LONGEST / 4, abs=2 * STEP)
    assert miss(spin, clock) == pytest.approx(LONGEST / 2, abs=2 * STEP)


def test_what_is_there_at_once_teaches_nothing(spin, clock):
    miss(spin, clock)
    sleep(spin, clock, 1.0)

    for _ in range(5):
        assert hit(spin, clock, true_at=1)

    assert miss(spin, clock) == pytest.approx(LONGEST / 2, abs=2 * STEP)


def test_no_hits_and_no_short_sleeps_lead_beyond_the_longest(spin, clock):
    for _ in range(20):
        assert hit(spin, clock)
        miss(spin, clock)
        sleep(spin, clock, WORTH_IT / 4)

    assert miss(spin, clock) == pytest.approx(LONGEST, abs=2 * STEP)


def test_a_single_processor_never_looks_twice(monkeypatch, clock):
    monkeypatch.setattr(spin_module, "usable_cpus", lambda: 1)
    spin = Spin()

    for _ in range(5):
        miss(spin, clock)
        assert clock.looks == 1
        sleep(spin, clock, WORTH_IT / 4)

    assert hit(spin, clock, true_at=1) is True
