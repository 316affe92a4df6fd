"""What a worker sends: results, held back while calls are quick, events and errors.

Held results leave together; until then they stand in the page too (`progress`), where
the parent finds them if this process crashes or hangs.  Everything leaves in the order
in which it was made.
"""

import _thread
from _pickle import dumps as pickle_dumps
from functools import partial
from time import monotonic

from .. import wire
from ..classes import PROTOCOL
from ..errors import SerialiserError
from ..fds import Outbox
from ..progress import HELD, SLOTS
from ..serialisers import SCALARS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Any

    from ..progress import Page
    from ..serialisers import Codec

PATIENCE = 10e-3  # seconds for which a result may be held back


class Replies:
    """The writing half of a worker's connection.  Any thread; blocks while it writes.

    codec: set before the first result.
    deadline: time.monotonic() at which what is held has to leave; 0: nothing is held.

    A signal handler of the user may raise between any two bytecodes, so the number of
    answered calls is never stored beside the answers: `done` is reckoned from them.
    """

    codec: "Codec"

    def __init__(self, channel: "socket", page: "Page", limit: int) -> None:
        self.deadline = 0.0
        self._page = page
        self._limit = limit
        self._outbox = Outbox(channel)
        self._outbox.put(wire.GREETING)
        self._lock = _thread.RLock()
        self._gone = False
        self._framed = 0  # id of the last call whose answer is in a frame
        self._run: list[Any] = []  # results of the calls after it: values, or bodies
        self._packed = True  # they are values
        self._first = 0  # id of the call in slot 0 of the page; 0: none
        self._bytes = 0  # of bodies in the page

    def done(self) -> int:
        """Return the id of the last call that has an answer."""
        return self._framed + len(self._run)

    def result(self, call_id: int, value: object) -> None:
        """Answer a call.  Raise SerialiserError, the call still without an answer."""
        with self._lock:
            slot = call_id - self._first
            # The quick way for all but the first result that is held.
            if self._packed and slot < SLOTS and self._first:
                if self._page.keep(slot, value):
                    self._run.append(value)
                    return
            elif self.codec.packs and self._page.keep(self._slot(call_id), value):
                self._hold(call_id, value, packed=True)
                return
        self._body(call_id, self.body_of("result", (value,)))

    def result_now(self, call_id: int, value: object) -> None:
        """Answer a call at once.  Raise SerialiserError as `result` does."""
        if type(value) in SCALARS and self.codec.packs:
            body = pickle_dumps([value], PROTOCOL)
            data = wire.encode(wire.RESULT, body, flags=wire.PACKED, first=call_id)
            self.answer(call_id, data)
        else:
            self.result(call_id, value)

    def _body(self, call_id: int, body: bytes) -> None:
        with self._lock:
            slot = self._slot(call_id)
            if self._page.keep_body(slot, body, self._bytes):
                self._bytes += len(body)
                self._hold(call_id, body, packed=False)
            else:
                self.answer(call_id, wire.encode(wire.RESULT, body, first=call_id))

    def body_of(self, what: str, values: "tuple[object, ...]") -> bytes:
        """Serialise; raise SerialiserError, also for what is too long."""
        body = self.codec.dump(values)
        if len(body) > self._limit:
            raise SerialiserError(
                f"{what} of {len(body)} bytes, max_frame is {self._limit}; "
                "raise it with run(..., max_frame=...)"
            )
        return body

    def _hold(self, call_id: int, value: object, *, packed: bool) -> None:
        if self._packed is not packed:
            self._frame_run()
            self._packed = packed
        if not self._first:
            self._page.words[HELD] = self._first = call_id
            self.deadline = monotonic() + PATIENCE
        self._run.append(value)

    def _slot(self, call_id: int) -> int:
        if not self._first:
            return 0
        if call_id - self._first >= SLOTS:
            self.flush()
            return 0
        return call_id - self._first

    def _frame_run(self) -> None:
        """Make the results held so far a frame, still unsent."""
        run = self._run
        if not run:
            return
        first, count = self._framed + 1, len(run)
        if self._packed:
            body = pickle_dumps(run, PROTOCOL)
            data = wire.encode(
                wire.RESULT, body, flags=wire.PACKED, count=count, first=first
            )
        else:
            data = wire.encode_bodies(wire.RESULT, run, first=first)
        wire.at_once(
            partial(self._outbox.frames.append, (data, ())),
            run.clear,
            partial(setattr, self, "_framed", first - 1 + count),
        )

    def answer(self, call_id: int, data: bytes) -> None:
        """Send the frame that answers a call, behind what is held."""
        with self._lock:
            if self._run:
                self._frame_run()
            wire.at_once(
                partial(self._outbox.frames.append, (data, ())),
                partial(setattr, self, "_framed", call_id),
            )
            self._write()

    def send(self, data: bytes) -> bool:
        """Send a frame behind what is held; return whether it was written."""
        if self._lock._is_owned():  # type: ignore[attr-defined]
            # A signal's handler or a finaliser interrupts this very thread while it
            # writes, and shall not write within: what was interrupted, or the next
            # turn, takes it along.
            self._outbox.put(data)
            self.deadline = self.deadline or monotonic()
            return True
        with self._lock:
            self._frame_run()
            self._outbox.put(data)
            return self.flush()

    def flush(self) -> bool:
        """Write everything made so far; return whether it was written."""
        with self._lock:
            self._frame_run()
            return self._write()

    def _write(self) -> bool:
        try:
            self._outbox.flush()
        except OSError:  # the program is gone; the next read sees it too
            self._outbox.clear()
            self._gone = True
        finally:
            self.deadline = 0.0
            if self._first:
                self._page.words[HELD] = self._first = self._bytes = 0
        return not self._gone
