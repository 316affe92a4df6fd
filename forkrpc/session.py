"""The parent's end of one worker's connection, without I/O.

It pairs answers with calls and rules on the end.  A call is one entry in `unsent`, made
by one append; `take` moves entries to `pending` together with their bytes, `handle`
moves them on together with their results, each by one call into C (`wire.at_once`).  So
whatever interrupts, a call is in exactly one place, and settles exactly once.

Calls whose arguments nobody can change (`serialisers.keepable`) wait as tuples and are
serialised many at once; all others are serialised when they are made.
"""

from _pickle import dumps as pickle_dumps
from _queue import SimpleQueue
from collections import deque
from functools import partial
from itertools import islice
from types import BuiltinFunctionType, FunctionType, MethodType

from . import wire
from .classes import PROTOCOL
from .errors import ProtocolError, SerialiserError
from .gate import is_interrupt
from .outcome import unpack
from .serialisers import Codec, PickleCodec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .death import Death

    Target = Any  # a callback, or an Awaiter; of a definition: None
    Entry = tuple[Any, ...]  # (*arguments, target), or an Eager


MOST_CALLS = 512  # in one frame; measured: more gain nothing
MOST_BYTES = 16384  # of bodies that share a frame


# What a callback usually is; another callable only takes the longer way.
_CALLBACKS = frozenset([FunctionType, BuiltinFunctionType, MethodType])


class Eager(tuple):  # type: ignore[type-arg]
    """An entry that was serialised when the call was made: (body, keywords, target)."""

    __slots__ = ()


class Failure:
    """Stands for the exception of a call where its result would stand."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


class Awaiter:
    """A future of one call."""

    def settle(self, outcome: object) -> None:
        raise NotImplementedError


class Session:
    """Calls and answers of one worker.

    name: the function's, for messages.
    ready: (function, argument) pairs to be called in order, in the callbacks' thread.
    futures: (future, outcome) pairs, to be settled in the reactor's thread.

    sent: id of the last call that was taken.

    on_said: called as `ready` has it, with each LOG and OUTPUT frame.
    read_pipe: called at once with a frame that tells of bytes in a pipe.

    A target that is a queue is a thread that waits: its outcome is put there.
    """

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.codec: Codec
        self.packs = False
        self.unsent: deque[Entry] = deque()
        self.pending: deque[Target] = deque()
        self.ready: deque[tuple[Callable[[Any], object], object]] = deque()
        self.futures: deque[tuple[Awaiter, object]] = deque()
        self.decoder = wire.Decoder(limit)
        self.on_event: Callable[..., object] | None = None
        self.on_error: Callable[[Exception], object]
        self.on_said: Callable[[wire.Frame], object]
        self.read_pipe: Callable[[wire.Frame], object] = lambda _: None
        self.retired = False
        self.setup_failure: str | None = None
        self.sent = 0
        self._recovered = 0  # id of the last call whose result was read from the page

    def use(self, codec: Codec) -> None:
        self.codec = codec
        self.packs = codec.packs

    def outstanding(self) -> int:
        """Return how many calls have no answer."""
        return len(self.unsent) + len(self.pending)

    def define(self, definition: bytes) -> None:
        """Queue a DEFINE body, before the call that needs it."""
        self.unsent.append(Eager((definition, False, None)))

    def head(self) -> int:
        """Return the id of the oldest call without an answer, 0 if there is none."""
        pending = len(self.pending)
        return self.sent - pending + 1 if pending else 0

    def call_soon(self, function: "Callable[[Any], object]", argument: object) -> None:
        """Have *function* called behind the callbacks that are ready."""
        self.ready.append((function, argument))

    def take(self, frames: "deque[tuple[bytes, tuple[int, ...]]]") -> None:
        """Move the oldest unsent calls to *frames*, as one frame.

        There is at least one; the caller holds a lock.
        """
        first = self.sent + 1
        if len(self.unsent) == 1 and type(self.unsent[0]) is not Eager:
            self._take_one(frames, self.unsent[0], first)
            return
        entries = list(islice(self.unsent, MOST_CALLS))
        if type(entries[0]) is Eager:
            taken, data = self._encode_eager(entries, first)
        else:
            kinds = list(map(type, entries))
            taken = kinds.index(Eager) if Eager in kinds else len(kinds)
            calls = [entry[:-1] for entry in entries[:taken]]
            data = wire.encode(
                wire.CALL,
                pickle_dumps(calls, PROTOCOL),
                flags=wire.PACKED,
                count=taken,
                first=first,
            )
        targets = [entry[-1] for entry in entries[:taken]]
        sent = first - 1 + taken
        if targets[0] is None:  # a definition, which no one waits for
            targets, sent = [], first - 1
        wire.at_once(
            partial(frames.append, (data, ())),
            partial(self.pending.extend, targets),
            wire.dropping(self.unsent, taken),
            partial(setattr, self, "sent", sent),
        )

    def _take_one(self, frames: "Any", entry: "Entry", first: int) -> None:
        """As `take`, for the one call that there is."""
        body = pickle_dumps([entry[:-1]], PROTOCOL)
        data = wire.encode(wire.CALL, body, flags=wire.PACKED, first=first)
        wire.at_once(
            partial(frames.append, (data, ())),
            partial(self.pending.append, entry[-1]),
            self.unsent.popleft,
            partial(setattr, self, "sent", first),
        )

    def _encode_eager(self, entries: "list[Any]", first: int) -> "tuple[int, bytes]":
        """Return how many bodies share the next frame, and the frame."""
        body, keywords, target = entries[0]
        if target is None:
            return 1, wire.encode(wire.DEFINE, body)
        bodies, size = [body], len(body)
        for entry in islice(entries, 1, None):
            if type(entry) is not Eager or entry[1] != keywords or entry[2] is None:
                break
            size += len(entry[0])
            if size > MOST_BYTES:
                break
            bodies.append(entry[0])
        flags = wire.KEYWORDS if keywords else 0
        data = wire.encode_bodies(wire.CALL, bodies, flags=flags, first=first)
        return len(bodies), data

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
            elif kind == wire.OUTPUT and frame.flags & wire.PIPED:
                self.read_pipe(frame)
                frames.popleft()
            elif kind in (wire.LOG, wire.OUTPUT):
                said = (self._said, frame)
                wire.at_once(partial(self.ready.append, said), frames.popleft)
            else:
                self._other(frame)
                frames.popleft()

    def _settle(self, frame: wire.Frame) -> None:
        skip = self.sent - len(self.pending) + 1 - frame.first
        count = frame.count - skip  # some may have been read from the page before
        again = frame.first + min(frame.count, skip) - 1
        if (
            frame.first < 1
            or skip < 0
            or count > len(self.pending)
            or (skip and again > self._recovered)
        ):
            raise ProtocolError(f"{frame!r}, call {self.head()} was to be answered")
        if count <= 0:
            self.decoder.frames.popleft()
            return
        if frame.flags and count == 1 and type(self.pending[0]) is SimpleQueue:
            value = self._loaded(frame)[-1]
            put = partial(self.pending[0].put, value)
            wire.at_once(put, self.pending.popleft, self.decoder.frames.popleft)
            return
        outcomes = self._outcomes(frame)
        self._commit(outcomes[skip:], self.decoder.frames.popleft)

    def recover(self, kept: "list[tuple[bool, Any]]") -> None:
        """Settle the oldest calls with results that stood in the worker's page."""
        outcomes: list[object] = []
        first = self.head()
        for call_id, (is_body, value) in enumerate(kept, first):
            outcomes.append(self._load_result(value, call_id) if is_body else value)
        self._recovered = first - 1 + len(outcomes)
        self._commit(outcomes)

    def _commit(self, outcomes: "list[Any]", *also: "Callable[[], object]") -> None:
        """Hand the oldest calls their outcomes."""
        pending, count = self.pending, len(outcomes)
        targets = list(islice(pending, count))
        ready: Any = zip(targets, outcomes, strict=True)
        puts: list[Any] = []
        if Failure in map(type, outcomes) or not _CALLBACKS.issuperset(
            map(type, targets)
        ):
            ready, puts = self._sorted(targets, outcomes)
        wire.at_once(
            *puts,
            partial(self.ready.extend, ready),
            wire.dropping(pending, count),
            *also,
        )

    def _sorted(
        self, targets: "list[Any]", outcomes: "list[Any]"
    ) -> "tuple[list[tuple[Any, object]], list[Any]]":
        """Return (callbacks to run, steps that settle the others)."""
        ready: list[tuple[Any, object]] = []
        puts: list[Any] = []
        for target, outcome in zip(targets, outcomes, strict=True):
            if isinstance(target, SimpleQueue):
                puts.append(partial(target.put, outcome))
            elif isinstance(target, Awaiter):
                puts.append(partial(self.futures.append, (target, outcome)))
            elif isinstance(outcome, Failure):
                ready.append((self.on_error, outcome.error))
            else:
                ready.append((target, outcome))
        return ready, puts

    def _outcomes(self, frame: wire.Frame) -> "list[Any]":
        """Return the results, or Failures, of a frame."""
        if frame.flags & wire.PACKED:
            return self._loaded(frame)
        bodies = enumerate(frame.bodies(), frame.first)
        if frame.kind == wire.ERROR:
            return [self._load_error(body, call_id) for call_id, body in bodies]
        return [self._load_result(body, call_id) for call_id, body in bodies]

    def _loaded(self, frame: wire.Frame) -> "list[Any]":
        """Return the results of a PACKED frame.  Raise ProtocolError."""
        values = frame.loaded(self.codec.load)
        results = values if isinstance(values, list) else []
        if len(results) != frame.count:
            raise ProtocolError(f"{len(results)} results in {frame!r}")
        return results

    def _load_error(self, body: "Any", call_id: int) -> Failure:
        try:
            error = self._unpack(body)
        except Exception as problem:  # what the library itself wrote does not load
            return Failure(self._unloadable("the exception", call_id, problem))
        if getattr(error, "call", None) is None:
            _name_call(error, self.text_of(call_id))
        return Failure(error)

    def _load_result(self, body: "Any", call_id: int) -> object:
        try:
            (value,) = self.codec.load(body)
        except BaseException as error:  # runs the user's code, which may raise anything
            if is_interrupt(error):
                raise  # the frame stays, for whoever reads next
            return Failure(self._unloadable("the result", call_id, error))
        return value

    def _unpack(self, body: "Any") -> Exception:
        if self.codec.trusted:
            from _pickle import loads

            return unpack(
                loads(body), lambda blob: self.codec.load(blob)[0], is_interrupt
            )
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

    def _said(self, frame: "Any") -> None:
        """Call `on_said`.  Runs in the callbacks' thread."""
        self.on_said(frame)

    def _other(self, frame: wire.Frame) -> None:
        if frame.kind == wire.DEFINE and isinstance(self.codec, PickleCodec):
            frame.loaded(self.codec.learn)
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
        """Fail every call that has no answer; return how many there were.

        Those with a callback are not told one by one: `on_error` is called for all.
        """
        failed = 0
        for queue in (self.pending, self.unsent):
            call_id = self.head() or self.sent + 1
            while queue:
                target = queue[0][-1] if queue is self.unsent else queue[0]
                if isinstance(target, (SimpleQueue, Awaiter)):
                    error = death.error_of(call_id)
                    error.call = self.text_of(call_id)
                    _, puts = self._sorted([target], [Failure(error)])
                    wire.at_once(*puts, queue.popleft)
                else:
                    queue.popleft()
                if target is not None:  # no definition
                    failed += 1
                    call_id += 1
        return failed


def _name_call(error: Exception, text: str) -> None:
    """Set `.call` where the exception takes it."""
    try:
        error.call = text  # type: ignore[attr-defined]
    except Exception:  # a class of the user's, with slots or a __setattr__
        return
