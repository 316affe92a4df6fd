"""What a worker sends: results, held back while calls are quick, events and errors.

Held results leave together; until then they stand in the page too (`progress`), where
the parent finds them if this process crashes or hangs.  Everything leaves in the order
in which it was made.
"""

import _thread
from _pickle import dumps as pickle_dumps
from collections import deque
from time import monotonic

from .. import atomic, wire
from ..classes import PROTOCOL
from ..fds import Outbox
from ..parts import Parts, owned
from ..progress import BLOCK, HELD, NUMBERS, SLOTS
from ..serialisers import SCALARS
from .bodies import refuse, result_body

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections import deque
    from collections.abc import Callable
    from typing import Any

    from ..progress import Page
    from ..serialisers import Codec

PATIENCE = 10e-3  # seconds for which a result may be held back


class Replies:
    """The writing half of a worker's connection.  Any thread; blocks while it writes.

    codec: set before the first result.
    deadline: time.monotonic() at which what is held has to leave; 0: nothing is held.
    lock: held while anything is made a frame.
    frame_items: makes a frame of what a stream holds; nothing may overtake that.
    run: results of the calls after the last that is in a frame: values, or bodies.
    kind: the type of all results in the page, if it is one and they are no bodies.
    full: id of the last call that has a slot in the page; 0: nothing may be added.
    limit: the longest body that may be sent.

    A signal handler of the user may raise between any two bytecodes, so the number of
    answered calls is never stored beside the answers: `done` is reckoned from them.
    """

    codec: "Codec"

    def __init__(self, channel: "socket", page: "Page", limit: int) -> None:
        self.deadline = 0.0
        self.run: list[Any] = []
        self.kind: type | None = None
        self.full = 0
        self._page = page
        self.limit = limit
        self._outbox = Outbox(channel)
        self._outbox.put(wire.GREETING)
        self.lock = self._lock = _thread.RLock()
        self.frame_items: Callable[[deque[Any]], None] | None = None  # a stream's
        self._gone = self._waits = False
        self._framed = deque([0], maxlen=1)  # id of the last call with a framed answer
        self._registers = (self._framed,)
        self._held_as: type | None = None  # type of all in the page; bytes: bodies
        self._packed = True  # what is in `run` are values
        self._first = 0  # id of the call in slot 0 of the page; 0: none
        self._bytes = 0  # of bodies in the page

    def done(self) -> int:
        """Return the id of the last call that has an answer."""
        while True:
            framed = self._framed[0]
            done = framed + len(self.run)
            if framed == self._framed[0]:  # no other thread has framed them meanwhile
                return done

    def slots(self) -> "tuple[Any, int]":
        """Return where results of `kind` are stored, and the id of slot 0's call.

        The caller stores such a result there and appends it to `run`; then it looks at
        `full`.  That is the quick way, and takes no lock: another thread that flushes
        sets `full` to 0 before it looks at `run`, so one of the two sees the other.
        """
        return self._page.slots_of(self.kind or int), self._first

    def become_copy(self) -> None:
        """In a forked process: keep off the quick way, whose page is the worker's."""
        self.kind = None

    def result(self, call_id: int, value: object) -> None:
        """Answer a call.  Raise SerialiserError, the call still without an answer."""
        kind = type(value)
        if self.limit < BLOCK:  # those that are held share a frame
            self.result_now(call_id, value)
            return
        if kind in NUMBERS and self.codec.packs:
            with self._lock:
                if self._page.keep(self._slot(call_id, kind), value):
                    if not self._packed:
                        self._frame_run()
                        self._packed = True
                    self.run.append(value)
                    return
        body: Any = self.codec.dump_apart((value,))
        if len(body) > self.limit:
            refuse("result", body, self.limit)
        if type(body) is Parts:
            parts = wire.encode_parts(wire.RESULT, body, first=call_id)
            self.answer(call_id, parts)
            return
        first = self._first  # before the look at `full`
        if (  # without a lock: see `slots`
            self._held_as is bytes
            and call_id <= self.full
            and self._page.keep_body(call_id - first, body, self._bytes)
        ):
            self._bytes += len(body)
            self.run.append(body)
            if call_id >= self.full:
                self.flush()
            return
        with self._lock:
            if self._page.keep_body(self._slot(call_id, bytes), body, self._bytes):
                self._bytes += len(body)
                if self._packed:
                    self._frame_run()
                    self._packed = False
                self.run.append(body)
            else:
                self.answer(call_id, wire.encode(wire.RESULT, body, first=call_id))

    def result_now(self, call_id: int, value: object) -> None:
        """Answer a call at once.  Raise SerialiserError as `result` does."""
        flags = 0
        if type(value) in SCALARS and self.codec.packs:
            flags, body = wire.PACKED, pickle_dumps([value], PROTOCOL)
            if len(body) > self.limit:
                refuse("result", body, self.limit)
        else:
            body = self.body_of("result", (value,))
            if type(body) is Parts:
                parts = wire.encode_parts(wire.RESULT, body, first=call_id)
                self.answer(call_id, parts)
                return
        self.answer(call_id, wire.encode_one(wire.RESULT, flags, call_id, body))

    def body_of(self, what: str, values: "tuple[object, ...]") -> "Any":
        """Serialise; raise SerialiserError, also for what is too long."""
        return result_body(self.codec, what, values, self.limit)

    def _slot(self, call_id: int, kind: type) -> int:
        """Return a slot of the page for a result of this type; bytes: for a body."""
        first = self._first
        if first and call_id - first < SLOTS:
            if kind is not self._held_as and self._held_as is not None:
                self._held_as = self.kind = None
                self._page.tell_apart(call_id - first)
            return call_id - first
        if first:
            self.flush()
        self.deadline = monotonic() + PATIENCE
        self._first = call_id
        self._page.begin(call_id, kind)
        if (kind is not bytes) is not self._packed:  # what is in `run` is of one kind
            self._frame_run()
            self._packed = kind is not bytes
        self._held_as = kind
        self.full = call_id + SLOTS - 1
        if kind is not bytes:
            self.kind = kind
        return 0

    def _frame_run(self) -> None:
        """Make the results held so far a frame, still unsent."""
        if self.frame_items is not None:
            self.frame_items(self._outbox.frames)
        run = self.run[:]  # one more may come behind it, see `slots`
        if not run:
            return
        first, count = self._framed[0] + 1, len(run)
        if self._packed:
            body = pickle_dumps(run, PROTOCOL)
            data = wire.encode(
                wire.RESULT, body, flags=wire.PACKED, count=count, first=first
            )
        else:
            data = wire.encode_bodies(wire.RESULT, run, first=first)
        atomic.together(
            (self._outbox.frames.append, self.run.__delitem__, self._framed.append),
            ((data, ()), slice(0, count), first - 1 + count),
        )

    def answer(self, call_id: int, data: "wire.Data") -> None:
        """Send the frame that answers a call, behind what is held."""
        with self._lock:
            if self.run or self._first:
                self.flush()
            try:
                self._outbox.write(data, self._registers, call_id)
            except OSError:  # as in `_write`
                self._outbox.clear()
                self._gone = True
            except BaseException:  # as in `_write`
                self._outbox.own()
                raise

    def follow(self, done: int) -> None:
        """Go on behind the answer to call *done*, which another process has written.

        What is made before `release` waits.
        """
        self._waits = True
        self._framed.append(done)
        if done:
            self._outbox.clear()  # the greeting was sent

    def release(self) -> None:
        self._waits = False

    def mute(self) -> None:
        """Write nothing any more: another process does."""
        with self._lock:
            self._waits = self._gone = True

    def begin(self, pid: int, flags: int = 0) -> None:
        """Say that calls may come; in one piece with the greeting, as most often.

        pid: of the worker.  flags: of READY.
        """
        ready = wire.encode(wire.READY, flags=flags, first=pid)
        with self._lock:
            frames = self._outbox.frames
            if len(frames) == 1:
                frames[0] = (wire.GREETING + ready, ())
                self._write()
                return
        self.send(ready)

    def send(self, data: "wire.Data") -> bool:
        """Send a frame behind what is held; return whether it was written."""
        if self._lock._is_owned():  # type: ignore[attr-defined]
            # A signal's handler or a finaliser interrupts this very thread while it
            # writes, and shall not write within: what was interrupted, or the next
            # turn, takes it along.
            if not isinstance(data, bytes):
                data = list(map(owned, data))
            self._outbox.put(data)
            self.deadline = self.deadline or monotonic()
            return True
        with self._lock:
            return self.send_within(data)

    def send_within(self, data: "wire.Data") -> bool:
        """As `send`; the caller holds the lock."""
        self.full, self.kind = 0, None
        self._frame_run()
        self._outbox.put(data)
        return self._write()

    def flush(self) -> bool:
        """Write everything made so far; return whether it was written."""
        with self._lock:
            self.full, self.kind = 0, None
            self._frame_run()
            return self._write()

    def _write(self) -> bool:
        if self._waits:
            if self._gone:
                self._outbox.clear()
            return not self._gone
        try:
            self._outbox.flush()
        except OSError:  # the program is gone; the next read sees it too
            self._outbox.clear()
            self._gone = True
        except BaseException:  # a signal's handler raised, and the user's code goes on
            self._outbox.own()
            raise
        finally:
            self.deadline = monotonic() if self._outbox.frames else 0.0
            if self._first:
                self._held_as = None
                self._page.words[HELD] = self._first = self._bytes = 0
        return not self._gone
