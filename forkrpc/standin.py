"""What stands in for a process where calls are executed in place (`inplace`).

A copy for what a socket would carry, a program whose callbacks run in any thread, and a
worker to which `forkrpc.event` and its like go while its function runs.
"""

import copy
import threading
import time
from _pickle import dumps, loads

from .loops import Home
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

    def began(self, waiter: "Any") -> None:
        pass


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
