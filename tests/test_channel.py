"""Unit: who writes and who reads the socket of a session.

The other end is a socket in the hands of the test; threads wait for results.
"""

import itertools
import pickle
import socket
import sys
import threading
from _queue import SimpleQueue

import pytest

from faulty import Interrupt, interrupt_at
from forkrpc import WorkerDied, program, wire
from forkrpc import channel as channel_module
from forkrpc.channel import Channel
from forkrpc.death import Death
from forkrpc.decoder import Decoder
from forkrpc.reactor import READ
from forkrpc.serialisers import codec
from forkrpc.session import Session
from helpers import open_descriptors, wait_until

LIMIT = 10.0  # seconds; much more than it takes


class NotedSession(Session):
    """Notes which threads settle calls."""

    def __init__(self):
        super().__init__("m.f", wire.LIMIT)
        self.use(codec("pickle", self.define))
        self.readers = []

    def handle(self):
        if self.decoder.frames:
            self.readers.append(threading.get_ident())
        super().handle()


def put(session, *args_and_target):
    """Queue a call whose arguments wait as they are."""
    *args, target = args_and_target
    session.unsent.extend((tuple(args), target))


class Owner:
    """What a connection is to its channel."""

    def __init__(self, session):
        self.session = session
        self.looked = 0
        self.overs = 0

    def on_read(self):
        while self.session.ready:
            for function, argument in zip(*self.session.ready.popleft(), strict=True):
                function(argument)

    def on_over(self):
        self.overs += 1
        self.session.fail_all(Death("m.f", 7, -9, begun=1))

    def look_at_page(self):
        self.looked += 1

    def look_after_calls(self):
        pass


class Peer:
    """The worker's end."""

    def __init__(self, sock):
        self.sock = sock
        sock.settimeout(LIMIT)
        sock.sendall(wire.GREETING)
        self._decoder = Decoder()
        self._answered = 0

    def answer(self, *values):
        self.sock.sendall(packed(self._answered + 1, *values))
        self._answered += len(values)

    def frames(self, kind, count=1):
        """Read until *count* frames of that kind have come; return all there are."""
        found = []
        while sum(frame.kind == kind for frame in found) < count:
            if not self._decoder.receive(self.sock.recv):
                break
            found += self._decoder.frames
            self._decoder.frames.clear()
        return found


def packed(first, *values):
    body, count = pickle.dumps(list(values)), len(values)
    return wire.encode(wire.RESULT, body, flags=wire.PACKED, count=count, first=first)


class Pair:
    def __init__(self, *, watched=True):
        ours, theirs = socket.socketpair()
        self.peer = Peer(theirs)
        self.session = NotedSession()
        self.reactor = program.current().reactor
        self.channel = Channel(self.reactor, ours, self.session)
        self.owner = Owner(self.session)
        self.channel.start(self.owner)
        if not watched:
            self.in_reactor(self.channel.read)  # the greeting
            self.in_reactor(lambda: self.channel._watch.want(READ, wanted=False))

    def in_reactor(self, function):
        """Call *function* where the reactor runs; return what it returned."""
        results, done = [], threading.Event()

        def run():
            try:
                results.append(function())
            finally:
                done.set()

        self.reactor.soon(run)
        assert done.wait(LIMIT)
        return results[0]

    def send(self, *args):
        """Make a call whose result goes to the queue that is returned."""
        queue = SimpleQueue()
        put(self.session, *args, queue)
        self.channel.flush()
        return queue

    def close(self):
        self.in_reactor(self.channel.close)
        self.peer.sock.close()


@pytest.fixture
def pair():
    pair = Pair()
    yield pair
    pair.close()


class Waiter(threading.Thread):
    """Waits for the result of one call in a thread of its own."""

    def __init__(self, pair):
        super().__init__(daemon=True)
        self.queue = pair.send()
        self.outcome = None
        self._pair = pair
        self.start()

    def run(self):
        self.outcome = self._pair.channel.wait(self.queue)

    def leads(self):
        frame = sys._current_frames().get(self.ident)
        who = self._pair.channel._lead.get("who")
        while frame is not None and frame is not who:
            frame = frame.f_back
        return frame is not None

    def follows(self):
        return self.queue in self._pair.channel._followers and not self.leads()

    def ended(self):
        self.join(LIMIT)
        return not self.is_alive()


# Writing.


def test_the_greeting_comes_first_and_then_the_calls(pair):
    pair.send(1)
    pair.send(2)

    frames = pair.peer.frames(wire.CALL, 2)

    assert [pickle.loads(frame.body) for frame in frames] == [[(1,)], [(2,)]]


def test_what_the_socket_does_not_take_at_once_follows(pair):
    large = bytes(1 << 20)
    for number in range(5):
        body = pickle.dumps((number, large))
        pair.session.unsent.extend((body, SimpleQueue()))
    pair.channel.flush()  # nobody reads yet: it returns all the same
    pair.channel.say_close()

    frames = pair.peer.frames(wire.CLOSE)

    assert [frame.kind for frame in frames] == [wire.CALL] * 5 + [wire.CLOSE]
    assert [frame.first for frame in frames[:5]] == [1, 2, 3, 4, 5]
    assert [pickle.loads(frame.body) for frame in frames[:5]] == [
        (number, large) for number in range(5)
    ]


def test_the_end_is_said_once(pair):
    pair.channel.say_close()
    pair.channel.say_close()
    pair.channel.flush()
    pair.send(1)

    frames = pair.peer.frames(wire.CALL)

    assert [frame.kind for frame in frames] == [wire.CLOSE, wire.CALL]


def test_writing_to_a_worker_that_is_gone_is_no_error(pair):
    pair.peer.sock.close()

    for _ in range(10):
        pair.send(bytes(100))

    wait_until(lambda: pair.owner.overs == 1)


def test_who_interrupts_a_write_leaves_the_writing_to_it(pair):
    with pair.channel._writing:  # as in a signal handler
        pair.send(1)
        assert len(pair.session.unsent) == 2

    pair.in_reactor(pair.channel.tick)

    assert pair.peer.frames(wire.CALL)[0].first == 1


def test_another_threads_write_is_waited_for(pair):
    with pair.channel._writing:
        thread = threading.Thread(target=pair.send, args=(1,))
        thread.start()
        wait_until(lambda: pair.session.unsent)
    thread.join(LIMIT)

    assert pair.peer.frames(wire.CALL)[0].first == 1


# Reading.


def test_a_thread_that_waits_reads_itself(pair):
    waiter = Waiter(pair)
    wait_until(waiter.leads)

    pair.peer.answer(42)

    assert waiter.ended()
    assert waiter.outcome == 42
    assert pair.session.readers == [waiter.ident]


def test_a_second_thread_follows_and_is_handed_the_lead(pair):
    one = Waiter(pair)
    wait_until(one.leads)
    two = Waiter(pair)
    wait_until(two.follows)

    pair.peer.answer(1)
    assert one.ended()
    wait_until(two.leads)
    pair.peer.answer(2)

    assert two.ended()
    assert (one.outcome, two.outcome) == (1, 2)
    assert pair.session.readers == [one.ident, two.ident]


def test_the_lead_is_not_handed_to_one_that_has_its_result(pair):
    one = Waiter(pair)
    wait_until(one.leads)
    two = Waiter(pair)
    wait_until(two.follows)
    three = Waiter(pair)
    wait_until(three.follows)

    pair.peer.answer(1, 2)

    assert one.ended()
    assert two.ended()
    wait_until(three.leads)
    pair.peer.answer(3)
    assert three.ended()


def test_a_leader_reads_the_results_of_those_who_follow(pair):
    one = Waiter(pair)
    wait_until(one.leads)
    others = [Waiter(pair) for _ in range(3)]
    wait_until(lambda: all(other.follows() for other in others))

    pair.peer.answer(1, 2, 3, 4)

    assert all(waiter.ended() for waiter in [one, *others])
    assert [waiter.outcome for waiter in [one, *others]] == [1, 2, 3, 4]
    assert not pair.channel._followers
    assert not pair.channel._lead


def test_the_reactor_reads_when_nobody_waits(pair):
    results = SimpleQueue()
    put(pair.session, results.put)
    pair.channel.flush()

    pair.peer.answer(42)

    assert results.get(timeout=LIMIT) == 42
    assert pair.session.readers == [pair.reactor.ident]


def test_the_reactor_reads_on_when_a_leader_leaves_calls_behind(pair):
    waiter = Waiter(pair)
    wait_until(waiter.leads)
    later = pair.send()

    pair.peer.answer(1)
    assert waiter.ended()
    pair.peer.answer(2)

    assert later.get(timeout=LIMIT) == 2


def test_callbacks_that_a_leader_reads_are_called_by_the_reactor(pair):
    threads = SimpleQueue()
    put(pair.session, lambda _: threads.put(threading.get_ident()))
    waiter = Waiter(pair)
    wait_until(waiter.leads)

    pair.peer.answer("callback's", "waiter's")

    assert waiter.ended()
    assert waiter.outcome == "waiter's"
    assert threads.get(timeout=LIMIT) == pair.reactor.ident


def test_a_leader_looks_at_the_page_while_other_calls_have_no_answer(pair):
    pair.send()
    waiter = Waiter(pair)
    wait_until(waiter.leads)

    wait_until(lambda: pair.owner.looked >= 2)

    pair.peer.answer(1, 2)
    assert waiter.ended()


def test_many_threads_share_one_socket(pair):
    threads, results = 8, []

    def work():
        for _ in range(50):
            results.append(pair.channel.wait(pair.send()))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for _ in range(50 * threads):
        (frame, *more) = pair.peer.frames(wire.CALL)
        count = sum(each.count for each in [frame, *more])
        pair.peer.answer(*range(frame.first, frame.first + count))
        if frame.first + count > 50 * threads:
            break
    for worker in workers:
        worker.join(LIMIT)

    assert sorted(results) == list(range(1, 50 * threads + 1))
    assert not pair.channel._followers


# The end.


def test_the_end_of_file_wakes_a_leader_and_all_who_follow(pair):
    one = Waiter(pair)
    wait_until(one.leads)
    two = Waiter(pair)
    wait_until(two.follows)

    pair.peer.sock.close()

    assert one.ended()
    assert two.ended()
    errors = [one.outcome.error, two.outcome.error]
    assert [type(error) for error in errors] == [WorkerDied, WorkerDied]
    assert [error.started for error in errors] == [True, False]
    assert pair.channel.over
    assert pair.owner.overs == 1


def test_what_came_before_the_end_is_settled(pair):
    queue = pair.send()
    pair.in_reactor(lambda: None)
    pair.peer.answer(42)
    pair.peer.sock.close()

    assert queue.get(timeout=LIMIT) == 42
    wait_until(lambda: pair.owner.overs == 1)


def test_a_broken_rule_ends_the_reading(pair):
    queue = pair.send()

    pair.peer.sock.sendall(packed(7, 42))

    assert type(queue.get(timeout=LIMIT).error) is WorkerDied
    assert "call 1 was to be answered" in str(pair.channel.broken)


def test_what_came_before_a_broken_frame_is_settled(pair):
    waiter = Waiter(pair)
    wait_until(waiter.leads)

    pair.peer.sock.sendall(packed(1, 42) + bytes(wire.HEADER_BYTES))

    assert waiter.ended()
    assert waiter.outcome == 42
    assert pair.channel.broken is not None


def test_a_dead_worker_whose_socket_another_holds_wakes_a_leader(pair):
    waiter = Waiter(pair)
    wait_until(waiter.leads)

    assert pair.in_reactor(pair.channel.read_rest) is False
    wait_until(lambda: pair.in_reactor(pair.channel.read_rest))

    assert waiter.ended()
    assert type(waiter.outcome.error) is WorkerDied


def test_all_that_a_dead_worker_left_is_read():
    pair = Pair(watched=False)
    queues = [pair.send() for _ in range(3)]
    for number in range(3):
        pair.peer.answer(number)

    assert pair.in_reactor(pair.channel.read_rest) is True

    assert [queue.get_nowait() for queue in queues] == [0, 1, 2]
    pair.close()


def test_nothing_is_written_behind_the_end(pair):
    pair.in_reactor(pair.channel.close)

    pair.send(1)

    assert len(pair.session.unsent) == 2
    assert pair.peer.frames(wire.CALL) == []


def test_an_abandoned_one_has_closed_its_socket():
    before = open_descriptors()
    ours, theirs = socket.socketpair()
    channel = Channel(program.current().reactor, ours, NotedSession())

    channel.abandon()
    channel.abandon()
    theirs.close()

    assert open_descriptors() == before
    assert ours.fileno() == -1


# Interrupts.


def test_a_lead_whose_holder_is_gone_is_freed_by_a_tick():
    pair = Pair(watched=False)
    pair.channel._lead["who"] = frame_that_has_returned()
    queue = pair.send()
    pair.peer.answer(42)
    assert pair.in_reactor(pair.channel.read) is False

    pair.in_reactor(pair.channel.tick)

    assert queue.get(timeout=LIMIT) == 42
    pair.close()


def frame_that_has_returned():
    return sys._getframe()


def test_a_lead_that_is_held_is_not_freed_by_a_tick(pair):
    waiter = Waiter(pair)
    wait_until(waiter.leads)

    pair.in_reactor(pair.channel.tick)

    assert waiter.leads()
    pair.peer.answer(1)
    assert waiter.ended()


def test_a_tick_handles_what_an_interrupt_left_read_and_not_handled():
    pair = Pair(watched=False)
    queue = pair.send()
    pair.session.decoder.chunks.append(packed(1, 42))

    pair.in_reactor(pair.channel.tick)

    assert queue.get_nowait() == 42
    pair.close()


def test_a_tick_that_finds_a_broken_frame_ends_the_reading():
    pair = Pair(watched=False)
    pair.send()
    pair.session.decoder.chunks.append(packed(7, 42))

    pair.in_reactor(pair.channel.tick)

    wait_until(lambda: pair.owner.overs == 1)
    assert pair.channel.broken is not None
    pair.close()


def test_an_interrupt_anywhere_in_a_call_harms_no_other_call():
    for point in itertools.count():  # noqa: B007
        pair = Pair(watched=False)
        queue = SimpleQueue()
        put(pair.session, 1, queue)
        answered = False
        with interrupt_at(point, channel_module) as interrupt:
            try:
                pair.channel.flush()
                pair.peer.answer("first")
                answered = True
                assert pair.channel.wait(queue) == "first"
            except Interrupt:
                pass
        pair.in_reactor(pair.channel.tick)
        if not answered:
            pair.peer.answer("first")
        waiter = Waiter(pair)
        pair.peer.answer("second")
        assert wait_for(pair, waiter) == "second"
        assert pair.session.outstanding() == 0
        assert not pair.channel._lead
        pair.close()
        if not interrupt.raised:
            break

    # 3.12 tells no opcodes of a frame whose tracing is set in its call event.
    assert point > 20 or sys.version_info[:2] == (3, 12)


def wait_for(pair, waiter):
    """Return the outcome; the reactor ticks, as it does while calls wait."""

    def ended():
        pair.in_reactor(pair.channel.tick)
        return not waiter.is_alive()

    wait_until(ended, LIMIT)
    return waiter.outcome


def test_a_call_that_does_not_fit_the_socket_is_sent_as_the_peer_reads():
    pair = Pair(watched=False)
    pair.channel.flush()  # the greetings are out of the way: it goes the short one
    body = pickle.dumps((bytes(4 << 20),))
    results = []

    def call():
        results.append(pair.channel.exchange(body, SimpleQueue()))

    thread = threading.Thread(target=call)
    thread.start()
    (frame,) = pair.peer.frames(wire.CALL)
    pair.peer.answer(7)
    thread.join(LIMIT)

    assert len(frame.body) == len(body)
    assert results == [7]
    pair.close()


def test_calls_behind_a_full_socket_cost_no_attempt_each(pair):
    class Counting:
        def __init__(self, sock):
            self.sock, self.count = sock, 0

        def send(self, data, flags):
            self.count += 1
            return self.sock.send(data, flags)

    outbox = pair.channel._outbox
    outbox._sock = counting = Counting(outbox._sock)
    body = pickle.dumps((bytes(1 << 20),))
    pair.session.unsent.extend((body, SimpleQueue()))
    pair.channel.flush()
    assert pair.session.blocked
    before, queues = counting.count, [SimpleQueue() for _ in range(2000)]

    for queue in queues:
        pair.session.unsent.extend((1, queue))
        if len(pair.session.unsent) >= pair.session.gather:
            pair.channel.flush()

    assert counting.count - before < 10
    assert sum(frame.count for frame in pair.peer.frames(wire.CALL, 5)) == 2001
    assert not pair.session.blocked
