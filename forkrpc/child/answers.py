"""What an asynchronous worker sends, in the order in which it was made.

Answers and events gather until the loop turns, and leave together; nothing here blocks
but `flush`.  Results that are numbers, or short, stand in the page meanwhile
(`progress`), where the parent finds them if this process crashes or is stuck.

Any thread makes answers.  A finaliser may run between any two bytecodes, so none may
come here: it asks the loop to.
"""

import _thread
from _pickle import dumps as pickle_dumps
from _socket import MSG_DONTWAIT
from collections import deque
from functools import partial
from select import POLLOUT, poll

from .. import atomic, wire
from ..classes import PROTOCOL
from ..fds import Outbox
from ..parts import owned
from ..progress import (
    BEHIND,
    DATA_BYTES,
    HELD,
    IDS_BYTES,
    LONGEST_BODY,
    NUMBERS,
    SLOTS,
    TURN,
)
from .bodies import error_body, result_body

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable
    from typing import Any

    from ..progress import Page
    from ..serialisers import Codec

WINDOW = 256 << 10  # bytes that may wait for the program before no more calls begin
JOINED = 64 << 10  # bytes up to which frames are joined for one system call


class Answers:
    """The writing half of an asynchronous worker's connection.

    codec: set before the first result.
    made: called, in the thread that has made something, when the first thing is made
    after `leave`: it sees to it that `leave` is called in the loop.
    limit: bytes of one result, or item.
    full: whether more than WINDOW bytes wait for the program.
    gone: nothing leaves any more.
    """

    codec: "Codec"

    def __init__(
        self, channel: "socket", page: "Page", limit: int, made: "Callable[[], None]"
    ) -> None:
        self._channel = channel
        self._page = page
        self.limit = limit
        self.made = made
        self._outbox = Outbox(channel, MSG_DONTWAIT)
        self._outbox.put(wire.GREETING)
        self._lock = _thread.RLock()
        self.gone = False
        self.full = False
        self._late: deque[bytes] = deque()  # what was said in the midst of something
        # Complete, in pieces, and not in the outbox.
        self._frames: list[bytes | memoryview] = []
        self._run: list[tuple[int, Any]] = []  # (call id, value or body) still unframed
        self._packed = True  # the run is of values
        self._bytes = 0  # of bodies in the run, and of frames
        self._unsent = 0  # bytes in the outbox
        self._newest = 0  # id of the call that was answered last
        self._held = 0  # slots in use
        self._held_to = IDS_BYTES  # offset of the next body in the page
        self._put = 0  # pieces that were ever put into the outbox

    def answered(self, call_id: int) -> bool:
        """Return whether the last answer was that of *call_id*."""
        return self._newest == call_id

    def result(self, call_id: int, value: object) -> None:
        """Answer a call.  Raise SerialiserError, the call still without an answer."""
        if type(value) in NUMBERS and self.codec.packs:
            with self._lock:
                if self._held == SLOTS:
                    self.leave()
                if (self._packed or not self._run) and self._page.keep(
                    self._held, value
                ):
                    self._packed = True
                    self._append(call_id, value)
                    return
        body = result_body(self.codec, "result", (value,), self.limit)
        with self._lock:
            if self._keep_body(body):
                self._append(call_id, body)
            else:
                self.send(wire.encode_any(wire.RESULT, body, first=call_id), call_id)

    def _keep_body(self, body: "Any") -> bool:
        """Put *body* into the page, if it is short."""
        if self._packed:
            self._frame_run()
            self._packed = False
        size = len(body)
        if size > LONGEST_BODY:
            return False
        if self._held == SLOTS or self._held_to + size > DATA_BYTES:
            self.leave()
        self._page.keep_body(self._held, body, self._held_to)
        self._held_to += size
        self._grow(size)
        return True

    def _append(self, call_id: int, answer: object) -> None:
        """Add an answer, which stands in the page too."""
        held = self._held
        self._page.ids[held] = call_id
        self._page.words[HELD] = self._held = held + 1
        first = not self._run and not self._frames
        self._run.append((call_id, answer))
        self._newest = call_id
        if first:
            self.made()

    def error(self, call_id: int, error: BaseException) -> None:
        """Answer a call with an exception."""
        body = error_body(self.codec, error, self.limit)
        self.send(wire.encode(wire.ERROR, body, first=call_id), call_id)

    def cancelled(self, call_id: int) -> None:
        """Answer a call that the program has cancelled."""
        self.send(wire.encode(wire.CANCEL, first=call_id), call_id)

    def ended(self, call_id: int) -> None:
        """Answer the call of a stream that has ended."""
        data = wire.encode(wire.RESULT, flags=wire.ENDED, first=call_id)
        self.send(data, call_id)

    def event(self, args: "tuple[object, ...]") -> None:
        """Raise SerialiserError for arguments that cannot be sent."""
        body = result_body(self.codec, "event", args, self.limit)
        self.send(wire.encode_any(wire.EVENT, body))

    def say(self, data: bytes) -> None:
        """Add a frame, and write what the socket takes.

        A signal's handler or a finaliser may come here while this very thread does
        something here, and shall not do it within: then `leave` takes it along.
        """
        if self._lock._is_owned():  # type: ignore[attr-defined]
            self._late.append(data)
            self.made()
            return
        self.send(data)
        self.leave()

    def send(self, data: "wire.Data", call_id: int = 0) -> None:
        """Add a frame behind all that was made; it may answer a call.

        What it consists of leaves later: whatever somebody could change is copied.
        """
        pieces = [data] if isinstance(data, bytes) else list(map(owned, data))
        with self._lock:
            first = not self._run and not self._frames
            self._page.words[BEHIND] = 1
            self._frame_run()
            self._frames += pieces
            self._grow(sum(map(len, pieces)))
            if call_id:
                self._newest = call_id
            if first:
                self.made()

    def _grow(self, size: int) -> None:
        self._bytes += size
        self.full = self._bytes + self._unsent > WINDOW

    def _frame_run(self) -> None:
        run = self._run
        if not run:
            return
        ids = [call_id for call_id, _ in run]
        answers = [answer for _, answer in run]
        flags, first, table = wire.scatter(ids)
        if self._packed:
            body = table + pickle_dumps(answers, PROTOCOL)
            flags |= wire.PACKED
            data = wire.encode(
                wire.RESULT, body, flags=flags, count=len(ids), first=first
            )
        else:
            self._bytes -= sum(map(len, answers))
            data = wire.encode_bodies(
                wire.RESULT, answers, flags=flags, first=first, ids=table
            )
        self._bytes += len(data)
        atomic.at_once(partial(self._frames.append, data), run.clear)

    def leave(self) -> bool:
        """Write what the socket takes; return whether all was.  Never blocks."""
        with self._lock:
            while self._late:
                self.send(self._late.popleft())
            self._frame_run()
            frames = self._frames
            if frames:
                pieces = frames
                if len(frames) > 1 and self._bytes <= JOINED:
                    pieces = [b"".join(frames)]
                items = [(piece, ()) for piece in pieces]
                atomic.at_once(partial(self._outbox.frames.extend, items), frames.clear)
                self._put += len(items)
                self._unsent += self._bytes
                self._bytes = 0
            done = self._write()
            words = self._page.words
            if self._held or words[BEHIND]:
                words[TURN] += 1
                words[HELD] = self._held = 0
                words[BEHIND] = not done
                self._held_to = IDS_BYTES
            return done

    def _write(self) -> bool:
        try:
            done = self._outbox.flush()
        except OSError:  # the program is gone; the next read sees it too
            self._outbox.clear()
            self.gone = done = True
        if done:
            self._unsent = 0
        else:
            self._unsent = sum(len(data) for data, _ in self._outbox.frames)
        self.full = self._bytes + self._unsent > WINDOW
        return done

    def flush(self) -> bool:
        """Block until everything made so far is written; return whether it was."""
        watch = poll()
        watch.register(self._channel, POLLOUT)
        with self._lock:
            done = self.leave()
            goal = self._put
        while not done:
            watch.poll()
            with self._lock:
                done = self._write() or self._put - len(self._outbox.frames) >= goal
        return not self.gone

    def become_copy(self) -> None:
        """Send nothing: this process was forked from the worker."""
        self._lock = _thread.RLock()  # another thread may have held it
        self.gone = True
        self._outbox.clear()
