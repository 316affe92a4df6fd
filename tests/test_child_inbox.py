"""Unit: what a blocking worker reads, from a real pair of sockets."""

import pickle
import socket
import threading

import pytest

from forkrpc import wire
from forkrpc.child.inbox import Inbox

LIMIT = 10  # seconds for anything to happen; much more than it takes
SMALL = wire.encode(wire.CALL, pickle.dumps([1]), flags=wire.PACKED, first=1)
LARGE = wire.encode(wire.CALL, bytes(100_000), first=2)


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.settimeout(None)
    theirs.settimeout(LIMIT)
    with ours, theirs:
        theirs.sendall(wire.GREETING)
        inbox = Inbox(ours, {"max_frame": wire.LIMIT, "buflen": wire.SIZE})
        inbox.receive(0)
        yield inbox, theirs


def test_a_small_frame_that_comes_alone_is_all_there_is(pair):
    inbox, theirs = pair
    assert inbox.at_rest()
    theirs.sendall(SMALL)

    kind, *_ = inbox.next_header()

    assert kind == wire.CALL
    assert list(inbox.chunks) == [SMALL]
    assert not inbox.frames


@pytest.mark.parametrize("looks", [1, 100])
def test_it_waits_for_what_comes_late(pair, looks):
    inbox, theirs = pair
    inbox._spin.looks = looks
    later = threading.Timer(0.05, theirs.sendall, [SMALL])
    later.start()

    header = inbox.next_header()

    later.join()
    assert header[0] == wire.CALL


@pytest.mark.parametrize(
    ("data", "rest", "count"),
    [(LARGE, b"", 1), (SMALL + LARGE, b"", 2), (SMALL[:20], SMALL[20:], 1)],
    ids=["large", "two", "part"],
)
def test_anything_else_is_for_receive(pair, data, rest, count):
    inbox, theirs = pair
    theirs.sendall(data)

    assert inbox.next_header() is None

    if rest:
        theirs.sendall(rest)
    while len(inbox.frames) < count:
        assert inbox.receive(0)
    assert not inbox.chunks


def test_the_end_is_told_whether_in_order_or_not(pair):
    inbox, theirs = pair
    theirs.close()

    assert inbox.next_header() is None
    assert not inbox.receive(0)


def test_nothing_there_is_no_end(pair):
    inbox, _ = pair

    with pytest.raises(BlockingIOError):
        inbox.receive(socket.MSG_DONTWAIT)


def test_waiting_for_more_reads_until_something_was_there(pair):
    inbox, theirs = pair
    later = threading.Timer(0.05, theirs.sendall, [SMALL])
    later.start()

    inbox.wait_for_more(inbox.receive)

    later.join()
    assert [frame.kind for frame in inbox.frames] == [wire.CALL]
