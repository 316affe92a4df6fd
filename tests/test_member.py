"""End-to-end: one worker of a pool and its handlers (also: see test_pool)."""

import logging
import os

import pytest

from forkrpc import Forker, event
from helpers import wait_until

LIMIT = 20.0  # seconds; much more than it takes


def tell(number):
    logging.getLogger("test_member").error("said %s", number)
    event("before", number)
    return number


@pytest.fixture(scope="module")
def template():
    with Forker(name="test_member").require(__name__) as template:
        template.ready(LIMIT)
        yield template


def test_events_and_logs_come_before_the_result_of_their_call(template, caplog):
    order = []

    def on_event(text, number):
        order.append((text, number))

    with template.pool(tell, max=3, start=0, load=1, on_event=on_event) as pool:
        for number in range(30):
            pool(number, order.append)
    assert len(order) == 60
    for number in range(30):
        assert order.index(("before", number)) < order.index(number)
    assert len(caplog.records) == 30


def test_a_worker_that_exits_in_order_is_replaced(template):
    def leave(status):
        if status is not None:
            raise SystemExit(status)
        return os.getpid()

    errors = []
    with template.pool(leave, max=1, load=2, on_error=errors.append) as pool:
        first = pool.call(None)
        lost = pool.submit(3)
        assert lost.exception(LIMIT).returncode == 3
        assert pool.call(None) != first
    wait_until(lambda: errors, LIMIT)
    assert errors[0].returncode == 3
