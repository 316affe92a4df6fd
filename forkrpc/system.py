"""What differs from one POSIX system to the next, in one place; both processes.

Linux is the full case.  Elsewhere pidfds are None, and a thread that waits for the end
of the lifeline takes the place of the signal that the kernel sends.
"""

import _signal  # type: ignore[import-not-found]
import os
import sys
from fcntl import F_GETFL, F_SETFL, F_SETOWN, fcntl, ioctl
from select import POLLHUP, poll

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LINUX = sys.platform == "linux"
# A real-time signal: its default action ends a process, and nobody uses it.
LIFELINE_SIGNAL = getattr(_signal, "SIGRTMIN", 34) + 7
_F_SETSIG = 10  # fcntl(2); not in the fcntl module before 3.11
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # prctl(2)
_PIDFD_GET_INFO_BYTES = 64  # struct pidfd_info, first version (Linux 6.13)
_PIDFD_GET_INFO = (3 << 30) | (_PIDFD_GET_INFO_BYTES << 16) | (0xFF << 8) | 11
_PIDFD_INFO_EXIT = 1 << 3  # Linux 6.15
_EXIT_CODE_AT = 60  # offset of exit_code in struct pidfd_info


def pidfd_open(pid: int) -> "int | None":
    """Return a descriptor of process *pid*, None where the system has none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def send_signal(pid: int, pidfd: "int | None", number: int) -> bool:
    """Send a signal to a process; return whether it still was there.

    Through the pidfd it cannot hit another process that got the number later.
    """
    try:
        if pidfd is None:
            os.kill(pid, number)
        else:
            _signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def kill_group(pid: int, pidfd: "int | None", number: int) -> bool:
    """Send a signal to the process group that *pid* leads.

    While the process is there, even as a zombie, its number is not given away.
    """
    if not send_signal(pid, pidfd, 0):
        return False
    try:
        os.killpg(pid, number)
    except ProcessLookupError:  # it has not made its group yet
        return send_signal(pid, pidfd, number)
    return True


def pidfd_of_worker(pid: int) -> "int | None":
    """Return a pidfd of a worker that told its id itself; None if it may be another's.

    Its title (`set_title`) begins with the id of this program.
    """
    pidfd = pidfd_open(pid)
    if pidfd is None:
        return None
    for name in "comm", "cmdline":
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                if file.read().startswith(f"{os.getpid()}:".encode()):
                    return pidfd
        except OSError:
            break
    os.close(pidfd)
    return None


def exit_status(pid: int, pidfd: "int | None") -> "int | None":
    """Return the wait status of an ended process that is not ours, None if unknown.

    A zombie's status stands in /proc/PID/stat; a reaped one's is kept by its pidfd
    since Linux 6.15.
    """
    if pidfd is None:
        return None
    status = _status_of_zombie(pid)
    if status is not None and send_signal(pid, pidfd, 0):
        return status  # still not reaped, so the line read was its own
    info = bytearray(_PIDFD_GET_INFO_BYTES)
    info[:8] = _PIDFD_INFO_EXIT.to_bytes(8, sys.byteorder)
    try:
        ioctl(pidfd, _PIDFD_GET_INFO, info)
    except OSError:
        return None
    if not int.from_bytes(info[:8], sys.byteorder) & _PIDFD_INFO_EXIT:
        return None
    return int.from_bytes(info[_EXIT_CODE_AT : _EXIT_CODE_AT + 4], sys.byteorder)


def _status_of_zombie(pid: int) -> "int | None":
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return int(fields[-1]) if fields[0] in (b"Z", b"X") else None


def arm_lifeline(lifeline: int) -> int:
    """Have the kernel signal this process group when the program is gone.

    *lifeline* is the read end of a pipe whose write end only the program holds.
    Returns a descriptor of its own for it; closes *lifeline*.  Runs in a child that
    leads its process group; the caller polls once afterwards, for the program may
    have gone before this was armed.
    """
    if not LINUX:
        import _thread

        _thread.start_new_thread(_watch_lifeline, (lifeline,))
        return lifeline
    # O_ASYNC and its owner belong to the open file description, which forked
    # processes share: opening it anew gives this group one of its own.
    own = os.open(f"/proc/self/fd/{lifeline}", os.O_RDONLY | os.O_NONBLOCK)
    os.close(lifeline)
    fcntl(own, F_SETOWN, -os.getpgrp())
    fcntl(own, _F_SETSIG, LIFELINE_SIGNAL)
    fcntl(own, F_SETFL, fcntl(own, F_GETFL) | os.O_ASYNC)
    return own


def _watch_lifeline(lifeline: int) -> None:
    os.read(lifeline, 1)
    os.killpg(os.getpgrp(), LIFELINE_SIGNAL)


def hung_up(lifeline: int) -> bool:
    """Return whether the program that holds the other end is gone.  Never blocks."""
    watch = poll()
    watch.register(lifeline, 0)
    ready = watch.poll(0)
    return bool(ready) and bool(ready[0][1] & POLLHUP)


def _nothing(_number: int, _frame: object) -> None:
    pass


def mortal(yes: bool) -> None:
    """Let the lifeline's signal end this process, or not.  Main thread only.

    Not by the signal mask: threads that user code or a C library has started keep
    theirs and would take the signal.  A handler holds for the whole process, and
    exec resets it, so that what a worker starts is always mortal.
    """
    _signal.signal(LIFELINE_SIGNAL, _signal.SIG_DFL if yes else _nothing)


def default_signals() -> None:
    """Undo what modules imported in a template did to signals.

    Python's own defaults: SIGPIPE and SIGXFSZ stay ignored, SIGINT interrupts.
    """
    getsignal, default = _signal.getsignal, _signal.SIG_DFL
    python = {_signal.SIGINT: _signal.default_int_handler}
    for name in ("SIGPIPE", "SIGXFSZ"):
        python[getattr(_signal, name)] = _signal.SIG_IGN
    for number in range(1, _signal.NSIG):
        wanted = python.get(number, default)
        if getsignal(number) not in (wanted, None):
            _signal.signal(number, wanted)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def become_subreaper() -> None:
    """Make orphaned descendants children of this process, so that it can reap them."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent(parent: "int | None") -> None:
    """Have this process killed when the one that has forked it ends, or no more.

    parent: its id; it may have ended before this was asked for.  None: no more.
    """
    _prctl(_PR_SET_PDEATHSIG, _signal.SIGKILL if parent else 0)
    if parent and os.getppid() != parent:
        os._exit(1)


def _prctl(option: int, argument: int) -> None:
    if not LINUX:
        return
    if not _prctl_at:
        try:
            # Not by ctypes, which would put 1 MiB into every process forked from here.
            from _ctypes import call_function, dlopen, dlsym
        except ImportError:
            return
        at = dlsym(dlopen(None, 0), "prctl")  # type: ignore[arg-type]
        _prctl_at.extend((call_function, at))
    call, at = _prctl_at
    call(at, (option, argument, 0, 0, 0))


_prctl_at: "list[Any]" = []  # what calls, and the address of the function


def end_by_signal(number: int) -> None:
    """End this process by a signal, but dump no core.  Does not return."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    if number not in (_signal.SIGKILL, _signal.SIGSTOP):
        _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # not reached: each signal that has ended a process does


def set_title(title: str) -> None:
    """Show *title* in ps and top: 15 characters of it, all with setproctitle.

    Without spaces: CPython from 3.12 on reads how many threads a process has from a
    line in which the title stands, and would warn of a fork of many.
    """
    title = title.replace(" ", "_")
    setproctitle: Callable[[str], None] | None = _titles()
    if setproctitle is not None:
        setproctitle(title)
    elif LINUX:
        fd = os.open("/proc/self/comm", os.O_WRONLY)
        try:
            os.write(fd, title.encode()[:15])
        finally:
            os.close(fd)


_found: "list[Callable[[str], None] | None]" = []


def _titles() -> "Callable[[str], None] | None":
    if not _found:
        try:
            from setproctitle import setproctitle
        except ImportError:
            _found.append(None)
        else:
            _found.append(setproctitle)
    return _found[0]


def private_bytes(pid: int) -> "int | None":
    """Return the memory that a process shares with nobody; None if it cannot be had.

    A look takes some 0.1 ms for each 10 MB that the process has mapped.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            lines = file.read().split(b"\n")
    except OSError:  # it has ended, or the system has no such file
        return None
    private = [line.split() for line in lines if line.startswith(b"Private_")]
    return 1024 * sum(int(kilobytes) for _, kilobytes, _ in private)


def usable_cpus() -> int:
    """Return the number of processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
