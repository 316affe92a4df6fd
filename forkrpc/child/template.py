"""The template: obeys commands, forks, reaps.  Single-threaded for its whole life.

Commands arrive as frames on its control stream; nothing is answered but STARTED,
REFUSED, EXITED and PONG.  After a step has failed every later command is refused with
that step's text.  When the stream ends (or the program is gone) the template stays as a
mere reaper until its last child has ended.
"""

import _signal  # type: ignore[import-not-found]
import _socket
import gc
import os
import sys
from _pickle import dumps, loads
from select import POLLHUP, POLLIN, poll

from .. import wire
from ..decoder import Decoder
from ..fds import HandleReader, Outbox, close_all
from ..system import (
    arm_lifeline,
    become_subreaper,
    default_signals,
    hung_up,
    mortal,
    pidfd_open,
    set_title,
)
from . import leave, logs, worker
from .steps import STEPS, traceback_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass

ORPHAN_GRACE = 0.5  # seconds that workers have to leave once the program is gone


def main(control: int, lifeline: int) -> None:
    """Serve as the program's executed template.  Never returns.

    control, lifeline: descriptors given by the program; all others above 2 are closed.
    """
    _own_descriptors_only(control, lifeline)
    become_subreaper()
    os.chdir("/")
    sys.argv[:] = [""]
    sys.modules["__main__"] = type(sys)("__main__")
    _restore_exit()
    _live(Template(_socket.socket(fileno=control), lifeline))


def serve_program(control: "_socket.socket", lifeline: int) -> None:
    """Serve in a process just forked from the program itself.  Never returns."""
    try:
        os.setsid()
        become_subreaper()
        default_signals()
        leave.drop_handlers()
        logs.note_programs_handlers()
        _live(Template(control, lifeline))
    finally:
        os._exit(1)  # never back into the program's own stack


def _live(role: "Template | worker.Role") -> None:
    logs.watch_imports()
    # A forked child comes back here, so that no stack of its ancestors is below it.
    # They are kept: to free them would copy the pages that they are in.
    ancestors: list[Template] = []
    while isinstance(role, Template):
        ancestors.append(role)
        role = role.serve()
    role()


def _restore_exit() -> None:
    """Define what `site` would have: scripts use exit() and quit()."""
    import builtins
    from _sitebuiltins import Quitter

    for name in ("exit", "quit"):
        setattr(builtins, name, Quitter(name, "Ctrl-D (i.e. EOF)"))


def _own_descriptors_only(control: int, lifeline: int) -> None:
    low, high = sorted((control, lifeline))
    last = os.sysconf("SC_OPEN_MAX")
    for start, end in ((3, low), (low + 1, high), (high + 1, last)):
        os.closerange(start, end)
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:  # the program runs without it; a child never reuses the number
            os.open(os.devnull, os.O_RDWR)
    for fd in (control, lifeline):
        os.set_inheritable(fd, False)


class Template:
    """One template process.

    failure: text of the step that failed, None while all went well.
    arguments: what `send_arg` and `send_fh` queued, in order.
    """

    def __init__(self, control: "_socket.socket", lifeline: int) -> None:
        self._control = control
        self._lifeline = lifeline
        self._watch = poll()
        self._reader = HandleReader(control)
        self._decoder = Decoder(limit=2**62)
        self._outbox = Outbox(control)
        self._outbox.put(wire.GREETING)
        self._children: dict[int, bool] = {}  # pid -> ends with the program
        self._open = True
        self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.failure: str | None = None
        self.arguments: list[worker.Argument] = []

    def serve(self) -> "Template | worker.Role":
        """Obey until a fork; return, in the forked process, what it is to be."""
        watch = self._watch
        watch.register(self._control, POLLIN)
        watch.register(self._wake[0], POLLIN)
        self._arm()
        limit: int | None = None
        self._idle()
        while self._open or self._children:
            ready = dict(watch.poll(limit))
            if self._wake[0] in ready:
                os.read(self._wake[0], 4096)
            self._reap()
            if ready.get(self._lifeline, 0) & POLLHUP:
                watch.unregister(self._lifeline)
                limit = int(ORPHAN_GRACE * 1000)
                # Nobody is left to be told of those that may outlive the program.
                self._children = {
                    pid: True for pid, ends in self._children.items() if ends
                }
            elif not ready and limit is not None:
                self._end_children()
                limit = None
            if self._open and self._control.fileno() in ready:
                role = self._read()
                if role is not None:
                    return role
                if not self._open:
                    watch.unregister(self._control)
        leave.leave(0)
        raise AssertionError  # not reached

    def _arm(self) -> None:
        mortal(False)
        if os.getpgrp() != os.getpid():  # a session's leader leads its group already
            os.setpgid(0, 0)
        self._lifeline = arm_lifeline(self._lifeline)
        self._watch.register(self._lifeline, 0)

    def _idle(self) -> None:
        """Take back what user code may have changed of the signals."""
        mortal(False)
        _signal.signal(_signal.SIGCHLD, _on_child)
        _signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)

    def _read(self) -> "Template | worker.Role | None":
        try:
            got = self._decoder.receive(self._reader)
        except OSError as error:
            self.failure = self.failure or f"receiving a command: {error}"
            got = 1 if error.errno == 24 else 0  # EMFILE: a later step is refused
        if not got:
            self._open = False
            return None
        frames = self._decoder.frames
        while frames:
            frame = frames.popleft()
            handles = self._reader.claim(frame.handles)
            role = self._obey(frame, handles)
            if role is not None:
                return role
            if not self._open:
                break
        return None

    def _obey(
        self, frame: wire.Frame, handles: "list[int]"
    ) -> "Template | worker.Role | None":
        if frame.kind == wire.CLOSE:
            self._open = False
        elif frame.kind == wire.FORK:
            return self._fork_template(frame.first, handles)
        elif frame.kind == wire.RUN:
            return self._fork_worker(frame, handles)
        elif frame.kind == wire.PING:
            self._pong(frame.first)
        elif frame.kind == wire.ADOPT:
            self._adopt(handles)
        else:
            self._step(frame, handles)
        return None

    def _step(self, frame: wire.Frame, handles: "list[int]") -> None:
        if self.failure is not None:
            close_all(handles)
            return
        describe, step = STEPS[frame.kind]
        arguments = loads(frame.body)
        mortal(True)  # user code may be stuck when the program goes
        if self._lifeline >= 0 and hung_up(self._lifeline):
            self._open = False  # it went just before: its signal has done nothing
            close_all(handles)
            mortal(False)
            return
        try:
            step(self, arguments, handles)
        except BaseException as error:  # a failing step is told, whatever it raised
            self.failure = f"{describe(arguments)}: {traceback_of(error)}"
        finally:
            self._idle()

    def _pong(self, token: int) -> None:
        if self.failure is None:
            self._send(wire.encode(wire.PONG, first=token))
        else:
            self._refuse(token, self.failure)

    def _refuse(self, token: int, text: str) -> None:
        body = text.encode("utf-8", "replace")
        self._send(wire.encode(wire.REFUSED, body, first=token))

    def _send(self, data: bytes, handles: "list[int] | None" = None) -> None:
        self._outbox.put(data, handles or ())
        try:
            self._outbox.flush()
        except OSError:  # the program is gone, or this template was closed
            self._outbox.clear()

    def _adopt(self, handles: "list[int]") -> None:
        """Live with another program from now on; without a handle: with none yet."""
        if self._lifeline >= 0:
            self._watch.unregister(self._lifeline)
            os.close(self._lifeline)
        self._lifeline = handles[0] if handles else -1
        if handles:
            self._arm()
            self._send(wire.encode(wire.STARTED, dumps(os.getpid())))  # as token 0

    def _fork(self, token: int) -> "tuple[bool, int | None]":
        """Fork; return (whether this is the child, its pid or None where it failed)."""
        leave.flush_stdio()
        gc.collect()
        gc.freeze()
        try:
            pid = os.fork()
        except OSError as error:
            self._refuse(token, f"fork: {type(error).__name__}: {error}")
            return False, None
        if not pid:
            self._forget()
        return not pid, pid

    def _forget(self) -> None:
        """Let go, in a forked child, of what only its template uses."""
        _signal.set_wakeup_fd(-1)
        os.close(self._control.detach())
        close_all(self._wake)
        close_all(self._reader.handles)
        self._reader.handles.clear()
        leave.drop_handlers()

    def _fork_template(self, token: int, handles: "list[int]") -> "Template | None":
        child, pid = self._fork(token)
        if child:
            forked = Template(_socket.socket(fileno=handles[0]), os.dup(self._lifeline))
            os.set_inheritable(forked._lifeline, False)
            os.close(self._lifeline)
            forked.failure = self.failure
            forked.arguments = list(self.arguments)
            set_title(f"{token}:forkrpc")
            return forked
        close_all(handles)
        if pid is not None:
            self._children[pid] = False
            self._send(wire.encode(wire.STARTED, dumps(pid), first=token))
        return None

    def _fork_worker(
        self, frame: wire.Frame, handles: "list[int]"
    ) -> "worker.Role | None":
        token = frame.first
        if self.failure is not None:
            close_all(handles)
            self._refuse(token, self.failure)
            return None
        spec = loads(frame.body)
        if spec["forward"]:
            from . import output  # noqa: F401 -- here, so that workers share it
        if spec["isolate"]:
            from . import isolated, keeper  # noqa: F401
        if spec["by_value"]:
            have_cloudpickle()
        child, pid = self._fork(token)
        if child:
            return worker.Role(spec, handles, self._lifeline, self.arguments)
        close_all(handles)
        if pid is not None:
            self._children[pid] = spec["mortal"]
            self._tell_started(token, pid)
        return None

    def _tell_started(self, token: int, pid: int) -> None:
        pidfd = pidfd_open(pid)
        handles = [] if pidfd is None else [pidfd]
        data = wire.encode(wire.STARTED, dumps(pid), handles=len(handles), first=token)
        self._send(data, handles)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:  # user code had SIGCHLD ignored for a while
                self._children.clear()
                break
            if not pid:
                break
            if self._children.pop(pid, None) is not None and self._open:
                self._send(wire.encode(wire.EXITED, dumps((pid, status))))

    def _end_children(self) -> None:
        """End workers that did not leave within the grace, with what they started."""
        for pid, ends in self._children.items():
            if ends:
                try:
                    os.killpg(pid, _signal.SIGKILL)
                except OSError:  # it has just gone
                    continue


def have_cloudpickle() -> None:
    """Import it in the template: a worker that has to takes 15 ms for it.

    Where it is missing, the worker says so.
    """
    try:
        __import__("cloudpickle")
    except Exception:  # whatever a broken one raises
        pass


def _on_child(_number: int, _frame: object) -> None:
    """Do nothing: the wakeup descriptor has ended the poll."""
