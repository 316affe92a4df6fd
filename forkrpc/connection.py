"""One worker, as its proxy and the reactor share it: calls in, callbacks out, the end.

The session pairs calls with answers, the channel moves its bytes, the life knows its
process; this tells the user.
"""

import signal
import sys
from _queue import SimpleQueue
from _thread import get_ident

from .channel import Channel
from .errors import ClosedError, SerialiserError
from .gate import Gate
from .loading import Failure
from .reactor import report
from .serialisers import keepable
from .session import Keywords

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Iterator
    from typing import Any

    from .life import Life
    from .program import Program
    from .session import Session


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
        sock: "socket",
        session: "Session",
        life: "Life",
        options: "dict[str, Any]",
    ) -> None:
        self.program = program
        self.session = session
        self.life = life
        self.closed: str | None = None
        self.ended = Gate()
        self._channel = Channel(program.reactor, sock, session)
        self._options = options
        self._running: Iterator[Any] = iter(())  # (callback, argument) being called
        self._ticking = False
        self._sent = 0  # id of the last call sent before the last tick
        self._seen = 0  # the first call whose result was held at the last look
        self._closing = False  # an orderly end was asked for
        self._inert = False  # in a forked copy of the program
        self._killed = False  # by `kill`: nobody is to be told
        session.on_error = self._on_error
        session.on_event = options["on_event"]
        life.read_rest = self._channel.read_rest
        life.on_end = self._on_end
        if options["timeout"] is not None:
            life.limit_calls(options["timeout"], session.head)
        program.ends[self] = None
        self._channel.start(self)

    # Calls, in any thread.

    def submit(
        self, args: "tuple[Any, ...]", kwargs: "dict[str, Any]", target: object
    ) -> None:
        """Queue a call; *target* is who gets the outcome.

        Never blocks.  Raise SerialiserError or ClosedError.
        """
        self.session.unsent.extend((self._prepared(args, kwargs), target))
        self.send()

    def send(self) -> None:
        """Send what is queued, if it is time to."""
        self.look_after_calls()
        if len(self.session.unsent) >= self.session.gather:
            self._channel.flush()

    def call(self, args: "tuple[Any, ...]", kwargs: "dict[str, Any]") -> object:
        """Make a call and wait for its result; return it, or raise."""
        if get_ident() == self.program.reactor.ident:
            self.program.check_may_wait("call()")
        if len(args) == 1 and not kwargs and type(args[0]) in self.session.ones:
            call = args[0]
        else:
            call = self._prepared(args, kwargs)
        self.look_after_calls()
        outcome = self._channel.exchange(call, SimpleQueue())
        return result_of(outcome) if type(outcome) is Failure else outcome

    def _prepared(self, args: "tuple[Any, ...]", kwargs: "dict[str, Any]") -> object:
        """Return what `Session.unsent` takes for a call.

        Raise SerialiserError, ClosedError, or what ended the worker.
        """
        if self.closed is not None:
            error = self.death_error()
            raise ClosedError(self.closed) if error is None else error
        codec = self.session.codec
        if codec.packs and not kwargs and keepable(args):
            kind = type(args[0]) if len(args) == 1 else tuple
            return args if kind is bytes or kind is tuple else args[0]
        body = codec.dump((*args, kwargs) if kwargs else args)
        limit = self._options["max_frame"]
        if len(body) > limit:
            raise SerialiserError(
                f"arguments of {len(body)} bytes, max_frame is {limit}; "
                "raise it with run(..., max_frame=...)"
            )
        return Keywords(body) if kwargs else body

    def check_may_wait(self, verb: str) -> None:
        """Raise RuntimeError where waiting for callbacks would wait for itself."""
        self.program.check_may_wait(verb)
        loop = self._options["loop"]
        if loop is not None and loop is running_loop():
            raise RuntimeError(
                f"{verb} would wait for ever in the event loop that runs the "
                "callbacks; await what on_destroy sets, or wait in another thread"
            )

    def death_error(self) -> "Exception | None":
        """Return a new exception if the worker has ended unasked, None else."""
        if not self.life.over or self._closing:
            return None
        death = self.life.death(self.session.setup_failure)
        return death.error_of(self.session.sent + 1)  # type: ignore[no-any-return]

    # What has been read, in the reactor's thread.

    def on_read(self) -> None:
        """Tell whom it concerns, and send more."""
        session = self.session
        if session.retired and self.closed is None:
            self.close("the worker has retired")
        self._deliver()

    def on_over(self) -> None:
        """Nothing more comes from the worker."""
        self._channel.stop_watching()
        if self._channel.broken is not None:
            self.life.break_off(self._channel.broken)
        self.on_read()
        self.life.end_of_file()

    def _deliver(self) -> None:
        futures = self.session.futures
        while futures:
            future, outcome = futures.popleft()
            future.settle(outcome)
        if self.session.ready:
            loop = self._options["loop"]
            if loop is None:
                self._run_callbacks()
            else:
                self._run_in(loop)

    def _run_in(self, loop: "Any") -> None:
        try:
            loop.call_soon_threadsafe(self._run_callbacks)
        except RuntimeError:  # the loop was closed
            if any(self._last not in functions for functions, _ in self.session.ready):
                report(*sys.exc_info())
            self._options["loop"] = None
            self._run_callbacks()

    def _run_callbacks(self) -> None:
        """Call what is ready, in order.  In the callbacks' thread only."""
        ready = self.session.ready
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
        loop = self._options["loop"]
        if loop is None:
            report(*sys.exc_info())
        else:
            message = f"callback of {self.session.name}"
            loop.call_exception_handler({"message": message, "exception": error})

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

    def look_after_calls(self) -> None:
        """See to it that `tick` is called.  Any thread, behind each call it makes."""
        if not self._ticking:
            self._ticking = True
            self.program.reactor.tick(self)

    def tick(self) -> bool:
        """Look for what nobody else brings on its way; return whether to look again.

        That is: results which a stuck worker holds back, and what an interrupt left.
        """
        if self.life.over:
            self._sweep()
            self._ticking = False
            return False
        self._channel.tick()
        self.on_read()
        self._ticking = False  # first: a call that comes now starts anew
        # A program that calls again and again keeps it ticking: no wake for each call.
        sent, self._sent = self._sent, self.session.sent
        self._ticking = bool(self.session.outstanding()) or sent != self._sent
        return self._ticking

    def look_at_page(self) -> None:
        """Settle calls whose results the worker holds back for long.  The caller leads.

        For long: it held them already at the last look.
        """
        seen, _ = self.life.held()
        if seen and seen == self._seen:
            self._recover()
        self._seen = seen

    def _recover(self) -> None:
        kept = self.life.kept(self.session.head())
        if kept:
            self.session.recover(kept)

    # The end, in the reactor's thread.

    def _on_end(self) -> None:
        """Settle all that is left: the process has ended."""
        self._take_no_more(f"worker {self.life.pid} has ended")
        self._channel.close()
        self._recover()
        lost = self._sweep()
        if self._killed:
            pass
        elif lost or not self._closing:
            death = self.life.death(self.session.setup_failure)
            error = death.error_of(death.timed_out)
            self.session.call_soon(self._on_error, error)
        elif self._options["on_destroy"] is not None:
            self.session.call_soon(self._on_destroy, None)
        self.session.call_soon(self._last, None)
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
        self.ended.open()

    # Asking for the end, in any thread.

    def _take_no_more(self, why: str) -> None:
        if self.closed is None:
            self.closed = why
        self.session.take_no_more()

    def close(
        self, why: str = "the proxy was closed", *, for_good: bool = False
    ) -> None:
        """Take no more calls; the worker finishes what it has."""
        self._take_no_more(why)
        if not self.life.over:
            self._closing = True
            self._channel.say_close(for_good=for_good)

    def dropped(self) -> None:
        """The last reference to the proxy is gone.  Takes no lock."""
        if not self.life.over:
            self.program.reactor.soon(self.close)

    def kill(self, number: int) -> None:
        """Send a signal to the worker and what it has started, as the user asked."""
        self._killed = True
        self._take_no_more("the worker was killed")
        self.life.kill(number)

    def drain(self, timeout: "float | None") -> bool:
        """Wait until the callbacks of all that was received so far have run."""
        if self._inert:
            raise ClosedError(self.closed)
        done = Gate()

        def mark() -> None:
            self._channel.read()
            self.session.call_soon(lambda _: done.open(), None)
            self._deliver()

        self.program.reactor.soon(mark)
        return done.wait(timeout)

    def close_at_exit(self) -> None:
        self.close("the program is ending", for_good=True)

    def outstanding(self) -> int:
        return self.session.outstanding()

    def wait_for_end(self, timeout: float) -> bool:
        return self.ended.wait(timeout)

    def kill_at_exit(self) -> None:
        self.kill(signal.SIGKILL)

    def abandon(self) -> None:
        """Make this inert, in a forked copy of the program."""
        self._take_no_more("")
        self.closed = "this process was forked from the one that owns the proxy"
        self._closing = True
        self._inert = True
        self.ended.open()
        self.life.abandon()
        self._channel.abandon()


def running_loop() -> object:
    """Return the asyncio loop that runs in this thread, None if there is none."""
    asyncio = sys.modules.get("asyncio")
    return None if asyncio is None else asyncio._get_running_loop()


def result_of(outcome: object) -> object:
    """Return the result of a call, or raise its exception."""
    if isinstance(outcome, Failure):
        try:
            raise outcome.error
        finally:
            del outcome  # the frame is in the traceback: no cycle through it
    return outcome
