"""Unit: what a worker is told of its streams; the channel and the page are fakes."""

import sys
import threading
from types import SimpleNamespace

import pytest

from forkrpc import ClosedError, wire
from forkrpc.flow import Flow
from forkrpc.items import Items, Streams
from helpers import wait_until


class Page:
    """What the life tells of the page."""

    over = False

    def __init__(self):
        self.now, self.kept = (0, 0, 0), []

    def made(self):
        return self.now

    def made_items(self, received):
        return self.kept[received:]


@pytest.fixture
def flow():
    streams, page, sent = Streams(), Page(), []
    recovered = []
    session = SimpleNamespace(
        streams=streams,
        recover_items=lambda items, kept: recovered.append((items, kept)),
    )
    made = Flow(session, SimpleNamespace(post=sent.append), page, None)
    made.test = SimpleNamespace(
        streams=streams, page=page, sent=sent, recovered=recovered
    )
    return made


def under_way(flow, call_id):
    items = Items()
    items.call_id = call_id
    flow.test.streams.under_way[call_id] = items
    return items


def test_credit_tells_how_many_items_were_taken(flow):
    flow.credit(under_way(flow, 3), 33)

    assert flow.test.sent == [wire.credit(3, 33)]


def test_credit_of_a_stream_that_was_not_sent_is_not_told(flow):
    flow.credit(Items(), 1)

    assert flow.test.sent == []


def thread_that_has_ended():
    found = []
    thread = threading.Thread(target=lambda: found.append(threading.get_ident()))
    thread.start()
    thread.join()
    wait_until(lambda: found[0] not in sys._current_frames(), 5.0)
    return found[0]


def test_a_closed_stream_is_stopped_once(flow):
    under_way(flow, 1)
    under_way(flow, 2).closed = True

    flow.stop_closed()
    flow.stop_closed()

    assert flow.test.sent == [wire.encode(wire.STOP, first=2)]


def test_streams_of_a_thread_that_leaves_are_closed_and_fail(flow):
    mine, made, ended = (under_way(flow, number) for number in (1, 2, 3))
    assert made.taker == threading.get_ident()
    mine.taker = 11
    ended.taker = thread_that_has_ended()

    flow.close_those_of(11)

    assert [each.closed for each in (mine, made, ended)] == [True, False, True]
    assert isinstance(mine.arrived[-1][1].error, ClosedError)
    assert len(flow.test.sent) == 2


def test_nothing_is_told_in_a_forked_copy(flow):
    items = under_way(flow, 1)
    items.closed = flow.inert = True

    flow.stop_closed()
    flow.credit(items, 1)

    assert flow.test.sent == []


def test_items_are_read_from_the_page_when_no_other_was_made_meanwhile(flow):
    items, page = under_way(flow, 1), flow.test.page
    page.kept = [(False, 1), (False, 2)]
    for page.now in ((1, 1, 1), (1, 1, 2)):
        flow.look_at_page()
    assert flow.test.recovered == []

    flow.look_at_page()

    assert flow.test.recovered == [(items, page.kept)]


def test_the_page_of_a_stream_that_has_ended_or_was_closed_is_left_alone(flow):
    flow.test.page.kept = [(False, 1)]
    flow.test.page.now = (9, 1, 1)
    flow.recover()
    under_way(flow, 9).closed = True
    flow.recover()

    assert flow.test.recovered == []
