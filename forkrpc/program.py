"""What the library holds for this program: the one place with state of a module.

In a process that user code forks, every descriptor is closed and a fresh state is made
on first use; handles of the parent are inert there.
"""

import _thread
import os
import sys
import threading
import warnings
from _thread import get_ident
from time import monotonic

from .fds import above_stdio
from .progress import Pages
from .reactor import Reactor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from .link import Link

    class End(Protocol):
        """What has to be ended with the program."""

        def close_at_exit(self) -> None: ...

        def outstanding(self) -> int: ...

        def wait_for_end(self, timeout: float) -> bool: ...

        def kill_at_exit(self) -> None: ...

        def abandon(self) -> None: ...


IDLE_GRACE = 0.3  # seconds that idle workers have to leave after a Ctrl-C


class Program:
    """Reactor, lifeline, pages and default template of the running program.

    ends: everything with descriptors of its own, for the end and for forked copies.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.reactor = Reactor()
        self.pages = Pages()
        read, write = os.pipe2(os.O_CLOEXEC)
        self.lifeline = above_stdio(read)
        self._held = above_stdio(write)
        self.ends: dict[End, None] = {}
        self.closing = False
        self._making = _thread.RLock()
        self._default: Link | None = None

    def default_template(self) -> "Link":
        """Return the link to the default template; execute it if there is none."""
        with self._making:
            if self._default is None or self._default.ended:
                from .link import Link

                self._default = Link.executed(self)
            return self._default

    def check_may_wait(self, verb: str) -> None:
        """Raise RuntimeError in the thread that would have to end the waiting."""
        if get_ident() == self.reactor.ident:
            raise RuntimeError(
                f"{verb} would wait for ever in the thread that runs callbacks; "
                "pass a callback, or let another thread wait"
            )

    def abandon(self) -> None:
        """Close everything; runs in a forked copy of the program."""
        for end in list(self.ends):
            end.abandon()
        self.reactor.abandon()
        self.pages.abandon()
        os.close(self.lifeline)
        os.close(self._held)

    def end(self) -> None:
        """Finish outstanding calls, for a while; then end all workers."""
        self.closing = True
        try:
            self._finish()
        finally:
            for end in list(self.ends):
                end.kill_at_exit()

    def _finish(self) -> None:
        ends = list(self.ends)
        for end in ends:
            end.close_at_exit()
        if _interrupted():
            idle = [end for end in ends if not end.outstanding()]
            limit = monotonic() + IDLE_GRACE
            for end in idle:
                end.wait_for_end(max(0.0, limit - monotonic()))
            return
        limit = monotonic() + sys.modules["forkrpc"].exit_grace
        for end in ends:
            end.wait_for_end(max(0.0, limit - monotonic()))
        lost = sum(end.outstanding() for end in ends)
        if lost:
            warnings.warn(
                f"{lost} calls were not finished in time after the end of the program "
                f"and are lost; forkrpc.exit_grace, or the pool's, tells how long it "
                f"waits ({sys.modules['forkrpc'].exit_grace} s)",
                RuntimeWarning,
                stacklevel=2,
            )


def _interrupted() -> bool:
    """Return whether an uncaught Ctrl-C ends the program: then nobody wants to wait."""
    return getattr(sys, "last_type", None) is KeyboardInterrupt and not hasattr(
        sys, "ps1"
    )


_current: "list[Program]" = []
_making = _thread.RLock()


def current() -> Program:
    """Return the state of this program; made on first use.  Any thread."""
    if not _current:
        with _making:
            if not _current:
                _register_once()
                _current.append(Program())
    return _current[0]


_registered: "list[bool]" = []


def _register_once() -> None:
    if _registered:
        return
    os.register_at_fork(after_in_child=_forget)
    # As concurrent.futures does: before the interpreter waits for its threads, and
    # while daemon threads, such as the reactor's, still run.
    threading._register_atexit(_end)  # type: ignore[attr-defined]
    _registered.append(True)


def _forget() -> None:
    global _making
    _making = _thread.RLock()  # another thread may have held it
    if _current:
        _current.pop().abandon()


def _end() -> None:
    if _current:
        _current[0].end()
