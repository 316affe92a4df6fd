"""The writing half of a channel: calls leave as frames, what does not fit waits.

Any thread writes; one at a time, under a lock.
"""

import _socket
import _thread

from . import wire
from .fds import Outbox
from .parts import Parts
from .reactor import WRITE
from .watch import Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .awaiter import Awaiter
    from .reactor import Reactor
    from .session import Session


class Sender:
    """Writes what a session has to send.  over: nothing more is read, nor written."""

    def __init__(
        self,
        reactor: "Reactor",
        sock: "_socket.socket",
        session: "Session",
        ready: "Callable[[int], None]",
    ) -> None:
        sock.setblocking(False)
        self.over = False
        self._session = session
        self._watch = Watch(reactor, sock, ready)
        self._outbox = Outbox(sock, _socket.MSG_DONTWAIT)
        self._outbox.put(wire.GREETING)
        self._writing = _thread.RLock()
        self._wrote_all = True
        self._closing = self._said_close = self._for_good = False

    def flush(self) -> None:
        """Write what the socket takes; the reactor goes on with the rest."""
        if self._writing._is_owned():  # type: ignore[attr-defined]
            return  # a signal handler of the user calls; what it interrupted goes on
        with self._writing:
            if self.over:
                return
            try:
                done = self._write()
            except OSError:  # the worker is gone; its end of file is still to be read
                self._outbox.clear()
                done = True
            self._session.blocked = not done
            self._session.must_send()
            if done is not self._wrote_all:
                self._watch.want(WRITE, wanted=not done)
                self._wrote_all = done

    def _write(self) -> bool:
        outbox, session = self._outbox, self._session
        done = not outbox.frames or outbox.flush()
        while (
            done
            and (session.unsent or session.staged)
            and not session.streams.fill(session.pending)
        ):
            session.take(outbox.frames)
            done = outbox.flush()
        said = self._said_close or session.unsent or session.staged
        if done and self._closing and not said:
            self._said_close = True
            flags = wire.FOR_GOOD if self._for_good else 0
            outbox.put(wire.encode(wire.CLOSE, flags=flags))
            done = outbox.flush()
        return done

    def post(self, data: bytes) -> None:
        """Send a frame that belongs to a stream, before the calls that wait."""
        self._outbox.put(data)
        self.flush()

    def own(self, call: object) -> None:
        """Copy what its caller could change of a call, where it is still to be sent.

        The caller has been interrupted while it waited for the outcome.
        """
        if type(call) is Parts:
            call.own()  # first: it may be made a frame just now
            with self._writing:
                self._outbox.own()

    def cancel(self, target: "Awaiter") -> bool:
        """Withdraw a call, or tell the worker to cancel it; return whether it is."""
        if self._writing._is_owned():  # type: ignore[attr-defined]
            return False  # a signal handler of the user; the call may be half sent
        with self._writing:
            if self.over:
                return False
            if self._session.withdrawn.add(target):
                return True
            frame = self._session.cancelling(target)
            if frame is None:
                return False
            self._outbox.put(frame)
        self.flush()
        return True

    def say_close(self, *, for_good: bool = False) -> None:
        """Send CLOSE behind everything that is queued.

        for_good: the program ends, and with it what the worker has started.
        """
        self._for_good = self._for_good or for_good
        self._closing = True
        self.flush()
