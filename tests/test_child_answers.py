"""Unit: what an asynchronous worker sends, on a socket whose other end is the test."""

import pickle
import threading

import pytest

from forkrpc import SerialiserError, fds, progress, serialisers, wire
from forkrpc.child.answers import WINDOW, Answers
from forkrpc.child.bodies import load_arguments
from forkrpc.decoder import Decoder
from forkrpc.progress import HELD, SLOTS, TURN
from helpers import wait_until

LIMIT = 10.0  # seconds; much more than it takes


class Bench:
    """Answers, their socket, and how often they asked for a turn."""

    def __init__(self, name="pickle", limit=wire.LIMIT):
        self.theirs, ours = fds.socket_pair()
        self.turns = []
        self.page = progress.Page(memoryview(bytearray(progress.BLOCK)))
        self.answers = Answers(ours, self.page, limit, lambda: self.turns.append(1))
        self.codec = serialisers.codec(name, lambda definition: None)
        self.answers.codec = self.codec
        self.decoder = Decoder()
        self.decoder.recv_into = self.theirs.recv_into
        self._ours = ours

    def close(self):
        self.theirs.close()
        self._ours.close()

    def read(self):
        """Return the frames that can be read now."""
        self.theirs.setblocking(False)
        try:
            while self.decoder.receive(self.theirs.recv):
                pass
        except BlockingIOError:
            pass
        frames = list(self.decoder.frames)
        self.decoder.frames.clear()
        return frames

    def told(self):
        """Return {id: result} of the frames that can be read now, in their order."""
        found = {}
        for frame in self.read():
            ids, inner = frame.scattered()
            if inner.flags & wire.PACKED:
                values = pickle.loads(inner.body)
            else:
                values = [
                    load_arguments(self.codec, body)[0] for body in inner.bodies()
                ]
            found.update(zip(ids, values, strict=True))
        return found


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.close()


@pytest.mark.parametrize("name", ["pickle", "json"])
def test_results_leave_in_their_order_and_not_before_the_turn(name):
    bench = Bench(name)
    values = {3: 1, 1: "text", 2: None, 9: [4], 5: True, 4: 2.5, 7: 2**70}
    for call_id, value in values.items():
        bench.answers.result(call_id, value)

    assert bench.told() == {}
    assert bench.answers.leave()
    assert list(bench.told().items()) == list(values.items())
    bench.close()


def test_results_of_one_turn_share_a_frame(bench):
    for call_id in range(1, 301):
        bench.answers.result(call_id, call_id)
    for call_id in range(600, 300, -1):
        bench.answers.result(call_id, -call_id)
    bench.answers.leave()
    frames = bench.read()

    assert [frame.count for frame in frames] == [SLOTS, 600 - SLOTS]


def test_a_turn_is_asked_for_once(bench):
    bench.answers.result(1, 1)
    bench.answers.result(2, "x")
    bench.answers.event(("x",))
    assert bench.turns == [1]
    bench.answers.leave()
    assert bench.turns == [1]
    bench.answers.error(3, ValueError())
    assert bench.turns == [1, 1]


def test_events_errors_and_cancels_leave_in_place(bench):
    bench.answers.result(1, 1)
    bench.answers.event(("between",))
    bench.answers.result(2, 2)
    bench.answers.error(3, ValueError("x"))
    bench.answers.cancelled(4)
    bench.answers.leave()

    assert [(frame.kind, frame.first) for frame in bench.read()] == [
        *((wire.RESULT, 1), (wire.EVENT, 0), (wire.RESULT, 2)),
        *((wire.ERROR, 3), (wire.CANCEL, 4)),
    ]


def test_what_cannot_be_sent_is_an_error_and_no_answer(bench):
    with pytest.raises(SerialiserError, match="lock"):
        bench.answers.result(1, threading.Lock())
    with pytest.raises(SerialiserError, match="lock"):
        bench.answers.event((threading.Lock(),))
    bench.answers.leave()

    assert bench.read() == []
    assert not bench.answers.answered(1)


def test_what_is_too_long_is_refused():
    bench = Bench(limit=100)
    with pytest.raises(SerialiserError, match="max_frame is 100"):
        bench.answers.result(1, b"x" * 1000)
    bench.close()


def test_the_last_answer_is_known(bench):
    bench.answers.result(5, 1)
    assert bench.answers.answered(5)
    bench.answers.cancelled(3)
    assert bench.answers.answered(3)
    assert not bench.answers.answered(5)


def test_what_is_held_stands_in_the_page_until_it_leaves(bench):
    bench.answers.result(7, 1)
    bench.answers.result(3, "text")
    bench.answers.result(4, 2.5)

    found = bench.page.scattered(alive=True)
    assert [(call_id, is_body) for call_id, is_body, _ in found] == [
        *((7, False), (3, True), (4, True))
    ]
    assert pickle.loads(found[1][2]) == ("text",)
    assert found[0][2] == 1
    turn = bench.page.words[TURN]
    bench.answers.leave()
    assert bench.page.words[HELD] == 0
    assert bench.page.words[TURN] != turn
    assert bench.page.scattered(alive=True) == []


def test_what_an_event_stands_before_is_not_read_from_the_page_of_a_living_worker(
    bench,
):
    bench.answers.event(("before",))
    bench.answers.result(7, 1)

    assert bench.page.scattered(alive=True) == []
    assert bench.page.scattered(alive=False) == [(7, False, 1)]
    bench.answers.leave()
    bench.answers.result(8, 2)
    assert bench.page.scattered(alive=True) == [(8, False, 2)]


def test_more_than_the_page_has_room_for_is_sent_all_the_same(bench):
    values = {n: n for n in range(1, 2 * SLOTS)}
    values |= dict.fromkeys(range(2 * SLOTS, 2 * SLOTS + 50), b"y" * 1000)
    for call_id, value in values.items():
        bench.answers.result(call_id, value)
    bench.answers.leave()

    assert bench.told() == values


def test_leaving_never_blocks_and_a_full_window_is_told(bench):
    large = b"x" * 100_000
    assert not bench.answers.full
    number = 0
    while not bench.answers.full:
        number += 1
        bench.answers.result(number, large)
        bench.answers.leave()
        assert number * len(large) < WINDOW + 10_000_000
    assert bench.answers.leave() is False
    found = bench.told()
    while not bench.answers.leave():
        found |= bench.told()
    found |= bench.told()

    assert found == dict.fromkeys(range(1, number + 1), large)
    assert not bench.answers.full


def test_flush_waits_until_all_is_written(bench):
    large = b"x" * 5_000_000
    bench.answers.result(1, large)
    done = []
    thread = threading.Thread(target=lambda: done.append(bench.answers.flush()))
    thread.start()
    found = {}
    wait_until(lambda: found.update(bench.told()) or done, LIMIT)
    thread.join(LIMIT)
    found.update(bench.told())

    assert done == [True]
    assert found == {1: large}


def test_when_the_program_is_gone_nothing_is_kept(bench):
    bench.theirs.close()
    bench.answers.result(1, b"x" * 1_000_000)

    assert bench.answers.leave()
    assert bench.answers.flush() is False
    assert not bench.answers.full


def test_a_copy_sends_nothing(bench):
    bench.answers.result(1, b"x" * 1000)
    bench.answers.become_copy()

    assert bench.answers.flush() is False


def test_threads_answer_at_the_same_time(bench):
    def answer(start):
        for number in range(start, 4000, 4):
            bench.answers.result(number, number)
            if number % 100 == 0:
                bench.answers.leave()

    threads = [threading.Thread(target=answer, args=(n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    found = {}
    while any(thread.is_alive() for thread in threads):
        found.update(bench.told())
    while not bench.answers.leave():
        found.update(bench.told())
    found.update(bench.told())

    assert found == {n: n for n in range(1, 4000)}


@pytest.mark.parametrize("value", [1, "text", b"x" * 100_000])
def test_what_another_thread_answers_leaves_at_once(bench, value):
    thread = threading.Thread(target=bench.answers.result, args=(1, value))
    thread.start()
    thread.join(LIMIT)

    assert bench.told() == {1: value}
    assert bench.page.words[HELD] == 0
    assert bench.turns  # the socket might have been full


def test_what_other_threads_answer_gathers_from_the_next_turn_on(bench):
    def answer(call_id):
        thread = threading.Thread(target=bench.answers.result, args=(call_id, call_id))
        thread.start()
        thread.join(LIMIT)

    answer(1)
    bench.answers.leave()
    answer(2)
    assert bench.told() == {1: 1, 2: 2}
    bench.answers.leave(turn=True)
    answer(3)
    bench.answers.result(4, 4)
    assert bench.told() == {}
    assert bench.page.scattered(alive=True) == [(3, False, 3), (4, False, 4)]
    bench.answers.leave(turn=True)
    assert bench.told() == {3: 3, 4: 4}


def test_no_result_is_lost_while_another_thread_writes(bench):
    values = {n: n if n % 1000 < 900 else str(n) for n in range(1, 20_001)}
    stop, found, order = threading.Event(), {}, []

    def write():
        while not stop.is_set():
            bench.answers.flush()

    thread = threading.Thread(target=write)
    thread.start()
    for call_id, value in values.items():
        if not bench.answers.keep(call_id, value):
            bench.answers.result(call_id, value)
        if not call_id % 100:
            told = bench.told()
            order += told
            found.update(told)
    stop.set()
    wait_until(lambda: found.update(bench.told()) or not thread.is_alive(), LIMIT)
    bench.answers.leave()
    found.update(bench.told())

    assert found == values
    assert order == sorted(set(order))


def test_after_another_thread_has_written_the_page_stays_right(bench):
    bench.answers.result(1, 1)
    thread = threading.Thread(target=bench.answers.flush)
    thread.start()
    thread.join(LIMIT)
    bench.answers.result(2, 2.5)

    assert bench.told() == {1: 1}
    assert bench.page.scattered(alive=True) == [(1, False, 1), (2, False, 2.5)]
    assert bench.answers.leave()
    assert bench.page.scattered(alive=True) == []


def test_what_follows_the_answers_of_another_process_waits(bench):
    answers = bench.answers
    answers.leave()
    bench.read()
    answers.follow(7)
    behind = bench.page.words[progress.BEHIND]

    answers.say(wire.encode(wire.LOG, b"early"))
    assert bench.read() == []
    assert bench.page.words[progress.BEHIND] == behind  # it is another's page
    answers.release()
    answers.result(8, "value")
    assert answers.answered(8)
    answers.leave()

    assert [frame.kind for frame in bench.read()] == [wire.LOG, wire.RESULT]


def test_who_has_handed_on_its_turn_writes_nothing(bench):
    answers = bench.answers
    answers.leave()
    bench.read()

    answers.mute()
    answers.say(wire.encode(wire.LOG, b"late"))

    assert not answers.flush()
    assert bench.read() == []
