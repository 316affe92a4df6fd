"""Proxy: what the user calls.  A thin handle; dropping it closes the connection."""

from _thread import get_ident
from signal import SIGKILL, valid_signals

from .astream import AsyncStream
from .connection import Connection
from .future import CallFuture
from .loading import result_of
from .loops import LoopCall, loop_that_may_wait, opened, running_task
from .stream import Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from types import TracebackType
    from typing import Any


class Proxy:
    """Calls a function in a worker.  Made by `Forker.run`; any thread may use it.

    Callbacks run one after another in one background thread (or in the `loop` given to
    `run`), in the order in which the worker made results and events.  They must be
    short, and must not wait for a call.  In a process forked from the program it is
    inert: calls raise ClosedError.
    """

    _limit: "float | None" = None  # seconds that each call may run; of a View

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._session = connection.session

    def __call__(self, /, *args: "Any", **kwargs: "Any") -> None:
        """Call the function with *args* but the last, which is the callback or None.

        `callback(result)` runs later; a call that fails goes to `on_error` instead.
        Keyword arguments go to the function.  Never blocks.  Raise TypeError without a
        callback, SerialiserError for an argument that cannot be sent, ClosedError
        after `close`, and WorkerDied once the worker has ended.
        """
        session = self._session
        if (
            len(args) == 2
            and type(args[0]) in session.ones
            and callable(args[1])
            and not kwargs
        ):
            unsent = session.unsent
            unsent.extend(args)
            if len(unsent) >= session.gather:
                self._connection.send()
            return
        callback = args[-1] if args and callable(args[-1]) else callback_of(args)
        self._connection.submit(args[:-1], kwargs, callback)

    def submit(self, /, *args: "Any", **kwargs: "Any") -> "Future[Any]":
        """Call the function; return a `concurrent.futures.Future` of its result.

        Once the worker has ended the future has failed already.
        """
        connection = self._connection
        future = CallFuture(connection.program, connection.cancel)
        error = connection.death_error()
        if error is not None:
            future.set_exception(error)
            return future
        connection.submit_for(args, kwargs, future)
        return future

    def call(self, /, *args: "Any", **kwargs: "Any") -> "Any":
        """Call the function and wait for its result; return it, or raise.

        Raise RuntimeError at once in the thread that runs callbacks: the answer could
        never be read.  An interrupt (Ctrl-C) gives up waiting, and drops the result.
        """
        return self._connection.call(args, kwargs)

    def stream(self, /, *args: "Any", **kwargs: "Any") -> "Stream":
        """Call a generator function; return an iterator of what it yields.

        The items come as they are produced, at most 64 items (256, where each takes
        less than 50 us) or 256 KiB ahead of who takes them.  Closing or dropping the
        iterator closes the generator.  Raise RuntimeError at once in the thread that
        runs callbacks, as `call`.
        """
        connection = self._connection
        connection.program.check_may_wait("stream()")
        return Stream(connection, args, kwargs, self._limit)

    def astream(self, /, *args: "Any", **kwargs: "Any") -> "AsyncStream":
        """Do as `stream`, for `async for` in an asyncio program.

        Raise RuntimeError where no loop runs.
        """
        return AsyncStream(self._connection, args, kwargs, self._limit)

    async def acall(self, /, *args: "Any", **kwargs: "Any") -> "Any":
        """Call the function in an asyncio program; return its result, or raise.

        Cancelling the task cancels the call: one that has not left is withdrawn, the
        result of any other is dropped.  Raise RuntimeError where no loop runs.
        """
        connection = self._connection
        home = connection.home("acall()")
        call = LoopCall(home, connection)
        connection.submit_for(args, kwargs, call)
        home.began(call)
        outcome = call.outcome()
        del call, home  # the frame is in the traceback: no cycle through them
        return result_of(await outcome)

    def with_options(self, **options: "Any") -> "Proxy":
        """Return a view of this proxy whose calls have other settings.

        timeout: seconds that a call may run, None: no limit; in place of that of `run`.
        A view has all verbs, and keeps the connection open as the proxy does.  Raise
        TypeError or ValueError for a bad option.
        """
        from .view import View, checked

        return View(self, self._connection, checked(options))

    def drain(self, timeout: "float | None" = None) -> bool:
        """Wait until the callbacks of everything received so far have run.

        timeout: seconds.  Return whether they have.
        """
        self._connection.check_may_wait("drain()")
        return self._connection.drain(timeout)

    def close(self) -> None:
        """Take no more calls: the worker finishes what it has, answers, and exits."""
        self._connection.close()

    def join(self, timeout: "float | None" = None) -> bool:
        """Wait for the worker's end, whichever, and the callbacks that belong to it.

        timeout: seconds.  Return whether it came.
        """
        self._connection.check_may_wait("join()")
        return self._connection.ended.wait(timeout)

    def kill(self, signal: int = SIGKILL) -> None:
        """Send *signal* to the worker and what it started in its process group.

        Calls fail with WorkerDied; neither `on_error` nor `on_destroy` is called, since
        it was asked for.  Raise ValueError for what is no signal.
        """
        check_signal(signal)
        self._connection.kill(signal)

    @property
    def pid(self) -> "int | None":
        """The worker's process id; waits until it exists, None if it never will."""
        connection = self._connection
        if not connection.life.known.is_open():
            connection.program.check_may_wait("pid")
            connection.life.known.wait()
        return connection.life.pid

    @property
    def pending(self) -> int:
        """How many calls have no answer."""
        return self._connection.outstanding()

    @property
    def returncode(self) -> "int | None":
        """As in `subprocess.Popen`: None while it runs, negative for a signal."""
        return self._connection.life.returncode

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(
        self,
        kind: "type[BaseException] | None",
        error: "BaseException | None",
        traceback: "TracebackType | None",
    ) -> None:
        self.close()
        self._connection.flow.close_those_of(get_ident())  # nobody takes the rest
        self.join()

    async def __aenter__(self) -> "Proxy":
        return self

    async def __aexit__(
        self,
        kind: "type[BaseException] | None",
        error: "BaseException | None",
        traceback: "TracebackType | None",
    ) -> None:
        connection = self._connection
        loop = loop_that_may_wait("async with", connection.program)
        self.close()
        connection.flow.close_those_of(running_task(), get_ident())
        await opened(connection.ended, loop)

    def __del__(self) -> None:
        connection = getattr(self, "_connection", None)
        if connection is not None:  # __init__ may not have come so far
            connection.dropped()

    def __repr__(self) -> str:
        connection = self._connection
        name = connection.session.name
        if not connection.life.known.is_open():
            state = "starting"
        elif connection.ended.is_open():
            state = f"ended, returncode {connection.life.returncode}"
        elif connection.closed is not None:
            state = "closing"
        else:
            state = "open"
        pid = connection.life.pid
        return f"<Proxy {name}, pid {pid}, {state}, {self.pending} pending>"


def check_signal(signal: int) -> None:
    """Raise ValueError for what is no signal."""
    if signal not in valid_signals():
        raise ValueError(f"kill: {signal!r:.100} is no signal")


def callback_of(args: "tuple[Any, ...]") -> "Callable[[Any], object]":
    """Return the callback of a call, also for None.  Raise TypeError without one."""
    if args and callable(args[-1]):
        return args[-1]  # type: ignore[no-any-return]
    if not args:
        raise TypeError(
            "a call needs a callback (or None) as its last positional argument; "
            "call() and submit() need none"
        )
    if args[-1] is not None:
        raise TypeError(
            f"the last positional argument must be a callback or None, "
            f"not {args[-1]!r:.100}; call() and submit() need none"
        )
    return _ignore


def _ignore(_result: object) -> None:
    pass
