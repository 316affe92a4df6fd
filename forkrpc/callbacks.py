"""Runs the callbacks of one worker, in order: in the reactor's thread or in a loop.

A loop is asked to run them, and takes so many at each turn that it can do other things
too.  It may be closed before it does; then the reactor runs what is left.
"""

import sys
from functools import partial
from itertools import islice
from time import monotonic

from . import atomic
from .loops import MOST, running_loop
from .reactor import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .reactor import Reactor
    from .session import Session

PATIENCE = 0.1  # seconds until a loop is asked again


class Callbacks:
    """What `session.ready` holds is called; `deliver` in the reactor's thread.

    loop: where callbacks run; None: in the reactor's thread.
    """

    def __init__(
        self, session: "Session", reactor: "Reactor", options: "dict[str, Any]"
    ) -> None:
        self.loop: Any = options["loop"]
        self._session = session
        self._reactor = reactor
        self._asked = 0.0  # time.monotonic() when the loop was asked; 0: it need not be
        self._checking = False
        self._running: Iterator[Any] = iter(())  # (callback, argument) being called
        self._partly = False  # some of them are left to the loop's next turn

    def check_may_wait(self, verb: str) -> None:
        """Raise RuntimeError in the loop that runs the callbacks."""
        if self.loop is not None and self.loop is running_loop():
            raise RuntimeError(
                f"{verb} would wait for ever in the event loop that runs the "
                "callbacks; await what on_destroy sets, or wait in another thread"
            )

    def deliver(self) -> None:
        """Call what is ready, or have it called."""
        if not (self._session.ready or self._partly):
            return
        if self.loop is None:
            self._run()
        elif monotonic() > self._asked + PATIENCE:
            self._ask()

    def _ask(self) -> None:
        self._asked = monotonic()
        try:
            self.loop.call_soon_threadsafe(self._run_some)
        except RuntimeError:  # the loop was closed
            if any(last not in functions for functions, _ in self._session.ready):
                report(*sys.exc_info())
            self.loop = None
            self._run()
        else:
            if not self._checking:  # it may be closed, or interrupted
                self._checking = True
                self._reactor.later(PATIENCE * 1.1, self._check)

    def _check(self) -> None:
        self._checking = False
        self.deliver()

    def run_soon(self) -> None:
        """Call what is ready at the next turn of the loop, whose thread this is."""
        if not self._asked:
            self._asked = monotonic()
            self.loop.call_soon(self._run_some)

    def _run_some(self) -> None:
        self._asked, self._partly = 0.0, True
        ready, left = self._session.ready, MOST
        while left:
            try:
                for function, argument in islice(self._running, left):
                    left -= 1
                    function(argument)
                if left and not ready:
                    self._partly = False
                    return
                if left:
                    atomic.together(
                        (partial(setattr, self, "_running"), atomic.drop),
                        (zip(*ready[0], strict=True), atomic.leftmost(ready, 1)),
                    )
            except BaseException as error:  # as in `_run`
                self._report(error)
        self.run_soon()

    def _run(self) -> None:
        """Call what is ready, in order.  In the callbacks' thread only."""
        ready = self._session.ready
        while True:
            try:
                # What is left of the pairs stays, if one of them raises.
                for function, argument in self._running:
                    function(argument)
                if not ready:
                    return
                self._running = zip(*ready.popleft(), strict=True)
            except BaseException as error:  # the user's; it disturbs nothing else
                self._report(error)

    def _report(self, error: BaseException) -> None:
        if self.loop is None:
            report(*sys.exc_info())
        else:
            message = f"callback of {self._session.name}"
            self.loop.call_exception_handler({"message": message, "exception": error})


def tell_error(options: "dict[str, Any]", error: Exception) -> None:
    """Call `on_error`, or what stands for it.  Runs in the callbacks' thread."""
    if options["on_error"] is not None:
        options["on_error"](error)
    elif options["on_event"] is not None:
        options["on_event"]("error", error)
    else:
        import logging

        log = logging.getLogger("forkrpc")
        log.error("%s", error, exc_info=error if error.__cause__ else None)


def destroyed(on_destroy: "Any") -> None:
    """Tell the user of an orderly end."""
    on_destroy()


def last(opened: "Any") -> None:
    """Open the gate that stands behind all callbacks."""
    opened.open()
