"""Unit: what each call is told about the end of its worker."""

import pytest

from forkrpc import CallTimeout, ProtocolError, SetupError, WorkerDied
from forkrpc.death import Death, signal_name


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
