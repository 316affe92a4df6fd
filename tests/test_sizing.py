"""Unit: the options of a pool (bad ones: see test_pool)."""

import math

import pytest

from forkrpc.sizing import OWN, pool_options, scheduling_of, takes_worker


def test_what_is_not_given_has_its_default():
    own, workers = pool_options({"max": 2, "nice": 3})

    assert own == {**OWN, "max": 2}
    assert workers["nice"] == 3
    assert "max" not in workers


def test_isolation_is_one_call_at_a_time_by_workers_that_are_kept():
    own, _ = pool_options({"isolate": True, "max": 3})
    sizes = scheduling_of(own, asynchronous=False)

    assert (sizes["load"], sizes["calls"]) == (1, math.inf)
    assert (sizes["idle"], sizes["start"]) == (3, 0)


def test_so_many_isolating_workers_as_shall_be_idle():
    own, _ = pool_options({"isolate": True, "max": 3, "idle": 1})

    assert scheduling_of(own, asynchronous=False)["idle"] == 1


def test_asynchronous_workers_have_an_exact_load():
    own, _ = pool_options({"backend": "async", "load": 50})
    sizes = scheduling_of(own, asynchronous=True)

    assert (sizes["exact"], sizes["load"]) == (True, 50)
    assert sizes["calls"] == math.inf


@pytest.mark.parametrize(
    ("handler", "takes"),
    [
        (None, False),
        (lambda value: None, False),
        (lambda *args: None, False),
        (lambda **others: None, False),
        (lambda value, worker: None, True),
        (lambda *args, worker=None: None, True),
        (print, False),
        ([].append, False),
    ],
)
def test_who_wants_to_know_the_worker(handler, takes):
    assert takes_worker(handler) is takes


def test_workers_for_one_call_keep_their_process_and_come_as_needed():
    own, _ = pool_options({"max_calls": 1, "max": 3})
    sizes = scheduling_of(own, asynchronous=False)

    assert own["isolate"]
    assert (sizes["load"], sizes["calls"]) == (1, math.inf)
    assert (sizes["idle"], sizes["start"]) == (0, 0.1)
