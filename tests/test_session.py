"""Unit: pairing answers with calls; the worker is a fake that is handed bytes."""

import pickle
from _queue import SimpleQueue
from collections import deque
from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

import faulty
import interrupts
from forkrpc import (
    CallTimeout,
    ProtocolError,
    RemoteError,
    SerialiserError,
    WorkerDied,
    classes,
    outcome,
    wire,
)
from forkrpc import session as session_module
from forkrpc.awaiter import Awaiter
from forkrpc.death import Death
from forkrpc.decoder import Decoder
from forkrpc.entries import MOST_BYTES, Definition, Keywords
from forkrpc.loading import Failure
from forkrpc.serialisers import codec
from forkrpc.session import MOST_CALLS, Session
from interrupts import interrupt_everywhere

NAME = "m.f"
GARBAGE = b"\x80\x05garbage"


class Future(Awaiter):
    """Notes what it is told."""

    def __init__(self):
        self.told = []

    def settle(self, outcome):
        self.told.append(outcome)


class Worker:
    """What the worker's end would make of the frames, and of its own answers."""

    def __init__(self):
        self.frames = []
        self.calls = deque()  # (id, args, kwargs)
        self._decoder = Decoder(greeted=True)

    def receive(self, frames):
        while frames:
            data, handles = frames.popleft()
            assert handles == ()
            pieces = iter([data])
            self._decoder.receive(lambda _: next(pieces))  # noqa: B023
        while self._decoder.frames:
            self._note(self._decoder.frames.popleft())

    def _note(self, frame):
        self.frames.append(frame)
        if frame.kind == wire.DEFINE:
            return
        assert frame.kind == wire.CALL
        if frame.flags & wire.ONES:
            several = [(value,) for value in pickle.loads(frame.body)]
        elif frame.flags & wire.PACKED:
            several = pickle.loads(frame.body)
        else:
            several = [pickle.loads(body) for body in frame.bodies()]
        assert len(several) == frame.count
        for call_id, args in enumerate(several, frame.first):
            keywords = frame.flags & wire.KEYWORDS
            self.calls.append(
                (call_id, args[:-1], args[-1]) if keywords else (call_id, args, {})
            )


def packed(first, *values):
    """Return the frame of results that are numbers."""
    return wire.encode(
        wire.RESULT,
        pickle.dumps(list(values)),
        flags=wire.PACKED,
        count=len(values),
        first=first,
    )


def bodies(first, *values):
    """Return the frame of results that are serialised one by one."""
    several = [pickle.dumps((value,)) for value in values]
    return wire.encode_bodies(wire.RESULT, several, first=first)


def error_body(error, serialiser="pickle"):
    codec_ = codec(serialiser, lambda definition: None)
    if codec_.trusted:
        return pickle.dumps(outcome.pack(error, lambda chain: codec_.dump((chain,))))
    return codec("data", lambda definition: None).dump((outcome.pack(error, None),))


def errors(first, *several):
    made = [error_body(error) for error in several]
    return wire.encode_bodies(wire.ERROR, made, first=first)


def arrive(session, *frames):
    """Hand *frames* to the session as if they had been read."""
    data = b"".join(frames)
    session.decoder.chunks.append(data)
    session.decoder.parse()
    session.handle()


def new_session(serialiser="pickle"):
    session = Session(NAME, wire.LIMIT)
    session.use(codec(serialiser, session.define))
    session.decoder.chunks.append(wire.GREETING)
    session.decoder.parse()
    session.on_error = session.reported = [].append
    return session


@pytest.fixture
def session():
    return new_session()


def reported(session):
    """Return the errors that `on_error` was called with."""
    return session.reported.__self__


def take_all(session):
    """Return the frames of all calls that are unsent, decoded."""
    worker, frames = Worker(), deque()
    while session.unsent or session.staged:
        session.take(frames)
    worker.receive(frames)
    return worker


def call(session, *args, count=1):
    """Make calls that are sent, with a queue each; return the queues."""
    queues = [SimpleQueue() for _ in range(count)]
    for queue in queues:
        put(session, *args, queue)
    take_all(session)
    return queues


def put(session, *args_and_target):
    """Queue a call whose arguments wait as they are."""
    *args, target = args_and_target
    session.unsent.extend((tuple(args), target))


def eager(target, *args, **kwargs):
    values = (*args, kwargs) if kwargs else args
    body = pickle.dumps(values)
    return (Keywords(body) if kwargs else body), target


def run_callbacks(session):
    while session.ready:
        for function, argument in zip(*session.ready.popleft(), strict=True):
            function(argument)


def settle_futures(session):
    while session.futures:
        future, result = session.futures.popleft()
        future.settle(result)


def taken_from(queue):
    """Return what is in *queue*, which is one outcome."""
    assert queue.qsize() == 1
    return queue.get_nowait()


def died(begun):
    return Death(NAME, 7, -9, begun=begun)


# Whatever is mixed with whatever.


class AnyMix(RuleBasedStateMachine):
    """Calls, answers, and a page, in any order; every call settles exactly once."""

    @initialize()
    def start(self):
        self.session = new_session()
        self.worker = Worker()
        self.frames = deque()
        self.targets = {}  # call id: its target
        self.arguments = {}  # call id: (args, kwargs)
        self.expected = {}  # call id: what it is answered with
        self.outcomes = {}  # call id: what its callback was called with
        self.order = []  # ids, as callbacks and errors came
        self.held = []  # (id, is a body, value) in the page, not yet in a frame
        self.answers = deque()  # frames on their way
        self.answered = 0  # id of the last call whose frame has arrived or been read
        self.framed = 0  # id of the last call whose answer is in a frame
        self.begun = 0
        self.alive = True
        self.session.on_error = self._failed

    def _callback(self, call_id, result):
        self.order.append(call_id)
        self.outcomes.setdefault(call_id, []).append(result)

    def _failed(self, error):
        call_id = int(error.call.split()[1])
        self._callback(call_id, Failure(error))

    def _target(self, kind, call_id):
        if kind == "queue":
            return SimpleQueue()
        if kind == "future":
            return Future()
        if kind == "partial":
            return partial(self._callback, call_id)
        return lambda result: self._callback(call_id, result)

    @precondition(lambda self: self.alive)
    @rule(
        kinds=st.lists(
            st.tuples(
                st.sampled_from(
                    ["number", "scalars", "eager", "keywords", "definition"]
                ),
                st.sampled_from(["queue", "future", "partial", "function"]),
            ),
            min_size=1,
            max_size=12,
        )
    )
    def make(self, kinds):
        for kind, target_kind in kinds:
            if kind == "definition":
                self.session.define(b"definition")
                continue
            call_id = len(self.targets) + 1
            target = self._target(target_kind, call_id)
            args, kwargs = (call_id, "text"), {}
            if kind == "number":
                args = (call_id,)
                self.session.unsent.extend((call_id, target))
            elif kind == "scalars":
                put(self.session, *args, target)
            elif kind == "eager":
                args = (call_id, [call_id])
                self.session.unsent.extend(eager(target, *args))
            else:
                kwargs = {"key": call_id}
                self.session.unsent.extend(eager(target, *args, **kwargs))
            self.targets[call_id] = target
            self.arguments[call_id] = args, kwargs

    @precondition(
        lambda self: self.alive and (self.session.unsent or self.session.staged)
    )
    @rule()
    def take(self):
        self.session.take(self.frames)

    @precondition(lambda self: self.alive)
    @rule()
    def write(self):
        self.worker.receive(self.frames)

    @precondition(lambda self: self.alive and self.worker.calls)
    @rule(
        kinds=st.lists(
            st.sampled_from(["number", "number", "body", "garbage", "error", "lost"]),
            min_size=1,
            max_size=12,
        )
    )
    def execute(self, kinds):
        for kind in kinds[: len(self.worker.calls)]:
            call_id, args, kwargs = self.worker.calls.popleft()
            assert (args, kwargs) == self.arguments[call_id]
            assert call_id == self.begun + 1
            self.begun = call_id
            self.expected[call_id] = kind
            if kind in ("error", "lost"):
                self.frame()
                body = error_body(ValueError(call_id)) if kind == "error" else GARBAGE
                self.answers.append(wire.encode(wire.ERROR, body, first=call_id))
                self.framed = call_id
            elif kind == "number":
                self.held.append((call_id, False, 10 * call_id))
            else:
                body = pickle.dumps(([call_id],)) if kind == "body" else GARBAGE
                self.held.append((call_id, True, body))

    @precondition(lambda self: self.alive)
    @rule()
    def frame(self):
        """Make frames of what is held, as long as it is of one kind."""
        while self.held:
            first, is_body, _ = self.held[0]
            run = []
            while self.held and self.held[0][1] is is_body:
                run.append(self.held.pop(0)[2])
            if is_body:
                self.answers.append(wire.encode_bodies(wire.RESULT, run, first=first))
            else:
                self.answers.append(packed(first, *run))
            self.framed = first - 1 + len(run)

    @precondition(lambda self: self.alive and self.answers)
    @rule(count=st.integers(1, 5))
    def deliver(self, count):
        some = [self.answers.popleft() for _ in range(min(count, len(self.answers)))]
        arrive(self.session, *some)
        if not self.answers:
            self.answered = max(self.answered, self.framed)

    @precondition(lambda self: self.alive and self.held and not self.answers)
    @rule()
    def recover(self):
        """The page shows what is held, from the oldest call without an answer on."""
        kept = [
            (is_body, value) for n, is_body, value in self.held if n > self.answered
        ]
        if kept:
            self.session.recover(kept)
            self.answered = self.begun

    @rule()
    def tell(self):
        run_callbacks(self.session)
        settle_futures(self.session)

    @precondition(lambda self: self.alive)
    @rule()
    def die(self):
        self.alive = False
        left = self.session.outstanding()
        self.settled = len(self.targets) - self._without_an_answer()

        lost = self.session.fail_all(died(self.begun))

        assert lost <= left  # which counts definitions too
        assert lost == len(self.targets) - self.settled
        assert self.session.outstanding() == 0

    def _without_an_answer(self):
        waiting = [*self.session.staged, *self.session.unsent]
        definitions = sum(type(each) is Definition for each in waiting)
        return self.session.outstanding() - definitions

    @invariant()
    def the_head_is_the_oldest_call_that_is_sent_and_has_no_answer(self):
        session = self.session
        answered = len(self.targets) - self._without_an_answer()
        if self.alive:
            assert session.head() == (answered + 1 if session.pending else 0)

    def teardown(self):
        if not hasattr(self, "session"):
            return
        if self.alive:
            while self.session.unsent or self.session.staged:
                self.take()
            self.write()
            while self.worker.calls:
                self.execute(["number", "body"])
            self.frame()
            while self.answers:
                self.deliver(1)
            self.settled = len(self.targets)
        self.tell()
        assert self.session.outstanding() == 0
        assert self.order == sorted(self.order)
        for call_id, target in self.targets.items():
            self._check(call_id, target)

    def _check(self, call_id, target):
        if isinstance(target, SimpleQueue):
            told = [taken_from(target)]
        elif isinstance(target, Future):
            told = target.told
        else:
            told = self.outcomes.get(call_id, [])
            if call_id > self.settled:
                assert told == []  # one `on_error` for all of them
                return
        assert len(told) == 1
        if call_id > self.settled:
            error = told[0].error
            assert type(error) is WorkerDied
            assert error.started is (call_id <= self.begun)
            assert error.call == f"call {call_id} of {NAME}"
        else:
            self._check_answer(call_id, told[0])

    def _check_answer(self, call_id, told):
        kind = self.expected[call_id]
        if kind == "number":
            assert told == 10 * call_id
        elif kind == "body":
            assert told == [call_id]
        elif kind == "error":
            assert type(told.error) is ValueError
            assert told.error.args == (call_id,)
            assert told.error.call == f"call {call_id} of {NAME}"
        else:
            assert type(told.error) is SerialiserError
            assert told.error.call == f"call {call_id} of {NAME}"


TestAnyMix = AnyMix.TestCase
TestAnyMix.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


# Sending.


def test_calls_of_scalars_share_one_frame_and_one_pickle(session):
    for number in range(3):
        put(session, number, "text", print)

    (frame,) = take_all(session).frames

    assert (frame.flags, frame.count, frame.first) == (wire.PACKED, 3, 1)
    assert pickle.loads(frame.body) == [(0, "text"), (1, "text"), (2, "text")]
    assert session.sent == session.outstanding() == 3


def test_a_call_without_arguments_is_one_too(session):
    put(session, print)

    assert list(take_all(session).calls) == [(1, (), {})]


def test_a_frame_takes_no_more_than_so_many_calls(session):
    for number in range(MOST_CALLS + 1):
        put(session, number, print)

    worker = take_all(session)

    assert [frame.count for frame in worker.frames] == [MOST_CALLS, 1]
    assert [call_id for call_id, _, _ in worker.calls] == [*range(1, MOST_CALLS + 2)]


def test_calls_serialised_before_share_a_frame_up_to_so_many_bytes(session):
    for _ in range(3):
        session.unsent.extend(eager(print, bytes(MOST_BYTES // 2 - 100)))

    worker = take_all(session)

    assert [frame.count for frame in worker.frames] == [2, 1]


def test_a_large_call_has_a_frame_of_its_own(session):
    session.unsent.extend(eager(print, 1))
    session.unsent.extend(eager(print, bytes(MOST_BYTES)))

    assert [frame.count for frame in take_all(session).frames] == [1, 1]


def test_keywords_do_not_share_a_frame_with_what_has_none(session):
    session.unsent.extend(eager(print, 1))
    session.unsent.extend(eager(print, 2, key="value"))
    session.unsent.extend(eager(print, 3))

    worker = take_all(session)

    assert [frame.flags for frame in worker.frames] == [0, wire.KEYWORDS, 0]
    assert list(worker.calls)[1] == (2, (2,), {"key": "value"})


def test_a_definition_leaves_before_the_call_that_needs_it_and_has_no_number(session):
    put(session, 1, print)
    session.define(b"definition")
    session.unsent.extend(eager(print, 2))

    worker = take_all(session)

    kinds = [(frame.kind, frame.first) for frame in worker.frames]
    assert kinds == [(wire.CALL, 1), (wire.DEFINE, 0), (wire.CALL, 2)]
    assert len(session.pending) == 2


# Answers.


def test_a_queue_gets_its_outcome_at_once(session):
    (queue,) = call(session)

    arrive(session, packed(1, 42))

    assert taken_from(queue) == 42


def test_a_callback_is_made_ready_with_its_result(session):
    results = []
    put(session, results.append)
    take_all(session)

    arrive(session, packed(1, 42))

    assert results == []
    run_callbacks(session)
    assert results == [42]


def test_a_future_is_kept_for_the_thread_that_settles(session):
    future = Future()
    put(session, future)
    take_all(session)

    arrive(session, packed(1, 42))

    assert list(session.futures) == [(future, 42)]


def test_a_tuple_is_one_result(session):
    (queue,) = call(session)

    arrive(session, bodies(1, (1, 2)))

    assert taken_from(queue) == (1, 2)


def test_an_exception_of_the_function_has_the_call_and_its_traceback(session):
    queues = call(session, count=2)

    arrive(session, errors(1, KeyError("one"), ValueError("two")))

    one, two = (taken_from(queue).error for queue in queues)
    assert (type(one), type(two)) == (KeyError, ValueError)
    assert two.call == "call 2 of m.f"
    assert isinstance(two.__cause__, outcome.RemoteTraceback)


def test_an_exception_that_does_not_take_the_call_is_handed_over_all_the_same(session):
    (queue,) = call(session)

    arrive(session, errors(1, Stubborn("text")))

    assert type(taken_from(queue).error) is Stubborn


class Stubborn(Exception):
    def __setattr__(self, name, value):
        if name == "call":
            raise AttributeError(name)
        super().__setattr__(name, value)


def test_a_failed_call_with_a_callback_is_told_to_on_error(session):
    put(session, print)
    take_all(session)

    arrive(session, errors(1, KeyError("key")))
    run_callbacks(session)

    (error,) = reported(session)
    assert type(error) is KeyError
    assert error.call == "call 1 of m.f"


def test_an_exception_that_cannot_be_rebuilt_is_a_remote_error(session):
    (queue,) = call(session)

    arrive(session, errors(1, faulty.TwoArguments(1, 2)))

    error = taken_from(queue).error
    assert type(error) is RemoteError
    assert error.type_name == "faulty.TwoArguments"


def test_a_plain_serialiser_rebuilds_builtin_exceptions():
    session = new_session("json")
    queue = SimpleQueue()
    session.unsent.extend((b"[]", queue))
    take_frames(session)
    body = error_body(KeyError("key"), "json")

    arrive(session, wire.encode(wire.ERROR, body, first=1))

    error = taken_from(queue).error
    assert type(error) is KeyError
    assert error.args == ("key",)


def take_frames(session):
    frames = deque()
    while session.unsent or session.staged:
        session.take(frames)
    return frames


# What cannot be loaded.


def test_a_result_that_cannot_be_loaded_costs_its_own_call_only(session):
    queues = call(session, count=3)
    several = [pickle.dumps((1,)), GARBAGE, pickle.dumps((3,))]

    arrive(session, wire.encode_bodies(wire.RESULT, several, first=1))

    one, two, three = map(taken_from, queues)
    assert (one, three) == (1, 3)
    assert type(two.error) is SerialiserError
    assert str(two.error).startswith("the result of m.f cannot be loaded: Unpickling")
    assert two.error.call == "call 2 of m.f"


@pytest.mark.parametrize("deed", ["raise", "exit", "recurse"])
def test_a_result_may_raise_anything_while_it_is_loaded(session, deed):
    one, two = call(session, count=2)
    several = [pickle.dumps((faulty.OnLoad(deed),)), pickle.dumps((2,))]

    arrive(session, wire.encode_bodies(wire.RESULT, several, first=1))

    assert type(taken_from(one).error) is SerialiserError
    assert taken_from(two) == 2


def test_an_interrupt_while_a_result_is_loaded_leaves_the_frame_to_the_next(session):
    (queue,) = call(session)
    body = pickle.dumps((OnceInterrupted(),))
    due.append(True)

    with pytest.raises(KeyboardInterrupt):
        arrive(session, wire.encode(wire.RESULT, body, first=1))
    session.handle()

    assert taken_from(queue) == "loaded"


due = []


class OnceInterrupted:
    def __reduce__(self):
        return _load_once_interrupted, ()


def _load_once_interrupted():
    if due:
        due.pop()
        raise KeyboardInterrupt
    return "loaded"


def test_a_body_that_holds_two_results_costs_its_call(session):
    (queue,) = call(session)

    arrive(session, wire.encode(wire.RESULT, pickle.dumps((1, 2)), first=1))

    assert type(taken_from(queue).error) is SerialiserError


def test_an_exception_that_is_no_pickle_costs_its_call(session):
    (queue,) = call(session)

    arrive(session, wire.encode(wire.ERROR, GARBAGE, first=1))

    error = taken_from(queue).error
    assert str(error).startswith("the exception of m.f cannot be loaded")


# A worker that breaks the rules.


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (packed(2, 1), "call 1 was to be answered"),
        (packed(1, 1, 2, 3), "call 1 was to be answered"),
        (packed(0, 1), "call 1 was to be answered"),
        (bodies(2, [1]), "call 1 was to be answered"),
        (errors(2, KeyError()), "call 1 was to be answered"),
        (wire.encode(wire.RESULT, b"", count=2, first=1), "table of 2 lengths"),
        (
            wire.encode(wire.RESULT, pickle.dumps([1]), flags=1, count=2, first=1),
            "1 results in <frame",
        ),
        (
            wire.encode(wire.RESULT, pickle.dumps({1: 1}), flags=1, count=2, first=1),
            "0 results in <frame",
        ),
        (wire.encode(wire.CALL, first=1), "from a worker"),
        (wire.encode(wire.STARTED), "from a worker"),
    ],
    ids=[
        *("behind", "too-many", "before-all", "body-behind", "error-behind"),
        *("no-table", "one-for-two", "no-list", "a-call", "a-notice"),
    ],
)
def test_an_answer_that_fits_no_call_breaks_the_protocol(session, answer, text):
    queues = call(session, count=2)

    with pytest.raises(ProtocolError, match=text):
        arrive(session, answer)

    assert [queue.qsize() for queue in queues] == [0, 0]
    assert session.outstanding() == 2


@pytest.mark.parametrize(
    "body",
    [GARBAGE, pickle.dumps([]), pickle.dumps({}), pickle.dumps(7), b""],
    ids=["garbage", "empty-list", "dict", "number", "nothing"],
)
@pytest.mark.parametrize("target", ["queue", "future"])
def test_packed_results_that_are_none_break_the_protocol(session, body, target):
    put(session, SimpleQueue() if target == "queue" else Future())
    take_all(session)

    with pytest.raises(ProtocolError):
        arrive(session, wire.encode(wire.RESULT, body, flags=wire.PACKED, first=1))

    assert session.outstanding() == 1


def test_a_definition_that_does_not_load_breaks_the_protocol(session):
    with pytest.raises(ProtocolError):
        arrive(session, wire.encode(wire.DEFINE, GARBAGE))


def test_an_answer_without_any_call_breaks_the_protocol(session):
    with pytest.raises(ProtocolError, match="call 0 was to be answered"):
        arrive(session, packed(1, 1))


def test_a_second_answer_breaks_the_protocol(session):
    (queue,) = call(session)
    arrive(session, packed(1, 1))

    with pytest.raises(ProtocolError):
        arrive(session, packed(1, 1))

    assert taken_from(queue) == 1


def test_what_came_before_the_break_is_settled(session):
    one, two = call(session, count=2)

    with pytest.raises(ProtocolError):
        arrive(session, packed(1, "first"), packed(3, "wrong"))

    assert taken_from(one) == "first"
    assert two.empty()


# Results from the page.


def test_results_from_the_page_settle_the_oldest_calls(session):
    one, two, three = call(session, count=3)

    session.recover([(False, 1), (True, pickle.dumps(([2],)))])

    assert (taken_from(one), taken_from(two)) == (1, [2])
    assert (session.head(), session.outstanding()) == (3, 1)
    assert three.empty()


def test_a_frame_of_results_that_were_read_from_the_page_is_dropped(session):
    queues = call(session, count=2)
    session.recover([(False, 1), (False, 2)])

    arrive(session, packed(1, 1, 2))

    assert [taken_from(queue) for queue in queues] == [1, 2]
    assert not session.decoder.frames


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_frame_settles_what_was_not_read_from_the_page(session, count):
    queues = call(session, count=4)
    session.recover([(False, number) for number in range(1, count + 1)])

    arrive(session, packed(1, 1, 2, 3, 4))

    assert [taken_from(queue) for queue in queues] == [1, 2, 3, 4]


def test_a_result_in_the_page_that_cannot_be_loaded_costs_its_own_call(session):
    one, two = call(session, count=2)

    session.recover([(True, GARBAGE), (False, 2)])

    assert taken_from(one).error.call == "call 1 of m.f"
    assert taken_from(two) == 2


def test_a_frame_may_not_repeat_more_than_was_read_from_the_page(session):
    call(session, count=3)
    session.recover([(False, 1)])
    arrive(session, packed(1, 1, 2))

    with pytest.raises(ProtocolError):
        arrive(session, packed(2, 2))


# Other frames.


def test_an_event_is_ready_in_order_with_results(session):
    told = []
    session.on_event = lambda *args: told.append(args)
    put(session, lambda result: told.append(result))
    take_all(session)

    arrive(
        session,
        wire.encode(wire.EVENT, pickle.dumps(("before", 1))),
        packed(1, "result"),
        wire.encode(wire.EVENT, pickle.dumps(())),
    )
    run_callbacks(session)

    assert told == [("before", 1), "result", ()]


def test_what_a_worker_says_waits_with_events_and_results(session):
    told = []
    session.on_said = lambda frame: told.append((frame.kind, bytes(frame.body)))
    session.on_event = lambda *args: told.append(args)

    arrive(
        session,
        wire.encode(wire.OUTPUT, b"one", flags=wire.STDOUT, first=1)
        + wire.encode(wire.EVENT, pickle.dumps(("two",)))
        + wire.encode(wire.LOG, b"three", first=1),
    )

    assert told == []
    run_callbacks(session)
    assert told == [(wire.OUTPUT, b"one"), ("two",), (wire.LOG, b"three")]


def test_a_pipe_is_read_before_what_was_sent_behind_it_is_ready(session):
    told = []
    session.on_event = lambda *args: told.append(args)
    session.read_pipe = lambda frame: session.call_soon(told.append, frame.flags)

    arrive(
        session,
        wire.encode(wire.OUTPUT, flags=wire.STDERR | wire.PIPED)
        + wire.encode(wire.EVENT, pickle.dumps(("after",))),
    )
    run_callbacks(session)

    assert told == [wire.STDERR | wire.PIPED, ("after",)]


def test_an_event_that_nobody_wants_is_told_to_on_error(session):
    arrive(session, wire.encode(wire.EVENT, pickle.dumps(("lost",))))
    run_callbacks(session)

    (error,) = reported(session)
    assert type(error) is SerialiserError
    assert "event ('lost',) from m.f, but no on_event was given" in str(error)


@pytest.mark.parametrize("body", [GARBAGE, pickle.dumps((faulty.OnLoad("exit"),))])
def test_an_event_that_cannot_be_loaded_is_told_to_on_error(session, body):
    session.on_event = print
    arrive(session, wire.encode(wire.EVENT, body))
    run_callbacks(session)

    (error,) = reported(session)
    assert "an event cannot be loaded" in str(error)


def test_a_worker_tells_that_it_is_ready_retires_or_has_failed(session):
    arrive(session, wire.encode(wire.READY, first=7), wire.encode(wire.RETIRE))
    arrive(session, wire.encode(wire.FAILED, "no \N{SNOWMAN}".encode() + b"\xff"))

    assert (session.up, session.pid, session.retired) == (True, 7, True)
    assert session.setup_failure == "no \N{SNOWMAN}\N{REPLACEMENT CHARACTER}"


def test_a_worker_may_be_ready_for_one_call_at_a_time(session):
    ready = wire.encode(wire.READY, flags=wire.ONE, first=7)
    found = [session.awaits_calls()]
    for number in 1, 2:
        arrive(session, ready)
        session.unsent.extend((b"call", print))
        session.take(deque())
        found.append(session.awaits_calls())
        arrive(session, wire.encode(wire.RESULT, pickle.dumps((1,)), first=number))
        found.append(session.awaits_calls())

    assert found == [False, True, False, True, False]


def test_another_is_ready_for_all(session):
    arrive(session, wire.encode(wire.READY, first=7))
    session.unsent.extend((b"call", print))
    session.take(deque())
    arrive(session, wire.encode(wire.RESULT, pickle.dumps((1,)), first=1))

    assert session.awaits_calls()


def test_a_definition_from_the_worker_is_learned(session, monkeypatch):
    learned = []
    monkeypatch.setattr(classes, "learn", learned.append)
    monkeypatch.setattr(classes, "mark", lambda *_: None)

    arrive(session, wire.encode(wire.DEFINE, b"definition"))

    assert learned == [b"definition"]


def test_a_definition_for_a_plain_serialiser_breaks_the_protocol():
    with pytest.raises(ProtocolError):
        arrive(new_session("json"), wire.encode(wire.DEFINE, b"definition"))


# The end.


def test_each_call_is_told_of_the_death_by_an_error_of_its_own(session):
    queues = call(session, count=2)
    future = Future()
    put(session, future)

    lost = session.fail_all(died(1))
    settle_futures(session)

    one, two = (taken_from(queue).error for queue in queues)
    (three,) = future.told
    assert lost == 3
    assert [error.started for error in (one, two, three.error)] == [True, False, False]
    assert [error.call for error in (one, two)] == ["call 1 of m.f", "call 2 of m.f"]
    assert len({id(error) for error in (one, two, three.error)}) == 3


def test_the_call_that_ran_too_long_is_told_so_and_the_others_are_not(session):
    queues = call(session, count=3)
    arrive(session, packed(1, 1))

    session.fail_all(Death(NAME, 7, -9, begun=2, timed_out=2, timeout=0.5))

    assert taken_from(queues[0]) == 1
    assert type(taken_from(queues[1]).error) is CallTimeout
    assert type(taken_from(queues[2]).error) is WorkerDied


def test_callbacks_are_counted_and_not_told_one_by_one(session):
    put(session, print)
    take_all(session)
    put(session, print)

    lost = session.fail_all(died(1))

    assert lost == 2
    assert not session.ready


def test_a_definition_that_was_not_sent_is_no_lost_call(session):
    session.define(b"definition")

    assert session.fail_all(died(0)) == 0
    assert session.outstanding() == 0


def test_a_call_that_comes_behind_the_end_fails_too(session):
    call(session)
    session.fail_all(died(1))
    queue = SimpleQueue()
    put(session, queue)

    assert session.fail_all(died(1)) == 1
    assert taken_from(queue).error.started is False


# Interrupts.


@pytest.fixture
def ctrl_c(monkeypatch):
    """Interrupts are Ctrl-C: any other exception might be the code's that is loaded."""
    monkeypatch.setattr(interrupts, "Interrupt", KeyboardInterrupt)


def interrupted(attempt, action):
    """Do *action* under the interrupt, then what is left; return whether it came."""
    with attempt as raised:
        try:
            action()
        except KeyboardInterrupt:
            pass
    return raised


@pytest.mark.parametrize("kind", ["one", "scalars", "eager", "mixed"])
def test_an_interrupt_while_calls_are_taken_loses_and_repeats_none(kind, ctrl_c):
    def attempt(interrupt):
        session, frames, worker = new_session(), deque(), Worker()
        entries = {
            "one": [(1, print)],
            "scalars": [((number, None), print) for number in range(4)],
            "eager": [eager(print, [number]) for number in range(4)],
            "mixed": [(0, print), eager(print, 1, key=1), ((2,), print), (3, print)],
        }[kind]
        for entry in entries:
            session.unsent.extend(entry)

        def take():
            while session.unsent or session.staged:
                session.take(frames)

        came = interrupted(interrupt, take)
        take()
        worker.receive(frames)
        assert [number for number, _, _ in worker.calls] == [
            *range(1, len(entries) + 1)
        ]
        assert list(session.pending) == [print] * len(entries)
        assert session.sent == len(entries)
        return came

    assert interrupt_everywhere(attempt, session_module) > 10


def test_an_interrupt_while_answers_are_handled_settles_each_call_once(ctrl_c):
    def attempt(interrupt):
        session = new_session()
        told, future = [], Future()
        session.on_event = lambda *args: told.append(args)
        queues = [SimpleQueue() for _ in range(5)]
        targets = [queues[0], told.append, future, *queues[1:], told.append]
        for target in targets:
            put(session, target)
        take_all(session)
        session.recover([(False, 1)])
        session.decoder.chunks.append(
            packed(1, 1, 2, 3)
            + wire.encode(wire.EVENT, pickle.dumps(("event",)))
            + errors(4, KeyError(4))
            + packed(5, 5)
            + bodies(6, [6], [7])
            + packed(8, 8)
        )
        session.decoder.parse()

        came = interrupted(interrupt, session.handle)
        session.handle()
        run_callbacks(session)
        settle_futures(session)

        assert told == [2, ("event",), 8]
        assert future.told == [3]
        one, four, *others = map(taken_from, queues)
        assert (one, others) == (1, [5, [6], [7]])
        assert type(four.error) is KeyError
        assert session.outstanding() == 0
        return came

    assert interrupt_everywhere(attempt, session_module) > 100


# When to send.


def test_calls_are_sent_at_once_while_little_is_under_way(session):
    assert not session.must_send()
    assert session.gather == 2
    put(session, 1, print)
    assert session.must_send()


def test_as_many_calls_gather_as_the_worker_still_has_to_do(session):
    call(session, count=100)
    put(session, 1, print)

    assert session.must_send()
    assert session.gather == 200
    call(session, count=10_000)
    assert not session.must_send()
    assert session.gather == 2 * MOST_CALLS


def test_nobody_sends_while_the_socket_takes_nothing(session):
    put(session, 1, print)
    session.blocked = True

    assert not session.must_send()
    assert session.gather > 1 << 40
