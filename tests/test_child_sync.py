"""Unit: the blocking backend on a socket whose other end is the test."""

import contextlib
import os
import pickle
import signal
import sys

import pytest

from forkrpc import chunks, fds, outcome, progress, serialisers, wire
from forkrpc.child import inbox
from forkrpc.child import replies as replies_module
from forkrpc.child import sync as sync_module
from forkrpc.child.sync import Sync
from forkrpc.decoder import Decoder
from forkrpc.errors import RemoteError, SerialiserError
from forkrpc.system import LIFELINE_SIGNAL
from helpers import run_program
from interrupts import Interrupt, interrupt_everywhere

SPEC = {"max_frame": wire.LIMIT, "buflen": 65536, "timed": False, "mortal": False}


class Channel:
    """A socket that gives *data* once and then its end; takes all that is sent."""

    def __init__(self, data):
        self.left = [wire.GREETING + data, b""]
        self.sent = b""
        self.at_each_read = []  # what had been sent before it

    def recv(self, _size, _flags=0):
        self.at_each_read.append(self.sent)
        return self.left.pop(0) if self.left else b""

    def send(self, view, _flags):
        self.sent += bytes(view)
        return len(view)

    def sendmsg(self, views, _extra, flags):
        return sum(self.send(view, flags) for view in views)

    def recv_into(self, *_):
        raise AssertionError("all that comes was read by recv")


def backend(function, data, name="pickle", kind=Channel, **spec):
    """Return (backend, its channel)."""
    channel = kind(data)
    page = progress.Page(memoryview(bytearray(progress.BLOCK)))
    made = Sync(channel, {**SPEC, **spec}, page)
    made.codec = serialisers.codec(name, made.define)
    made.function = function
    return made, channel


def serve(function, *frames, name="pickle", **spec):
    """Return (status, answers) of a worker that gets *frames* and then the end."""
    made, channel = backend(function, b"".join(frames), name, **spec)
    status = made.serve()
    return status, answers(channel.sent, name)


def answers(data, name="pickle"):
    """Return [(kind, id, value)] of what a worker sent; an error for an ERROR."""
    decoder = Decoder()
    with contextlib.suppress(IndexError):
        pieces = [data]
        decoder.receive(lambda _: pieces.pop())
    found = []
    for frame in decoder.frames:
        found += answers_of(frame, serialisers.codec(name, lambda _: None))
    assert found.pop(0) == (wire.READY, os.getpid(), b"")
    return found


def answers_of(frame, codec):
    if frame.kind == wire.ERROR:
        if codec.trusted:
            packed = pickle.loads(frame.body)
            error = outcome.unpack(packed, lambda body: codec.load(body)[0])
        else:
            (packed,) = serialisers.codec("data", None).load(frame.body)
            error = outcome.unpack(packed, None)
        return [(wire.ERROR, frame.first, error)]
    if frame.kind == wire.RESULT and frame.flags & wire.PACKED:
        values = codec.load(frame.body)
    elif frame.kind == wire.RESULT:
        values = [codec.load(body)[0] for body in frame.bodies()]
    elif frame.kind == wire.EVENT:
        return [(wire.EVENT, 0, codec.load(frame.body))]
    else:
        return [(frame.kind, frame.first, bytes(frame.body))]
    return [
        (wire.RESULT, number, each) for number, each in enumerate(values, frame.first)
    ]


def call(number, *args, dumps=pickle.dumps, **keywords):
    flags = wire.KEYWORDS if keywords else 0
    body = dumps((*args, keywords) if keywords else args)
    return wire.encode(wire.CALL, body, flags=flags, first=number)


def calls(first, *several):
    """Return one frame with calls that wait for each other."""
    return wire.encode(
        wire.CALL,
        pickle.dumps(list(several)),
        flags=wire.PACKED,
        count=len(several),
        first=first,
    )


def ones(first, *values):
    """Return one frame with calls that have one argument each."""
    return wire.encode(
        wire.CALL,
        pickle.dumps(list(values)),
        flags=wire.PACKED | wire.ONES,
        count=len(values),
        first=first,
    )


def results(*values, first=1):
    return [(wire.RESULT, number, each) for number, each in enumerate(values, first)]


# Calls.


def test_the_end_of_input_is_an_orderly_end():
    assert serve(len) == (0, [])


def test_calls_are_answered_in_order():
    frames = [call(number, number) for number in range(1, 6)]

    assert serve(str, *frames) == (0, results("1", "2", "3", "4", "5"))


def test_calls_that_came_in_one_frame_are_answered_in_order():
    data = calls(1, *[(number,) for number in range(1000)])

    assert serve(lambda value: -value, data) == (0, results(*range(0, -1000, -1)))


def test_several_bodies_of_one_frame_are_as_many_calls():
    data = wire.encode_bodies(
        wire.CALL, [pickle.dumps((each,)) for each in "abc"], first=1
    )

    assert serve(str.upper, data) == (0, results("A", "B", "C"))


def test_keywords_of_any_name_reach_the_function():
    data = call(1, 1, first=2, self=3, call_id=4)

    found = serve(lambda *args, **keywords: (args, keywords), data)

    assert found == (0, results(((1,), {"first": 2, "self": 3, "call_id": 4})))


def test_results_of_all_kinds_keep_their_order():
    values = [1, "text", None, [1], 2.5, b"x" * 5000, 2**100, True, {}, "y" * 5000, 3]
    frames = [call(number, each) for number, each in enumerate(values, 1)]

    assert serve(lambda value: value, *frames) == (0, results(*values))


@pytest.mark.parametrize(
    ("name", "text"), [("json", "x"), ("bytes", b"x"), ("data", b"x"), ("msgpack", "x")]
)
def test_other_serialisers_are_used_for_arguments_and_results(name, text):
    dumps = serialisers.codec(name, None).dump
    frames = [call(number, text, dumps=dumps) for number in (1, 2)]

    status, found = serve(lambda value: value * 3, *frames, name=name)

    assert (status, found) == (0, results(text * 3, text * 3))


def test_an_exception_fails_its_call_and_the_next_goes_on():
    frames = [call(number, value) for number, value in enumerate([1, 0, 2], 1)]

    status, found = serve(lambda value: 2 / value, *frames)

    assert status == 0
    assert [(kind, number) for kind, number, _ in found] == [
        *((wire.RESULT, 1), (wire.ERROR, 2), (wire.RESULT, 3))
    ]
    assert type(found[1][2]) is ZeroDivisionError


def test_an_exception_among_calls_of_one_frame_fails_only_its_call():
    status, found = serve(lambda value: 2 / value, calls(1, (1,), (0,), (2,)))

    assert [(kind, number) for kind, number, _ in found] == [
        *((wire.RESULT, 1), (wire.ERROR, 2), (wire.RESULT, 3))
    ]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, GeneratorExit, BaseException])
def test_what_would_end_a_thread_fails_its_call_as_well(kind):
    def function(value):
        if value:
            raise kind("text")

    status, found = serve(function, call(1, True), call(2, False))

    assert type(found[0][2]) is RemoteError
    assert found[0][2].type_name == kind.__name__
    assert found[1:] == results(None, first=2)


def test_an_exception_crosses_without_pickle():
    dumps = serialisers.codec("json", None).dump

    _, found = serve(int, call(1, "x", dumps=dumps), name="json")

    assert type(found[0][2]) is ValueError
    assert "invalid literal" in str(found[0][2])


def test_leaving_ends_the_worker_after_what_it_has_made():
    def function(value):
        if value == 3:
            sys.exit(7)
        return value

    frames = [call(number, number) for number in range(1, 6)]

    assert serve(function, *frames) == (7, results(1, 2))


def test_leaving_with_a_text_prints_it(capsys):
    assert serve(lambda: sys.exit("text"), call(1)) == (1, [])
    assert capsys.readouterr().err == "text\n"


def test_what_comes_behind_a_close_is_not_executed():
    frames = call(1, "a"), wire.encode(wire.CLOSE), call(2, "b")

    assert serve(str.upper, *frames) == (0, results("A"))


# What cannot be sent or loaded.


class Refuses:
    def __reduce__(self):
        raise ValueError("not me")


def test_an_exception_that_is_too_long_fails_its_call_only():
    def function(length):
        raise ValueError("x" * length)

    _, found = serve(function, call(1, 5000), call(2, 1), max_frame=2000)

    error = found[0][2]
    assert (type(error), error.type_name) == (RemoteError, "ValueError")
    assert error.message.endswith("xxx...")
    assert repr(found[1][2]) == "ValueError('x')"


def test_an_exception_whose_arguments_json_refuses_fails_its_call_only():
    attempts = []

    def function():
        attempts.append(1)
        raise ValueError(10**5000)

    dumps = serialisers.codec("json", None).dump
    _, found = serve(function, call(1, dumps=dumps), name="json")

    ((kind, _, error),) = found
    assert (kind, type(error), error.type_name) == (
        wire.ERROR,
        RemoteError,
        "ValueError",
    )
    assert attempts == [1]


class Text(str):
    """A class of text that cannot be pickled."""

    def __reduce__(self):
        raise TypeError("no pickle")


def test_an_exception_whose_text_is_of_an_own_class_fails_its_call_only():
    class Odd(Exception):
        def __str__(self):
            return Text("odd")

    def function():
        raise Odd(sys._getframe())  # goes as text

    _, found = serve(function, call(1))

    assert type(found[0][2]) is RemoteError
    assert found[0][2].message == "odd"


def test_an_exception_in_code_whose_module_has_no_name_fails_its_call_only():
    space = {"__name__": None}
    exec("def function(): 1 / 0", space)

    _, found = serve(space["function"], call(1))

    assert type(found[0][2]) is ZeroDivisionError


def test_arguments_that_do_not_load_fail_their_call_only():
    broken = wire.encode(wire.CALL, b"no pickle", first=1)

    _, found = serve(str, broken, call(2, 1))

    assert type(found[0][2]) is SerialiserError
    assert str(found[0][2]).startswith("arguments cannot be loaded: UnpicklingError")
    assert found[1:] == results("1", first=2)


def test_arguments_of_a_module_that_is_missing_have_a_remedy():
    body = pickle.dumps((os.getpid,)).replace(b"posix", b"xisop")

    _, found = serve(str, wire.encode(wire.CALL, body, first=1))

    assert "No module named 'xisop'" in str(found[0][2])
    assert "is its folder on sys.path?" in str(found[0][2])


def test_a_result_that_cannot_be_sent_fails_its_call_only():
    _, found = serve(lambda value: value or [Refuses()], call(1, 0), call(2, 1))

    assert type(found[0][2]) is SerialiserError
    assert "value[0][0] (Refuses) cannot be sent: ValueError: not me" in str(
        found[0][2]
    )
    assert found[1:] == results(1, first=2)


def test_a_result_that_is_too_long_fails_its_call_only():
    _, found = serve(bytes, call(1, 5000), call(2, 1), max_frame=1000)

    assert type(found[0][2]) is SerialiserError
    assert "max_frame is 1000" in str(found[0][2])
    assert found[1:] == results(b"\0", first=2)


def test_a_frame_that_no_program_sends_ends_the_worker():
    done = run_program(
        """
        import os, sys
        from forkrpc import fds, progress, serialisers, wire
        from forkrpc.child.sync import Sync

        def report(*error):
            reports.append(error)
            if len(reports) > 3:
                os._exit(99)  # it goes round in circles

        reports = []
        sys.excepthook = report
        ours, theirs = fds.socket_pair()
        ours.send(wire.GREETING + wire.encode(wire.RESULT))
        spec = {"max_frame": 9999, "buflen": 9999, "timed": False, "mortal": False}
        page = progress.Page(memoryview(bytearray(progress.BLOCK)))
        backend = Sync(theirs, spec, page)
        backend.codec = serialisers.codec("pickle", backend.define)
        try:
            backend.serve()
        finally:
            os._exit(0)
        """,
        timeout=5,
    )

    assert done.returncode == 0


# Events.


def test_events_stand_between_the_results_where_they_were_made():
    def function(value):
        made.event(("before", value))
        made.event(("after", value))
        return value

    made, channel = backend(function, call(1, 1) + call(2, 2))
    made.serve()

    assert answers(channel.sent) == [
        (wire.EVENT, 0, ("before", 1)),
        (wire.EVENT, 0, ("after", 1)),
        *results(1),
        (wire.EVENT, 0, ("before", 2)),
        (wire.EVENT, 0, ("after", 2)),
        *results(2, first=2),
    ]


def test_an_event_leaves_at_once():
    made, channel = backend(str, b"")

    made.event((1,))

    assert channel.sent == wire.GREETING + wire.encode(
        wire.EVENT, pickle.dumps((1,), 5)
    )


def test_an_event_that_cannot_be_sent_raises_where_it_is_made():
    made, _ = backend(str, b"", max_frame=1000)

    with pytest.raises(SerialiserError, match="Refuses"):
        made.event((Refuses(),))
    with pytest.raises(SerialiserError, match="event of .* max_frame is 1000"):
        made.event((bytes(2000),))


def test_a_class_is_defined_before_the_result_that_needs_it():
    class Local:
        pass

    made, channel = backend(Local, call(1))
    made.serve()
    decoder, pieces = Decoder(), [channel.sent]
    decoder.receive(lambda _: pieces.pop())

    assert [frame.kind for frame in decoder.frames] == [
        *(wire.READY, wire.DEFINE, wire.RESULT)
    ]


# When results leave.


def test_what_is_held_leaves_before_the_worker_waits_for_more():
    made, channel = backend(str, calls(1, (1,), (2,)))

    made.serve()

    assert answers(channel.at_each_read[1]) == results("1", "2")


@contextlib.contextmanager
def without_program():
    """A backend whose program goes away while the first call is executed."""
    ours, theirs = fds.socket_pair()
    page = progress.Page(memoryview(bytearray(progress.BLOCK)))
    made = Sync(theirs, SPEC, page)
    made.codec = serialisers.codec("pickle", made.define)
    made.function = lambda: ours.close()
    ours.send(wire.GREETING + call(1) + call(2))
    with contextlib.closing(theirs), contextlib.closing(ours):
        yield made


def test_the_program_going_away_is_an_orderly_end():
    with without_program() as made:
        assert made.serve() == 0


def test_flush_tells_that_the_program_is_gone():
    with without_program() as made:
        made.serve()

        assert not made.flush()


def test_the_page_tells_which_call_was_begun_and_when():
    seen = []

    def function(value):
        seen.append((page.words[progress.BEGUN], page.words[progress.SINCE] > 0))

    page = progress.Page(memoryview(bytearray(progress.BLOCK)))
    made = Sync(
        Channel(call(1, 0) + calls(2, (0,), (0,))), {**SPEC, "timed": True}, page
    )
    made.codec = serialisers.codec("pickle", made.define)
    made.function = function

    made.serve()

    assert seen == [(1, True), (2, True), (3, True)]


# Interrupts: a signal handler of the user may raise anywhere.


@pytest.fixture(autouse=True)
def _silent(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", lambda *error: None)


def began_or_ended(channel, count):
    """Return whether nothing was read yet, or all calls have their answers."""
    return not channel.at_each_read or len(answers(channel.sent)) == count


@pytest.mark.parametrize(
    "module",
    [sync_module, inbox, replies_module, progress, wire, fds],
    ids=lambda m: m.__name__,
)
def test_an_interrupt_anywhere_leaves_each_call_one_answer(module):
    executed = []

    def function(value):
        executed.append(value)
        return value

    frames = b"".join([call(1, "a"), calls(2, (2,), (3.5,)), call(4, [4]), call(5, 5)])
    expected_values = ["a", 2, 3.5, [4], 5]

    def attempt(interrupt):
        executed.clear()
        made, channel = backend(function, frames)
        try:
            with interrupt as raised:
                made.serve()
        except Interrupt:
            assert began_or_ended(channel, 5)
            return raised
        found = answers(channel.sent)
        assert [number for _, number, _ in found] == [1, 2, 3, 4, 5]
        for (_, _, value), expected in zip(found, expected_values, strict=True):
            if type(value) not in (Interrupt, SerialiserError):
                assert value == expected
        assert len(executed) == len(set(map(repr, executed)))
        return raised

    assert interrupt_everywhere(attempt, module) > 50


def test_an_interrupt_anywhere_holds_up_no_call_that_has_arrived():
    frames = call(1, 1) + call(2, 2)

    def attempt(interrupt):
        made, channel = backend(str, frames)
        try:
            with interrupt as raised:
                made.serve()
        except Interrupt:
            assert began_or_ended(channel, 2)
            return raised
        reads = [sent for sent in channel.at_each_read[1:] if sent]
        assert len(answers(reads[0])) == 2
        return raised

    interrupt_everywhere(attempt, sync_module)


def test_an_interrupt_behind_reading_holds_up_no_call_that_has_arrived():
    """Else the worker waits for more, and the program for the answer."""
    frames = call(1, 1) + call(2, 2)

    def attempt(interrupt):
        made, channel = backend(str, frames)
        try:
            with interrupt as raised:
                made.serve()
        except Interrupt:
            assert began_or_ended(channel, 2)
            return raised
        assert len(answers(channel.at_each_read[1])) == 2
        return raised

    assert interrupt_everywhere(attempt, wire) > 100


# Calls with one argument.


@pytest.mark.parametrize(
    "values",
    [
        [1],
        [1, 2, 3],
        [1, None, "text", 2.5, True, 1 << 70, [1], 2, 3],
        [None] * 5,
        [0.5] * 1200,
        list(range(1100)),
        [1 << 62, 1 << 63, 1 << 64, 7],
    ],
    ids=["one", "numbers", "mixed", "nothing", "floats", "many", "long"],
)
def test_calls_with_one_argument_are_answered_in_order(values):
    status, found = serve(lambda value: value, ones(1, *values))

    assert status == 0
    assert found == results(*values)


def test_a_call_that_fails_among_them_costs_itself_only():
    def function(value):
        return 12 // value

    _, found = serve(function, ones(1, 3, 0, 4))

    (_, _, three), (kind, number, error), (_, _, four) = found
    assert (three, four) == (4, 3)
    assert (kind, number, type(error)) == (wire.ERROR, 2, ZeroDivisionError)


@pytest.fixture
def lifeline_signal():
    """Return how this process takes it; undone afterwards."""
    before = signal.getsignal(LIFELINE_SIGNAL)
    yield lambda: signal.getsignal(LIFELINE_SIGNAL)
    signal.signal(LIFELINE_SIGNAL, before)


def test_a_worker_may_die_while_it_executes_and_not_when_its_answer_leaves(
    lifeline_signal,
):
    seen = []

    def function(value):
        seen.append(lifeline_signal())
        return [value] if value < 3 else 12 // (value - 3)

    class Noting(Channel):
        def send(self, view, flags):
            self.handlers.append(lifeline_signal())
            return super().send(view, flags)

    frames = [ones(1, 1), ones(2, 2), call(3, 2), ones(4, 3)]  # lists, and an error
    made, channel = backend(function, frames[0], mortal=True)
    channel.__class__ = Noting
    channel.handlers = []
    channel.left[1:1] = frames[1:]

    assert made.serve() == 0
    assert seen == [signal.SIG_DFL] * 4
    _greeting_and_ready, *answers = channel.handlers
    assert len(answers) == 4
    assert all(callable(handler) for handler in answers)


def test_a_worker_that_gets_a_call_behind_the_programs_end_leaves(lifeline_signal):
    class Ending(Channel):
        def recv(self, size, flags=0):
            data = super().recv(size, flags)
            if len(data) > len(wire.GREETING):
                os.kill(os.getpid(), LIFELINE_SIGNAL)
            return data

    called = []
    made, _ = backend(called.append, call(1, 1), kind=Ending, mortal=True)

    assert made.serve() == 0
    assert made.program_gone
    assert called == []


def chunk(items, number):
    body = chunks.call_of(chunks.plain(items), starred=False, plain=True)
    return wire.encode(wire.CALL, body, flags=wire.CHUNK, first=number)


def test_a_chunk_is_one_call_of_many_items():
    status, found = serve(str, chunk([1, 2, 3], 1), call(2, 4), chunk(range(2), 3))

    assert status == 0
    assert [each[:2] for each in found] == [(wire.RESULT, n) for n in (1, 2, 3)]
    assert found[1][2] == "4"
    results = [chunks.results_of(found[n][2]) for n in (0, 2)]
    assert results == [
        ([(True, ["1", "2", "3"])], None),
        ([(True, ["0", "1"])], None),
    ]


def test_a_chunk_with_an_item_that_asks_for_the_end_has_no_answer():
    def function(item):
        raise SystemExit(item)

    assert serve(function, chunk([7], 1), chunk([8], 2)) == (7, [])


def test_a_chunk_that_is_none_fails_alone():
    broken = wire.encode(wire.CALL, b"broken", flags=wire.CHUNK, first=1)
    status, found = serve(str, broken, chunk([1], 2))

    assert status == 0
    assert [each[:2] for each in found] == [(wire.ERROR, 1), (wire.RESULT, 2)]
