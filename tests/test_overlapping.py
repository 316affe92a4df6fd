"""Unit: answers that come in any order; the worker is a fake that is handed bytes."""

import pickle
import random
from _queue import SimpleQueue
from collections import deque

import pytest

from forkrpc import ProtocolError, RemoteError, WorkerDied, outcome, wire
from forkrpc import overlapping as overlapping_module
from forkrpc.awaiter import CANCELLED, Awaiter
from forkrpc.death import Death
from forkrpc.decoder import Decoder
from forkrpc.loading import Failure
from forkrpc.overlapping import KILL_GRACE, Overlapping
from forkrpc.progress import OLDEST
from forkrpc.serialisers import codec
from interrupts import Interrupt, interrupt_everywhere


class Future(Awaiter):
    def __init__(self):
        self.told = []

    def settle(self, outcome):
        self.told.append(outcome)


class Life:
    """What a session asks of the process."""

    def __init__(self, begun=0, held=()):
        self._begun, self._held = begun, held

    def begun_word(self):
        return lambda: self._begun

    def scattered(self):
        return list(self._held)


def session_with(*targets):
    """Return a session whose calls of these targets were sent."""
    session = Overlapping("m.f", wire.LIMIT)
    session.use(codec("pickle", session.define))
    session.on_error = print
    session.varied = True
    for number, target in enumerate(targets):
        session.unsent.extend((number, target))
    send(session)
    session.decoder = Decoder(greeted=True)
    return session


def send(session):
    frames = deque()
    while session.unsent or session.staged:
        session.take(frames)
    return frames


def receive(session, data):
    pieces = iter([data])
    session.decoder.receive(lambda _: next(pieces))


def handle(session, *frames):
    receive(session, b"".join(frames))
    session.handle()


def packed(ids, values):
    flags, first, table = wire.scatter(ids)
    body = table + pickle.dumps(values)
    return wire.encode(
        wire.RESULT, body, flags=flags | wire.PACKED, count=len(ids), first=first
    )


def bodies(ids, values):
    flags, first, table = wire.scatter(ids)
    several = [pickle.dumps((value,)) for value in values]
    return wire.encode_bodies(wire.RESULT, several, flags=flags, first=first, ids=table)


def error(call_id, exception):
    packed_error = outcome.pack(exception, lambda value: pickle.dumps((value,)))
    return wire.encode(wire.ERROR, pickle.dumps(packed_error), first=call_id)


def settled(session):
    """Settle futures as the reactor does."""
    while session.futures:
        future, result = session.futures.popleft()
        future.settle(result)


@pytest.mark.parametrize("encode", [packed, bodies])
def test_answers_find_their_calls_in_any_order(encode):
    futures = [Future() for _ in range(100)]
    session = session_with(*futures)
    ids = list(range(1, 101))
    random.Random(1).shuffle(ids)
    for at in range(0, 100, 7):
        part = ids[at : at + 7]
        handle(session, encode(part, [-call_id for call_id in part]))
    settled(session)

    assert [future.told for future in futures] == [[-n] for n in range(1, 101)]
    assert session.outstanding() == 0


def test_callbacks_are_called_in_the_order_of_answers():
    told = []
    session = session_with(*[told.append] * 5)
    handle(session, packed([3, 1], ["c", "a"]), bodies([2], ["b"]))
    for functions, arguments in session.ready:
        for function, argument in zip(functions, arguments, strict=True):
            function(argument)

    assert told == ["c", "a", "b"]
    assert list(session.pending) == [4, 5]
    assert session.head() == 4


def test_each_way_to_wait_gets_its_answer():
    queue, future, told = SimpleQueue(), Future(), []
    session = session_with(queue, future, told.append)
    handle(session, packed([3, 2, 1], [3, 2, 1]))
    settled(session)

    assert queue.get_nowait() == 1
    assert future.told == [2]
    assert list(session.ready) == [([told.append], [3])]


def test_an_exception_names_its_call():
    future = Future()
    session = session_with(Future(), future)
    handle(session, error(2, ValueError("text")))
    settled(session)

    (failure,) = future.told
    assert isinstance(failure, Failure)
    assert type(failure.error) is ValueError
    assert failure.error.call == "call 2 of m.f"


def test_a_result_that_does_not_load_costs_its_own_call():
    futures = [Future(), Future()]
    session = session_with(*futures)
    flags, first, table = wire.scatter([2, 1])
    several = [b"garbage", pickle.dumps((1,))]
    handle(
        session,
        wire.encode_bodies(wire.RESULT, several, flags=flags, first=first, ids=table),
    )
    settled(session)

    assert futures[0].told == [1]
    assert "call 2" in futures[1].told[0].error.call


@pytest.mark.parametrize(
    "frame",
    [
        packed([3], [0]),
        packed([1, 2, 3], [0] * 3),
        packed([0], [0]),
        packed([2, 2], [0, 0]),
        packed([2, 1, 2], [0, 0, 0]),
        wire.encode(wire.CANCEL, first=9),
        wire.encode(wire.CANCEL, first=1),  # that of a callback
        wire.encode(wire.RESULT, b"x", flags=wire.SCATTERED, count=2, first=1),
        packed([2, 1], [0]),
        wire.encode(wire.STARTED),
    ],
)
def test_an_answer_out_of_place_breaks_the_protocol(frame):
    session = session_with(print, Future())
    with pytest.raises(ProtocolError):
        handle(session, frame)
    assert session.outstanding() == 2


def test_an_answer_that_comes_twice_breaks_the_protocol():
    session = session_with(Future())
    handle(session, packed([1], [0]))
    with pytest.raises(ProtocolError):
        handle(session, packed([1], [0]))


# Cancelling.


def test_a_call_that_was_sent_is_cancelled_in_the_worker():
    future = Future()
    session = session_with(Future(), future)

    frame = session.cancelling(future)
    decoder = Decoder(greeted=True)
    pieces = iter([frame])
    decoder.receive(lambda _: next(pieces))
    assert [(each.kind, each.first) for each in decoder.frames] == [(wire.CANCEL, 2)]
    settled(session)
    assert future.told == [CANCELLED]
    assert session.outstanding() == 2  # until the worker has told

    handle(session, wire.encode(wire.CANCEL, first=2))
    settled(session)
    assert future.told == [CANCELLED, CANCELLED]
    assert session.outstanding() == 1


def test_a_call_that_was_answered_is_not_cancelled():
    future = Future()
    session = session_with(future)
    handle(session, packed([1], [0]))

    assert session.cancelling(future) is None


def test_a_withdrawn_call_is_not_sent():
    session, future = session_with(), Future()
    session.unsent.extend((1, future, 2, print))
    assert session.withdrawn.add(future)
    send(session)

    assert list(session.pending.values()) == [print]
    assert session.outstanding() == 1


# The page, and the end.


def test_results_that_a_stuck_worker_holds_are_read_from_its_page():
    futures = [Future() for _ in range(4)]
    session = session_with(*futures)
    held = [(3, False, "c"), (2, True, pickle.dumps(("b",))), (9, False, "other")]
    session.look(Life(held=held))
    session.look(Life(held=held))
    settled(session)
    assert [future.told for future in futures] == [[], ["b"], ["c"], []]

    handle(session, bodies([3, 4, 2], ["c", "d", "b"]))  # when it goes on
    settled(session)
    assert [future.told for future in futures] == [[], ["b"], ["c"], ["d"]]
    assert session.outstanding() == 1
    with pytest.raises(ProtocolError):
        handle(session, bodies([3], ["c"]))


def test_a_death_fails_each_call_and_tells_whether_it_had_begun():
    queue, futures = SimpleQueue(), [Future() for _ in range(3)]
    session = session_with(queue, *futures, print)
    handle(session, packed([2], [0]))
    session.unsent.extend((0, last := Future()))
    failed = session.fail_all(Death("m.f", 1, -9, begun=3))
    settled(session)

    assert failed == 5
    assert session.outstanding() == 0
    errors = [queue.get_nowait().error] + [
        future.told[0].error for future in (*futures[1:], last)
    ]
    assert all(isinstance(each, WorkerDied) for each in errors)
    assert [each.started for each in errors] == [True, True, False, False]
    assert [each.call for each in errors] == [
        f"call {number} of m.f" for number in (1, 3, 4, 6)
    ]
    assert futures[0].told == [0]


def test_the_worker_is_ahead_by_what_it_has_not_begun():
    session = session_with(*[print] * 10)
    assert session.gather == 2 * 10

    session.follow(Life(begun=3))
    assert session.gather == 2 * 7
    session.follow(Life(begun=12))
    assert session.gather == 2
    assert not session.must_send()
    session.unsent.extend((1, print))
    assert session.must_send()


def test_once_the_worker_has_ended_each_call_is_looked_after():
    class Ended(Life):
        def begun_word(self):
            def gone():
                raise ValueError

            return gone

    session = session_with(*[print] * 10)
    session.follow(Ended())
    session.unsent.extend((1, print))

    assert session.gather == 0
    assert session.must_send()


def test_a_call_with_a_limit_is_the_one_that_the_page_names():
    session = session_with(print, print)
    waits, word, grace = session.limits()
    handle(session, packed([1], [0]))

    assert (waits(1), waits(2), waits(3)) == (False, True, False)
    assert (word, grace) == (OLDEST, KILL_GRACE)


def test_an_interrupt_anywhere_settles_each_call_once():
    frame = (
        packed([3, 1], [3, 1]) + bodies([2], [2]) + error(4, RemoteError("", "", ""))
    )

    def attempt(interrupted):
        futures = [Future() for _ in range(4)]
        session = session_with(*futures)
        receive(session, frame)
        try:
            with interrupted as raised:
                session.handle()
        except Interrupt:
            session.handle()
        settled(session)
        assert [len(future.told) for future in futures] == [1] * 4
        assert [future.told[0] for future in futures[:3]] == [1, 2, 3]
        assert session.outstanding() == 0
        return raised

    assert interrupt_everywhere(attempt, overlapping_module) > 50


def test_each_call_is_looked_after_when_no_more_are_taken_or_the_socket_is_full():
    session = session_with(*[print] * 10)
    session.take_no_more()
    assert session.gather == 0

    session.blocked = True
    session.unsent.extend((1, print))
    assert session.gather > 1 << 60
    assert not session.must_send()
