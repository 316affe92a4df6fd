"""What goes wrong on purpose, by name; imported by tests and by their workers.

A *deed* is a key of DEEDS.  It is done in a function, or while something is dumped or
loaded, in whichever process that happens.
"""

import ctypes
import opcode
import os
import signal
import sys
import types

EXIT, HARD_EXIT = 3, 5  # statuses
DEEP = 20_000  # levels of nesting that no pickler takes


def _raise():
    raise ValueError("faulty on purpose")


def _exit():
    sys.exit(EXIT)


def _hard_exit():
    os._exit(HARD_EXIT)


def _segfault():
    ctypes.string_at(0)


def _hang():
    while True:
        signal.pause()


def _recurse():
    _recurse()


DEEDS = {
    "raise": _raise,
    "exit": _exit,
    "hard-exit": _hard_exit,
    "segfault": _segfault,
    "hang": _hang,
    "recurse": _recurse,
}


def do(deed, *_):
    DEEDS[deed]()


class OnDump:
    """Does its deed when it is dumped."""

    def __init__(self, deed):
        self.deed = deed

    def __reduce__(self):
        do(self.deed)
        return OnDump, (self.deed,)

    def __call__(self, *_):
        raise AssertionError("this function cannot be sent")


class OnLoad:
    """Does its deed when it is loaded."""

    def __init__(self, deed):
        self.deed = deed

    def __reduce__(self):
        return do, (self.deed,)

    def __call__(self, *_):
        raise AssertionError("this function cannot be loaded")


def large():
    """Return a value that stays apart from the pickle, as `wire` sends it."""
    return [b"x" * (1 << 20), bytearray(1 << 18)]


def return_large(deed, when):
    """Return large byte strings, and behind them what does its deed."""
    return [*large(), (OnDump if when == "dumped" else OnLoad)(deed)]


def return_large_stranger():
    return [*large(), stranger()]


def raise_large(deed):
    """Raise an exception that takes large byte strings along."""
    raise ErrorOnLoad(deed, *large())


class ErrorOnDump(Exception):
    """An exception that does its deed when it is dumped."""

    def __reduce__(self):
        do(self.args[0])
        return ErrorOnDump, self.args


class ErrorOnLoad(Exception):
    """An exception that does its deed when it is loaded."""

    def __reduce__(self):
        return do, self.args


class TwoArguments(Exception):
    """An exception that pickle dumps and cannot load: a common mistake."""

    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")


def stranger():
    """Return an object whose module exists in this process only; it can be called."""
    name = f"only_in_{os.getpid()}"
    module = sys.modules.setdefault(name, types.ModuleType(name))

    class Stranger:
        def __call__(self, *_):
            raise AssertionError("this function cannot be loaded")

    Stranger.__module__, Stranger.__qualname__ = name, "Stranger"
    module.Stranger = Stranger
    return Stranger()


def nested():
    """Return a list that is nested too deep to be dumped."""
    value = []
    for _ in range(DEEP):
        value = [value]
    return value


# What a worker of `run` is asked for.


def run(name, *args):
    return globals()[name](*args)


async def run_async(name, *args):
    return run(name, *args)


def run_done(done, name, *args):
    done(run(name, *args))


def echo(value=None, *_):
    return value


def gate(path):
    """Block until somebody opens the FIFO *path* for writing."""
    with open(path, "rb") as file:
        file.read()
    return "through"


def return_on_dump(deed):
    return OnDump(deed)


def return_on_load(deed):
    return OnLoad(deed)


def return_stranger():
    return stranger()


def return_nested():
    return nested()


def raise_on_dump(deed):
    raise ErrorOnDump(deed)


def raise_on_load(deed):
    raise ErrorOnLoad(deed)


def raise_two_arguments():
    raise TwoArguments("one", "other")


def raise_nested():
    raise ValueError(nested())


# How a process ends or forks; how it tells by files.


def die_by(number):
    os.kill(os.getpid(), number)
    _hang()


def exit_with(code):
    sys.exit(code)


def hard_exit_with(code):
    os._exit(code)


def touch(path):
    with open(path, "x"):
        pass


def append(path, text):
    """Append a line with one write."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{text}\n".encode())
    os.close(fd)


def touch_and_hang(path):
    touch(path)
    _hang()


def touch_and_return(path, size):
    touch(path)
    return bytes(size)


def fork_a_holder():
    """Fork a process that keeps all descriptors open; return its pid."""
    pid = os.fork()
    if not pid:
        _hang()
    return pid


def fork_and_return():
    """Return, in both processes, their pid and what fork returned."""
    forked = os.fork()
    return os.getpid(), forked


def fork_and_raise():
    forked = os.fork()
    raise ValueError(os.getpid(), forked)


def fork_and_exit(how):
    forked = os.fork()
    if not forked:
        do(how)
    return forked


def fork_and_event():
    """Return the pid of a copy whose exit status tells whether it could send events."""
    import forkrpc

    forked = os.fork()
    if not forked:
        try:
            forkrpc.event("from the copy")
        except forkrpc.ClosedError:
            os._exit(0 if not forkrpc.in_worker() else 1)
        os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1])


class Kept:
    """Something with a finaliser."""


kept = Kept()


def hook(path):
    """Leave one of each thing that the end of a process has to see to."""
    import atexit
    import threading
    import weakref

    def outlast():
        gate(f"{path}.gate")
        append(path, "thread")

    atexit.register(append, path, "atexit")
    weakref.finalize(kept, append, path, "finalize")
    threading.Thread(target=outlast).start()
    kept.files = open(f"{path}.text", "w"), open(f"{path}.bytes", "wb")  # noqa: SIM115
    kept.files[0].write("text")
    kept.files[1].write(b"bytes")
    sys.stdout.write("printed")


def do_nothing():
    return os.getpid()


def spawned_exit(_sock):
    sys.exit(7)


def spawned_return(sock):
    sock.sendall(b"hello")


# A signal's handler that raises.


class Interrupt(Exception):
    """What a signal's handler might raise."""


class interrupt_at:  # noqa: N801
    """Raise Interrupt once, at the point of that number in *module*.

    A point is where CPython runs signal handlers in the main thread: behind a call of a
    C function, at the start of a Python function, behind a jump back.
    raised: whether it was.
    """

    def __init__(self, point, module):
        self.raised = False
        self._left = point
        self._file = module.__file__
        self._last = {}

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_):
        sys.settrace(self._before)

    def _trace(self, frame, event, _argument):
        if frame.f_code.co_filename != self._file:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            now = opcode.opname[frame.f_code.co_code[frame.f_lasti]]
            before = self._last.get(frame, "RESUME")
            self._last[frame] = now
            if not self.raised and _handlers_run(before, now):
                self._left -= 1
                self.raised = self._left < 0
                if self.raised:
                    raise Interrupt
        return self._trace


def _handlers_run(before, now):
    if now in ("SETUP_FINALLY", "SETUP_WITH", "RESUME", "PRECALL"):
        return False
    return before.startswith(("CALL", "RESUME", "JUMP_ABSOLUTE")) or "BACK" in before


def blank(size):
    return bytes(size)


def blank_text(size):
    return " " * size


def streamed(name, *args):
    """Yield before and behind what a function of this module returns."""
    yield "first"
    yield run(name, *args)
    yield "last"
