"""Unit: who gets calls, and when workers start and end; with a clock of its own."""

import math

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from forkrpc.scheduling import (
    FIRST_PAUSE,
    HOPELESS,
    LEAST_WORK,
    LONGEST_PAUSE,
    MOST_BLOCK,
    Scheduler,
    Trouble,
)


def scheduler(**options):
    return Scheduler(**{"most": 4, "load": 2, "start": 0.1, "stop": 10.0, **options})


def with_workers(count, **options):
    """Return a scheduler, and its workers, which are up."""
    made = scheduler(**options)
    places = [made.started(0.0) for _ in range(count)]
    for place in places:
        made.came_up(place, 0.0)
    return made, places


def test_the_first_call_starts_a_worker_at_once():
    made = scheduler()

    assert made.to_start(0, 0.0) == 0
    assert made.to_start(1, 0.0) == 1


def test_who_is_occupied_is_given_nothing_before_it_has_answered():
    made, (first, second) = with_workers(2)
    made.given(first, 1)
    first.occupied = True

    assert made.block(first, 10) == 0
    made.given(second, 2)
    assert made.next_block(10) is None
    assert made.to_start(1, 0.0) == 0
    assert made.to_start(1, 0.11) == 1
    made.answered(first, 0, 0.0, 0.2)
    assert made.next_block(10) == (first, 2)


def test_who_was_occupied_is_free_also_where_its_call_was_not_counted():
    made, (place,) = with_workers(1)
    place.occupied = True  # an interrupt came between giving the call and counting it

    made.answered(place, 0, 0.0, 0.1)

    assert made.next_block(10) == (place, 2)


def test_no_second_one_before_calls_have_waited():
    made, (place,) = with_workers(1)
    made.given(place, 2)

    assert made.to_start(1, 0.0) == 0
    assert made.look_again(0.0) == pytest.approx(0.1)
    assert made.to_start(1, 0.09) == 0
    assert made.to_start(1, 0.11) == 1
    made.started(0.11)
    assert made.to_start(5, 0.12) == 0  # one in each period
    assert made.to_start(5, 0.22) == 1


def test_a_wait_that_has_ended_does_not_count():
    made, (place,) = with_workers(1)
    made.given(place, 2)
    made.to_start(1, 0.0)
    made.to_start(0, 0.05)

    assert made.to_start(1, 0.12) == 0


def test_without_a_wait_it_grows_to_the_most_at_once():
    made = scheduler(start=0)

    assert made.to_start(100, 0.0) == 4
    assert made.to_start(3, 0.0) == 2


def test_idle_workers_are_started_before_any_call():
    made = scheduler(idle=2)

    assert made.to_start(0, 0.0) == 2


def test_the_least_loaded_gets_the_next_call():
    made, (first, second) = with_workers(2)
    made.given(first, 1)

    assert made.next_block(1) == (second, 1)
    made.given(second, 1)
    assert made.next_block(1) == (first, 1)


def test_nobody_gets_more_than_its_load():
    made, places = with_workers(2)
    for place in places:
        made.given(place, 2)

    assert made.next_block(10) is None


def test_two_calls_go_to_two_workers():
    made, (first, second) = with_workers(2)

    assert made.next_block(2) == (first, 1)
    made.given(first, 1)
    assert made.next_block(1) == (second, 1)


def quick(made, place, calls=1000, seconds=1e-3):
    """Have *place* answer calls that take almost no time."""
    made.given(place, calls)
    made.answered(place, 0, seconds, seconds)


def test_quick_calls_go_in_blocks():
    made, (first, second) = with_workers(2)
    quick(made, first)

    _, count = made.next_block(1600)

    assert count == 200  # of 4 shares for each worker
    assert made.next_block(10**9)[1] <= MOST_BLOCK
    assert second.load == 0


def test_a_slow_call_ends_the_blocks():
    made, (first, second) = with_workers(2)
    quick(made, first)
    made.given(second, 2)
    made.answered(second, 1, 1.0, 1.0)

    assert made.next_block(1600) == (first, 2)


def test_a_block_is_refilled_when_half_of_it_is_done():
    made, (place,) = with_workers(1)
    quick(made, place)
    made.given(place, 900)

    assert made.block(place, 4000) == 0
    made.answered(place, 400, 5e-4, 5e-4)
    assert 500 < made.block(place, 4000) <= 600


def test_no_call_goes_behind_another_while_a_worker_is_idle():
    made, (first, second) = with_workers(2)
    quick(made, first)  # the next one may be slow
    made.given(first, 1)

    assert made.next_block(1) == (second, 1)


def test_calls_gather_as_the_next_worker_has_them():
    made, (place,) = with_workers(1)
    assert made.gather() == 1
    made.given(place, 1)
    assert made.gather() == 1
    made.given(place, 1)
    assert made.gather() is None


def test_quick_calls_gather_while_a_worker_is_at_work():
    made, (place,) = with_workers(1)
    quick(made, place)
    assert made.gather() == 1
    made.given(place, 1)
    assert made.gather() == pytest.approx(LEAST_WORK / 1e-6, rel=0.1)


def test_brief_work_is_not_shared_out():
    made, (first, _) = with_workers(2)
    quick(made, first)

    assert made.next_block(60) == (first, 60)


@pytest.mark.parametrize("options", [{"load": 1}, {"exact": True}])
def test_an_exact_load_is_never_exceeded(options):
    made, (place,) = with_workers(1, **options)
    quick(made, place)

    assert made.block(place, 1000) == made._load


def test_a_worker_that_starts_gets_nothing():
    made = scheduler()
    made.started(0.0)

    assert made.next_block(1) is None


def test_a_worker_gets_so_many_calls_in_its_life():
    made, (place,) = with_workers(1, calls=3)
    made.given(place, 2)
    made.answered(place, 0, 1.0, 1.0)

    assert made.block(place, 5) == 1
    made.given(place, 1)
    assert place.leaving
    assert made.block(place, 5) == 0
    made.answered(place, 0, 2.0, 2.0)
    assert made.to_start(5, 2.0) == 1  # in its place, at once


def test_lives_differ_so_that_not_all_end_at_one_time():
    made, places = with_workers(4, calls=100)

    assert len({place.left for place in places}) > 1
    assert all(85 < place.left <= 100 for place in places)


@pytest.mark.parametrize(("idle", "stay"), [(0, 0), (1, 1), (2, 2)])
def test_idle_workers_end_but_for_so_many(idle, stay):
    made, places = with_workers(2, most=2, idle=idle, stop=0.3)

    assert made.to_stop(0.29) == []
    assert len(made.to_stop(0.31)) == 2 - stay
    due = made.look_again(0.0)
    assert due == (None if stay == 2 else pytest.approx(0.3))


def test_who_had_nothing_to_do_longest_ends_first():
    made, (first, second) = with_workers(2, idle=1, stop=1.0)
    made.given(first, 1)
    made.answered(first, 0, 5.0, 5.0)

    assert made.to_stop(9.0) == [second]


def test_a_dead_worker_is_replaced_at_once():
    made, (first, second) = with_workers(2)
    made.given(first, 2)
    made.given(second, 2)
    assert made.to_start(2, 0.0) == 0
    made.ended(first, 0.01)

    assert made.to_start(3, 0.01) == 1


@pytest.mark.parametrize(("busy", "replaced"), [(1, 2), (0, 0)])
def test_the_dead_are_replaced_while_there_is_work_though_no_call_waits(busy, replaced):
    made, (first, second, third) = with_workers(3, most=3)
    made.given(first, busy)
    made.ended(second, 0.01)
    made.ended(third, 0.01)

    assert made.to_start(0, 0.01) == replaced


def test_calls_are_refused_after_deaths_without_an_answer():
    trouble = Trouble()

    refused = [trouble.death(0.0, set_up=True) for _ in range(HOPELESS)]

    assert refused == [False] * (HOPELESS - 1) + [True]
    assert trouble.refuses(FIRST_PAUSE / 2)
    assert not trouble.refuses(FIRST_PAUSE * 2)
    assert trouble.lasts()
    trouble.clear()
    assert not trouble.lasts()


def test_who_cannot_be_set_up_is_no_use_at_once():
    assert Trouble().death(0.0, set_up=False)


def test_the_pause_doubles_up_to_a_limit():
    trouble = Trouble()
    pauses = []
    for _ in range(15):
        now = trouble.until
        trouble.death(now, set_up=False)
        pauses.append(trouble.until - now)

    assert pauses[:3] == pytest.approx([FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE])
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE)


def test_workers_that_were_started_together_are_one_trouble():
    trouble = Trouble()
    for _ in range(64):
        trouble.death(0.0, set_up=False)

    assert trouble.until == FIRST_PAUSE


def test_who_is_set_up_goes_on_while_others_cannot_be():
    made, places = with_workers(2, start=0)
    for place in places:
        made.given(place, 3)
    made.trouble.death(0.0, set_up=False)
    made.answered(places[0], 2, 0.0, 0.0)

    assert made.to_start(9, FIRST_PAUSE / 2) == 0
    assert made.to_start(9, FIRST_PAUSE * 2) == 1
    made.started(FIRST_PAUSE * 2)
    assert made.to_start(9, FIRST_PAUSE * 2) == 0


def test_a_worker_that_is_set_up_ends_the_trouble_of_setting_up():
    trouble = Trouble()
    trouble.death(0.0, set_up=False)
    trouble.came_up()
    assert not trouble.lasts()
    for _ in range(HOPELESS):
        trouble.death(0.0, set_up=True)
    trouble.came_up()
    assert trouble.lasts()


def test_one_worker_is_tried_after_a_pause():
    made = scheduler(start=0)
    made.trouble.death(0.0, set_up=False)

    assert made.to_start(100, 0.0) == 0
    assert made.to_start(100, 1.0) == 1


class Pool(RuleBasedStateMachine):
    """Calls come, workers do as they like; the invariants of every pool hold."""

    @rule(
        most=st.integers(1, 5),
        idle=st.integers(0, 5),
        load=st.sampled_from([1, 2, 5, "auto"]),
        start=st.sampled_from([0, 0.1, 1.0]),
        stop=st.sampled_from([0, 0.3, 10.0]),
        calls=st.sampled_from([math.inf, 1, 3, 20]),
    )
    @precondition(lambda self: not hasattr(self, "made"))
    def begin(self, most, idle, load, start, stop, calls):
        self.most, self.idle = most, min(idle, most)
        self.load = load
        self.made = Scheduler(
            most=most,
            idle=self.idle,
            load=load,
            start=start,
            stop=stop,
            calls=calls,
        )
        self.now, self.backlog = 0.0, 0
        self.held = {}  # calls by their worker
        self.lives, self.spent = {}, {}

    @precondition(lambda self: hasattr(self, "made"))
    @rule(count=st.integers(1, 50))
    def calls_come(self, count):
        self.backlog += count
        self.act()

    @precondition(lambda self: hasattr(self, "made"))
    @rule(seconds=st.floats(0.001, 2.0))
    def time_goes_by(self, seconds):
        self.now += seconds
        self.act()

    @precondition(lambda self: getattr(self, "held", None))
    @rule(data=st.data())
    def a_worker_comes_up(self, data):
        place = data.draw(st.sampled_from(list(self.held)))
        self.made.came_up(place, self.now)
        self.act()

    @precondition(lambda self: any(getattr(self, "held", {}).values()))
    @rule(data=st.data())
    def a_worker_answers(self, data):
        place = data.draw(st.sampled_from([p for p, held in self.held.items() if held]))
        done = data.draw(st.integers(1, self.held[place]))
        self.held[place] -= done
        took = data.draw(st.sampled_from([1e-6, 1e-3, 0.1])) * done
        self.now += took
        self.spent[place] = self.spent.get(place, 0.0) + took
        self.made.answered(place, self.held[place], self.spent[place], self.now)
        self.act()

    @precondition(lambda self: getattr(self, "held", None))
    @rule(data=st.data())
    def a_worker_dies(self, data):
        place = data.draw(st.sampled_from(list(self.held)))
        self.backlog += max(0, self.held.pop(place) - 1)  # what had not begun
        self.made.ended(place, self.now)
        self.made.trouble.death(self.now, set_up=place.up)
        self.act()

    @precondition(lambda self: getattr(self, "held", None))
    @rule(data=st.data())
    def a_worker_retires(self, data):
        self.made.leaves(data.draw(st.sampled_from(list(self.held))), self.now)
        self.act()

    def act(self):
        """Do what a pool does."""
        while self.backlog and (found := self.made.next_block(self.backlog)):
            place, count = found
            assert 0 < count <= self.backlog
            assert place.up
            assert not place.leaving
            self.backlog -= count
            self.held[place] += count
            self.lives[place] = self.lives.get(place, 0) + count
            self.made.given(place, count)
        for _ in range(self.made.to_start(self.backlog, self.now)):
            self.held[self.made.started(self.now)] = 0
        for place in self.made.to_stop(self.now):
            assert not self.held[place]
            self.made.dismissed(place)
        for place in [p for p in self.held if p.leaving and not self.held[p]]:
            del self.held[place]
            self.made.ended(place, self.now)

    @invariant()
    def never_above_the_most(self):
        if hasattr(self, "made"):
            assert len(self.held) <= self.most

    @invariant()
    def it_knows_what_each_has(self):
        if hasattr(self, "made"):
            assert {place: place.load for place in self.made.places} == self.held

    @invariant()
    def nobody_has_more_than_its_load_where_that_is_exact(self):
        if getattr(self, "load", None) == 1:
            assert all(held <= 1 for held in self.held.values())

    def teardown(self):
        """Whatever happened: with workers that come up and answer, the queue drains."""
        if not hasattr(self, "made"):
            return
        for _ in range(2000):
            if not self.backlog and not any(self.held.values()):
                break
            self.now += (self.made.look_again(self.now) or 0) + 0.05
            self.act()
            for place in list(self.held):
                self.made.came_up(place, self.now)
            self.act()
            for place in list(self.held):
                if self.held.get(place):
                    self.held[place] = 0
                    self.made.answered(place, 0, 0.0, self.now)
            self.act()
        assert not self.backlog
        for _ in range(10):
            self.now += (self.made.look_again(self.now) or 0) + 20.0
            self.act()
            for place in list(self.held):
                self.made.came_up(place, self.now)
        idle = self.made._idle
        if self.made.trouble.lasts():  # no more are started till a call is answered
            assert min(idle, 1) <= len(self.held) <= idle
        else:
            assert len(self.held) == idle


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
