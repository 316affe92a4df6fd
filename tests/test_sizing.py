"""Unit: the options of a pool (bad ones: see test_pool)."""

import math

import pytest

from forkrpc.sizing import OWN, pool_options, scheduling_of, takes_worker


def test_what_is_not_given_has_its_default():
    own, workers = pool_options({"max": 2, "nice": 3})

    assert own == {**OWN, "max": 2}
    assert workers["nice"] == 3
    assert "max" not in workers


def test_isolation_is_one_call_for_each_worker():
    own, _ = pool_options({"isolate": True, "max": 3})
    sizes = scheduling_of(own, asynchronous=False)

    assert (sizes["load"], sizes["calls"], sizes["spares"]) == (1, 1, 3)


def test_so_many_spares_as_shall_be_idle():
    own, _ = pool_options({"isolate": True, "max": 3, "idle": 5})

    assert scheduling_of(own, asynchronous=False)["spares"] == 5


def test_asynchronous_workers_have_an_exact_load_and_no_spares():
    own, _ = pool_options({"backend": "async", "load": 50})
    sizes = scheduling_of(own, asynchronous=True)

    assert (sizes["exact"], sizes["load"], sizes["spares"]) == (True, 50, 0)
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
