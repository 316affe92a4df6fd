"""Unit: the tree of errors, what each carries, and that they can travel."""

import concurrent.futures
import pickle

import pytest

import forkrpc
from forkrpc import errors
from helpers import run_program

EXAMPLES = {
    "Error": errors.Error("text"),
    "SetupError": errors.SetupError("text"),
    "WorkerDied": errors.WorkerDied(
        "text", pid=7, returncode=-9, signal="SIGKILL", started=True
    ),
    "CallTimeout": errors.CallTimeout("text"),
    "RemoteError": errors.RemoteError("m.Kind", "text", "Traceback\n  lines\n"),
    "SerialiserError": errors.SerialiserError("text"),
    "ProtocolError": errors.ProtocolError("text"),
    "ClosedError": errors.ClosedError("text"),
}
every_error = pytest.mark.parametrize("name", EXAMPLES)


def test_the_examples_are_all_errors_of_the_library():
    assert set(EXAMPLES) == set(errors.__all__)


@every_error
def test_an_error_is_an_error_of_the_library(name):
    assert isinstance(EXAMPLES[name], forkrpc.Error)
    assert type(EXAMPLES[name]) is getattr(forkrpc, name)


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("SetupError", concurrent.futures.BrokenExecutor),
        ("WorkerDied", concurrent.futures.BrokenExecutor),
        ("CallTimeout", TimeoutError),
        ("ClosedError", RuntimeError),
    ],
)
def test_some_errors_are_known_by_a_standard_name_too(name, base):
    assert isinstance(EXAMPLES[name], base)


@every_error
def test_an_error_knows_no_call_before_it_is_told(name):
    assert EXAMPLES[name].call is None


@every_error
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_keeps_all_it_carries_when_pickled(name, protocol):
    error = EXAMPLES[name].with_traceback(None)
    error = pickle.loads(pickle.dumps(error))
    error.call = "call 3 of m.f"

    copy = pickle.loads(pickle.dumps(error, protocol))

    assert type(copy) is type(error)
    assert copy.args == error.args
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)


@every_error
def test_an_error_says_where_it_lives(name):
    kind = type(EXAMPLES[name])

    assert (kind.__module__, kind.__qualname__) == ("forkrpc.errors", name)


def test_a_death_of_which_nothing_is_known_says_so():
    error = errors.WorkerDied("text")

    assert (error.pid, error.returncode, error.signal, error.started) == (None,) * 4
    assert str(error) == "text"


def test_a_remote_error_shows_type_message_and_traceback():
    error = errors.RemoteError("m.Kind", "text", "Traceback\n  lines\n")

    assert str(error) == "m.Kind: text\n\nTraceback\n  lines"


def test_a_remote_error_without_a_traceback_is_one_line():
    assert str(errors.RemoteError("m.Kind", "text", "")) == "m.Kind: text"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        errors.no_such_name  # noqa: B018


@pytest.mark.parametrize("name", ["SetupError", "WorkerDied"])
def test_errors_load_the_standard_executors_only_for_two_of_them(name):
    done = run_program(
        f"""
        import sys
        import forkrpc.errors

        print("concurrent.futures" in sys.modules)
        forkrpc.errors.ClosedError, forkrpc.errors.CallTimeout
        print("concurrent.futures" in sys.modules)
        forkrpc.errors.{name}
        print("concurrent.futures" in sys.modules)
        """
    )

    assert (done.stdout.split(), done.stderr) == (["False", "False", "True"], "")


def test_threads_that_use_worker_died_first_get_one_class():
    done = run_program(
        """
        import threading
        import forkrpc

        barrier, found = threading.Barrier(8), []

        def first_use():
            barrier.wait()
            found.append(forkrpc.WorkerDied)

        threads = [threading.Thread(target=first_use) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(len(found), len(set(found)))
        """
    )

    assert (done.stdout.split(), done.stderr) == (["8", "1"], "")
