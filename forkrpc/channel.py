"""Moves the bytes of a session through its socket: who reads, and who waits.

A thread that waits for a result reads the socket itself when nobody else does: it
leads.  Otherwise the reactor reads.  The lead is one slot of a dict, taken by
`setdefault` and given up by `clear`, both one call into C, so that it is always known
who holds it.  One rule keeps every wait short: *publish yourself, then try to lead;
give up the lead, then look who is published.*  Whoever comes second sees the other.

The main thread may be interrupted anywhere in this file.  What it then leaves undone,
`tick` does: it frees a lead whose holder is gone, and sees to it that someone reads.
"""

import _socket
import os
import select
import sys
from _queue import SimpleQueue
from _weakref import proxy

from .errors import ProtocolError
from .lane import LEFT, Lane
from .loops import Loops
from .reactor import READ, WRITE
from .sender import Sender
from .spin import Spin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

    from .loops import Home
    from .reactor import Reactor
    from .session import Session

MILLISECONDS = 10  # between two looks of a leader at results that are held back
MOST_READS = 64  # at a stretch; a worker may send events without end
_LEAD = object()  # in a waiter's queue: try to lead
_NESTED = (
    "call() or a stream in a signal handler that has interrupted a call of the same "
    "worker would wait for ever; use submit() or a callback"
)


class Channel(Sender):
    """The socket of one session.

    over: nothing more comes, and why: a ProtocolError, or None for the end of file.
    on_read: called in the reactor's thread when there is something for it to do.
    """

    def __init__(
        self, reactor: "Reactor", sock: "_socket.socket", session: "Session"
    ) -> None:
        super().__init__(reactor, sock, session, self._ready)
        self.broken: ProtocolError | None = None
        self.loops = Loops()
        session.decoder.recv_into = sock.recv_into
        self._reactor = reactor
        self._sock = sock
        self._lead: dict[str, object] = {}  # "who": a frame, or the reactor
        self._followers: dict[SimpleQueue[Any], None] = {}
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._spin = Spin()
        self._lane = Lane(session, sock, self._outbox, self._spin, self._poll)
        self._led = False  # a thread has led since the last tick

    def start(self, owner: "Any") -> None:
        """Begin to read.  *owner* has `on_read` and `on_over`, for the reactor.

        Who may call this holds it, or the program does, to its end: no cycle.
        """
        self._owner = proxy(owner)
        self._watch.start()

    # Waiting for a result, in any thread but the reactor's.

    def exchange(self, call: object, queue: "SimpleQueue[Any]") -> object:
        """Make a call whose outcome *queue* is given, and return the outcome.

        call: as in `Session.unsent`.
        """
        outcome: object = LEFT
        sent = False
        if self._writing._is_owned():  # type: ignore[attr-defined]
            raise RuntimeError(_NESTED)  # what it interrupted has still to be written
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
            self.check_nested()
            self._session.unsent.extend((call, queue))
        if not sent or self._session.unsent:
            self.flush()
        if outcome is not LEFT:
            return outcome
        # Behind the call: the worker may have ended, and its calls been failed, before.
        self._owner.look_after_calls()
        return self.wait(queue)

    def check_nested(self) -> None:
        """Raise RuntimeError where the thread that leads has been interrupted to call.

        It can read nothing before the signal handler returns.
        """
        who = self._lead.get("who")
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            if frame is who:
                raise RuntimeError(_NESTED)
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
                        self._watch.want(READ, wanted=False)  # or two are woken
                        self._read_until(queue)
                    finally:
                        self._followers.pop(queue, None)
                        self._lead.clear()
                        self._hand_over(soon_back=type(queue) is not SimpleQueue)
                    self._followers[queue] = None
                outcome = queue.get()
                if outcome is not _LEAD:
                    return outcome
        finally:
            self._followers.pop(queue, None)
            if type(queue) is SimpleQueue and not queue.empty():
                self._hand_over()  # it was to lead, and needs not any more

    def _read_until(self, queue: "SimpleQueue[Any]") -> None:
        """Read until something is in *queue*.  The caller leads."""
        session = self._session
        if session.decoder.frames:
            self._resume()
        while queue.empty() and not self.over:
            if not self._spin.until(self._receive):
                if not self._poll.poll(MILLISECONDS):
                    self._owner.look_at_page()
                self._spin.woken()
            if session.ready or session.futures:
                self._reactor.soon(self._owner.on_read)
            if self.loops.homes:
                self.loops.tell()

    def _hand_over(self, *, soon_back: bool = False) -> None:
        """See to it that someone reads on; the caller has given up the lead for now."""
        for queue in list(self._followers):
            queue.put(_LEAD)
            if queue in self._followers:  # else it may have left without a look
                return
        if len(self._session.pending) > soon_back and not self.loops.duty:
            self._watch.want(READ, wanted=True)
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

    # Reading in the thread of an event loop.

    def duplicate_into(self, fds: "list[int]") -> None:
        """Append a duplicate of the descriptor, for a loop to watch."""
        from fcntl import F_DUPFD_CLOEXEC, fcntl

        fds.extend(map(fcntl, (self._sock.fileno(),), (F_DUPFD_CLOEXEC,), (3,)))

    def begin_duty(self) -> None:
        """A loop watches, and the reactor need not."""
        self._led = True
        self._watch.want(READ, wanted=False)

    def end_duty(self, home: "Home") -> None:
        """*home* does not watch any more."""
        duty = self.loops.duty
        if duty.get("who") is home:
            duty.clear()
        if not self._lead:
            self._watch.want(READ, wanted=True)

    def read_here(self, home: "Home") -> bool:
        """Read once for *home*, if nobody leads; return whether nobody did."""
        if self._lead.setdefault("who", sys._getframe()) is not sys._getframe():
            return False
        self._led, over = True, self.over
        try:
            if not over:
                self._receive()
        finally:
            self._lead.clear()
            if self._followers:
                self._hand_over()
        if not over:  # else all is told, and perhaps no owner is left
            self._owner.on_read_in(home)
        return True

    def has_unsent(self) -> bool:
        return bool(self._session.unsent)

    def has_more(self) -> bool:
        """Read once; return whether anything came.  The caller leads."""
        return not self.over and self._receive()

    # In the reactor's thread.

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self.flush()
            if self._wrote_all:
                self._watch.want(WRITE, wanted=False)
        if events & ~WRITE and not self.read():
            # A leader reads.  Look again, for it may have left meanwhile.
            self._watch.want(READ, wanted=False)
            if not self._lead:
                self._watch.want(READ, wanted=True)

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

    def read_on(self) -> None:
        """Read what is there, if nobody leads."""
        for _ in range(MOST_READS):
            if self._lead.setdefault("who", self) is not self:
                return
            try:
                if not self.has_more():
                    return
            finally:
                self._lead.clear()
                self._reactor.soon(self._owner.on_read)

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
            needed = True
            try:
                if not self.over and self._resume():
                    self._owner.look_at_page()
                    needed = self._is_needed()
            finally:
                self._lead.clear()
            self._watch.want(READ, wanted=needed)
            self._led = False
        session = self._session
        if session.blocked or session.must_send() or self._outbox.frames:
            self.flush()

    def _resume(self) -> bool:
        """Settle what an interrupted reader has left; False if it is broken."""
        try:
            self._session.decoder.parse()
            self._session.handle()
        except ProtocolError as error:
            self.broken, self.over = error, True
            self._reactor.soon(self._owner.on_over)
            return False
        return True

    def _is_needed(self) -> bool:
        """Return whether the reactor has to watch.  The caller leads.

        While threads lead, or a loop on duty reads, it is only in their way.
        """
        if self._led or not self.loops.duty:
            return not self._led
        return bool(self._poll.poll(0))  # the loop is busy, or has stopped

    def rest(self) -> None:
        """No call is under way, so nobody will look after this."""
        home = self.loops.duty.get("who")
        if home is not None:
            self.loops.relieve(home)
        self._watch.want(READ, wanted=True)

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
        self._watch.stop()

    def close(self) -> None:
        """Let go of the socket.  The worker has ended."""
        with self._writing:
            self.over = True
            self._outbox.clear()
            self._watch.stop()
            self._sock.close()

    def abandon(self) -> None:
        """Close the socket, in a forked copy of the program."""
        self.over = True
        self._watch.abandon()
        self.loops.abandon()
        fd = self._sock.detach()
        if fd >= 0:
            os.close(fd)


class Overlapped(Channel):
    """The socket of a worker whose answers come in any order."""

    def exchange(self, call: object, queue: "SimpleQueue[Any]") -> object:
        if self._writing._is_owned():  # type: ignore[attr-defined]
            raise RuntimeError(_NESTED)
        self.check_nested()
        self._session.unsent.extend((call, queue))
        self.flush()
        self._owner.look_after_calls()
        return self.wait(queue)
