"""The calls of a pool executed where they are made: one worker after another, in place.

All in the thread that calls, one call at a time; so there is one worker, and no call
ever waits for another.  A worker that would end (by `retire`, `sys.exit` or
`max_calls`) is followed by a new one at the next call.
"""

import os
from math import inf

from .awaiter import Awaiter
from .death import Death
from .errors import ClosedError, SetupError
from .feed import AT_ONCE
from .inplace import Inplace
from .loading import Failure
from .sizing import takes_worker
from .standin import Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .items import Items


class FeedInPlace:
    """Stands for the Feed of a map: each item is a call, executed as it is put."""

    workers = 1
    chunked = False

    def __init__(self, pool: "Pooled", options: "dict[str, Any]") -> None:
        self._pool = pool
        self.name = pool.name
        self.codec = pool.codec
        self.program = pool.program
        self.most = (
            (options["limit"] or AT_ONCE) if options["backend"] == "async" else 1
        )
        self.check_may_wait = pool.check_may_wait
        self.cancel = pool.cancel

    def check_open(self) -> None:
        if self._pool.closed is not None:
            raise ClosedError(self._pool.closed)

    def later(self, function: "Callable[[], object]") -> None:
        function()

    def call(self, args: "tuple[Any, ...]") -> "tuple[Any, ...]":
        """Return a copy, so that what cannot be sent is told of in its place."""
        return self._pool.copied(args)

    def put(
        self, call: "tuple[Any, ...]", target: Awaiter, *also: "Callable[[], object]"
    ) -> None:
        self.check_open()
        for step in also:
            step()
        self._pool.submit(call, {}, target)


class Pooled(Inplace):
    """Stands for the Crew of a Pool.

    own: the options of the pool.  begin: does what a new worker does first, and has
    this one `use` what was found; raises SetupError.
    """

    def __init__(
        self,
        name: str,
        options: "dict[str, Any]",
        own: "dict[str, Any]",
        begin: "Callable[[Pooled], None]",
    ) -> None:
        tell = options["on_event"]
        if takes_worker(tell):
            options["on_event"] = lambda *args: tell(*args, worker=os.getpid())
        super().__init__(name, options)
        self.most = own["max"]
        self._begin = begin
        self._calls_of_one = inf if own["max_calls"] is None else own["max_calls"]
        self._left = 0.0  # calls that the worker may still have; 0: there is none

    # Workers.

    def _have_worker(self) -> None:
        """Begin with a new worker, if there is none.  Raise SetupError."""
        if self._left < 1:
            if self._done is not None:
                self._execute_done(self._done)
            self._done = None
            self._begin(self)
            self._left = self._calls_of_one
        self._left -= 1

    def _execute(self, call_id: int, args: "Any", kwargs: "Any", target: "Any") -> None:
        try:
            self._have_worker()
        except SetupError as error:
            self._lose_call(call_id, error, target)
        else:
            super()._execute(call_id, args, kwargs, target)

    def stream(self, args: "Any", kwargs: "Any", items: "Items") -> None:
        args, kwargs = self._given(args, kwargs)

        def call() -> object:
            self._have_worker()
            return self._streamed(*args, **kwargs)

        self.flow.begin(items, self._last, call)

    def retire(self) -> None:
        self._left = 0

    def _failed(self, call_id: int, error: BaseException, target: "Any") -> None:
        if isinstance(error, SystemExit):
            self._lose_call(call_id, self.failure(call_id, error).error, target)
        else:
            super()._failed(call_id, error, target)

    def _exited(self, status: int, call_id: int) -> Exception:
        self._left = 0
        death = Death(self.name, self.pid, status, begun=call_id)
        return death.error_of(call_id)  # type: ignore[no-any-return]

    def _lose(self) -> None:
        super()._lose()
        destroy = self._options["on_destroy"]  # always comes, of a pool
        if destroy is not None:
            self._told.append((lambda _: destroy(), None))

    def _lose_call(self, call_id: int, error: Exception, target: "Any") -> None:
        """A worker has ended, or could not be set up: `on_error` is told once."""
        if isinstance(target, (Awaiter, Outcome)):
            self._settle(call_id, Failure(error), target)
        self._told.append((self._on_error, error))

    # What a Pool asks for.

    async def await_room_in_loop(self, _verb: str) -> None:
        """There is always room: no call waits."""

    def kill_call(self, _future: object) -> bool:
        return False  # it runs in this very thread, or is a task that was cancelled

    def hands(self) -> "list[Pooled]":
        return [self] if self._left else []

    def stats(self) -> "dict[str, int]":
        queued = len(self._calls)
        running = self.outstanding() - queued
        there, busy = int(bool(self._left)), int(bool(running))
        return {
            "workers": max(there, busy),
            "starting": 0,
            "busy": busy,
            "idle": max(there - busy, 0),
            "queued": queued,
            "running": running,
        }

    def feed(self, **_settings: "Any") -> "FeedInPlace":
        return FeedInPlace(self, self._options)

    # The end.

    def death_error(self) -> None:
        """A pool that was killed is closed; else it goes on."""

    def close(self, why: str = "the pool was closed") -> None:
        super().close(why)

    def kill(self, number: int) -> None:
        self.closed = self.closed or "the pool was killed"
        super().kill(number)
