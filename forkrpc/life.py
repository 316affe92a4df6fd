"""The life of a worker's process, as the parent sees it: start, signs of death, status.

Its death shows twice: its pidfd becomes readable, and its socket ends.  Either may be
missing for a while (a grandchild holds the socket; the status is not known yet), so at
the first sign the others are waited for, a little.
"""

import _thread
import os
import signal
from functools import partial
from math import inf
from time import monotonic_ns

from .death import Death
from .gate import Gate
from .progress import BEGUN, FIRST, HELD, MADE, SINCE, SPENT, STREAM, WAITING
from .reactor import READ, Timer
from .system import exit_status, kill_group, pidfd_of_worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .program import Program
    from .progress import Page

SIGN_WAIT = 0.02  # seconds from the first sign of death to ruling without the others
HAND_OVER_WAIT = 0.001  # seconds to wait for a thread that reads to let go
READ_WAIT = 0.02  # seconds for threads that read to find the answer of a late call
END_WAIT = 10.0  # seconds that a process we have killed may take to end


class Life:
    """One worker's process.  All but `kill` runs in the reactor's thread.

    known: set once it is clear whether there is a process.
    read_on: reads what the worker has sent so far, unless another thread reads.
    read_rest: reads what the worker has left in its socket; False while another
    thread does that.
    said_pid: returns the process id that the worker itself has told, or None.
    on_end: called once, when the process has ended and all signs are in.
    Whoever gave these is let go then: no cycle waits for the collector.
    """

    def __init__(self, program: "Program", page: "Page", name: str) -> None:
        self.pid: int | None = None
        self.returncode: int | None = None
        self.known = Gate()
        self.over = False
        self.read_on: Callable[[], None]
        self.read_rest: Callable[[], bool]
        self._suspect = 0  # a call beyond its limit, whose answer is looked for
        self.said_pid: Callable[[], int | None]
        self.on_end: Callable[[], None]
        self._program = program
        self._page: Page | None = page
        self._name = name
        self._pidfd: int | None = None
        self._signalling = _thread.RLock()
        self._status: int | None = None
        self._refused: str | None = None
        self._broken: Exception | None = None
        self._eof = self._dead = False
        self._ruling: Timer | None = None  # once there was a sign of death
        self._looking: Timer | None = None  # for a call beyond its limit
        self._kill_with: int | None = None  # a signal for a process not yet started
        self._timed_out = 0
        self._timeout: float | None = None  # of the call that has run too long
        self._limits: Any = None
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
        """There is no process; or there is, and its template ended before it told."""
        self.read_on()
        pid = self.said_pid()
        pidfd = None if pid is None else pidfd_of_worker(pid)
        if pid is not None and pidfd is not None:
            self.started(pid, pidfd)
            return
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
        elif self._ruling is None:
            self._rule_in(SIGN_WAIT)

    def _rule_in(self, delay: float) -> None:
        self._ruling = self._program.reactor.later(delay, self._rule_anyway)

    def _rule_anyway(self) -> None:
        if self.over:
            return
        if self._dead:
            if self._status is None and self.pid is not None:
                self._status = exit_status(self.pid, self._pidfd)
            self._finish()
        elif self.pid is None:
            # The end of its socket, but no process: the template has still to tell.
            self._rule_in(SIGN_WAIT)
        else:
            # It closed its socket and lives on: it can answer nothing any more.
            self.kill(signal.SIGKILL)
            self._ruling = self._program.reactor.later(END_WAIT, self._finish)

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
        self._let_go()

    def _let_go(self) -> None:
        del self.read_on, self.read_rest, self.said_pid, self.on_end
        self._limits = None
        for timer in (self._ruling, self._looking):
            if timer is not None:
                timer.cancel()

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
        kept = self._page.kept(head - first, begun - first)
        # The worker may have gone on meanwhile, and put others in their place; then
        # these have been written to the socket.
        return kept if self.held()[0] == first else []

    def made(self) -> "tuple[int, int, int]":
        """Return a stream's id, and the numbers of its first and last items held."""
        if self._page is None:
            return 0, 0, 0
        words = self._page.words
        return words[STREAM], words[FIRST], words[MADE]

    def made_items(self, received: int) -> "list[tuple[bool, Any]]":
        """Return what the page holds behind the first *received* items of a stream."""
        seen = self.made()
        _, first, last = seen
        if self._page is None or not first <= received + 1 <= last:
            return []
        found = self._page.kept(received + 1 - first, last + 1 - first)
        return found if self.made() == seen else []  # it has gone on meanwhile

    def scattered(self) -> "list[tuple[int, bool, Any]]":
        """Return what the page of an async worker holds (see Page.scattered)."""
        return [] if self._page is None else self._page.scattered(alive=not self.over)

    def begun(self) -> int:
        """Return the id of the call that was begun last."""
        return 0 if self._page is None else self._page.words[BEGUN]

    def begun_word(self) -> "Callable[[], int]":
        """Return what does as `begun`, in half the time, for whoever asks at each call.

        It raises ValueError once the page was given back.
        """
        assert self._page is not None
        return partial(self._page.words.__getitem__, BEGUN)

    def spent(self) -> float:
        """Return the seconds for which a worker of a pool has executed calls."""
        return 0.0 if self._page is None else self._page.words[SPENT] / 1e9

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

    def limit_calls(
        self,
        timeout: "float | None",
        limit_of: "Callable[[int], float | None]",
        waits: "Callable[[int], bool]",
        word: int = BEGUN,
        grace: float = 0.0,
    ) -> None:
        """End the worker when a call runs *grace* longer than its limit.

        timeout: of calls without a limit of their own, in seconds; None: they have
        none.  limit_of: returns a call's own.  waits: returns whether a call has no
        answer.  word: where the page has the id of the call that is due next.
        """
        self._limits = timeout, limit_of, waits, word, grace
        if timeout is not None:
            self._look_in(timeout + grace)

    def _look_in(self, delay: float) -> None:
        self._looking = self._program.reactor.later(delay, self._look_again)

    def _look_again(self) -> None:
        left, (timeout, *_, grace) = self._left(), self._limits
        if left > 0 and timeout is not None:
            self._look_in(min(left, timeout + grace))

    def look_at_limit(self, until: float) -> None:
        """Look for a call beyond its limit, now and within *until* seconds."""
        if 0 < (left := self._left()) < until:
            self._program.reactor.later(left, self._left)

    def _left(self) -> float:
        """Return the seconds that a call has left; end the worker if it has none."""
        if self.over or self._page is None:
            return 0.0
        timeout, limit_of, waits, word, grace = self._limits
        words = self._page.words
        oldest, since = words[word], words[SINCE]
        if not oldest or words[word] != oldest:
            return inf
        limit = limit_of(oldest)
        limit = timeout if limit is None else limit
        if limit is None or not waits(oldest):
            return inf
        ran = since ^ WAITING if since & WAITING else monotonic_ns() - since
        left = limit + grace - ran / 1e9
        if left <= 0 and self._suspect != oldest:
            # Its answer may have come while nobody could read.
            self._suspect = oldest
            self.read_on()
            return READ_WAIT
        if left <= 0 and not self._timed_out:
            self._timed_out, self._timeout = oldest, limit
            self.kill(signal.SIGKILL)
        return float(left)

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
