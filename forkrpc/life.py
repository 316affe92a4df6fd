"""The life of a worker's process, as the parent sees it: start, signs of death, status.

Its death shows twice: its pidfd becomes readable, and its socket ends.  Either may be
missing for a while (a grandchild holds the socket; the status is not known yet), so at
the first sign the others are waited for, a little.
"""

import _thread
import os
import signal
from time import monotonic_ns

from .death import Death
from .gate import Gate
from .progress import BEGUN, HELD, SINCE
from .reactor import READ
from .system import exit_status, kill_group

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .program import Program
    from .progress import Page

SIGN_WAIT = 0.02  # seconds from the first sign of death to ruling without the others
HAND_OVER_WAIT = 0.001  # seconds to wait for a thread that reads to let go
END_WAIT = 10.0  # seconds that a process we have killed may take to end


class Life:
    """One worker's process.  All but `kill` runs in the reactor's thread.

    known: set once it is clear whether there is a process.
    read_rest: reads what the worker has left in its socket; False while another
    thread does that.
    on_end: called once, when the process has ended and all signs are in.
    """

    def __init__(self, program: "Program", page: "Page", name: str) -> None:
        self.pid: int | None = None
        self.returncode: int | None = None
        self.known = Gate()
        self.over = False
        self.read_rest: Callable[[], bool]
        self.on_end: Callable[[], None]
        self._program = program
        self._page: Page | None = page
        self._name = name
        self._pidfd: int | None = None
        self._signalling = _thread.RLock()
        self._status: int | None = None
        self._refused: str | None = None
        self._broken: Exception | None = None
        self._eof = self._dead = self._ruling = False
        self._kill_with: int | None = None  # a signal for a process not yet started
        self._timed_out = 0
        self._timeout: float | None = None
        self._death: Death | None = None

    # What the template tells.

    def started(self, pid: int, pidfd: "int | None") -> None:
        self.pid, self._pidfd = pid, pidfd
        self.known.open()
        if pidfd is not None:
            self._program.reactor.watch(pidfd, READ, self._died)
        if self._kill_with is not None:
            kill_group(pid, pidfd, self._kill_with)

    def refused(self, text: str) -> None:
        self._refused = text
        self._dead = True
        self._finish()

    def exited(self, status: int) -> None:
        self._status = status
        self._dead = True
        self._rule()

    # Signs of death.

    def _died(self, _events: int) -> None:
        """The pidfd says that the process has ended."""
        assert self._pidfd is not None
        assert self.pid is not None
        self._program.reactor.unwatch(self._pidfd)
        self._dead = True
        if self._status is None:
            self._status = exit_status(self.pid, self._pidfd)
        self.read_rest()
        self._rule()

    def end_of_file(self) -> None:
        """The socket has ended."""
        self._eof = True
        self._rule()

    def break_off(self, error: Exception) -> None:
        """End a worker that broke the protocol: it can no longer be trusted."""
        if self._broken is None:
            self._broken = error
            self.kill(signal.SIGKILL)

    def _rule(self) -> None:
        """Rule on the end, or wait a little for the signs that are missing."""
        if self.over:
            return
        if self._eof and self._dead and self._status is not None:
            self._finish()
        elif not self._ruling:
            self._ruling = True
            self._program.reactor.later(SIGN_WAIT, self._rule_anyway)

    def _rule_anyway(self) -> None:
        if self.over:
            return
        if self._dead:
            if self._status is None and self.pid is not None:
                self._status = exit_status(self.pid, self._pidfd)
            self._finish()
        elif self.pid is None:
            # The end of its socket, but no process: the template has still to tell.
            self._program.reactor.later(SIGN_WAIT, self._rule_anyway)
        else:
            # It closed its socket and lives on: it can answer nothing any more.
            self.kill(signal.SIGKILL)
            self._program.reactor.later(END_WAIT, self._finish)

    def _finish(self) -> None:
        if self.over:
            return
        if not self.read_rest():
            self._program.reactor.later(HAND_OVER_WAIT, self._finish)
            return
        if self._status is None and self.pid is not None:
            self._status = exit_status(self.pid, self._pidfd)
        if self._status is not None:
            self.returncode = os.waitstatus_to_exitcode(self._status)
        with self._signalling:
            self.over = True
            if self._pidfd is not None:
                self._program.reactor.unwatch(self._pidfd)
                os.close(self._pidfd)
                self._pidfd = None
        self.on_end()
        self.known.open()

    def held(self) -> "tuple[int, int]":
        """Return the ids of the first call whose result is held, and the one begun."""
        if self._page is None:
            return 0, 0
        return self._page.words[HELD], self._page.words[BEGUN]

    def kept(self, head: int) -> "list[tuple[bool, Any]]":
        """Return what the page holds of the calls from *head* on (see Page.kept)."""
        first, begun = self.held()
        if not first or not head or head < first or self._page is None:
            return []
        return self._page.kept(head - first, begun - first)

    def death(self, setup_failure: "str | None") -> Death:
        """Return what calls are told.  setup_failure: what the worker said of it."""
        if self._death is None:
            page, self._page = self._page, None
            self._death = Death(
                self._name,
                self.pid,
                self.returncode,
                begun=None if page is None else page.words[BEGUN],
                timed_out=self._timed_out,
                timeout=self._timeout,
                setup=self._refused or setup_failure,
                broken=self._broken,
                crash="" if page is None else page.crash(),
            )
            if page is not None:
                self._program.pages.give_back(page)
        return self._death

    def limit_calls(self, timeout: float, head: "Callable[[], int]") -> None:
        """End the worker when a call runs longer than *timeout* seconds.

        head: returns the id of the oldest call without an answer, 0 if there is none.
        """
        self._timeout = timeout

        def look() -> None:
            if self.over or self._page is None:
                return
            words, oldest = self._page.words, head()
            left = timeout
            if oldest and words[BEGUN] == oldest:
                left -= (monotonic_ns() - words[SINCE]) / 1e9
            if left > 0:
                self._program.reactor.later(left, look)
            else:
                self._timed_out = oldest
                self.kill(signal.SIGKILL)

        self._program.reactor.later(timeout, look)

    def kill(self, number: int) -> None:
        """Send a signal to the worker and what it has started.  Any thread."""
        with self._signalling:  # the pidfd is not closed meanwhile
            if self.over:
                return
            if self.pid is None:
                self._kill_with = number
            else:
                kill_group(self.pid, self._pidfd, number)

    def abandon(self) -> None:
        """Close the descriptor, in a forked copy of the program."""
        self.over = True
        self.known.open()  # nobody will tell this process
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
