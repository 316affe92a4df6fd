"""Calls executed where they are made: what a connection is to its proxy, without one.

One call at a time, each to its end, in the thread that makes it; then what belongs to
it is told, in order.  A call that is made meanwhile, by a callback or by the function
itself, waits until then.  Where an event loop runs, those of an asynchronous function
become tasks of it.  Arguments and results are copied, so that what a worker would not
see is not seen here either.
"""

import os
import sys
import threading
from collections import deque

from .awaiter import CANCELLED, Awaiter
from .callbacks import tell_error
from .death import Death
from .errors import ClosedError, RemoteError, SerialiserError, SetupError
from .gate import Gate, is_interrupt
from .instream import FlowInPlace
from .loading import Failure, result_of
from .loops import loop_that_may_wait, running_loop
from .outcome import message_of, name_call, text_of, type_name
from .reactor import report
from .serialisers import codec
from .standin import (
    Here,
    HomeInPlace,
    Outcome,
    StandIn,
    Stepped,
    awaited,
    copied,
    iterator,
    refusing,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .items import Items
    from .loops import Home

    Call = tuple[int, Any, Any, Any]  # id, arguments, keywords, target

_COROUTINE = 0x80  # CO_COROUTINE of code objects


class Inplace:
    """Stands for a Connection, its Session and its Life: a proxy sees no other."""

    def __init__(self, name: str, options: "dict[str, Any]") -> None:
        self.name = name
        self.program = Here()
        self.closed: str | None = None
        self.returncode: int | None = None
        self.pid = os.getpid()
        self.known, self.ended = Gate(), Gate()
        self.known.open()
        self.ones: frozenset[object] = frozenset()  # calls are not queued as they are
        self._options = options
        self._asynchronous = options["backend"] == "async"
        self.codec = codec(options["serialiser"], lambda _: None)
        self._calls: deque[Call] = deque()
        self._told: deque[tuple[Callable[[Any], object], object]] = deque()
        self._tasks: dict[Any, Any] = {}  # in the loop that runs; their targets
        self._lock = threading.RLock()
        self._last = self._begun = 0  # ids of calls
        self._function: Callable[..., Any]
        self._streamed: Callable[..., Any]  # what a stream's call executes
        self.flow = FlowInPlace(self)
        self._done: Callable[[], Any] | None = None
        self._loop: Any = None  # for an asynchronous function, where none runs
        self._failure: Exception | None = None  # to set it up
        self._dead = self._killed = self._over = False

    @property
    def session(self) -> "Inplace":
        return self

    @property
    def life(self) -> "Inplace":
        return self

    def use(
        self, function: "Callable[..., Any]", done: "Callable[[], Any] | None"
    ) -> None:
        """Call *function* from now on.  Raise TypeError if the backend cannot."""
        code = getattr(function, "__code__", None)
        if not self._asynchronous and code is not None and code.co_flags & _COROUTINE:
            raise TypeError(
                f'{self.name} is a coroutine function: use run(..., backend="async")'
            )
        self._streamed, self._done = function, done
        self._function = refusing(function, asynchronous=self._asynchronous)

    def set_up_failed(self, error: Exception) -> None:
        """Every call fails with *error*."""
        self._failure = error
        self._die(1)
        self.work()

    # Making calls.

    def submit(
        self, args: "Any", kwargs: "Any", target: "Any", _limit: "float | None" = None
    ) -> None:
        """Execute a call, or queue it while one is being executed."""
        args, kwargs = self._given(args, kwargs)
        self._calls.append((self._last, args, kwargs, target))
        self.work()

    submit_for = submit

    def _given(self, args: "Any", kwargs: "Any") -> "tuple[Any, Any]":
        """Return copies of what a new call is given; number it."""
        error = self.death_error()
        if self.closed is not None:
            raise ClosedError(self.closed) if error is None else error
        values = self.copied((*args, kwargs) if kwargs else args)
        self._last += 1
        return (values[:-1], values[-1]) if kwargs else (values, {})

    def stream(self, args: "Any", kwargs: "Any", items: "Items") -> None:
        """A stream's call; `flow` makes the items."""
        args, kwargs = self._given(args, kwargs)
        self.flow.begin(items, self._last, lambda: self._streamed(*args, **kwargs))

    def iterator(self, returned: object) -> "Any":
        return iterator(self._streamed, returned)

    def turn(self, step: "Callable[[], bool]") -> bool:
        """Execute a step of a stream as a call is executed."""
        with self._lock:
            self.program.working = threading.get_ident()
            try:
                over = step()
                self._tell()
            finally:
                self.program.working = None
        return over

    def copied(self, values: "tuple[Any, ...]") -> "tuple[Any, ...]":
        if self.codec.trusted:
            return copied(values)
        return self.codec.load(self.codec.dump(values))

    def call(self, args: "Any", kwargs: "Any", _limit: "float | None" = None) -> object:
        if self._asynchronous and running_loop() is not None:
            raise RuntimeError("call() would block the event loop; use acall()")
        self.program.check_may_wait("call()")
        target = Outcome()
        self.submit(args, kwargs, target)
        return result_of(target.found[0])

    call_within = call

    def home(self, verb: str) -> "Home":
        return HomeInPlace(loop_that_may_wait(verb, self.program))

    def cancel(self, target: Awaiter) -> bool:
        """Cancel a call that waits for others to end, or is a task."""
        for call in list(self._calls):
            if call[-1] is target:
                self._calls.remove(call)
                target.settle(CANCELLED)
                return True
        for task, waiting in list(self._tasks.items()):
            if waiting is target:
                return bool(task.cancel())
        return False

    def outstanding(self) -> int:
        return len(self._calls) + len(self._tasks) + len(self.flow.under_way)

    # Executing them, and telling of it.

    def work(self) -> None:
        """Execute what is queued and tell of it, unless that is being done."""
        with self._lock:
            if self.program.working is not None:
                return
            self.program.working = threading.get_ident()
            try:
                while self._calls and not self._dead:
                    self._execute(*self._calls.popleft())
                    self._tell()
                self._finish()
                self._tell()
            finally:
                self.program.working = None

    def _execute(self, call_id: int, args: "Any", kwargs: "Any", target: "Any") -> None:
        self._begun = call_id
        loop = running_loop() if self._asynchronous else None
        if loop is not None:
            work = self._await_and_settle(call_id, args, kwargs, target)
            self._tasks[loop.create_task(work)] = target
            return
        try:
            with StandIn(self):
                if self._asynchronous:
                    result = self.in_own_loop(awaited(self._function, args, kwargs))
                else:
                    result = self._function(*args, **kwargs)
            (outcome,) = self.copied((result,))
        except BaseException as error:  # fails this call only
            self._failed(call_id, error, target)
            if is_interrupt(error):
                raise
        else:
            self._settle(call_id, outcome, target)

    def in_own_loop(self, coroutine: "Any") -> object:
        import asyncio

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(coroutine)

    async def _await_and_settle(
        self, call_id: int, args: "Any", kwargs: "Any", target: "Any"
    ) -> None:
        """A call in a task of its own."""
        import asyncio

        try:
            result = await Stepped(self, awaited(self._function, args, kwargs))
            (outcome,) = self.copied((result,))
        except asyncio.CancelledError as error:
            if isinstance(target, Awaiter):
                target.settle(CANCELLED)
            else:
                self._failed(call_id, error, target)
        except BaseException as error:  # fails this call only
            self._failed(call_id, error, target)
        else:
            self._settle(call_id, outcome, target)
        self._tasks.pop(asyncio.current_task(), None)
        self.work()

    def _failed(self, call_id: int, error: BaseException, target: "Any") -> None:
        failure = self.failure(call_id, error)
        if isinstance(error, SystemExit):
            self._calls.appendleft((call_id, (), {}, target))
        else:
            self._settle(call_id, failure, target)

    def failure(self, call_id: int, error: BaseException) -> Failure:
        """Return what a call is given that has raised; die if it asks for that."""
        if isinstance(error, SystemExit):
            from .child.leave import exit_status_of

            return Failure(self._exited(exit_status_of(error), call_id))
        if not isinstance(error, Exception):  # it would end the caller's thread
            error = RemoteError(type_name(error), message_of(error), text_of(error))
        if getattr(error, "call", None) is None:
            name_call(error, f"call {call_id} of {self.name}")
        return Failure(error)

    def _exited(self, status: int, call_id: int) -> Exception:
        self._die(status)
        return self._death(call_id)

    def _settle(self, call_id: int, outcome: "Any", target: "Any") -> None:
        if isinstance(target, Awaiter):
            target.settle(outcome)
        elif isinstance(target, Outcome):
            target.found.append(outcome)
        elif isinstance(outcome, Failure):
            self._told.append((self._on_error, outcome.error))
        else:
            self._told.append((target, outcome))

    def _tell(self) -> None:
        """Run the callbacks that are due, in order."""
        ident, loop = threading.get_ident(), self._options["loop"]
        if ident in Here.telling:
            return  # a callback has called; who runs it goes on
        Here.telling.add(ident)
        try:
            while self._told:
                function, argument = self._told.popleft()
                try:
                    if loop is None or loop.is_closed():
                        function(argument)
                    else:
                        loop.call_soon_threadsafe(function, argument)
                except BaseException as error:  # the user's
                    if is_interrupt(error):
                        raise
                    report(*sys.exc_info())
        finally:
            Here.telling.discard(ident)

    def _on_error(self, error: Exception) -> None:
        tell_error(self._options, error)

    # For the function: what `forkrpc.event` and its like do.

    def event(self, args: "tuple[object, ...]") -> None:
        self._told.append((self._on_event, self.copied(args)))
        if threading.get_ident() == self.program.working:
            self._tell()

    def _on_event(self, args: "Any") -> None:
        if self._options["on_event"] is None:
            text = f"event {args!r:.200} from {self.name}, but no on_event was given"
            self._on_error(SerialiserError(text))
        else:
            self._options["on_event"](*args)

    def flush(self) -> bool:
        return True

    def retire(self) -> None:
        self.closed = self.closed or "the worker has retired"

    def become_copy(self) -> None:
        pass

    # The end.

    def _die(self, status: int) -> None:
        if self.returncode is None:
            self.returncode, self._dead = status, True
            self.closed = self.closed or f"worker {self.pid} has ended"

    def death_error(self) -> "Exception | None":
        return self._death(self._last + 1) if self._dead else None

    def _death(self, call_id: int) -> Exception:
        if self._failure is not None:
            error = SetupError(*self._failure.args)
            error.__cause__ = self._failure.__cause__
            return error
        death = Death(self.name, self.pid, self.returncode, begun=self._begun)
        return death.error_of(call_id)  # type: ignore[no-any-return]

    def _finish(self) -> None:
        """End, if that was asked for and nothing is left to do."""
        busy = (self._tasks or self.flow.under_way) and not self._dead
        if self.closed is None or self._over or busy:
            return
        self._over = True
        if self._dead:
            self._lose()
        else:
            self.returncode = 0
            if self._done is not None:
                self._execute_done(self._done)
            destroy = self._options["on_destroy"]
            if destroy is not None:
                self._told.append((lambda _: destroy(), None))
        if self._loop is not None:
            self._loop.close()
        self._told.append((lambda _: self.ended.open(), None))

    def _execute_done(self, done: "Callable[[], Any]") -> None:
        import inspect

        try:
            result = done()
            loop = running_loop()
            if inspect.iscoroutine(result) and loop is not None:
                self._tasks[loop.create_task(result)] = None
            elif inspect.iscoroutine(result):
                self.in_own_loop(result)
        except Exception:  # of a worker it would be on stderr
            report(*sys.exc_info())

    def _lose(self) -> None:
        """Fail what has no answer."""
        self.flow.lose(self._death)
        while self._calls:
            call_id, _, _, target = self._calls.popleft()
            if isinstance(target, (Awaiter, Outcome)):
                self._settle(call_id, Failure(self._death(call_id)), target)
        if not self._killed:
            self._told.append((self._on_error, self._death(0)))

    def close(self, why: str = "the proxy was closed") -> None:
        self.closed = self.closed or why
        self.work()

    def dropped(self) -> None:
        self.close()

    def kill(self, number: int) -> None:
        self._killed = True
        self._die(-number)
        self.work()

    def check_may_wait(self, verb: str) -> None:
        self.program.check_may_wait(verb)

    def drain(self, _timeout: "float | None") -> bool:
        return True
