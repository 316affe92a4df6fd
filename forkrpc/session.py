"""The parent's end of one worker's connection, without I/O.

It pairs answers with calls and rules on the end.  A call is one entry in `unsent`, made
by one append; `take` moves entries to `pending` together with their bytes, `settle`
moves them on together with their results, each by one call into C (`wire.at_once`).  So
whatever interrupts, a call is in exactly one place, and settles exactly once.
"""

from collections import deque
from functools import partial
from itertools import islice

from . import wire
from .errors import CallTimeout, ProtocolError, SerialiserError, SetupError, WorkerDied
from .outcome import unpack
from .serialisers import Codec, PickleCodec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Target = Any  # a callback, or an Awaiter
    Entry = tuple[bytes, bool, Target]  # body, with keywords, who gets the result


class Failure:
    """Stands for the exception of a call where its result would stand."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


class Awaiter:
    """Whoever waits for one call: a thread, or a future.  Settled when it is read.

    settle(outcome): may be called more than once with the same outcome.
    """

    def settle(self, outcome: object) -> None:
        raise NotImplementedError


class Session:
    """Calls and answers of one worker.

    name: the function's, for messages.
    ready: (function, argument) pairs to be called in order, in the callbacks' thread.
    awaited: (awaiter, outcome) pairs, to be settled by whoever reads, at once.
    """

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.codec: Codec
        self.unsent: deque[Entry] = deque()
        self.pending: deque[Target] = deque()
        self.ready: deque[tuple[Callable[[Any], object], object]] = deque()
        self.awaited: deque[tuple[Awaiter, object]] = deque()
        self.decoder = wire.Decoder(limit)
        self.on_event: Callable[..., object] | None = None
        self.on_error: Callable[[Exception], object]
        self.retired = False
        self.setup_failure: str | None = None
        self._sent = 0  # id of the last call that was taken

    def outstanding(self) -> int:
        """Return how many calls have no answer."""
        return len(self.unsent) + len(self.pending)

    def define(self, definition: bytes) -> None:
        """Queue a DEFINE body, before the call that needs it."""
        self.unsent.append((definition, False, None))

    def head(self) -> int:
        """Return the id of the oldest call without an answer, 0 if there is none."""
        pending = len(self.pending)
        return self._sent - pending + 1 if pending else 0

    def take(self, frames: "deque[tuple[bytes, tuple[int, ...]]]") -> None:
        """Move the oldest unsent call to *frames*, as bytes.  Caller holds a lock."""
        body, keywords, target = self.unsent[0]
        if target is None:  # a DEFINE body, which no one waits for
            data = wire.encode(wire.DEFINE, body)
            wire.at_once(
                partial(frames.append, (data, ())),
                self.unsent.popleft,
            )
            return
        flags = wire.KEYWORDS if keywords else 0
        first = self._sent + 1
        data = wire.encode(wire.CALL, body, flags=flags, first=first)
        wire.at_once(
            partial(frames.append, (data, ())),
            partial(self.pending.append, target),
            self.unsent.popleft,
            partial(setattr, self, "_sent", first),
        )

    def handle(self) -> None:
        """Work off the frames that have arrived.  Raise ProtocolError."""
        frames = self.decoder.frames
        while frames:
            frame = frames[0]
            kind = frame.kind
            if kind in (wire.RESULT, wire.ERROR):
                self._settle(frame)
            elif kind == wire.EVENT:
                item = (self._event, frame.body)
                wire.at_once(partial(self.ready.append, item), frames.popleft)
            else:
                self._other(frame)
                frames.popleft()

    def _settle(self, frame: wire.Frame) -> None:
        answered = self._sent - len(self.pending)
        if frame.first != answered + 1 or frame.count > len(self.pending):
            raise ProtocolError(f"{frame!r}, {answered} of {self._sent} were answered")
        bodies = frame.bodies()
        targets = list(islice(self.pending, frame.count))
        outcomes = [
            self._outcome(frame, body, frame.first + at)
            for at, body in enumerate(bodies)
        ]
        ready: list[tuple[Callable[[Any], object], object]] = []
        awaited = []
        for target, outcome in zip(targets, outcomes, strict=True):
            if isinstance(target, Awaiter):
                awaited.append((target, outcome))
            elif isinstance(outcome, Failure):
                ready.append((self.on_error, outcome.error))
            else:
                ready.append((target, outcome))
        wire.at_once(
            partial(self.ready.extend, ready),
            partial(self.awaited.extend, awaited),
            partial(wire.drop, self.pending, frame.count),
            self.decoder.frames.popleft,
        )

    def _outcome(self, frame: wire.Frame, body: "Any", call_id: int) -> object:
        """Return the result of one call, or its Failure."""
        try:
            if frame.kind == wire.ERROR:
                error = self._unpack(body)
                if getattr(error, "call", None) is None:
                    _name_call(error, self.text_of(call_id))
                return Failure(error)
            (value,) = self.codec.load(body)
        except BaseException as error:  # runs the user's code, which may raise anything
            return Failure(self._unloadable("the result", call_id, error))
        return value

    def _unpack(self, body: "Any") -> Exception:
        if self.codec.trusted:
            from _pickle import loads

            return unpack(loads(body), lambda blob: self.codec.load(blob)[0])
        from .serialisers import PAIRS

        (packed,) = PAIRS["data"]()[1](body)
        return unpack(packed, None)  # type: ignore[arg-type]

    def _unloadable(self, what: str, call_id: int, cause: BaseException) -> Exception:
        kind = type(cause).__name__
        error = SerialiserError(
            f"{what} of {self.name} cannot be loaded: {kind}: {cause}"
        )
        error.__cause__ = cause if isinstance(cause, Exception) else None
        error.call = self.text_of(call_id)
        return error

    def _event(self, body: "Any") -> None:
        """Call `on_event`.  Runs in the callbacks' thread."""
        try:
            args = self.codec.load(body)
        except BaseException as error:  # as in _outcome
            kind = type(error).__name__
            self.on_error(
                SerialiserError(f"an event cannot be loaded: {kind}: {error}")
            )
            return
        if self.on_event is None:
            self.on_error(
                SerialiserError(
                    f"event {args!r:.200} from {self.name}, but no on_event was given"
                )
            )
        else:
            self.on_event(*args)

    def _other(self, frame: wire.Frame) -> None:
        if frame.kind == wire.DEFINE and isinstance(self.codec, PickleCodec):
            self.codec.learn(frame.body)
        elif frame.kind == wire.FAILED:
            self.setup_failure = bytes(frame.body).decode("utf-8", "replace")
        elif frame.kind == wire.RETIRE:
            self.retired = True
        elif frame.kind != wire.READY:
            raise ProtocolError(f"{frame!r} from a worker")

    def text_of(self, call_id: int) -> str:
        """Return a short text of a call."""
        return f"call {call_id} of {self.name}"

    def fail_all(self, death: "Death") -> int:
        """Fail every call that has no answer; return how many there were."""
        failed = 0
        for queue in (self.pending, self.unsent):
            while queue:
                entry = queue[0]
                target = entry if queue is self.pending else entry[2]
                call_id = self._sent - len(self.pending) + 1 + failed
                failed += self._fail_one(queue, target, death, call_id)
        return failed

    def _fail_one(
        self, queue: "Any", target: "Target", death: "Death", call_id: int
    ) -> int:
        if not isinstance(target, Awaiter):
            queue.popleft()  # a callback: on_error is called once, for all of them
            return 0 if target is None else 1
        error = death.error_of(call_id)
        error.call = self.text_of(call_id)
        wire.at_once(
            partial(self.awaited.append, (target, Failure(error))), queue.popleft
        )
        return 1


class Death:
    """How a worker ended, and what each of its calls is told.

    begun: id of the last call it had begun, None if that cannot be known.
    timed_out: id of the call that ran too long and was ended for it, 0 for none.
    """

    def __init__(
        self,
        name: str,
        pid: "int | None",
        returncode: "int | None",
        *,
        begun: "int | None" = None,
        timed_out: int = 0,
        timeout: "float | None" = None,
        setup: "str | None" = None,
        broken: "Exception | None" = None,
    ) -> None:
        self.name = name
        self.pid = pid
        self.returncode = returncode
        self.begun = begun
        self.timed_out = timed_out
        self.timeout = timeout
        self.setup = setup
        self.broken = broken

    def error_of(self, call_id: int) -> "Any":
        """Return a new exception for one call; id 0 for the worker as a whole."""
        if self.setup is not None:
            return SetupError(self.setup)
        if self.broken is not None:
            return ProtocolError(f"worker {self.pid} was ended: {self.broken}")
        if self.timed_out and call_id in (0, self.timed_out):
            return CallTimeout(
                f"{self.name} ran longer than its timeout of {self.timeout} s; "
                f"worker {self.pid} was ended"
            )
        started = None
        if self.begun is not None and call_id:
            started = call_id <= self.begun
        return WorkerDied(
            f"worker {self.pid} ({self.name}) {self._how()}{_state(started)}",
            pid=self.pid,
            returncode=self.returncode,
            signal=signal_name(self.returncode),
            started=started,
        )

    def _how(self) -> str:
        if self.returncode is None:
            return "ended; its exit status is unknown"
        name = signal_name(self.returncode)
        if name is None:
            return f"exited with status {self.returncode}"
        hint = "; was memory short?" if name == "SIGKILL" else ""
        return f"was ended by {name}{hint}"


def _state(started: "bool | None") -> str:
    if started is None:
        return ""
    return " during the call" if started else " before it began this call"


def signal_name(returncode: "int | None") -> "str | None":
    """Return "SIGKILL" and the like for a negative return code, else None."""
    if returncode is None or returncode >= 0:
        return None
    import signal

    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"


def _name_call(error: Exception, text: str) -> None:
    """Set `.call` where the exception takes it."""
    try:
        error.call = text  # type: ignore[attr-defined]
    except Exception:  # a class of the user's, with slots or a __setattr__
        return
