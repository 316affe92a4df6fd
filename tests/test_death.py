"""Unit: what each call is told about the end of its worker."""

import pytest

from forkrpc import CallTimeout, ProtocolError, SetupError, WorkerDied
from forkrpc.death import MOST_LINES, Death, signal_name
from helpers import CHECKOUT

PACKAGE = CHECKOUT / "forkrpc"


def death(returncode=-9, **options):
    return Death("m.f", 7, returncode, **options)


@pytest.mark.parametrize(
    ("returncode", "text"),
    [
        (0, "worker 7 (m.f) exited with status 0"),
        (3, "worker 7 (m.f) exited with status 3"),
        (-11, "worker 7 (m.f) was ended by SIGSEGV"),
        (-9, "worker 7 (m.f) was ended by SIGKILL; was memory short?"),
        (None, "worker 7 (m.f) ended; its exit status is unknown"),
    ],
)
def test_the_message_says_what_happened(returncode, text):
    error = death(returncode).error_of(0)

    assert type(error) is WorkerDied
    assert str(error) == text
    assert (error.pid, error.returncode, error.started) == (7, returncode, None)


@pytest.mark.parametrize(
    ("begun", "call_id", "started", "end"),
    [
        (5, 4, True, " during the call"),
        (5, 5, True, " during the call"),
        (5, 6, False, " before it began this call"),
        (0, 1, False, " before it began this call"),
        (None, 1, None, "SIGSEGV"),
        (5, 0, None, "SIGSEGV"),
    ],
)
def test_each_call_is_told_whether_it_had_started(begun, call_id, started, end):
    error = death(-11, begun=begun).error_of(call_id)

    assert error.started is started
    assert str(error).endswith(end)


def test_each_call_gets_an_error_of_its_own():
    one = death()

    assert one.error_of(1) is not one.error_of(1)


def test_a_call_that_ran_too_long_is_told_so_and_the_others_of_the_death():
    ended = death(begun=2, timed_out=2, timeout=1.5)

    assert type(ended.error_of(2)) is CallTimeout
    assert type(ended.error_of(0)) is CallTimeout
    assert "longer than its timeout of 1.5 s" in str(ended.error_of(2))
    assert type(ended.error_of(3)) is WorkerDied
    assert ended.error_of(3).started is False


def test_a_worker_that_was_never_set_up_fails_all_calls_with_the_reason():
    ended = death(1, setup="starting m.f: ImportError", begun=0)

    for call_id in 0, 1, 2:
        assert type(ended.error_of(call_id)) is SetupError
        assert str(ended.error_of(call_id)) == "starting m.f: ImportError"


def test_a_worker_that_broke_the_protocol_fails_all_calls_with_it():
    error = death(broken=ProtocolError("no frame")).error_of(1)

    assert type(error) is ProtocolError
    assert str(error) == "worker 7 was ended: no frame"


@pytest.mark.parametrize(
    ("returncode", "name"),
    [(None, None), (0, None), (1, None), (-9, "SIGKILL"), (-41, "signal 41")],
)
def test_a_signal_has_its_name(returncode, name):
    assert signal_name(returncode) == name


CRASH = f"""Fatal Python error: Segmentation fault

Thread 0x00007f0000000002 (most recent call first):
  File "/lib/threading.py", line 5 in wait

Current thread 0x00007f0000000001 (most recent call first):
  File "/lib/ctypes/__init__.py", line 519 in string_at
  File "shop.py", line 17 in sell
  File "{PACKAGE}/child/sync.py", line 164 in _only_call
  File "{PACKAGE}/child/template.py", line 71 in _live
  File "<string>", line 1 in <module>

Extension modules: _cffi_backend (total: 1)
"""
STACK = """Fatal Python error: Segmentation fault
Current thread 0x00007f0000000001 (most recent call first):
  File "/lib/ctypes/__init__.py", line 519 in string_at
  File "shop.py", line 17 in sell"""


@pytest.mark.parametrize(
    ("returncode", "crash", "stack"),
    [
        (-11, CRASH, STACK),
        (-6, CRASH, STACK),
        (-11, "", None),
        (-9, CRASH, None),  # a process that the worker had forked wrote it
        (None, CRASH, None),
        (3, CRASH, None),
        (-7, "cut off", "cut off"),
    ],
)
def test_a_crash_has_the_stack_of_its_thread(returncode, crash, stack):
    error = death(returncode, crash=crash, begun=1).error_of(1)

    assert error.stack == stack
    assert str(error).partition("\n\n")[2] == (stack or "")


def test_a_very_deep_stack_is_cut():
    lines = "\n".join(f'  File "deep.py", line {n} in deep' for n in range(100))
    crash = f"Fatal Python error: Aborted\n\nCurrent thread 1:\n{lines}\n"

    stack = death(-6, crash=crash).stack

    assert stack.count("\n") == MOST_LINES + 2
    assert stack.endswith("  ... and 60 lines")
