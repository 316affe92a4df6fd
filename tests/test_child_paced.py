"""End-to-end: a worker tells for how long it has executed calls."""

import time

import pytest

from forkrpc import Forker, event
from helpers import wait_until

LIMIT = 20.0  # seconds; much more than it takes


def work(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def tell(seconds):
    time.sleep(seconds)
    event("slept")


@pytest.fixture
def pool():
    with (
        Forker().require(__name__) as template,
        template.pool(work, max=1, idle=1, load=2) as pool,
    ):
        wait_until(lambda: pool.stats()["idle"] == 1, LIMIT)
        yield pool


def life_of(pool):
    (member,) = pool._connection.hands()
    return member.life


def test_the_time_of_a_call_is_known_with_its_answer(pool):
    for number in range(1, 6):
        pool.call(0.02)
        assert life_of(pool).spent() >= 0.02 * number


def test_of_many_calls_in_one_frame_too(pool):
    futures = [pool.submit(0.001) for _ in range(100)]
    for future in futures:
        future.result(LIMIT)
    assert 0.1 <= life_of(pool).spent() < LIMIT


def test_time_without_calls_does_not_count(pool):
    pool.call(0)
    before = life_of(pool).spent()
    time.sleep(0.2)
    pool.call(0)
    assert life_of(pool).spent() - before < 0.15


def test_a_plain_proxy_and_an_exact_load_are_not_measured():
    with Forker().require(__name__) as template:
        with template.run(work) as proxy:
            proxy.call(0.01)
            assert proxy._connection.life.spent() == 0
        with template.pool(work, max=1, load=1) as pool:
            pool.call(0.01)
            assert life_of(pool).spent() == 0
