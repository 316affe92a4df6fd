"""Unit: results that wait for others, and their copy in the page."""

import os
import socket
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkrpc import fds, progress, serialisers, wire
from forkrpc.child.replies import Replies
from forkrpc.decoder import Decoder
from forkrpc.errors import SerialiserError
from test_child_sync import Channel, answers, results


def replies(name="pickle", limit=wire.LIMIT):
    """Return (replies, channel, page)."""
    channel = Channel(b"")
    page = progress.Page(memoryview(bytearray(progress.BLOCK)))
    made = Replies(channel, page, limit)
    made.codec = serialisers.codec(name, None)
    made.send(wire.encode(wire.READY, first=os.getpid()))
    return made, channel, page


def kept(page, count, name="pickle"):
    """Return the first *count* results that the page keeps."""
    codec = serialisers.codec(name, None)
    return [
        codec.load(value)[0] if is_body else value
        for is_body, value in page.kept(0, count)
    ]


values = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False)),
    *(st.text(max_size=20), st.binary(max_size=2000), st.lists(st.integers())),
)
steps = st.lists(values | st.just(...), max_size=60)  # ...: a flush


@given(steps, st.sampled_from(["pickle", "portable-pickle"]))
def test_results_leave_in_order_whenever_they_are_flushed(several, name):
    made, channel, _ = replies(name)
    expected = []

    for value in several:
        if value is ...:
            assert made.flush()
        else:
            expected.append(value)
            made.result(len(expected), value)
            assert made.done() == len(expected)
    made.flush()

    assert answers(channel.sent, name) == results(*expected)


@given(st.lists(values, min_size=1, max_size=40))
def test_a_result_is_sent_or_stands_in_the_page(several):
    made, channel, page = replies()

    for number, value in enumerate(several, 1):
        made.result(number, value)

        sent = len(answers(channel.sent))
        held = page.words[progress.HELD]
        assert held in (0, sent + 1)
        assert (number == sent) if not held else True
        assert kept(page, number - sent) == several[sent:number]


def test_a_result_waits_and_leaves_when_it_is_flushed():
    made, channel, page = replies()

    made.result(1, 7)
    before = answers(channel.sent)
    deadline = made.deadline
    made.flush()

    assert before == []
    assert deadline > 0
    assert answers(channel.sent) == results(7)
    assert (made.deadline, page.words[progress.HELD]) == (0, 0)


def test_more_results_than_the_page_has_slots_leave_in_parts():
    made, channel, _ = replies()

    for number in range(1, progress.SLOTS + 2):
        made.result(number, number)

    assert len(answers(channel.sent)) == progress.SLOTS


def test_bodies_that_fill_the_page_leave():
    made, channel, page = replies()
    count = progress.DATA_BYTES // 1000 + 2

    for number in range(1, count + 1):
        made.result(number, b"x" * 980)

    assert 0 < len(answers(channel.sent)) <= count
    made.flush()
    assert answers(channel.sent) == results(*[b"x" * 980] * count)


def test_a_long_result_takes_those_that_waited_along():
    made, channel, _ = replies()

    made.result(1, 1)
    made.result(2, "x" * 5000)

    assert answers(channel.sent) == results(1, "x" * 5000)


def test_any_other_frame_takes_the_results_before_it_along():
    made, channel, _ = replies()

    made.result(1, 1)
    made.send(wire.encode(wire.RETIRE))

    assert answers(channel.sent) == [*results(1), (wire.RETIRE, 0, b"")]


def test_a_result_that_cannot_be_sent_leaves_the_call_without_an_answer():
    made, _, _ = replies(limit=1000)
    made.result(1, 1)

    with pytest.raises(SerialiserError):
        made.result(2, (each for each in ()))
    with pytest.raises(SerialiserError, match="max_frame is 1000"):
        made.result(2, bytes(2000))

    assert made.done() == 1
    made.result(2, 2)
    assert made.done() == 2


def test_a_program_that_is_gone_is_told_once_and_harms_nothing():
    ours, theirs = fds.socket_pair()
    page = progress.Page(memoryview(bytearray(progress.BLOCK)))
    made = Replies(theirs, page, wire.LIMIT)
    made.codec = serialisers.codec("pickle", None)
    ours.close()

    made.result(1, 1)

    assert not made.flush()
    made.result(2, 2)
    assert made.done() == 2
    theirs.close()


def test_threads_that_send_events_do_not_tear_the_results():
    made, channel, _ = replies()
    event = wire.encode(wire.EVENT, serialisers.codec("pickle", None).dump(("event",)))

    def send():
        for _ in range(200):
            made.send(event)

    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(1, 1001):
        made.result(number, number if number % 7 else str(number))
    for thread in threads:
        thread.join()
    made.flush()

    found = answers(channel.sent)
    assert [each for each in found if each[0] == wire.RESULT] == results(
        *[number if number % 7 else str(number) for number in range(1, 1001)]
    )
    assert len(found) == 1600


# Threads that send events while results are held.


@pytest.mark.parametrize("value", [7, [7], None], ids=["number", "body", "nothing"])
def test_results_and_events_of_another_thread_all_arrive_in_order(value):
    """The quick way takes no lock: a flush may come between any of its steps."""
    ours, theirs = socket.socketpair()
    page = progress.Page(memoryview(bytearray(progress.BLOCK)))
    made = Replies(theirs, page, wire.LIMIT)
    made.codec = serialisers.codec("pickle", lambda definition: None)
    done, calls, interval = threading.Event(), 30_000, sys.getswitchinterval()
    frames = []

    def read():
        decoder = Decoder()
        while decoder.receive(ours.recv):
            frames.extend(decoder.frames)
            decoder.frames.clear()

    def disturb():
        while not done.is_set():
            made.send(wire.encode(wire.EVENT, b""))

    threads = [threading.Thread(target=each) for each in (read, disturb)]
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        slots, base = made.slots()
        for call_id in range(1, calls + 1):
            if type(value) is made.kind:  # as the backend does it
                slots[call_id - base] = value
                made.run.append(value)
                if call_id >= made.full:
                    made.flush()
            else:
                made.result(call_id, value)
                slots, base = made.slots()
    finally:
        done.set()
        sys.setswitchinterval(interval)
        threads[1].join()
        made.flush()
        theirs.close()
        threads[0].join()
        ours.close()

    answered = 0
    for frame in frames:
        if frame.kind == wire.RESULT:
            assert frame.first == answered + 1
            answered += frame.count
    assert answered == calls == made.done()


def test_what_a_signal_handler_sends_waits_for_what_it_interrupts():
    made, channel, _ = replies()
    interrupt = wire.encode(wire.RETIRE)
    inner = []

    class Interrupted(Channel):
        """A channel whose send is interrupted by a handler that sends."""

        def send(self, data, flags=0):
            if not inner:
                inner.append(made.send(interrupt))
                sent = super().send(data[:5], flags)
            else:
                sent = super().send(data, flags)
            return sent

    interrupted = Interrupted(b"")
    made._outbox._sock = interrupted

    assert made.send(wire.encode(wire.FAILED, b"x" * 20))

    assert inner == [True]
    assert answers(bytes(channel.sent) + interrupted.sent) == [
        (wire.FAILED, 0, b"x" * 20),
        (wire.RETIRE, 0, b""),
    ]


def test_what_a_signal_handler_sends_leaves_at_the_next_turn_at_the_latest():
    made, channel, _ = replies()
    with made._lock:
        made.send(wire.encode(wire.RETIRE))

    assert answers(channel.sent) == []
    assert made.deadline > 0
    made.flush()
    assert answers(channel.sent) == [(wire.RETIRE, 0, b"")]
    assert made.deadline == 0


def test_what_follows_the_answers_of_another_process_waits():
    made, channel, _ = replies()
    made.flush()
    before = bytes(channel.sent)
    made.follow(7)

    assert made.done() == 7
    assert made.send(wire.encode(wire.LOG, b"early"))
    assert channel.sent == before
    made.release()
    made.result(8, "value")
    made.flush()

    decoder = Decoder(greeted=True)
    decoder.receive(lambda _size: bytes(channel.sent[len(before) :]))
    assert [frame.kind for frame in decoder.frames] == [wire.LOG, wire.RESULT]
    assert decoder.frames[1].first == 8


def test_who_has_handed_on_its_turn_writes_nothing():
    made, channel, _ = replies()
    made.flush()
    before = bytes(channel.sent)

    made.mute()

    assert not made.send(wire.encode(wire.LOG, b"late"))
    assert not made.flush()
    assert channel.sent == before
