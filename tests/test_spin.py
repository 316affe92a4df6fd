"""Unit: how long to look before going to sleep, with told looks and a told clock."""

import pytest

from forkrpc import spin


class Clock:
    """Stands for time.monotonic(): each reading is *step* seconds later."""

    def __init__(self, step):
        self.now, self.step = 0.0, step

    def __call__(self):
        self.now += self.step
        return self.now


class Looks:
    """A look that is true from the *nth* on; 0: never."""

    def __init__(self, nth):
        self.nth, self.count = nth, 0

    def __call__(self):
        self.count += 1
        return 0 < self.nth <= self.count


@pytest.fixture
def clock(monkeypatch):
    made = Clock(spin.LONGEST / 10)
    monkeypatch.setattr(spin, "monotonic", made)
    monkeypatch.setattr(spin, "usable_cpus", lambda: 2)
    monkeypatch.setattr(spin, "FIRST", 0)
    return made


def looks_of_a_miss(tried):
    look = Looks(0)

    assert not tried.until(look)

    return look.count


def test_what_is_there_at_once_needs_no_clock(clock):
    assert spin.Spin().until(Looks(1))
    assert clock.now == 0


def test_it_does_not_look_while_the_other_side_starts(clock, monkeypatch):
    monkeypatch.setattr(spin, "FIRST", 3)
    tried = spin.Spin()

    counts = [looks_of_a_miss(tried) for _ in range(4)]

    assert counts[:3] == [1, 1, 1]
    assert counts[3] > 1


def test_it_looks_again_until_it_finds_something(clock):
    look = Looks(4)

    assert spin.Spin().until(look)
    assert look.count == 4


def test_it_gives_up_after_the_longest_time(clock):
    count = looks_of_a_miss(spin.Spin())

    assert 5 < count <= 11
    assert clock.now <= 1.3 * spin.LONGEST


def test_it_rests_after_many_misses_and_tries_again_later(clock):
    tried = spin.Spin()

    counts = [looks_of_a_miss(tried) for _ in range(spin.TRIES + spin.REST + 1)]

    assert all(count > 1 for count in counts[: spin.TRIES])
    assert counts[spin.TRIES : -1] == [1] * spin.REST
    assert counts[-1] > 1


def test_a_hit_forgives_all_misses(clock):
    tried = spin.Spin()
    for _ in range(spin.TRIES - 1):
        looks_of_a_miss(tried)

    assert tried.until(Looks(3))
    counts = [looks_of_a_miss(tried) for _ in range(spin.TRIES)]

    assert all(count > 1 for count in counts)


def test_long_sleeps_make_it_rest_sooner(clock):
    tried = spin.Spin()
    waits = 0
    while looks_of_a_miss(tried) > 1:
        clock.now += 1.0  # a sleep of a second
        tried.woken()
        waits += 1

    assert waits < spin.TRIES / 4


def test_on_a_single_processor_it_never_looks_twice(clock, monkeypatch):
    monkeypatch.setattr(spin, "usable_cpus", lambda: 1)
    tried = spin.Spin()

    assert {looks_of_a_miss(tried) for _ in range(3 * spin.TRIES)} == {1}


# Looks that read.


class Reader:
    """A `Decoder.look` that finds *found* in the nth turn, 0: never."""

    def __init__(self, nth, found="header"):
        self.nth, self.found, self.turns = nth, found, 0

    def look(self, recv, looks):
        assert looks == spin.LOOKS
        self.turns += 1
        if self.turns != self.nth:
            raise BlockingIOError
        if self.found is ConnectionError:
            raise ConnectionError
        return self.found


def test_it_looks_on_in_turns_until_something_is_found(clock):
    reader, tried = Reader(3), spin.Spin()
    tried.misses = 5

    assert tried.look_on(reader.look, None) == "header"
    assert tried.misses == 0
    assert reader.turns == 3


def test_looking_on_ends_with_the_time_and_is_a_miss(clock):
    reader, tried = Reader(0), spin.Spin()

    assert tried.look_on(reader.look, None) is None
    assert 5 < reader.turns <= 11
    assert tried.misses == 1


def test_a_broken_connection_ends_the_looking(clock):
    reader = Reader(2, ConnectionError)

    assert spin.Spin().look_on(reader.look, None) is None
    assert reader.turns == 2


def test_while_it_rests_there_is_one_look_and_afterwards_several_again(clock):
    tried = spin.Spin()
    for _ in range(spin.TRIES):
        tried.look_on(Reader(0).look, None)
    assert tried.looks == 1

    for _ in range(spin.REST):
        reader = Reader(1)
        assert tried.look_on(reader.look, None) is None
        assert reader.turns == 0

    assert tried.looks == spin.LOOKS
