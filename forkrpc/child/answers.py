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
from _thread import get_ident
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
    shared: other threads answer calls too.
    """

    codec: "Codec"

    def __init__(
        self, channel: "socket", page: "Page", limit: int, made: "Callable[[], None]"
    ) -> None:
        self._channel = channel
        self._page, self._words = page, page.words
        self._ids, self._tags, self._stores = page.ids, page.tags, page.stores()
        self.limit = limit
        self.made = made
        self._outbox = Outbox(channel, MSG_DONTWAIT)
        self._outbox.put(wire.GREETING)
        self._lock = _thread.RLock()
        self._thread = get_ident()  # the loop's
        self.shared = self._sharing = False  # soon, where it is not yet
        self.gone = self._waits = False
        self.full = False
        self._late: deque[bytes] = deque()  # what was said in the midst of something
        # Complete, in pieces, and not in the outbox.
        self._frames: list[bytes | memoryview] = []
        self._run: dict[int, Any] = {}  # call id -> value or body, still unframed
        self._packed = True  # the run is of values
        self._bytes = 0  # of bodies in the run, and of frames
        self._unsent = 0  # bytes in the outbox
        self._newest = 0  # id of the call that was answered last
        self._held = 0  # slots in use
        self._held_to = IDS_BYTES  # offset of the next body in the page
        self._put = 0  # pieces that were ever put into the outbox

    def follow(self, done: int) -> None:
        """Go on behind the answer to call *done*, which another process has written.

        What is made before `release` waits.
        """
        self._waits = True
        self._newest = done
        if done:
            self._outbox.clear()  # the greeting was sent

    def release(self) -> None:
        self._waits = False
        while self._late:
            self.send(self._late.popleft())

    def mute(self) -> None:
        """Write nothing any more: another process does."""
        with self._lock:
            self._waits = self.gone = True

    def answered(self, call_id: int) -> bool:
        """Return whether the last answer was that of *call_id*."""
        return self._newest == call_id or call_id in self._run

    def keep(self, call_id: int, value: object) -> bool:
        """Answer a call with a number; False: it has to be `result`.

        In the loop's thread, and where it is not `shared`.  It takes no lock, which
        would be a third of the cost: nobody else adds to the run and the page then,
        others only take what is in the run.
        """
        store, run = self._stores.get(type(value)), self._run
        if store is None or not self.codec.packs or (run and not self._packed):
            return False
        if self._held == SLOTS:
            self.leave()
        (slots, tag), held = store, self._held
        try:
            slots[held] = value
        except ValueError:  # more than 64 bits
            return False
        self._packed = True  # nobody frames a run before there is one
        self._tags[held] = tag
        self._ids[held] = call_id
        run[call_id] = value
        self._newest = call_id
        self._words[HELD] = self._held = held + 1
        if len(run) == 1 and not self._frames:
            self.made()
        return True

    def result(self, call_id: int, value: object) -> None:
        """Answer a call.  Raise SerialiserError, the call still without an answer."""
        apart = not self.shared and get_ident() != self._thread
        if not apart and type(value) in self._stores:
            with self._lock:
                if self.keep(call_id, value):
                    return
        body = result_body(self.codec, "result", (value,), self.limit)
        with self._lock:
            if apart:  # the loop's thread may be in the midst of `keep`
                self._sharing = True
                self.send(wire.encode_any(wire.RESULT, body, first=call_id))
                self.leave()
            elif self._keep_body(body):
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

    def _append(self, call_id: int, body: object) -> None:
        """Add an answer, which stands in the page too."""
        held = self._held
        self._ids[held] = call_id
        self._run[call_id] = body
        self._newest = call_id
        self._words[HELD] = self._held = held + 1
        if len(self._run) == 1 and not self._frames:
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
        if self._waits or self._lock._is_owned():  # type: ignore[attr-defined]
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
            self._words[BEHIND] = 1
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
        run = self._run.copy()  # the loop's thread may add to it meanwhile
        if not run:
            return
        ids, answers = list(run), list(run.values())
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
        framed = map(self._run.pop, ids)
        atomic.together((self._frames.append, atomic.drop), (data, framed))

    def leave(self, *, turn: bool = False) -> bool:
        """Write what the socket takes; return whether all was.  Never blocks.

        turn: nothing else here is under way in this thread, the loop's.
        """
        if turn:
            self.shared = self._sharing
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
            words = self._words
            if not self.shared and get_ident() != self._thread:
                words[BEHIND] = not done
            elif self._held or words[BEHIND]:
                words[TURN] += 1
                words[HELD] = self._held = 0
                words[BEHIND] = not done
                self._held_to = IDS_BYTES
            return done

    def _write(self) -> bool:
        if self._waits:
            return self.gone
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
