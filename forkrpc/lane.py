"""The shortest way of a call that is alone: its frame out, its answer in.

A program that waits for each call makes most of them so.  What stands here is what
`Session`, `Outbox` and `Decoder` would do, in a third of the time: one small frame goes
out at once, and one comes back.  Whatever else it meets, it leaves to them: all is
then where they expect it.
"""

from _pickle import dumps, loads
from collections import deque

from . import atomic, wire
from .classes import PROTOCOL
from .serialisers import SCALARS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _queue import SimpleQueue
    from _socket import socket
    from collections.abc import Callable
    from select import poll
    from typing import Any

    from .fds import Outbox
    from .session import Session
    from .spin import Spin

MILLISECONDS = 20  # of sleep, behind which results that are held back are looked for
LEFT = object()
"""Returned in the place of an outcome: the call goes the usual way."""

_FLAGS = {
    tuple: wire.PACKED,
    bytes: 0,
    **dict.fromkeys(SCALARS, wire.PACKED | wire.ONES),
}
_popleft: "Callable[[Any], Any]" = deque.popleft


class Lane:
    """Used by the one thread that leads, while no other call is under way."""

    def __init__(
        self,
        session: "Session",
        sock: "socket",
        outbox: "Outbox",
        spin: "Spin",
        poll: "poll",
    ) -> None:
        self._session = session
        self._outbox = outbox
        self._recv = sock.recv
        self._spin = spin
        self._poll = poll
        self._registers = session.registers

    def send(self, call: "Any", queue: "SimpleQueue[Any]") -> bool:
        """Register the call and write its frame; return whether that was all.

        The caller holds the lock for writing.  If it was not, the call is in `unsent`,
        or its frame in the outbox.
        """
        session, outbox = self._session, self._outbox
        flags = _FLAGS.get(type(call))
        if (
            flags is None
            or session.pending
            or session.unsent
            or session.staged
            or outbox.frames
            or not session.decoder.at_rest()
        ):
            session.unsent.extend((call, queue))
            return False
        first = session.last[0] + 1
        body = dumps([call], PROTOCOL) if flags else call
        data = wire.encode_one(wire.CALL, flags, first, body)
        try:
            return outbox.write(data, self._registers, queue, first, call)
        except OSError:  # the worker is gone; its end of file is still to be read
            return False

    def receive(self) -> object:
        """Wait a moment for the answer; return the outcome, or LEFT."""
        session, spin = self._session, self._spin
        decoder = session.decoder
        try:
            if spin.looks > 1:
                header = decoder.look(self._recv, spin.looks)
                if spin.misses:
                    spin.found()
            else:  # what was just sent has not even been read
                header = self._sleep()
        except BlockingIOError:
            header = self._look_on()
        except ConnectionError:
            return LEFT
        if header is None:
            return LEFT
        kind, flags, _, _, first, _, _ = header
        if kind != wire.RESULT or first != session.last[0] - len(session.pending) + 1:
            return LEFT
        body = decoder.chunks[0][wire.HEADER_BYTES :]
        outcome: object
        if flags & wire.PACKED:
            try:
                (outcome,) = loads(body)
            except Exception:  # no result; who reads next finds it and rules on it
                return LEFT
        else:
            outcome = session.loader.result(body, first)
        atomic.drop(map(_popleft, (*session.under_way, decoder.chunks)))
        return outcome

    def _look_on(self) -> "wire.Header | None":
        decoder, spin = self._session.decoder, self._spin
        try:
            header = spin.look_on(decoder.look, self._recv)
            if header is None and decoder.at_rest():
                header = self._sleep()
        except (BlockingIOError, ConnectionError):
            return None
        return header

    def _sleep(self) -> "wire.Header | None":
        spin = self._spin
        spin.rested()
        if not self._poll.poll(MILLISECONDS):
            return None
        spin.woken()
        return self._session.decoder.look(self._recv, 1)
