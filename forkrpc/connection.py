"""Moves the bytes of a session: its socket, who reads it, and whom it tells."""

import _socket
import _thread
import os
import signal
import sys
import threading

from . import wire
from .errors import ClosedError, ProtocolError, SerialiserError
from .fds import Outbox
from .life import Life
from .reactor import READ, WRITE, report
from .serialisers import keepable
from .session import MOST_CALLS, Awaiter, Eager, Failure, Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .program import Program


FEW = 32  # calls under way below which a new one is sent at once
LOW = 256  # calls under way below which the reader sends more


class Waiter(Awaiter):
    """A thread that waits in `call`."""

    __slots__ = ("gate", "outcome")

    def __init__(self) -> None:
        self.gate = _thread.allocate_lock()
        self.gate.acquire()
        self.outcome: object = None

    def settle(self, outcome: object) -> None:
        self.outcome = outcome
        try:
            self.gate.release()
        except RuntimeError:  # settled before
            pass


class Connection:
    """One worker: its session, its life, and what the user wants to be told.

    Shared by the Proxy, which may be dropped, and the reactor, which keeps it until
    the worker has ended.
    closed: why no more calls are taken, None while they are.
    ended: set when the worker has ended and all callbacks have run.
    """

    def __init__(
        self,
        program: "Program",
        sock: "_socket.socket",
        session: Session,
        life: Life,
        options: "dict[str, Any]",
    ) -> None:
        sock.setblocking(False)
        self.program = program
        self.session = session
        self.life = life
        self.closed: str | None = None
        self.ended = threading.Event()
        self._sock = sock
        self._options = options
        self._outbox = Outbox(sock, _socket.MSG_DONTWAIT)
        self._outbox.put(wire.GREETING)
        self._writing = _thread.RLock()
        self._eof = False
        self._ticking = False
        self._seen = (0, 0)  # what the worker's page told at the last tick
        self._closing = False  # an orderly end was asked for
        self._said_close = False
        self._killed = False  # by `kill`: nobody is to be told
        session.on_error = self._on_error
        session.on_event = options["on_event"]
        life.read_rest = self._read_rest
        life.on_end = self._on_end
        if options["timeout"] is not None:
            life.limit_calls(options["timeout"], session.head)
        program.ends[self] = None
        program.reactor.start()
        program.reactor.watch(sock.fileno(), READ, self._ready)

    # Calls, in any thread.

    def submit(self, entry: "tuple[Any, ...]", kwargs: "dict[str, Any]") -> None:
        """Queue a call: *entry* is its arguments and who gets the result.

        Never blocks.  Raise SerialiserError or ClosedError.
        """
        if self.closed is not None:
            error = self.death_error()
            raise ClosedError(self.closed) if error is None else error
        session = self.session
        if kwargs or not session.packs or not keepable(entry[:-1]):
            entry = self._serialised(entry, kwargs)
        session.unsent.append(entry)
        if not self._ticking:
            self._start_ticking()
        if len(session.pending) < FEW or len(session.unsent) >= MOST_CALLS:
            self.flush()

    def _serialised(self, entry: "tuple[Any, ...]", kwargs: "Any") -> Eager:
        args, target = entry[:-1], entry[-1]
        body = self.session.codec.dump((*args, kwargs) if kwargs else args)
        limit = self._options["max_frame"]
        if len(body) > limit:
            raise SerialiserError(
                f"arguments of {len(body)} bytes, max_frame is {limit}; "
                "raise it with run(..., max_frame=...)"
            )
        return Eager((body, bool(kwargs), target))

    def death_error(self) -> "Exception | None":
        """Return a new exception if the worker has ended unasked, None else."""
        if not self.life.over or self._closing:
            return None
        death = self.life.death(self.session.setup_failure)
        return death.error_of(0)  # type: ignore[no-any-return]

    def wait(self, waiter: Waiter) -> object:
        """Return the result that a call was given, or raise its exception."""
        if self.session.unsent:
            self.flush()
        waiter.gate.acquire()
        return result_of(waiter.outcome)

    def flush(self) -> None:
        """Write what the socket takes; the reactor goes on with the rest."""
        if self._writing._is_owned():  # type: ignore[attr-defined]
            return  # a signal handler of the user calls; what it interrupted goes on
        with self._writing:
            if self.life.over:
                return
            frames, unsent = self._outbox.frames, self.session.unsent
            try:
                done = self._outbox.flush()
                while done and unsent:
                    self.session.take(frames)
                    done = self._outbox.flush()
                if done and self._closing and not self._said_close:
                    self._said_close = True
                    self._outbox.put(wire.encode(wire.CLOSE))
                    done = self._outbox.flush()
            except OSError:  # the worker is gone; its end of file is still to be read
                self._outbox.clear()
                done = True
            if not self._eof:
                events = READ if done else READ | WRITE
                self.program.reactor.change(self._sock.fileno(), events)

    # Reading, in the reactor's thread.

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self.flush()
        if events & ~WRITE:
            self._read()

    def _read(self) -> bool:
        """Read once and handle what came; return whether there may be more."""
        more = False
        try:
            more = self.session.decoder.receive(self._sock.recv) > 0
        except BlockingIOError:
            return False
        except ConnectionError:
            pass
        except ProtocolError as error:
            self.life.break_off(error)
        self._handle()
        if not more:
            self._end_of_file()
        return more

    def _read_rest(self) -> None:
        while not self._eof and self._read():
            pass

    def _end_of_file(self) -> None:
        if not self._eof:
            self._eof = True
            self.program.reactor.unwatch(self._sock.fileno())
            self.life.end_of_file()

    def _handle(self) -> None:
        """Work off what has arrived, and tell whom it concerns."""
        session = self.session
        try:
            session.handle()
        except ProtocolError as error:
            self.life.break_off(error)
            self._end_of_file()
        if session.retired and self.closed is None:
            self.close("the worker has retired")
        self._deliver()
        if session.unsent and len(session.pending) < LOW:
            self.flush()

    def _deliver(self) -> None:
        awaited = self.session.awaited
        while awaited:
            awaiter, outcome = awaited[0]
            awaiter.settle(outcome)
            awaited.popleft()
        if self.session.ready:
            loop = self._options["loop"]
            if loop is None:
                self._run_callbacks()
            else:
                loop.call_soon_threadsafe(self._run_callbacks)

    def _run_callbacks(self) -> None:
        """Call what is ready, in order.  In the callbacks' thread only."""
        ready = self.session.ready
        while ready:
            function, argument = ready.popleft()
            try:
                function(argument)
            except BaseException:  # the user's; it disturbs nothing else
                report(*sys.exc_info())

    def _on_error(self, error: Exception) -> None:
        """Tell the user.  Runs in the callbacks' thread."""
        on_error, on_event = self._options["on_error"], self._options["on_event"]
        if on_error is not None:
            on_error(error)
        elif on_event is not None:
            on_event("error", error)
        else:
            import logging

            log = logging.getLogger("forkrpc")
            log.error("%s", error, exc_info=error if error.__cause__ else None)

    # Looking after calls without an answer, in the reactor's thread.

    def _start_ticking(self) -> None:
        self._ticking = True
        self.program.reactor.tick(self)

    def tick(self) -> bool:
        """Look for what nobody else brings on its way; return whether to look again.

        That is: results which a stuck worker holds back, and what an interrupt left.
        """
        session = self.session
        if self.life.over:
            self._sweep()
            self._ticking = False
            return False
        seen = self.life.held()
        if seen == self._seen and seen[0]:
            self._recover()
        self._seen = seen
        self._handle()
        if session.unsent:
            self.flush()
        self._ticking = False  # first: a call that comes now starts anew
        self._ticking = bool(session.outstanding())
        return self._ticking

    def _recover(self) -> None:
        """Settle the calls whose results stand in the page and were not sent."""
        kept = self.life.kept(self.session.head())
        if kept:
            self.session.recover(kept)
            self._deliver()

    # The end, in the reactor's thread.

    def _on_end(self) -> None:
        """Settle all that is left: the process has ended."""
        self.closed = self.closed or f"worker {self.life.pid} has ended"
        with self._writing:
            self._outbox.clear()
            if not self._eof:
                self._eof = True
                self.program.reactor.unwatch(self._sock.fileno())
            self._sock.close()
        self._recover()
        lost = self._sweep()
        if self._killed:
            pass
        elif lost or not self._closing:
            death = self.life.death(self.session.setup_failure)
            error = death.error_of(death.timed_out)
            self.session.ready.append((self._on_error, error))
        elif self._options["on_destroy"] is not None:
            self.session.ready.append((self._on_destroy, None))
        self.session.ready.append((self._last, None))
        self.program.ends.pop(self, None)
        self._deliver()

    def _sweep(self) -> int:
        """Fail what has no answer; return how many calls."""
        death = self.life.death(self.session.setup_failure)
        lost = self.session.fail_all(death)
        self._deliver()
        return lost

    def _on_destroy(self, _: object) -> None:
        self._options["on_destroy"]()

    def _last(self, _: object) -> None:
        self.ended.set()

    # Asking for the end, in any thread.

    def close(self, why: str = "the proxy was closed") -> None:
        """Take no more calls; the worker finishes what it has."""
        if self.closed is None:
            self.closed = why
        if not self.life.over:
            self._closing = True
            self.flush()

    def dropped(self) -> None:
        """The last reference to the proxy is gone.  Takes no lock."""
        if not self.life.over:
            self.program.reactor.soon(self.close)

    def kill(self, number: int) -> None:
        """Send a signal to the worker and what it has started, as the user asked."""
        self._killed = True
        if self.closed is None:
            self.closed = "the worker was killed"
        self.life.kill(number)

    def drain(self, timeout: "float | None") -> bool:
        """Wait until the callbacks of all that was received so far have run."""
        done = threading.Event()

        def mark() -> None:
            if not self._eof:
                self._read()
            self.session.ready.append((lambda _: done.set(), None))
            self._deliver()

        self.program.reactor.soon(mark)
        return done.wait(timeout)

    def close_at_exit(self) -> None:
        self.close("the program is ending")

    def outstanding(self) -> int:
        return self.session.outstanding()

    def wait_for_end(self, timeout: float) -> bool:
        return self.ended.wait(timeout)

    def kill_at_exit(self) -> None:
        self.kill(signal.SIGKILL)

    def abandon(self) -> None:
        """Make this inert, in a forked copy of the program."""
        self.closed = "this process was forked from the one that owns the proxy"
        self._closing = True
        self.life.abandon()
        fd = self._sock.detach()
        if fd >= 0:
            os.close(fd)


def result_of(outcome: object) -> object:
    """Return the result of a call, or raise its exception."""
    if isinstance(outcome, Failure):
        try:
            raise outcome.error
        finally:
            del outcome  # the frame is in the traceback: no cycle through it
    return outcome
