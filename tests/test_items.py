"""Unit: what has come of streams; frames are made by hand."""

import pytest

from forkrpc import ProtocolError, atomic, wire
from forkrpc.entries import Streamed
from forkrpc.items import Items, Streams
from forkrpc.loading import Failure


def frame(call_id, count):
    return wire.Frame(wire.ITEM, 0, 0, count, call_id, b"12")


def do(steps):
    atomic.at_once(*steps)


def under_way(call_id=7):
    """Return (streams, items) of a stream that was sent."""
    streams, items = Streams(), Items()
    data, *steps = streams.sending(Streamed(b"body"), items, call_id)
    do(steps)
    assert data == wire.encode(wire.STREAM, b"body", first=call_id)
    return streams, items


def arrive(streams, call_id, *values):
    do(streams.arriving(frame(call_id, len(values)), lambda _: list(values)))


def test_items_arrive_in_order_and_ring():
    streams, items = under_way()

    arrive(streams, 7, 1, 2)
    arrive(streams, 7, 3)

    assert [found for found, _ in items.arrived] == [[1, 2], [3]]
    assert not items.empty()
    items.quiet()
    assert items.empty()


def test_items_read_from_the_page_are_not_handed_over_again():
    streams, items = under_way()
    arrive(streams, 7, 1)

    do(items.adding([2, 3]))
    arrive(streams, 7, 2)
    arrive(streams, 7, 3, 4)
    arrive(streams, 7, 5)

    assert [found for found, _ in items.arrived] == [[1], [2, 3], [4], [5]]
    assert items.received == items.framed == 5


def test_an_item_that_is_a_failure_is_the_end():
    streams, items = under_way()
    failure = Failure(ValueError())

    arrive(streams, 7, 1, failure, 3)
    arrive(streams, 7, 4)

    assert [found for found, _ in items.arrived] == [[1], None]
    assert items.arrived[-1] == (None, failure)
    assert items.closed


def test_what_comes_for_a_closed_stream_is_not_loaded():
    streams, items = under_way()
    items.closed = True

    do(streams.arriving(frame(7, 1), lambda _: pytest.fail("loaded")))

    assert not items.arrived


def test_items_of_no_stream_break_the_protocol():
    streams, items = under_way()
    do(streams.ending(items, "end"))

    assert items.arrived[-1] == (None, "end")
    with pytest.raises(ProtocolError, match="of no stream under way"):
        arrive(streams, 7, 1)


def test_a_stream_that_was_closed_before_it_was_sent_goes_without_its_arguments():
    streams, items = Streams(), Items()
    items.closed = True

    body = Streamed(b"body")
    body.flags = wire.KEYWORDS
    data, *_ = streams.sending(body, items, 1)

    assert data == wire.encode(wire.STREAM, flags=wire.WITHDRAWN, first=1)


def test_few_calls_are_sent_beside_a_stream():
    streams, items = under_way()

    assert not streams.fill(range(streams.most - 1))
    assert streams.fill(range(streams.most))
    do(streams.ending(items, None))
    assert not streams.fill(range(streams.most))
