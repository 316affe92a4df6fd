"""Moves the bytes of a session through its socket: who writes, and who reads.

A thread that waits for a result reads the socket itself when nobody else does: it
leads.  Otherwise the reactor reads.  The lead is one slot of a dict, taken by
`setdefault` and given up by `clear`, both one call into C, so that it is always known
who holds it.  One rule keeps every wait short: *publish yourself, then try to lead;
give up the lead, then look who is published.*  Whoever comes second sees the other.

The main thread may be interrupted anywhere in this file.  What it then leaves undone,
`tick` does: it frees a lead whose holder is gone, and sees to it that someone reads.
"""

import _socket
import _thread
import os
import select
import sys
from _queue import SimpleQueue

from . import wire
from .errors import ProtocolError
from .fds import Outbox
from .lane import LEFT, Lane
from .reactor import READ, WRITE
from .spin import Spin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

    from .reactor import Reactor
    from .session import Session

MILLISECONDS = 10  # between two looks of a leader at results that are held back
_LEAD = object()  # in a waiter's queue: try to lead


class Channel:
    """The socket of one session.

    over: nothing more comes, and why: a ProtocolError, or None for the end of file.
    on_read: called in the reactor's thread when there is something for it to do.
    """

    def __init__(
        self, reactor: "Reactor", sock: "_socket.socket", session: "Session"
    ) -> None:
        sock.setblocking(False)
        self.over = False
        self.broken: ProtocolError | None = None
        self._reactor = reactor
        self._session = session
        self._sock = sock
        self._outbox = Outbox(sock, _socket.MSG_DONTWAIT)
        self._outbox.put(wire.GREETING)
        self._writing = _thread.RLock()
        self._lead: dict[str, object] = {}  # "who": a frame, or the reactor
        self._followers: dict[SimpleQueue[Any], None] = {}
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._events = READ
        self._wrote_all = True
        self._spin = Spin()
        self._lane = Lane(session, sock, self._outbox, self._spin, self._poll)
        self._led = False  # a thread has led since the last tick
        self._closing = self._said_close = self._for_good = False

    def start(self, owner: "Any") -> None:
        """Begin to read.  *owner* has `on_read` and `on_over`, for the reactor."""
        self._owner = owner
        self._reactor.start()
        self._reactor.watch(self._sock.fileno(), READ, self._ready)

    # Writing, in any thread.

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
                self._want(WRITE, wanted=not done)
                self._wrote_all = done

    def _write(self) -> bool:
        outbox, session = self._outbox, self._session
        done = not outbox.frames or outbox.flush()
        while done and (session.unsent or session.staged):
            session.take(outbox.frames)
            done = outbox.flush()
        if done and self._closing and not self._said_close:
            self._said_close = True
            flags = wire.FOR_GOOD if self._for_good else 0
            outbox.put(wire.encode(wire.CLOSE, flags=flags))
            done = outbox.flush()
        return done

    def say_close(self, *, for_good: bool = False) -> None:
        """Send CLOSE behind everything that is queued.

        for_good: the program ends, and with it what the worker has started.
        """
        self._for_good = self._for_good or for_good
        self._closing = True
        self.flush()

    def _want(self, event: int, *, wanted: bool) -> None:
        """Have the reactor watch for *event*, or not."""
        events = self._events | event if wanted else self._events & ~event
        if events != self._events and not self.over:
            self._reactor.change(self._sock.fileno(), events)
            self._events = events

    # Waiting for a result, in any thread but the reactor's.

    def exchange(self, call: object, queue: "SimpleQueue[Any]") -> object:
        """Make a call whose outcome *queue* is given, and return the outcome.

        call: as in `Session.unsent`.
        """
        outcome: object = LEFT
        sent = False
        if (
            not self.over
            and self._lead.setdefault("who", sys._getframe()) is sys._getframe()
        ):
            self._led = True
            try:
                with self._writing:
                    sent = self._lane.send(call, queue)
                if sent:
                    outcome = self._lane.receive()
            finally:
                self._lead.clear()
                if self._followers or self._session.pending:
                    self._hand_over()
        else:
            self._check_nested()
            self._session.unsent.extend((call, queue))
        if not sent or self._session.unsent:
            self.flush()
        if outcome is not LEFT:
            return outcome
        # Behind the call: the worker may have ended, and its calls been failed, before.
        self._owner.look_after_calls()
        return self.wait(queue)

    def _check_nested(self) -> None:
        """Raise RuntimeError where the thread that leads has been interrupted to call.

        It can read nothing before the signal handler returns.
        """
        who = self._lead.get("who")
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            if frame is who:
                raise RuntimeError(
                    "call() in a signal handler that has interrupted a call() of the "
                    "same worker would wait for ever; use submit() or a callback"
                )
            frame = frame.f_back

    def wait(self, queue: "SimpleQueue[Any]") -> object:
        """Return the outcome that the call of *queue* is given."""
        self._followers[queue] = None
        try:
            while True:
                # The frame in no variable of its own: a cycle would keep its callers'.
                if (
                    not self.over
                    and self._lead.setdefault("who", sys._getframe()) is sys._getframe()
                ):
                    self._led = True
                    try:
                        self._read_until(queue)
                    finally:
                        self._followers.pop(queue, None)
                        self._lead.clear()
                        self._hand_over()
                    self._followers[queue] = None
                outcome = queue.get()
                if outcome is not _LEAD:
                    return outcome
        finally:
            self._followers.pop(queue, None)

    def _read_until(self, queue: "SimpleQueue[Any]") -> None:
        """Read until something is in *queue*.  The caller leads."""
        session = self._session
        while queue.empty() and not self.over:
            if not self._spin.until(self._receive):
                if not self._poll.poll(MILLISECONDS):
                    self._owner.look_at_page()
                self._spin.woken()
            if session.ready or session.futures:
                self._reactor.soon(self._owner.on_read)

    def _hand_over(self) -> None:
        """See to it that someone reads on; the caller has just given up the lead."""
        for queue in list(self._followers):
            queue.put(_LEAD)
            return
        if self._session.pending:
            self._want(READ, wanted=True)
        # Else the next tick does: a program that calls again at once is spared the
        # two system calls.

    def _receive(self) -> bool:
        """Read once, without waiting, and settle; return whether anything came."""
        session = self._session
        try:
            if session.decoder.receive(self._sock.recv):
                session.handle()
                if session.must_send():
                    self.flush()
                return True
        except BlockingIOError:
            return False
        except ConnectionError:
            pass
        except ProtocolError as error:
            self.broken = error
        try:
            session.handle()  # what came before the end
        except ProtocolError as error:
            self.broken = self.broken or error
        self.over = True
        self._reactor.soon(self._owner.on_over)
        return True

    # In the reactor's thread.

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self.flush()
        if events & ~WRITE and not self.read():
            # A leader reads.  Look again, for it may have left meanwhile.
            self._want(READ, wanted=False)
            if not self._lead:
                self._want(READ, wanted=True)

    def read(self) -> bool:
        """Read once, if nobody leads; return whether nobody did."""
        if self._lead.setdefault("who", self) is not self:
            return False
        try:
            if not self.over:
                self._receive()
        finally:
            self._lead.clear()
        self._owner.on_read()
        if self._followers:
            self._hand_over()
        return True

    def read_rest(self) -> bool:
        """Read all there is; return False while somebody else leads.

        The worker is dead, so a leader that sleeps is woken: it sees the end.
        """
        while not self.over:
            if self._lead.setdefault("who", self) is not self:
                self._free_lost_lead()
                self._shut_down()
                return False
            try:
                more = self._receive()
            finally:
                self._lead.clear()
            if not more:  # a process that the worker has forked holds the other end
                break
        return True

    def tick(self) -> None:
        """Do what an interrupt left undone, and have somebody read."""
        self._free_lost_lead()
        if self._lead.setdefault("who", self) is self:
            try:
                if not self.over:
                    self._session.decoder.parse()
                    self._session.handle()
                    self._owner.look_at_page()
            except ProtocolError as error:
                self.broken, self.over = error, True
                self._reactor.soon(self._owner.on_over)
            finally:
                self._lead.clear()
            # While threads lead, the reactor is only in their way.
            self._want(READ, wanted=not self._led)
            self._led = False
        if self._session.blocked or self._session.must_send():
            self.flush()

    def _free_lost_lead(self) -> None:
        """Free the lead of a thread that was interrupted before it gave it up."""
        who = self._lead.get("who")
        if who is None or who is self:
            return
        for frame in sys._current_frames().values():
            each: FrameType | None = frame
            while each is not None:
                if each is who:
                    return
                each = each.f_back
        self._lead.clear()

    def _shut_down(self) -> None:
        try:
            self._sock.shutdown(_socket.SHUT_RD)
        except OSError:  # it has ended by itself
            pass

    def stop_watching(self) -> None:
        """Nothing more comes: an ended socket would wake the reactor for ever."""
        self._reactor.unwatch(self._sock.fileno())

    def close(self) -> None:
        """Let go of the socket.  The worker has ended."""
        with self._writing:
            self.over = True
            self._outbox.clear()
            self._reactor.unwatch(self._sock.fileno())
            self._sock.close()

    def abandon(self) -> None:
        """Close the socket, in a forked copy of the program."""
        self.over = True
        fd = self._sock.detach()
        if fd >= 0:
            os.close(fd)
