"""Generators of an asynchronous worker, each never more than a window ahead.

A stream runs in the task of its call.  Its items gather while the generator goes on
without awaiting anything, and leave with what else was made at the next turn of the
loop; between them others have their turn.
"""

import asyncio
import inspect
from _pickle import dumps
from collections import deque
from functools import partial
from time import monotonic

from .. import wire
from ..classes import PROTOCOL
from ..functions import name_of
from ..parts import Parts
from ..serialisers import keepable
from .bodies import load_call, result_body
from .stream import QUICK, Window, is_generator_function, iterator_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .answers import Answers
    from .around import Around
    from .deadlines import Deadlines

SLICE = 1e-3  # seconds for which a generator may run before others have their turn
ENDED = object()  # the result of a stream's call


class Streams:
    """The streams of one worker.  In the loop's thread only.

    answers: where items go.
    """

    deadlines: "Deadlines | None" = None

    def __init__(self, answers: "Answers") -> None:
        self._answers = answers
        self._open: dict[int, _Open] = {}
        self._stopped: set[int] = set()  # before they began

    def use(
        self, function: "Callable[..., Any]", around: "Around"
    ) -> "Callable[..., Any]":
        """Iterate over what *function* returns; return what calls shall execute."""
        self._function, self._around = function, around
        call = type(function).__call__
        yields = is_generator_function(function) or any(
            map(inspect.isasyncgenfunction, (function, call))
        )
        self._takes_done = not yields and not any(
            map(inspect.iscoroutinefunction, (function, call))
        )
        if not yields:
            return function

        async def refuse(*_args: object, **_kwargs: object) -> object:
            raise TypeError(
                f"{name_of(function)} is a generator function: use stream() or "
                "astream(), or return a list"
            )

        return refuse

    def told(self, frame: wire.Frame, *, waits: bool) -> None:
        """Take a CREDIT or a STOP.  waits: whether that call has no answer."""
        stream = self._open.get(frame.first)
        if frame.kind == wire.CREDIT:
            if stream is not None:
                stream.credit(wire.taken_of(frame))
        elif stream is not None:
            stream.stop()
        elif waits:
            self._stopped.add(frame.first)

    async def produce(self, frame: wire.Frame) -> object:
        """Execute a stream's call; return ENDED."""
        call_id = frame.first
        if frame.flags & wire.WITHDRAWN or call_id in self._stopped:
            self._stopped.discard(call_id)
            return ENDED
        stream = _Open(call_id, self._answers, self._around.flush)
        stream.deadlines = self.deadlines
        self._open[call_id] = stream
        try:
            await self._run(stream, frame)
        except asyncio.CancelledError:
            if not stream.stopped:
                raise
        finally:
            del self._open[call_id]
            stream.said()
            stream.send()
        return ENDED

    async def _run(self, stream: "_Open", frame: wire.Frame) -> None:
        items = await self._begin(frame)
        try:
            if hasattr(type(items), "__anext__"):
                async for item in items:
                    if stream.add(item):
                        await stream.turn()
                    if stream.stopped:
                        break
            else:
                for item in items:
                    if stream.add(item):
                        await stream.turn()
                    if stream.stopped:
                        break
        finally:
            if hasattr(items, "aclose"):
                await items.aclose()
            elif hasattr(items, "close"):
                items.close()

    async def _begin(self, frame: wire.Frame) -> "Any":
        """Call the function; return the iterator."""
        function = self._function
        if self._takes_done:
            raise TypeError(
                f"stream() needs a generator function; {name_of(function)} is a "
                "function that calls done(): use call(), submit() or a callback"
            )
        args, keywords = load_call(self._answers.codec, frame)
        args = self._around.enter(args)
        result = function(*args, **keywords)
        if inspect.iscoroutine(result):
            result = await result
        if hasattr(type(result), "__anext__"):
            return result
        return iterator_of(function, result)


class _Open:
    """One stream under way."""

    deadlines: "Deadlines | None"

    def __init__(
        self, call_id: int, answers: "Answers", flush: "Callable[[], None] | None"
    ) -> None:
        self.stopped = False
        self._call_id = call_id
        self._answers = answers
        self._flush = flush
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._window = Window()
        self._sent = 0  # number of the last item in a frame
        self._run: deque[Any] = deque()  # the items behind it: values, or bodies
        self._packed = True  # they are values
        self._waiter: asyncio.Future[None] | None = None
        self._before = self._turned = monotonic()

    def add(self, item: object) -> bool:
        """Take an item; return whether `turn` has to be awaited now."""
        self.said()
        window, number = self._window, self._window.made + 1
        packed = self._answers.codec.packs and keepable((item,))
        if not packed:
            answers = self._answers
            body = result_body(answers.codec, "item", (item,), answers.limit)
            window.weigh(number, len(body))
            item = body
        window.made = number
        if self._run and packed is not self._packed:
            self.send()
        if type(item) is Parts and not packed:
            return self._add_parts(number, item)
        if not self._run:
            self._packed = packed
            self._loop.call_soon(self.send)  # should the generator await something
        self._run.append(item)
        now = monotonic()
        slow, self._before = now - self._before > QUICK, now
        window.adapt(slow=slow)
        return slow or number - self._sent >= window.gathers() or window.full()

    def _add_parts(self, number: int, parts: Parts) -> bool:
        """As `add`, for an item that has a frame of its own."""
        self.send()
        self._sent = number
        data = wire.encode_parts(wire.ITEM, parts, first=self._call_id)
        self._answers.send(data)
        return True

    def said(self) -> None:
        """Have leave what the generator has printed."""
        if self._flush is not None:
            self.send()  # the items before it
            self._flush()

    def send(self) -> None:
        """Have what was gathered leave."""
        run = self._run
        if not run:
            return
        self._sent += len(run)
        if self._packed:
            data = wire.encode(
                wire.ITEM,
                dumps(list(run), PROTOCOL),
                flags=wire.PACKED,
                count=len(run),
                first=self._call_id,
            )
        else:
            data = wire.encode_bodies(wire.ITEM, list(run), first=self._call_id)
        run.clear()
        self._answers.send(data)

    async def turn(self) -> None:
        """Send; wait for credit, or give others their turn now and then."""
        self.send()
        if self._window.full() and not self.stopped:
            await self._wait()
        elif monotonic() - self._turned > SLICE:
            await asyncio.sleep(0)
        else:
            return
        self._turned = self._before = monotonic()

    async def _wait(self) -> None:
        """Wait until there is room, or nobody wants more."""
        resume = None
        if self.deadlines is not None:
            resume = partial(
                self.deadlines.resume,
                self._call_id,
                *self.deadlines.pause(self._call_id),
            )
        try:
            while self._window.full() and not self.stopped:
                self._waiter = self._loop.create_future()
                await self._waiter
        finally:
            self._waiter = None
            if resume is not None:
                resume()

    def credit(self, taken: int) -> None:
        self._window.take(taken)
        if not self._window.full():
            self._wake()

    def stop(self) -> None:
        """Nobody wants more: close the generator, whatever it awaits."""
        if self.stopped:
            return
        self.stopped = True
        if self._waiter is not None:
            self._wake()
        elif self._task is not None:
            self._task.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
