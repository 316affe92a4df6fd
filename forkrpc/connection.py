"""One worker, as its proxy and the reactor share it: calls in, callbacks out, the end.

The session pairs calls with answers, the channel moves its bytes, the life knows its
process; this tells the user.
"""

import signal
from _queue import SimpleQueue
from _thread import get_ident
from functools import partial
from time import monotonic

from .arguments import Arguments
from .callbacks import Callbacks, destroyed, last, tell_error
from .channel import Channel, Overlapped
from .errors import ClosedError
from .flow import Flow
from .gate import Gate
from .limits import LimitedQueue, limit_of
from .loading import Failure, result_of
from .loops import loop_that_may_wait
from .pipe import Pipes
from .reactor import TICK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Any

    from .awaiter import Awaiter
    from .items import Items
    from .life import Life
    from .loops import Home
    from .pipe import Pipe
    from .program import Program
    from .session import Session

    Args = tuple[Any, ...]
    Keys = dict[str, Any]
    Limit = float | None

POLL = 0.01  # seconds between two looks at calls without an answer, at the end


class Connection:
    """One worker: its session, its life, and what the user wants to be told.

    Shared by the Proxy, which may be dropped, and the reactor, to the worker's end.
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
        channel = Channel if session.in_order else Overlapped
        self._channel = channel(program.reactor, sock, session)
        self.flow = Flow(session, self._channel, life, program)
        self.options = options
        self.arguments = Arguments(session, options["max_frame"])
        self._waiting = self.arguments.waiting
        self._callbacks = Callbacks(session, program.reactor, options)
        self.limited = False  # some call had a limit of its own
        self._ticking = False
        self._sent = 0  # id of the last call sent before the last tick
        self._seen = 0  # the first call whose result was held at the last look
        self._closing = False  # an orderly end was asked for
        self._killed = False  # by `kill`: nobody is to be told
        self._death: Any = None  # once nothing more can be had from the worker
        self._pipes = Pipes(session)
        session.on_error = partial(tell_error, options)
        session.on_event = options["on_event"]
        session.follow(life)
        life.read_on = self._channel.read_on
        life.read_rest = self._channel.read_rest
        life.said_pid = partial(getattr, self.session, "pid")
        life.on_end = self._on_end
        own = partial(limit_of, session)
        life.limit_calls(options["timeout"], own, *session.limits())
        program.ends[self] = None
        self._channel.start(self)

    def listen(self, pipes: "list[Pipe]") -> None:
        """Show what comes through *pipes* too; before the worker is started."""
        if pipes:
            self._pipes.add(pipes, self._channel.read, self._on_piped)

    def give(self, arguments: Arguments) -> None:
        """Have these make what a call gives the worker; before the first call."""
        self.session.take_no_more()  # all calls shall come here
        self.arguments, self._waiting = arguments, arguments.waiting

    # Calls, in any thread.

    def submit(self, args: "Args", kwargs: "Keys", target: object) -> None:
        """Queue a call; *target* is who gets the outcome.

        Never blocks.  Raise SerialiserError or ClosedError.
        """
        if self.closed is not None:
            self.check_open()
        self.session.unsent.extend((self._waiting(args, kwargs), target))
        self.send()

    def submit_for(
        self, args: "Args", kwargs: "Keys", target: "Any", limit: "Limit" = None
    ) -> None:
        """As `submit`, for who may cancel; with a limit, in seconds: for a Limited."""
        self.session.varied = True
        if limit is None:
            self.submit(args, kwargs, target)
        else:
            self.check_open()
            self.limited = True
            call = self.arguments.limited(args, kwargs, limit)
            self.session.unsent.extend((call, target))
            self.send()

    def stream(self, args: "Args", kwargs: "Keys", items: "Items") -> None:
        """As `submit_for`, for a call whose items go to *items*."""
        self.session.varied = True
        self.check_open()
        self.limited = self.limited or items.limit is not None
        call = self.arguments.streamed(args, kwargs, items.limit)
        self.session.unsent.extend((call, items))
        self.send()
        self._channel.flush()

    def send(self) -> None:
        """Send what is queued, if it is time to."""
        self.look_after_calls()
        if len(self.session.unsent) >= self.session.gather:
            self._channel.flush()

    def call_within(self, args: "Args", kwargs: "Keys", limit: float) -> object:
        """As `call`, with a limit in seconds."""
        self.program.check_may_wait("call()")
        self.check_open()
        self.limited = True
        call = self.arguments.limited(args, kwargs, limit)
        self.look_after_calls()
        return result_of(self._channel.exchange(call, LimitedQueue(limit)))

    def call(self, args: "Args", kwargs: "Keys") -> object:
        """Make a call and wait for its result; return it, or raise."""
        if get_ident() == self.program.reactor.ident:
            self.program.check_may_wait("call()")
        if len(args) == 1 and not kwargs and type(args[0]) in self.session.ones:
            call = args[0]
        else:
            if self.closed is not None:
                self.check_open()
            call = self._waiting(args, kwargs, shared=True)
        self.look_after_calls()
        try:
            outcome = self._channel.exchange(call, SimpleQueue())
        except BaseException:  # an interrupt: the caller may change its arguments now
            self._channel.own(call)
            raise
        if type(outcome) is not Failure:
            return outcome
        try:
            return result_of(outcome)
        finally:
            del call, outcome  # the frame is in the traceback, and would hold them

    def check_open(self) -> None:
        """Raise ClosedError, or what ended the worker."""
        if self.closed is not None:
            error = self.death_error()
            raise ClosedError(self.closed) if error is None else error

    def check_may_wait(self, verb: str) -> None:
        """Raise RuntimeError where waiting for callbacks would wait for itself."""
        self.program.check_may_wait(verb)
        self._callbacks.check_may_wait(verb)

    def death_error(self) -> "Exception | None":
        """Return a new exception if the worker has ended unasked, None else."""
        if self._death is None or self._closing:
            return None
        return self._death.error_of(self.session.sent + 1)  # type: ignore[no-any-return]

    def home(self, verb: str) -> "Home":
        """Return where the event loop of this thread waits.  Raise RuntimeError."""
        if self.flow.inert:
            raise ClosedError(self.closed)
        loop = loop_that_may_wait(verb, self.program)
        return self._channel.loops.home(loop, self._channel)

    def on_read_in(self, home: "Home") -> None:
        """Do what `on_read` does, in the thread of a loop that has read."""
        session = self.session
        here = self._callbacks.loop is home.loop
        if session.ready and here:
            self._callbacks.run_soon()
        if session.futures or (session.ready and not here):
            self.program.reactor.soon(self.on_read)
        if len(self._channel.loops.homes) > 1:
            self._channel.loops.tell()

    def cancel(self, target: "Awaiter") -> bool:
        """Cancel the call of *target*, if it can be; return whether it is cancelled.

        That is: it was not sent, or it is for an async worker, which is told.  Then
        *target* is soon settled with CANCELLED, perhaps behind an outcome that was
        under way; its caller may do so at once.  Any thread; never blocks.
        """
        return self._channel.cancel(target)

    # What has been read, in the reactor's thread.

    def on_read(self) -> None:
        """Tell whom it concerns, and send more."""
        session = self.session
        if session.retired and self.closed is None:
            self.close("the worker has retired")
        self._deliver()

    def _on_piped(self) -> None:
        self.program.reactor.soon(self.on_read)

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
        if self._channel.loops.homes:
            self._channel.loops.tell()
        self._callbacks.deliver()

    # Looking after calls without an answer, in the reactor's thread.

    def look_after_calls(self) -> None:
        """See to it that `tick` is called.  Any thread, behind each call it makes."""
        if not self._ticking:
            self.program.reactor.tick(self, partial(setattr, self, "_ticking", True))

    def tick(self) -> bool:
        """Look for what nobody else brings on its way; return whether to look again.

        That is: results which a stuck worker holds back, and what an interrupt left.
        """
        if self.life.over:
            self._ticking = False  # first: a call that comes behind the sweep asks anew
            self._sweep()
            return False
        self._channel.tick()
        self.flow.stop_closed()
        self.on_read()
        if self.limited:
            self.life.look_at_limit(TICK)
        self._ticking = False  # first: a call that comes now starts anew
        # A program that calls again and again keeps it ticking: no wake for each call.
        sent, self._sent = self._sent, self.session.sent
        loops = self._channel.loops
        undone = bool(self.session.futures) or (bool(loops.homes) and loops.tick())
        outstanding = self.session.outstanding()
        self._ticking = bool(outstanding) or undone or sent != self._sent
        if not self._ticking:
            self._channel.rest()
        return self._ticking

    def look_at_page(self) -> None:
        """Settle calls whose results the worker holds back for long.  The caller leads.

        For long: already at the last look.  What it has written comes before them.
        """
        seen, _ = self.life.held()
        if seen and seen == self._seen and not self._channel.has_more():
            self.session.look(self.life)
        self._seen = seen
        self.flow.look_at_page()

    # The end, in the reactor's thread.

    def _on_end(self) -> None:
        """Settle all that is left: the process has ended."""
        self._channel.close()  # first: who still writes would reckon `gather` anew
        self.session.look(self.life)
        self.flow.recover()
        self._death = self.life.death(self.session.setup_failure)  # the page is gone
        self._take_no_more(f"worker {self.life.pid} has ended")
        self._pipes.read()
        lost = self._sweep()
        self._channel.loops.close()
        self._tell_end(lost)
        self.session.call_soon(last, self.ended)
        self.program.ends.pop(self, None)
        self._deliver()

    def _tell_end(self, lost: int) -> None:
        """Have the user told of the end, by which *lost* calls failed."""
        if self._killed:
            pass
        elif lost or not self._closing:
            death = self.life.death(self.session.setup_failure)
            error = death.error_of(death.timed_out)
            self.session.call_soon(self.session.on_error, error)
        elif self.options["on_destroy"] is not None:
            self.session.call_soon(destroyed, self.options["on_destroy"])

    def _sweep(self) -> int:
        """Fail what has no answer; return how many calls."""
        death = self.life.death(self.session.setup_failure)
        lost = self.session.fail_all(death)
        self._deliver()
        return lost

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
        if self.flow.inert:
            raise ClosedError(self.closed)
        done = Gate()

        def mark() -> None:
            self._channel.read()
            self._pipes.read()
            self.session.call_soon(lambda _: done.open(), None)
            self._deliver()

        self.program.reactor.soon(mark)
        return done.wait(timeout)

    def close_at_exit(self) -> None:
        self.close("the program is ending", for_good=True)
        self.flow.close_those_of(get_ident())

    def outstanding(self) -> int:
        return self.session.outstanding()

    def wait_for_end(self, timeout: float) -> bool:
        if self.options["done"] is None:
            return self.ended.wait(timeout)
        limit = monotonic() + timeout
        while self.outstanding() and monotonic() < limit:
            self.ended.wait(POLL)
        return not self.outstanding()

    def kill_at_exit(self) -> None:
        # With `done` a worker goes on when the program has gone.
        if self.options["done"] is None or self.outstanding():
            self.kill(signal.SIGKILL)

    def abandon(self) -> None:
        """Make this inert, in a forked copy of the program."""
        self._take_no_more("")
        self.closed = "this process was forked from the one that owns the proxy"
        self._closing = True
        self.flow.inert = True
        self.ended.open()
        self.life.abandon()
        self._channel.abandon()
