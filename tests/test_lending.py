"""Unit: sessions that give calls back when their worker has died."""

import contextlib
import itertools
import sys
from _queue import SimpleQueue
from collections import deque
from functools import partial

import pytest

from forkrpc import WorkerDied, atomic, lending, wire
from forkrpc import session as session_module
from forkrpc.awaiter import Awaiter
from forkrpc.death import Death
from forkrpc.entries import Definition
from forkrpc.items import Items
from forkrpc.lending import Lending, LendingOverlapping
from forkrpc.retrying import retrying
from forkrpc.serialisers import codec
from test_session import arrive, packed


class Future(Awaiter):
    def __init__(self):
        self.told = []

    def settle(self, outcome):
        self.told.append(outcome)


@pytest.fixture(params=[Lending, LendingOverlapping])
def session(request):
    made = request.param("m.f", wire.LIMIT)
    made.use(codec("pickle", made.define))
    made.on_error = partial(pytest.fail, "nobody has a callback that failed")
    made.returned = []
    made.take_back = made.returned.extend
    made.again = lambda target, death, call_id: None
    made.varied = True
    return made


def send(session, *pairs):
    session.unsent.extend(part for pair in pairs for part in pair)
    frames = deque()
    while session.unsent or session.staged:
        session.take(frames)
    return frames


def died(begun):
    return Death("m.f", 7, -9, begun=begun)


def test_calls_that_had_not_begun_go_back_in_their_order(session):
    first, second = Future(), Future()
    send(session, (1, first), (2, second), (3, print))
    session.unsent.extend((4, print))

    assert session.fail_all(died(1)) == 1

    assert session.returned == [2, second, 3, print, 4, print]
    assert second.call_id == 0
    assert session.outstanding() == 0
    (_, failure) = session.futures.pop()
    assert isinstance(failure.error, WorkerDied)
    assert failure.error.started is True


def test_what_has_an_answer_does_not_go_back(session):
    seen = []
    send(session, (1, seen.append), (2, seen.append), (3, seen.append))
    arrive(session, wire.GREETING, packed(1, 10, 20))

    session.fail_all(died(2))

    assert session.returned[::2] == [3]


def test_it_keeps_nothing_of_calls_that_were_answered(session):
    arrive(session, wire.GREETING)
    for number in range(1, 300):
        send(session, (number, print))
        arrive(session, packed(number, None))

    assert len(session._kept) <= 65


def test_nobody_knows_whether_it_had_begun(session):
    queue = SimpleQueue()
    send(session, (1, queue))

    assert session.fail_all(died(None)) == 1

    assert session.returned == []
    assert queue.get_nowait().error.started is None


def test_a_call_that_may_be_made_again_goes_back(session):
    future = Future()
    session.again = lambda target, death, call_id: retrying(target, 0)
    send(session, (1, future))

    assert session.fail_all(died(1)) == 0

    call, stand_in = session.returned
    assert call == 1
    assert stand_in is future.stand_in


def test_definitions_and_withdrawn_calls_do_not_go_back(session):
    future = Future()
    session.unsent.extend((Definition(b""), None, 1, future, 2, print))
    session.withdrawn.add(future)

    session.fail_all(died(0))

    assert session.returned == [2, print]
    assert session.withdrawn.count == 0


def test_a_stream_that_had_not_begun_goes_back_but_no_closed_one(session):
    body = session.codec.dump(())
    from forkrpc.entries import Streamed

    stream, closed = Items(), Items()
    send(session, (Streamed(body), stream), (Streamed(body), closed))
    closed.closed = True

    session.fail_all(died(0))

    assert session.returned[1::2] == [stream]
    assert stream.call_id == 0
    assert stream.call_id not in session.streams.under_way


def test_it_knows_what_was_sent_and_has_no_answer(session):
    future, other = Future(), Future()
    send(session, (1, future))

    assert session.has(future)
    assert not session.has(other)


@contextlib.contextmanager
def before_each_bytecode(act):
    """Call *act* there, in the code of sessions, as another thread may run there."""
    files = {module.__file__ for module in (lending, session_module)}

    def trace(frame, event, _argument):
        if frame.f_code.co_filename not in files:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            act()
        return trace

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # 3.12 looks at it here, once
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def enter(session, number):
    """Do as `Lane.send` does."""
    items = (print, session.last[0] + 1, number)
    atomic.drop(map(deque.append, session.registers, items))


@pytest.mark.parametrize("come", [lambda s, n: s.unsent.extend((n, print)), enter])
def test_calls_that_come_meanwhile_are_not_lost(come):
    """A thread that has found a worker may come when that has just ended."""
    session = Lending("m.f", wire.LIMIT)
    session.use(codec("pickle", session.define))
    returned = []
    session.take_back = returned.extend
    session.again = lambda target, death, call_id: None
    numbers = itertools.count(1)

    come(session, next(numbers))
    with before_each_bytecode(lambda: come(session, next(numbers))):
        session.fail_all(died(0))
    session.fail_all(died(0))

    assert len(returned) > 100
    assert sorted(returned[::2]) == list(range(1, next(numbers)))
