"""The parent's end of one worker's connection, without I/O.

It pairs answers with calls and rules on the end.  A call is two items of `unsent`, put
there by one `extend`: what is to be sent, and who gets the outcome.  `take` moves them
through `staged` to `pending` and into a frame, `handle` moves them on together with
their results, each by one call into C (`atomic.together`).  So whatever interrupts, a
call is in exactly one place, and settles exactly once.
"""

from _queue import SimpleQueue
from collections import deque
from functools import partial

from . import atomic, wire
from .awaiter import CALLBACKS, Awaiter, Withdrawn, is_withdrawn, numbering
from .decoder import Decoder
from .entries import define, framed
from .errors import ProtocolError, SerialiserError
from .fds import entries
from .items import Items, Streams
from .loading import Failure, Loader
from .serialisers import SCALARS, Codec, PickleCodec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from .death import Death
    from .life import Life

    Target = Any  # a callback, a queue, or an Awaiter; of a definition: None


MOST_CALLS = 512  # in one frame; measured: more gain nothing
LOW = 256  # calls under way below which whoever reads sends more

NEVER = 1 << 62
_NOTHING: "frozenset[object]" = frozenset()


class Session:
    """Calls and answers of one worker.

    name: the function's, for messages.
    ones: types of an only argument that may be put into `unsent` as it is; empty when
    no calls are taken, or the serialiser takes one call at a time.
    gather: length of `unsent` at which its calls are to be sent.
    blocked: the socket takes nothing now; whoever waits for it sends all there is.
    last: its only item is the id of the last call that was taken.
    ready: (functions, arguments) pairs of sequences, to be called in order, in the
    callbacks' thread.
    futures: (future, outcome) pairs, to be settled in the reactor's thread.
    varied: whether an Awaiter or a stream was ever among the targets; set before.

    on_said: called as `ready` has it, with each LOG and OUTPUT frame.
    read_pipe: called at once with a frame that tells of bytes in a pipe.

    A target that is a queue is a thread that waits: its outcome is put there.
    """

    answers = frozenset([wire.RESULT, wire.ERROR])  # kinds of frames
    in_order = True  # as answers come, so that a call that is alone may take the lane

    def __init__(self, name: str, limit: int, size: int = wire.SIZE) -> None:
        self.name = name
        self.codec: Codec
        self.loader: Loader
        self.ones: frozenset[object] = _NOTHING
        self.gather = 2
        self.blocked = False
        self.unsent: deque[Any] = deque()
        self.define = partial(define, self.unsent)
        self.staged: list[Any] = []
        self.pending: Any = deque()  # of targets
        self.last = deque([0], maxlen=1)
        # Where target, id and call of one that goes by the lane are entered.
        self.registers: tuple[deque[Any], ...] = (self.pending, self.last)
        self.under_way: tuple[deque[Any], ...] = (self.pending,)  # one item each
        self.ready: deque[tuple[Sequence[Any], Iterable[Any]]] = deque()
        self.futures: deque[tuple[Awaiter, object]] = deque()
        self.varied = False
        self.withdrawn = Withdrawn(self.unsent, self.futures)
        self.streams = Streams()
        self.decoder = Decoder(limit, size)
        self._limit = limit
        self.on_event: Callable[..., object] | None = None
        self.on_error: Callable[[Exception], object]
        self.on_said: Callable[[wire.Frame], object]
        self.read_pipe: Callable[[wire.Frame], object] = lambda _: None
        self.up = False  # the worker is set up
        self._turn = 0  # id of the only call that it may be given now; 0: any
        self.pid: int | None = None  # which it has told by then
        self.retired = False
        self.setup_failure: str | None = None
        self._recovered = 0  # id of the last call whose result was read from the page

    def use(self, codec: Codec) -> None:
        self.codec = codec
        self.loader = Loader(self.name, codec)
        # Below the usual limit a number may be too long: `arguments` looks at each.
        usual = self._limit >= wire.LIMIT
        self.ones = SCALARS if codec.packs and usual else _NOTHING

    def take_no_more(self) -> None:
        """From now on no call goes the shortest way into `unsent`."""
        self.ones = _NOTHING
        self.gather = 0

    @property
    def sent(self) -> int:
        """The id of the last call that was taken."""
        return self.last[0]

    def outstanding(self) -> int:
        """Return how many calls have no answer."""
        waiting = (len(self.unsent) + len(self.staged)) // 2
        return waiting - self.withdrawn.count + len(self.pending)

    def awaits_calls(self) -> bool:
        """Return whether who executes the next call is set up."""
        return self.up and (not self._turn or self._turn > self._answered())

    def _answered(self) -> int:
        """Return how many calls have been answered."""
        return self.last[0] - len(self.pending)

    def follow(self, life: "Life") -> None:
        """Learn of the worker's life, before the first call."""

    def limits(self) -> "tuple[Any, ...]":
        """Return arguments for `Life.limit_calls`, behind the timeout."""
        return (lambda call_id: call_id == self.head(),)

    def target(self, call_id: int) -> "Target":
        """Return the target of the call that runs.  Raise LookupError."""
        target = self.pending[0]
        if call_id != self.head():  # another thread has settled it
            raise LookupError
        return target

    def head(self) -> int:
        """Return the id of the oldest call without an answer, 0 if there is none."""
        pending = len(self.pending)
        return self.last[0] - pending + 1 if pending else 0

    def must_send(self) -> bool:
        """Reckon anew how many calls may gather; return whether some are to be sent.

        As many gather as the worker still has to do, so that frames grow and it never
        runs dry; while little is under way each is sent at once.
        """
        under_way = len(self.pending)
        if self.blocked:
            self.gather = NEVER
            return False
        self.gather = 2 * min(under_way or 1, MOST_CALLS)
        return bool(self.unsent or self.staged) and under_way < LOW

    def call_soon(self, function: "Callable[[Any], object]", argument: object) -> None:
        """Have *function* called behind the callbacks that are ready."""
        self.ready.append(((function,), (argument,)))

    def take(self, frames: "deque[Any]") -> None:
        """Move the oldest unsent calls to *frames*, as one frame.

        There is at least one, perhaps withdrawn; the caller holds a lock.
        """
        staged, unsent = self.staged, self.unsent
        if not staged:
            count = min(len(unsent), 2 * MOST_CALLS)
            staged.extend(atomic.leftmost(unsent, count))
        if self.varied:
            self.withdrawn.sift(staged)
            if not staged:
                return
        first = self.last[0] + 1
        numbers: list[Callable[[], object]] = []
        if self.varied and isinstance(staged[1], Items):
            count = 1
            data, *numbers = self.streams.sending(staged[0], staged[1], first)
            targets = [staged[1]]
        else:
            count, data = framed(staged[::2], first, self._limit)
            targets = staged[1 : 2 * count : 2]
            if self.varied:
                numbers = numbering(first, targets)
        calls = staged[: 2 * count : 2]
        if targets[0] is None:  # a definition
            targets, calls, first = [], [], first - count
        enter, entering = self._entry(first, targets, calls)
        pieces = entries([data] if type(data) is bytes else data)
        steps: Any = (frames.extend, enter, self.last.append, staged.__delitem__)
        given: Any = (pieces, entering, first - 1 + count, slice(0, 2 * count))
        if numbers:
            steps, given = (*steps, atomic.drop), (*given, atomic.doing(numbers))
        atomic.together(steps, given)

    def _entry(
        self, _first: int, targets: "list[Target]", _calls: "list[Any]"
    ) -> "tuple[Any, Any]":
        """Return what makes calls pending, whose ids begin with *first*."""
        return self.pending.extend, targets

    def cancelling(self, _target: Awaiter) -> "bytes | None":
        """Return the frame that cancels a call that was sent, None if nothing does."""
        return None

    def handle(self) -> None:
        """Work off the frames that have arrived.  Raise ProtocolError."""
        frames = self.decoder.frames
        while frames:
            frame = frames[0]
            kind = frame.kind
            if kind in self.answers:
                self._settle(frame)
            elif kind == wire.EVENT:
                item = (self._event,), (frame.body,)
                atomic.together(
                    (self.ready.append, atomic.drop), (item, atomic.leftmost(frames, 1))
                )
            elif kind == wire.ITEM:
                steps = self.streams.arriving(frame, self.loader.items)
                atomic.at_once(*steps, frames.popleft)
            elif kind == wire.OUTPUT and frame.flags & wire.PIPED:
                self.read_pipe(frame)
                frames.popleft()
            elif kind in (wire.LOG, wire.OUTPUT):
                said = (self._said,), (frame,)
                atomic.together(
                    (self.ready.append, atomic.drop), (said, atomic.leftmost(frames, 1))
                )
            else:
                self._other(frame)
                frames.popleft()

    def _settle(self, frame: wire.Frame) -> None:
        skip = self.last[0] - len(self.pending) + 1 - frame.first
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
        elif frame.flags & wire.PACKED:
            results = self.loader.results(frame)
            self._commit(results[skip:] if skip else results, failed=False, frames=1)
        else:
            self._commit(self.loader.outcomes(frame)[skip:], failed=True, frames=1)

    def recover_items(self, items: Items, kept: "list[tuple[bool, Any]]") -> None:
        """Hand over what stood in the worker's page, behind all that was received."""
        load, at = self.loader.result, items.call_id
        found = [load(value, at) if is_body else value for is_body, value in kept]
        atomic.at_once(*items.adding(found))

    def look(self, life: "Life") -> None:
        """Settle calls whose results a worker holds that is stuck, or dead."""
        kept = life.kept(self.head())
        if kept:
            self.recover(kept)

    def recover(self, kept: "list[tuple[bool, Any]]") -> None:
        """Settle the oldest calls with results that stood in the worker's page."""
        outcomes: list[object] = []
        first = self.head()
        for call_id, (is_body, value) in enumerate(kept, first):
            outcomes.append(self.loader.result(value, call_id) if is_body else value)
        self._recovered = first - 1 + len(outcomes)
        self._commit(outcomes, failed=True, frames=0)

    def _commit(self, outcomes: "list[Any]", *, failed: bool, frames: int) -> None:
        """Hand the oldest calls their outcomes, and drop so many *frames*.

        failed: whether there may be a Failure among the outcomes.
        """
        pending, count = self.pending, len(outcomes)
        targets: Any = atomic.oldest(pending, count)
        settles: Sequence[Callable[[Any], object]] = ()
        settled: Sequence[Any] = ()
        if not CALLBACKS.issuperset(map(type, targets)) or (
            failed and Failure in map(type, outcomes)
        ):
            targets, outcomes, settles, settled = self._sorted(targets, outcomes)
        if targets:
            settles = (*settles, self.ready.append)
            settled = (*settled, (targets, outcomes))
        leaving = [atomic.leftmost(queue, count) for queue in self.under_way]
        atomic.together(
            (*settles, *[atomic.drop] * len(leaving), atomic.drop),
            (*settled, *leaving, atomic.leftmost(self.decoder.frames, frames)),
        )

    def _sorted(
        self, targets: "list[Any]", outcomes: "list[Any]"
    ) -> "tuple[list[Any], list[Any], list[Any], list[Any]]":
        """Return callbacks with their arguments, and what settles the others."""
        ready: list[Any] = []
        arguments: list[Any] = []
        settles: list[Any] = []
        settled: list[Any] = []
        for target, outcome in zip(targets, outcomes, strict=True):
            if isinstance(target, Items):
                settles.append(atomic.drop)
                settled.append(atomic.doing(self.streams.ending(target, outcome)))
                if target.closed and isinstance(outcome, Failure):
                    ready.append(self.on_error)  # nobody else is told
                    arguments.append(outcome.error)
            elif isinstance(target, SimpleQueue):
                settles.append(target.put)
                settled.append(outcome)
            elif isinstance(target, Awaiter):
                inbox = self.futures if target.inbox is None else target.inbox
                settles.append(inbox.append)
                settled.append((target, outcome))
            elif isinstance(outcome, Failure):
                ready.append(self.on_error)
                arguments.append(outcome.error)
            else:
                ready.append(target)
                arguments.append(outcome)
        return ready, arguments, settles, settled

    def _event(self, body: "Any") -> None:
        """Call `on_event`.  Runs in the callbacks' thread."""
        args = self.loader.event(body)
        if isinstance(args, Failure):
            self.on_error(args.error)
        elif self.on_event is None:
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
        elif frame.kind == wire.READY:
            self.pid, self.up = frame.first, True
            self._turn = self._answered() + 1 if frame.flags & wire.ONE else 0
        else:
            raise ProtocolError(f"{frame!r} from a worker")

    def fail_all(self, death: "Death") -> int:
        """Fail every call that has no answer; return how many there were.

        Those with a callback are not told one by one: `on_error` is called for all.
        """
        atomic.together(
            (self.unsent.extendleft, self.staged.__delitem__),
            (self.staged[::-1], slice(None)),
        )
        failed = 0
        for queue, width in (self.pending, 1), (self.unsent, 2):
            call_id = self.head() or self.sent + 1
            while queue:
                target = queue[width - 1]
                if is_withdrawn(target):
                    self.withdrawn.drop_one()
                    continue
                settles, settled = self._failing(call_id, target, death)
                atomic.together(
                    (*settles, atomic.drop), (*settled, atomic.leftmost(queue, width))
                )
                if target is not None:  # no definition
                    failed += 1
                    call_id += 1
        return failed

    def fail(self, call_id: int, target: "Target", death: "Death") -> None:
        """Tell one call of the death, which is in no queue any more."""
        atomic.together(*map(tuple, self._failing(call_id, target, death)))

    def _failing(
        self, call_id: int, target: "Target", death: "Death"
    ) -> "tuple[list[Any], list[Any]]":
        """Return what tells a call of the death, as `_sorted` does."""
        if not isinstance(target, (SimpleQueue, Awaiter)):
            return [], []
        error = death.error_of(call_id)
        error.call = self.loader.text_of(call_id)
        *_, settles, settled = self._sorted([target], [Failure(error)])
        return settles, settled
