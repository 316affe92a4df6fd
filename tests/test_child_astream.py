"""Unit: generators of an asynchronous worker; the program is a fake in its loop."""

import asyncio

import pytest

from forkrpc import serialisers, wire
from forkrpc.child.around import Around
from forkrpc.child.astream import ENDED, Streams
from forkrpc.decoder import Decoder

CALL = 3  # id of the stream


class Program:
    """Takes what is sent; credits it at once, or stops at some item."""

    def __init__(self, stop_at=None, *, patient=False):
        self.codec = serialisers.codec("pickle", None)
        self.limit = wire.LIMIT
        self.streams = Streams(self)
        self.items = []
        self.frames = 0
        self._stop_at, self._patient = stop_at, patient

    def send(self, data):
        decoder = Decoder(greeted=True)
        pieces = iter([data])
        decoder.receive(lambda _: next(pieces))
        (frame,) = decoder.frames
        assert (frame.kind, frame.first) == (wire.ITEM, CALL)
        self.frames += 1
        if frame.flags & wire.PACKED:
            self.items += self.codec.load(frame.body)
        else:
            self.items += [self.codec.load(body)[0] for body in frame.bodies()]
        if not self._patient:
            self.tell()

    def tell(self):
        data = wire.credit(CALL, len(self.items))[wire.HEADER_BYTES :]
        kind = wire.CREDIT
        if self._stop_at is not None and len(self.items) >= self._stop_at:
            kind = wire.STOP
        frame = wire.Frame(kind, 0, 0, 1, CALL, data)
        asyncio.get_running_loop().call_soon(self._told, frame)

    def _told(self, frame):
        self.streams.told(frame, waits=True)

    def run(self, function, *args):
        self.streams.use(function, Around(None, None))
        frame = wire.Frame(wire.STREAM, 0, 0, 1, CALL, self.codec.dump(args))
        return asyncio.run(asyncio.wait_for(self.streams.produce(frame), 10))


async def anumbers(count):
    for number in range(count):
        yield number


def numbers(count):
    yield from range(count)


async def returns(count):
    return anumbers(count)


@pytest.mark.parametrize("function", [numbers, anumbers, returns])
@pytest.mark.parametrize("count", [0, 1, 500])
def test_all_items_leave_in_order_in_few_frames(function, count):
    program = Program()

    assert program.run(function, count) is ENDED
    assert program.items == list(range(count))
    assert program.frames <= count / 8 + 4


def test_items_leave_when_the_generator_awaits_something():
    program, seen = Program(), []

    async def pauses():
        yield 1
        yield 2
        await asyncio.sleep(0.01)
        seen.append(list(program.items))
        yield 3

    program.run(pauses)

    assert seen == [[1, 2]]


def test_it_waits_with_a_window_sent():
    program = Program(patient=True)

    async def main():
        program.streams.use(numbers, Around(None, None))
        body = program.codec.dump((300,))
        frame = wire.Frame(wire.STREAM, 0, 0, 1, CALL, body)
        task = asyncio.create_task(program.streams.produce(frame))
        for _ in range(20):
            await asyncio.sleep(0)
        assert program.items == list(range(len(program.items)))
        assert wire.WINDOW <= len(program.items) <= wire.WIDE_WINDOW
        while not task.done():
            program.tell()
            await asyncio.sleep(0)
        assert await task is ENDED
        assert program.items == list(range(300))

    asyncio.run(main())


@pytest.mark.parametrize("stop_at", [1, 64, 200])
@pytest.mark.parametrize("kind", ["plain", "asynchronous", "waiting"])
def test_it_is_closed_when_nobody_wants_more(kind, stop_at):
    closed = []

    def plain():
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    async def asynchronous():
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    async def waiting():
        try:
            for _ in range(stop_at):
                yield 1
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    functions = {each.__name__: each for each in (plain, asynchronous, waiting)}

    assert Program(stop_at).run(functions[kind]) is ENDED
    assert closed == [True]


def test_a_stream_that_was_stopped_before_it_began_does_not_begin():
    program = Program()
    program.streams.told(wire.Frame(wire.STOP, 0, 0, 1, CALL, b""), waits=True)

    assert program.run(numbers, 5) is ENDED
    assert program.items == []


def test_a_function_with_done_is_refused_and_not_called():
    with pytest.raises(TypeError, match="calls done"):
        Program().run(lambda _: pytest.fail("called"), 1)


@pytest.mark.parametrize("function", [numbers, anumbers])
def test_calls_of_what_yields_are_refused(function):
    refuse = Program().streams.use(function, Around(None, None))

    with pytest.raises(TypeError, match=r"is a generator function: use stream\(\)"):
        asyncio.run(refuse(1))
