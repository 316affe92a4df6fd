"""Process: a function forked from a template that is no worker (`Forker.spawn`)."""

import _thread
import os
import socket
from signal import SIGKILL

from .gate import Gate
from .reactor import READ
from .system import exit_status, kill_group

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .program import Program

STATUS_WAIT = 1.0  # seconds that the status of an ended process may take to arrive


class Process:
    """A spawned process.

    sock: our end of the socket pair whose other end the function was given; the caller
    closes it.  returncode: None while it runs, negative for a signal; also None where
    the status cannot be had.
    """

    def __init__(self, program: "Program", sock: "socket.socket", name: str) -> None:
        self.sock = sock
        self.returncode: int | None = None
        self._program = program
        self._name = name
        self._pid: int | None = None
        self._pidfd: int | None = None
        self._over = False
        self._signalling = _thread.RLock()
        self._refused: str | None = None
        self._kill_with: int | None = None
        self._known = Gate()
        self._ended = Gate()
        self._inert = False
        program.ends[self] = None

    @property
    def pid(self) -> "int | None":
        """The process id; waits until it exists.  Raise SetupError if it never will."""
        self._await(self._known, None)
        if self._refused is not None:
            from .errors import SetupError

            raise SetupError(self._refused)
        return self._pid

    def wait(self, timeout: "float | None" = None) -> "int | None":
        """Wait for the end; return the return code.

        timeout: seconds.  Raise TimeoutError, and SetupError if it never started.
        """
        if not self._await(self._ended, timeout):
            raise TimeoutError(f"{self!r} runs after {timeout} s")
        if self._refused is not None:
            from .errors import SetupError

            raise SetupError(self._refused)
        return self.returncode

    def kill(self, signal: int = SIGKILL) -> None:
        """Send *signal* to the process and to what it started in its group."""
        with self._signalling:  # the pidfd is not closed meanwhile
            if self._inert or self._over:
                return
            if self._pid is None:
                self._kill_with = signal
            else:
                kill_group(self._pid, self._pidfd, signal)

    def __repr__(self) -> str:
        state = "ended" if self._ended.is_open() else "runs"
        return f"<Process {self._name}, pid {self._pid}, {state}, {self.returncode}>"

    def _await(self, event: Gate, timeout: "float | None") -> bool:
        if not event.is_open():
            self._program.check_may_wait("waiting for a process")
        return event.wait(timeout)

    # What the template tells; in the reactor's thread.

    def started(self, pid: int, pidfd: "int | None") -> None:
        self._pid, self._pidfd = pid, pidfd
        self._known.open()
        if pidfd is not None:
            self._program.reactor.watch(pidfd, READ, self._died)
        if self._kill_with is not None:
            kill_group(pid, pidfd, self._kill_with)

    def refused(self, text: str) -> None:
        self._refused = text
        self._finish(None)

    def exited(self, status: int) -> None:
        self._finish(status)

    def _died(self, _events: int) -> None:
        assert self._pid is not None
        assert self._pidfd is not None
        status = exit_status(self._pid, self._pidfd)
        if status is not None:
            self._finish(status)
        else:
            self._program.reactor.unwatch(self._pidfd)
            self._program.reactor.later(STATUS_WAIT, lambda: self._finish(None))

    def _finish(self, status: "int | None") -> None:
        if self._ended.is_open():
            return
        if status is not None:
            self.returncode = os.waitstatus_to_exitcode(status)
        with self._signalling:
            self._over = True
            if self._pidfd is not None:
                self._program.reactor.unwatch(self._pidfd)
                os.close(self._pidfd)
                self._pidfd = None
        self._program.ends.pop(self, None)
        self._known.open()
        self._ended.open()

    # The end of the program: the lifeline ends the process, unless it may outlive it.

    def close_at_exit(self) -> None:
        pass

    def outstanding(self) -> int:
        return 0

    def wait_for_end(self, timeout: float) -> bool:
        return True

    def kill_at_exit(self) -> None:
        pass

    def abandon(self) -> None:
        """Make this inert, in a forked copy of the program."""
        self._inert = True
        self._known.open()
        self._ended.open()
        fd = self.sock.detach()
        if fd >= 0:
            os.close(fd)
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
