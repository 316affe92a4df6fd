"""The parent's end of a template: commands go out, notices come back.

Commands never block and await no answer; what the socket does not take at once, the
reactor sends later.
"""

import _socket
import _thread
import os
from _pickle import dumps, loads
from itertools import count

from . import classes, wire
from .decoder import Decoder
from .errors import ProtocolError
from .fds import LOST, HandleReader, Outbox, socket_pair
from .gate import Gate
from .reactor import READ, WRITE
from .serialisers import explained
from .twin import ALONE, SHARED, Twin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    from .program import Program

    class Child(Protocol):
        """Whoever asked for a process; told of it in the reactor's thread."""

        def started(self, pid: int, pidfd: "int | None") -> None: ...

        def refused(self, text: str) -> None: ...

        def exited(self, status: int) -> None: ...


STEPS = SHARED | ALONE


class Link:
    """The control stream of one template.

    refusal: why it could not be forked from another one, None if it could.
    ended: whether the template is gone; closed: whether no more commands are taken.
    sent: the groups of classes (see `classes`) that the template has.
    pid: an executed template's, which is our own child and ours to reap.
    """

    def __init__(
        self,
        program: "Program",
        control: "_socket.socket",
        *,
        pid: "int | None" = None,
        greeted: bool = False,
    ) -> None:
        control.setblocking(False)
        self.program = program
        self.ended = False
        self.closed = False
        self.sent: set[classes.Group] = set()
        self._control = control
        self._pid = pid
        self._own_child = pid is not None
        self._known = Gate()
        self._why: str | None = None
        self.refusal: str | None = None
        self._reader = HandleReader(control, strict=False)
        self._decoder = Decoder(greeted=greeted)
        self._outbox = Outbox(control, _socket.MSG_DONTWAIT)
        if not greeted:
            self._outbox.put(wire.GREETING)
        self._writing = _thread.RLock()
        self._tokens = count(1)
        self._asked: dict[int, Child] = {}
        self._children: dict[int, Child] = {}
        self._waiting: dict[int, Callable[[str | None], None]] = {}
        self._twin = Twin(self)
        if pid is not None:
            self._known.open()
        self._events = READ  # that the reactor watches for
        program.ends[self] = None
        program.reactor.start()
        program.reactor.watch(control.fileno(), READ, self._ready)

    @classmethod
    def executed(
        cls,
        program: "Program",
        python: "str | None" = None,
        env: "dict[str, str] | None" = None,
    ) -> "Link":
        """Return the link to a template in a freshly executed interpreter."""
        from .interpreter import execute

        ours, theirs = socket_pair()
        try:
            pid = execute(theirs.fileno(), program.lifeline, python=python, env=env)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(program, ours, pid=pid)

    def fork(self, name: "str | None") -> "Link":
        """Return the link to a template forked from this one."""
        ours, theirs = socket_pair()
        link = Link(self.program, ours)
        link.sent = set(self.sent)
        self.ask(wire.FORK, dumps(name), [theirs.detach()], link)
        return link

    def with_asyncio(self) -> "Link":
        """Return the link to this template's twin, which has loaded asyncio."""
        return self._twin.get()

    def pid(self) -> "int | None":
        """Wait until the process exists; return its id, None if it never will."""
        if not self._known.is_open():
            self.program.check_may_wait("pid")
            self._known.wait()
        return self._pid

    def why_closed(self) -> str:
        if self._why is not None:
            return self._why
        return "it was closed" if self.closed else "the template has ended"

    def freeze(self, values: object) -> "tuple[list[bytes], bytes]":
        """Return (definitions, body) for the template.  Caller holds classes.lock()."""
        try:
            return classes.freeze(values, self.sent)
        except Exception as error:
            raise explained(
                error, values, lambda part: classes.freeze(part, set())[1]
            ) from error

    def send(
        self,
        kind: int,
        body: bytes = b"",
        handles: "Sequence[int]" = (),
        token: int = 0,
    ) -> None:
        """Queue a command; takes over *handles*.  Never blocks; any thread."""
        data = wire.encode(kind, body, handles=len(handles), first=token)
        if kind in STEPS:
            with self._twin.lock:
                self._twin.step(kind, body, handles)
                self._outbox.put(data, handles)
        else:
            self._outbox.put(data, handles)
        self.flush()

    def flush(self) -> None:
        with self._writing:
            if self.ended:
                self._outbox.clear()
                return
            try:
                done = self._outbox.flush()
            except OSError:  # the template is gone; its end of file is still to be read
                self._outbox.clear()
                done = True
            events = READ if done else READ | WRITE
            if events != self._events:
                self.program.reactor.change(self._control.fileno(), events)
                self._events = events

    def ask(
        self, kind: int, body: bytes, handles: "Sequence[int]", child: "Child"
    ) -> None:
        """Send FORK or RUN; *child* is told what becomes of it."""
        token = next(self._tokens)
        self._asked[token] = child
        self.send(kind, body, handles, token)
        if self.ended:
            self._lose()

    def ping(self, answer: "Callable[[str | None], None]") -> None:
        """Call *answer* once all commands before this one are done.

        Its argument is None, or the text of the step that failed.
        """
        token = next(self._tokens)
        self._waiting[token] = answer
        self.send(wire.PING, token=token)
        if self.ended:
            self._lose()

    def close(self) -> None:
        """End the template when its queued work is done.  Any thread."""
        if not self.closed:
            self.closed = True
            self._twin.close()
            self.send(wire.CLOSE)

    def dropped(self) -> None:
        """The last reference to the Forker is gone.  Takes no lock."""
        if not self.ended:
            self.program.reactor.soon(self.close)

    def wait(self, timeout: "float | None" = None) -> "str | None":
        """Wait until all commands are done; return the text of the step that failed.

        Raise TimeoutError.
        """
        self.program.check_may_wait("ready()")
        answered = Gate()
        answer: list[str | None] = []

        def done(text: "str | None") -> None:
            answer.append(text)
            answered.open()

        self.ping(done)
        if not answered.wait(timeout):
            raise TimeoutError(f"the template is not ready after {timeout} s")
        return answer[0]

    def detach(self) -> "_socket.socket":
        """Let go of the template: return its control stream, which the caller owns."""
        self._twin.close()
        self.send(wire.ADOPT)
        self.wait()  # it has let go of this program, and nothing is under way
        with self._writing:
            self.program.reactor.unwatch(self._control.fileno())
            self.ended = self.closed = True
            self._why = "it was detached"
        self.program.ends.pop(self, None)
        return _socket.socket(fileno=self._control.detach())

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self.flush()
        if not events & ~WRITE:
            return
        try:
            got = self._decoder.receive(self._reader)
        except BlockingIOError:
            return
        except (OSError, ProtocolError):
            got = 0
        if not got:
            self._end()
            return
        while self._decoder.frames:
            self._notice(self._decoder.frames.popleft())

    def _notice(self, frame: wire.Frame) -> None:
        token = frame.first
        handles = self._reader.claim(frame.handles)
        if frame.kind == wire.STARTED and not token:  # the template itself, adopted
            self.started(loads(frame.body), None)
        elif frame.kind == wire.STARTED:
            child = self._asked.pop(token)
            pid = loads(frame.body)
            self._children[pid] = child
            # Without a pidfd its socket and the template tell of its end.
            known = bool(handles) and handles[0] != LOST
            child.started(pid, handles[0] if known else None)
        elif frame.kind == wire.EXITED:
            pid, status = loads(frame.body)
            child = self._children.pop(pid, None)  # type: ignore[arg-type]
            if child is not None:  # else another program's, who let this one go
                child.exited(status)
        elif frame.kind == wire.PONG:
            self._waiting.pop(token)(None)
        elif frame.kind == wire.REFUSED:
            text = bytes(frame.body).decode("utf-8", "replace")
            if token in self._waiting:
                self._waiting.pop(token)(text)
            else:
                self._asked.pop(token).refused(text)

    def _end(self) -> None:
        """The template is gone."""
        with self._writing:
            self.ended = True
            self._outbox.clear()
            self.program.reactor.unwatch(self._control.fileno())
            self._control.close()
        self.program.ends.pop(self, None)
        if self._own_child and self._pid is not None:
            self._reap(self._pid)
        self._known.open()
        self._lose()

    def _reap(self, pid: int) -> None:
        try:
            done, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:  # the program reaps everything, or ignores SIGCHLD
            return
        if not done:  # its descriptors are closed just before it can be reaped
            self.program.reactor.later(0.01, lambda: self._reap(pid))

    def _lose(self) -> None:
        """Tell everyone who still waits that the template has ended."""
        text = self._why or "the template ended before this step; its stderr tells why"
        while self._asked:
            self._asked.popitem()[1].refused(text)
        while self._waiting:
            self._waiting.popitem()[1](text)

    # As a child of the template that it is forked from; in the reactor's thread.

    def started(self, pid: int, _pidfd: "int | None") -> None:
        self._pid = pid
        self._known.open()

    def refused(self, text: str) -> None:
        self._why, self.refusal = text, text  # its end of file follows

    def exited(self, _status: int) -> None:
        pass

    # The end of the program.

    def close_at_exit(self) -> None:
        """Nothing to wait for: the lifeline ends templates with the program."""

    def outstanding(self) -> int:
        return 0

    def wait_for_end(self, timeout: float) -> bool:
        return True

    def kill_at_exit(self) -> None:
        """Nothing to kill: the lifeline ends templates with the program."""

    def abandon(self) -> None:
        """Close the descriptors, in a forked copy of the program."""
        self.ended = self.closed = True
        self._known.open()
        self._why = "this process was forked from the one that owns it"
        fd = self._control.detach()
        if fd >= 0:
            os.close(fd)
        self._outbox.clear()
