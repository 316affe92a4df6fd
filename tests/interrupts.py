"""Exceptions thrown into the main thread, as a signal handler does: anywhere, or often.

Both raise Interrupt in the code of one module only, so that the test itself goes on.
"""

import contextlib
import itertools
import os
import signal
import sys

from helpers import MS

MISSES = 3  # in a row: what is executed may depend on what has come meanwhile
EVERY = int(os.environ.get("FORKRPC_EVERY", "3"))


class Interrupt(Exception):
    """What the signal handler of some user might raise."""


def throw():
    raise Interrupt


@contextlib.contextmanager
def interrupt_before(bytecode, module, do=throw):
    """Raise Interrupt once, before the bytecode of that number in *module*.

    do: what else is done there, as another thread might.
    Yields a list that is not empty once that was done.
    """
    left, raised = bytecode, []

    def trace(frame, event, _argument):
        nonlocal left
        if frame.f_code.co_filename != module.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and not raised:
            left -= 1
            if left < 0:
                raised.append(True)
                do()
        return trace

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # 3.12 looks at it here, once
    sys.settrace(trace)
    try:
        yield raised
    finally:
        sys.settrace(before)


def interrupt_everywhere(attempt, module, do=throw):
    """Call *attempt* with an interrupt before the bytecodes of *module*, each in turn.

    With FORKRPC_EVERY=1 before all of them; else before each third one, another third
    for each version of Python.

    attempt: called with the context manager `interrupt_before`, to be entered around
    what is to be interrupted; returns what that yielded.
    do: as there.
    Returns how many bytecodes there were.
    """
    misses = 0
    for bytecode in itertools.count(sys.version_info.minor % EVERY, EVERY):
        misses = 0 if attempt(interrupt_before(bytecode, module, do)) else misses + 1
        if misses == MISSES:
            return bytecode
    raise AssertionError  # not reached


@contextlib.contextmanager
def storm_of_interrupts(module, period=MS):
    """Raise Interrupt each *period* seconds while *module* is being executed.

    Yields a list with one item for each time.
    """
    raised, going_on = [], [True]

    def handler(_number, frame):
        # Not a periodic timer: Python 3.10 leaves a `with` without its exit where two
        # come in a row, the second one while the first one's exception is under way.
        if going_on:
            signal.setitimer(signal.ITIMER_REAL, period)
        if frame is not None and frame.f_code.co_filename == module.__file__:
            raised.append(True)
            raise Interrupt

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, period)
    try:
        yield raised
    finally:
        going_on.clear()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
