"""The calls of an asynchronous worker, from their frames to their answers.

Each runs in a task of its own.  They begin in the order of their ids, so that one word
of the page tells which ones had begun.  No more begin while too many bytes wait for the
program, nor for longer than a slice of time, so that timers tick.

A call frame becomes calls in `_next_calls`, a call becomes a task in `_begin_some`, and
what it makes is queued by `answers`.
"""

import asyncio
import inspect
import os
import sys
from _thread import get_ident
from collections import deque
from contextvars import copy_context
from functools import partial
from time import monotonic

from .. import atomic, wire
from ..errors import ProtocolError
from ..progress import BEGUN
from .astream import ENDED, Streams
from .bodies import load_arguments
from .deadlines import Deadlines
from .done import Done
from .leave import exit_status_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..progress import Page
    from .answers import Answers
    from .around import Around

SLICE = 5e-3  # seconds for which calls may begin in one turn of the loop
MOST_AT_ONCE = 512  # calls that begin in one turn
MOST_OPEN = 64  # of them, calls that do not end at once: what they make is unknown
EAGER = sys.version_info >= (3, 12)  # tasks that run at once, and often end at once
_EAGERLY: "dict[str, Any]" = {"eager_start": True}  # unknown to older versions


class Calls:
    """What a worker was called for, still to begin or running.

    In the loop's thread, but for what is said to be for any.

    ended: exit status of the worker, once known: then nothing is answered any more.
    received: id of the last call in a frame that has come.
    copy: this process was forked from the worker: it ends when a function returns.
    """

    def __init__(
        self, answers: "Answers", spec: "dict[str, Any]", page: "Page"
    ) -> None:
        self.ended: int | None = None
        self.copy = False
        self._answers = answers
        self._name = spec["title"]
        self._page, self._words = page, page.words
        self._limit = spec["limit"] or sys.maxsize
        self._thread = get_ident()
        self.streams = Streams(answers)
        self._produce = self.streams.produce
        self._limits: dict[int, float] = {}  # of calls still to begin with their own
        self._deadlines: Deadlines | None = None
        if spec["timeout"] is not None:
            self._limit_calls(spec["timeout"])
        self._backlog: deque[wire.Frame] = deque()  # of calls still to begin
        self.received = 0
        self._calls: list[Any] = []  # of the oldest frame: arguments of `_execute`
        self._execute: Callable[..., Any]
        self._at, self._first = 0, 1  # how many of them have begun; id of the first
        # Calls that have begun, or are about to: their tasks; of those with a `done`
        # a list, whose one element is taken by whoever answers.
        self._running: dict[int, Any] = {}
        self._cancelled: set[int] = set()  # by the program
        self._quota = 8  # up to MOST_OPEN
        self._went_on = 0.0  # time.monotonic() when calls were left to the next turn

    def _limit_calls(self, timeout: "float | None") -> None:
        self._deadlines = Deadlines(self._page, timeout, self._later, self._expire)
        self.streams.deadlines = self._deadlines

    def use(self, function: "Callable[..., Any]", around: "Around") -> None:
        """Call *function* from now on."""
        self._function = around.calls(function := self.streams.use(function, around))
        call = getattr(type(function), "__call__", None)  # noqa: B004
        self._is_coroutine = any(map(inspect.iscoroutinefunction, (function, call)))

    def run_in(self, loop: "Any", context: "Any") -> None:
        """Begin calls in *loop*; what the library itself does there in *context*."""
        self._loop = loop
        self._context = context  # not a task's: no call shall see another's variables
        self._new_task: Any = loop.create_task
        if EAGER and loop.get_task_factory() is None:
            self._new_task = partial(asyncio.Task, loop=loop, **_EAGERLY)

    def outstanding(self) -> bool:
        """Return whether there is a call without an answer."""
        return bool(self._running or self._backlog or self._at < len(self._calls))

    def end(self, status: int) -> None:
        """Have the loop stop at the end of its turn, once.  Any thread."""
        if self.ended is not None:
            return
        self.ended = status
        if get_ident() == self._thread:
            self._loop.stop()
        else:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def add(self, frame: wire.Frame, *also: "Callable[[], object]") -> None:
        """Take a frame of calls, and do *also*.  Raise ProtocolError."""
        if frame.first != self.received + 1:
            raise ProtocolError(f"{frame!r} after call {self.received}")
        atomic.at_once(
            partial(self._backlog.append, frame),
            partial(setattr, self, "received", self.received + frame.count),
            *also,
        )

    def begin(self) -> bool:
        """Begin calls while there is room; return whether the next turn shall go on."""
        if self._at == len(self._calls) and not self._backlog:
            return False
        now = monotonic()
        # What did the tasks of the last turn take, in time or in bytes?
        if self._answers.full or (self._went_on and now - self._went_on > SLICE):
            self._quota = self._quota // 2 or 1
        elif self._went_on:
            self._quota = min(self._quota * 2, MOST_OPEN)
        self._went_on = 0.0
        until, left = now + SLICE, MOST_AT_ONCE
        room = len(self._running) + self._quota
        while left and monotonic() <= until:
            running = len(self._running)
            if self._answers.full or running >= self._limit:
                return False  # going on when something is written, or a call has ended
            if running >= room:
                break
            if self._at == len(self._calls) and not self._next_calls():
                return False
            left -= self._begin_some(left, min(room, self._limit), until)
            if self.ended is not None:
                return False
        self._went_on = monotonic()
        return True

    def _begin_some(self, most: int, room: int, until: float) -> int:
        """Begin calls of the oldest frame until *room* are running; return how many."""
        calls, running, answers = self._calls, self._running, self._answers
        coroutine, execute, begun = self._call, self._execute, self._at
        tasks = self._is_coroutine or execute is self._produce
        for at in range(begun, min(len(calls), begun + most)):
            self._at, call_id = at + 1, self._first + at
            try:
                call, calls[at] = calls[at], None  # it may be large
                if self._cancelled and call_id in self._cancelled:
                    self._cancelled.discard(call_id)
                    answers.cancelled(call_id)
                elif tasks:
                    task = self._new_task(coroutine(call_id, execute, call))
                    if not task.done():
                        running[call_id] = task
                else:
                    self._start_plain(call_id, execute, call)
            except BaseException as error:  # a signal's handler
                if call_id <= self._words[BEGUN]:
                    raise
                running.pop(call_id, None)
                self._failed(call_id, error)
            ended = answers.full or self.ended is not None
            if ended or len(running) >= room or monotonic() > until:
                break
        return self._at - begun

    def _next_calls(self) -> bool:
        """Take the calls of the next frame; return whether there is one."""
        while self._backlog:
            frame = self._backlog.popleft()
            self._first, self._at = frame.first, 0
            if frame.kind == wire.STREAM:
                if frame.flags & wire.LIMITED:
                    (frame.body,) = self._bodies(frame)
                self._calls, self._execute = [(frame,)], self._produce
            elif frame.flags & wire.PACKED:
                calls = frame.loaded(self._answers.codec.load)
                if not isinstance(calls, list) or len(calls) != frame.count:
                    raise ProtocolError(f"{frame!r} holds {calls!r:.100}")
                ones = frame.flags & wire.ONES
                self._calls = list(zip(calls)) if ones else calls  # noqa: B905
                self._execute = self._function
            else:
                keywords = frame.flags & wire.KEYWORDS
                self._calls = [(body,) for body in self._bodies(frame)]
                self._execute = self._of_keywords if keywords else self._of_body
            return True
        return False

    def _bodies(self, frame: wire.Frame) -> "list[bytes | memoryview]":
        if not frame.flags & wire.LIMITED:
            return frame.bodies()
        limits, bodies = frame.limited()
        self._limits.update(enumerate(limits, frame.first))
        if self._deadlines is None:
            self._limit_calls(None)
        return bodies

    def _of_body(self, *given: "Any") -> "Any":
        *before, body = given  # a `done`, or nothing
        return self._function(*before, *load_arguments(self._answers.codec, body))

    def _of_keywords(self, *given: "Any") -> "Any":
        *before, body = given
        *args, keywords = load_arguments(self._answers.codec, body)
        return self._function(*before, *args, **keywords)

    async def _call(
        self, call_id: int, execute: "Callable[..., Any]", call: "tuple[Any, ...]"
    ) -> None:
        """Await the function and answer.  Each call's task runs this."""
        if self.ended is not None:
            return
        self._words[BEGUN] = call_id
        if self._deadlines is not None:
            self._deadlines.begin(call_id, self._limits.pop(call_id, None))
        try:
            if self._cancelled and call_id in self._cancelled:
                raise asyncio.CancelledError
            value = await execute(*call)
            if self.copy:
                os._exit(0)
            if self._deadlines is not None and self._deadlines.passed(call_id):
                raise self._deadlines.error(self._name, call_id)
            if self.ended is None:
                answers = self._answers
                if value is ENDED:
                    answers.ended(call_id)
                elif answers.shared or not answers.keep(call_id, value):
                    answers.result(call_id, value)
        except BaseException as error:  # fails this call only; the worker goes on
            self._failed(call_id, error)
        finally:
            self._over(call_id)

    def _over(self, call_id: int) -> None:
        """A call has its answer, if it gets one."""
        self._running.pop(call_id, None)
        if self._cancelled:
            self._cancelled.discard(call_id)
        if self._deadlines is not None:
            self._deadlines.end(call_id)

    def _start_plain(
        self, call_id: int, execute: "Callable[..., Any]", call: "tuple[Any, ...]"
    ) -> None:
        """Call a function that answers by calling `done`."""
        gate = [True]
        self._running[call_id] = gate
        self._words[BEGUN] = call_id
        if self._deadlines is not None:
            self._deadlines.begin(call_id, self._limits.pop(call_id, None))
        done = Done(
            self._name,
            partial(self._finish, call_id, gate),
            partial(self._dropped, call_id, gate),
        )
        try:
            returned = copy_context().run(execute, done, *call)
            if self.copy:
                os._exit(0)
            if inspect.iscoroutine(returned):
                returned.close()
                raise TypeError(
                    f"{self._name} returned a coroutine but is no coroutine function; "
                    "write it as async def, or start a task and call done()"
                )
        except SystemExit as error:
            self._failed(call_id, error)
        except BaseException as error:  # fails this call only; the worker goes on
            if not self._take(call_id, gate):  # it was answered already
                self._report(call_id, error)
            else:
                self._failed(call_id, error)
                self._gone(call_id)

    def _take(self, call_id: int, gate: "list[bool]") -> bool:
        """Return whether the caller is the one to answer.  Any thread."""
        try:
            gate.pop()
        except IndexError:
            return False
        return self.ended is None

    def _finish(self, call_id: int, gate: "list[bool]", result: object) -> None:
        """`done` was called.  Any thread."""
        if self.copy:
            os._exit(0)
        if not self._take(call_id, gate):
            return  # it was cancelled, or has run too long
        try:
            self._answers.result(call_id, result)
        except SystemExit as error:
            self.end(exit_status_of(error))
        except BaseException as error:  # the result cannot be sent
            self._answers.error(call_id, error)
        self._gone(call_id)

    def _gone(self, call_id: int) -> None:
        """A call with a `done` was answered.  Any thread."""
        if get_ident() == self._thread:
            self._over(call_id)
        else:
            self._loop.call_soon_threadsafe(
                self._over_there, call_id, context=self._context
            )

    def _over_there(self, call_id: int) -> None:
        """A call was answered by another thread."""
        self._over(call_id)
        self._answers.made()  # a turn, to look whether anything is left to wait for

    def _dropped(self, call_id: int, gate: "list[bool]") -> None:
        """A `done` went away uncalled.  Any thread, between any two bytecodes."""
        if gate and not self.copy:
            try:
                self._loop.call_soon_threadsafe(
                    self._fail_dropped, call_id, gate, context=self._context
                )
            except RuntimeError:  # the loop was closed
                return

    def _fail_dropped(self, call_id: int, gate: "list[bool]") -> None:
        if self._take(call_id, gate):
            text = f"{self._name} dropped its done() without calling it"
            self._answers.error(call_id, RuntimeError(text))
            self._gone(call_id)

    def _failed(self, call_id: int, error: BaseException) -> None:
        """Answer a call with an exception, or end if it asks for that."""
        if self.copy:
            os._exit(1)
        if isinstance(error, SystemExit):
            if self.ended is None:
                self.end(exit_status_of(error))
            return
        if self.ended is not None:
            return
        if self._answers.answered(call_id):
            raise error  # a signal's handler raised it, behind the call
        if self._deadlines is not None and self._deadlines.passed(call_id):
            error = self._deadlines.error(self._name, call_id)
        elif call_id in self._cancelled and isinstance(error, asyncio.CancelledError):
            self._answers.cancelled(call_id)
            return
        self._answers.error(call_id, error)

    def _expire(self, call_id: int) -> None:
        """A call has run too long."""
        running = self._running.get(call_id)
        if isinstance(running, list):
            if self._take(call_id, running):
                assert self._deadlines is not None
                self._answers.error(call_id, self._deadlines.error(self._name, call_id))
                self._gone(call_id)
        elif running is not None:
            running.cancel()

    def told(self, frame: wire.Frame) -> None:
        """Take what the program says of a stream."""
        call_id = frame.first
        waits = call_id in self._running or call_id >= self._first + self._at
        self.streams.told(frame, waits=waits)

    def cancel(self, call_id: int) -> None:
        """The program cancels a call."""
        if not 0 < call_id <= self.received:
            raise ProtocolError(f"call {call_id} was cancelled before it came")
        running = self._running.get(call_id)
        if isinstance(running, list):
            if self._take(call_id, running):
                self._answers.cancelled(call_id)
                self._gone(call_id)
        elif call_id > self._words[BEGUN]:
            self._cancelled.add(call_id)  # its turn will find it there
        elif running is not None:
            self._cancelled.add(call_id)
            running.cancel()

    def _later(self, delay: float, function: "Callable[[], None]") -> None:
        self._loop.call_later(delay, function, context=self._context)

    def _report(self, call_id: int, error: BaseException) -> None:
        """Tell of an exception that no call can be given."""
        message = f"call {call_id} of {self._name} raised after its done() was called"
        self._loop.call_exception_handler({"message": message, "exception": error})
