"""What stands in for a process where calls are executed in place (`inplace`).

A copy for what a socket would carry, a program whose callbacks run in any thread, and a
worker to which `forkrpc.event` and its like go while its function runs.
"""

import copy
import threading
import time
from _pickle import dumps, loads

from .errors import SetupError
from .loops import Home
from .outcome import text_of
from .serialisers import explained

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .child import Backend


def copied(values: "tuple[Any, ...]") -> "tuple[Any, ...]":
    """Return a copy as a pickle makes it.  Raise SerialiserError."""
    try:
        return loads(dumps(values))  # type: ignore[no-any-return]
    except Exception:  # what cloudpickle would send by value stays what it is
        try:
            return copy.deepcopy(values)
        except Exception as error:
            raise explained(error, values, _deeply) from error


def _deeply(values: object) -> bytes:
    copy.deepcopy(values)
    return b""


def set_up_error(step: str, error: Exception) -> SetupError:
    failure = SetupError(f"{step}: {text_of(error)}")
    failure.__cause__ = error
    return failure


class Outcome:
    """The target of a call that is waited for; found: what came."""

    def __init__(self) -> None:
        self.found: list[object] = []


class Here:
    """The program and its reactor, as a future and a proxy see them."""

    telling: "set[int]" = set()  # idents of threads that run callbacks

    def __init__(self) -> None:
        self.reactor = self
        self.working: int | None = None  # ident of the thread that executes calls

    def check_may_wait(self, verb: str) -> None:
        ident = threading.get_ident()
        if ident in self.telling or ident == self.working:
            raise RuntimeError(
                f"{verb} would wait for ever in the thread that runs callbacks, or in "
                "a call of the same worker; pass a callback, or let another wait"
            )

    def later(self, delay: float, function: "Callable[[], object]") -> None:
        time.sleep(delay)
        function()


class HomeInPlace(Home):
    """Where a loop waits; there is nothing to read."""

    def __init__(self, loop: "Any") -> None:
        super().__init__(loop, None)  # type: ignore[arg-type]
        self.makers: dict[Any, Callable[[], Any]] = {}  # of the items of streams
        self._task: Any = None

    def began(self, waiter: "Any") -> None:
        make = self.makers.get(waiter)
        if make is not None:
            self._task = self.loop.create_task(make())


class StandIn:
    """While it is entered, `forkrpc.event` and its like go to a worker in place."""

    def __init__(self, worker: "Backend") -> None:
        self._worker = worker

    def __enter__(self) -> None:
        from .child import stand_in

        self._before = stand_in([self._worker])

    def __exit__(self, *_: object) -> None:
        from .child import stand_in

        stand_in(self._before)


class Stepped:
    """Awaits a coroutine, each of its steps under a StandIn: tasks take turns."""

    def __init__(self, worker: "Backend", coroutine: "Any") -> None:
        self._worker = worker
        self._coroutine = coroutine

    def __await__(self) -> "Any":
        step, given = self._coroutine.send, None
        while True:
            try:
                with StandIn(self._worker):
                    waits_for = step(given)
            except StopIteration as end:
                return end.value
            try:
                step, given = self._coroutine.send, (yield waits_for)
            except BaseException as error:  # such as CancelledError: the coroutine's
                step, given = self._coroutine.throw, error


async def awaited(function: "Any", args: "Any", kwargs: "Any") -> object:
    """Call an asynchronous function, or one that answers by calling `done`."""
    import asyncio
    import inspect

    call = getattr(type(function), "__call__", None)  # noqa: B004
    if any(map(inspect.iscoroutinefunction, (function, call))):
        return await function(*args, **kwargs)
    loop = asyncio.get_running_loop()
    answered = loop.create_future()

    def done(result: object = None) -> None:
        loop.call_soon_threadsafe(answered.set_result, result)

    function(done, *args, **kwargs)
    return await answered


def refusing(function: "Any", *, asynchronous: bool) -> "Callable[..., Any]":
    """Return what calls execute: *function*, or a refusal if it is a generator's."""
    if asynchronous:
        from .child.around import Around
        from .child.astream import Streams

        around = Around(None, None)
        return Streams(None).use(function, around)  # type: ignore[arg-type]
    from .child.stream import for_calls

    return for_calls(function)


def iterator(function: "Callable[..., Any]", returned: object) -> "Any":
    """Return the iterator, asynchronous or not, that a stream's call has returned."""
    from .child.stream import iterator_of

    if hasattr(type(returned), "__anext__"):
        return returned
    return iterator_of(function, returned)
