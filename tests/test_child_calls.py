"""Unit: calls in a loop of the test, from their frames to their answers."""

import asyncio
import contextvars
import pickle
import time

import pytest

from forkrpc import CallTimeout, ProtocolError, progress, serialisers, wire
from forkrpc.child import calls as calls_module
from forkrpc.child.around import Around
from forkrpc.child.calls import EAGER, MOST_AT_ONCE, Calls
from forkrpc.decoder import Decoder
from forkrpc.progress import BEGUN


class Answers:
    """Notes what is answered."""

    def __init__(self):
        self.codec = serialisers.codec("pickle", lambda definition: None)
        self.told = {}
        self.full = self.shared = False
        self.turns = 0
        self._last = 0

    def made(self):
        self.turns += 1

    def answered(self, call_id):
        return call_id == self._last

    def _tell(self, call_id, what):
        assert call_id not in self.told
        self.told[call_id] = what
        self._last = call_id

    def keep(self, call_id, value):
        return False

    result = error = _tell

    def cancelled(self, call_id):
        self._tell(call_id, "cancelled")


class Bench:
    """Calls of *function* in a loop."""

    def __init__(self, function, *, limit=None, timeout=None):
        self.loop = asyncio.new_event_loop()
        self.answers = Answers()
        self.page = progress.Page(memoryview(bytearray(progress.BLOCK)))
        spec = {"title": "m.f", "limit": limit, "timeout": timeout}
        self.calls = Calls(self.answers, spec, self.page)
        self.calls.use(function, Around(None, None))
        self.calls.run_in(self.loop, contextvars.copy_context())
        self._sent = 0

    def send(self, *calls):
        """Have calls arrive, each a tuple of arguments."""
        body = pickle.dumps(list(calls))
        frame = wire.Frame(wire.CALL, wire.PACKED, 0, len(calls), self._sent + 1, body)
        self._sent += len(calls)
        self.calls.add(frame)

    def turn(self, turns=1):
        """Begin what may begin, and let the loop turn; return whether to go on."""

        async def steps():
            for _ in range(turns):
                more = self.calls.begin()
                await asyncio.sleep(0)
            return more

        try:
            return self.loop.run_until_complete(steps())
        except RuntimeError:
            assert self.calls.ended is not None  # it has stopped the loop
            return False

    def finish(self):
        async def all_of_it():
            while self.calls.outstanding():
                self.calls.begin()
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(asyncio.wait_for(all_of_it(), 10))

    def close(self):
        tasks = asyncio.all_tasks(self.loop)
        self.calls.ended = 0
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks))
        self.loop.close()


@pytest.fixture
def make():
    made = []

    def make(function, **options):
        made.append(Bench(function, **options))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


async def echo(value):
    return value


async def forever(*_):
    await asyncio.sleep(1000)


def test_calls_are_answered(make):
    bench = make(echo)
    bench.send((1,), (2,))
    bench.send((3,))
    assert bench.calls.outstanding()
    bench.finish()

    assert bench.answers.told == {1: 1, 2: 2, 3: 3}
    assert not bench.calls.outstanding()
    assert bench.page.words[BEGUN] == 3


@pytest.mark.parametrize("function", [echo, lambda done, value: done(value)])
def test_bodies_are_loaded_when_their_call_begins(make, function):
    bench = make(function)
    body = wire.encode_bodies(
        wire.CALL, [pickle.dumps((1,)), b"garbage", pickle.dumps((3,))], first=1
    )
    decoder = Decoder(greeted=True)
    pieces = iter([body])
    decoder.receive(lambda _: next(pieces))
    bench.calls.add(decoder.frames[0])
    bench.finish()

    assert (bench.answers.told[1], bench.answers.told[3]) == (1, 3)
    assert "arguments cannot be loaded" in str(bench.answers.told[2])


def test_at_most_so_many_begin_in_one_turn_and_the_next_goes_on(make, monkeypatch):
    monkeypatch.setattr(calls_module, "SLICE", 60.0)  # it is not the time that ends it
    bench = make(lambda done: done())
    bench.send(*[()] * (MOST_AT_ONCE + 10))

    assert bench.turn() is True
    assert len(bench.answers.told) == MOST_AT_ONCE
    assert bench.turn() is False
    assert len(bench.answers.told) == MOST_AT_ONCE + 10


def test_slow_calls_leave_the_loop_its_turns(make, monkeypatch):
    def slow(done):
        time.sleep(2 * calls_module.SLICE)
        done()

    bench = make(slow)
    bench.send(*[()] * 3)

    assert bench.turn() is True
    assert len(bench.answers.told) == 1


def test_calls_that_do_not_end_at_once_begin_a_few_at_a_time(make):
    bench = make(forever)
    bench.send(*[()] * 500)
    bench.turn()
    first = bench.page.words[BEGUN]
    bench.turn(20)

    assert 0 < first < 64
    assert bench.page.words[BEGUN] == 500


def test_no_call_begins_while_the_window_is_full(make):
    bench = make(echo)
    bench.answers.full = True
    bench.send((1,))
    assert bench.turn() is False
    assert bench.answers.told == {}
    bench.answers.full = False
    bench.finish()

    assert bench.answers.told == {1: 1}


def test_no_more_run_than_the_limit(make):
    bench = make(forever, limit=3)
    bench.send(*[()] * 10)
    bench.turn(5)

    assert bench.page.words[BEGUN] == 3
    bench.calls.cancel(2)
    bench.turn(5)
    assert bench.answers.told == {2: "cancelled"}
    assert bench.page.words[BEGUN] == 4


def test_a_call_that_was_cancelled_before_it_began_never_runs(make):
    ran = []

    async def function(value):
        ran.append(value)

    bench = make(function, limit=1)
    bench.send((1,), (2,), (3,))
    bench.calls.cancel(2)
    bench.finish()

    assert ran == [1, 3]
    assert bench.answers.told == {1: None, 2: "cancelled", 3: None}


def test_a_running_call_is_cancelled_and_may_still_answer(make):
    async def stubborn():
        try:
            await forever()
        except asyncio.CancelledError:
            return "answered"

    for function, answer in ((forever, "cancelled"), (stubborn, "answered")):
        bench = make(function)
        bench.send(())
        bench.turn(2)
        bench.calls.cancel(1)
        bench.finish()
        assert bench.answers.told == {1: answer}
        bench.calls.cancel(1)  # comes late: nothing happens
        bench.turn()


def test_a_call_with_a_done_is_cancelled_by_ignoring_it(make):
    kept = []
    bench = make(lambda done: kept.append(done))
    bench.send(())
    bench.turn()
    bench.calls.cancel(1)
    assert bench.answers.told == {1: "cancelled"}
    kept[0]("late")
    assert bench.answers.told == {1: "cancelled"}
    assert not bench.calls.outstanding()


@pytest.mark.parametrize("call_id", [0, 2])
def test_cancelling_what_never_came_breaks_the_protocol(make, call_id):
    bench = make(echo)
    bench.send((1,))
    with pytest.raises(ProtocolError):
        bench.calls.cancel(call_id)


@pytest.mark.parametrize("first", [1, 3])
def test_calls_out_of_order_break_the_protocol(make, first):
    bench = make(echo)
    bench.send((1,))
    with pytest.raises(ProtocolError):
        bench.calls.add(wire.Frame(wire.CALL, wire.PACKED, 0, 1, first, b""))


def test_a_frame_that_holds_something_else_breaks_the_protocol(make):
    bench = make(echo)
    body = pickle.dumps([(1,), (2,)])
    bench.calls.add(wire.Frame(wire.CALL, wire.PACKED, 0, 1, 1, body))
    with pytest.raises(ProtocolError):
        bench.calls.begin()


def test_a_call_that_runs_too_long_is_cancelled_and_fails(make):
    bench = make(forever, timeout=0.02)
    bench.send(())
    bench.finish()

    assert isinstance(bench.answers.told[1], CallTimeout)


def test_a_call_that_blocks_the_loop_too_long_fails_as_well(make):
    async def block():
        time.sleep(0.03)
        return "late"

    bench = make(block, timeout=0.02)
    bench.send(())
    bench.finish()

    assert isinstance(bench.answers.told[1], CallTimeout)


def test_a_done_that_comes_too_late_is_ignored(make):
    kept = []
    bench = make(lambda done: kept.append(done), timeout=0.02)
    bench.send(())
    bench.finish()
    kept[0]("late")

    assert isinstance(bench.answers.told[1], CallTimeout)


def test_system_exit_ends_all_and_answers_nothing(make):
    async def leave(status):
        if status:
            raise SystemExit(status)

    bench = make(leave)
    bench.send((0,), (3,), (0,))
    bench.turn(3)

    assert bench.calls.ended == 3
    assert bench.answers.told == {1: None}
    assert bench.page.words[BEGUN] == 2


def test_a_task_factory_of_the_loop_is_used(make):
    made = []

    def factory(loop, coroutine, **more):
        made.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **more)

    bench = make(echo)
    bench.loop.set_task_factory(factory)
    bench.calls.run_in(bench.loop, contextvars.copy_context())
    bench.send((1,))
    bench.finish()

    assert bench.answers.told == {1: 1}
    assert any(each.__name__ == "_call" for each in made)


@pytest.mark.skipif(not EAGER, reason="Python 3.12 has eager tasks")
def test_nothing_is_left_of_calls_that_the_loops_own_eager_tasks_have_ended(make):
    bench = make(echo)
    bench.loop.set_task_factory(asyncio.eager_task_factory)
    bench.calls.run_in(bench.loop, contextvars.copy_context())
    bench.send((1,), (2,))
    bench.finish()

    assert bench.answers.told == {1: 1, 2: 2}
    assert not bench.calls.outstanding()


class Callable:
    async def __call__(self, value):
        return value


def test_an_instance_whose_call_is_a_coroutine_function_serves(make):
    bench = make(Callable())
    bench.send((1,))
    bench.finish()

    assert bench.answers.told == {1: 1}
