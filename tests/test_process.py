"""End-to-end: a function forked from a template that is no worker (`Forker.spawn`)."""

import os
import signal
import subprocess
import sys

import pytest

from forkrpc import Forker, SetupError
from forkrpc.program import current
from helpers import (
    MS,
    open_descriptors,
    process_alive,
    process_stat,
    run_program,
    wait_until,
)


@pytest.fixture
def template():
    with Forker() as template:
        yield template


@pytest.fixture
def spawn(template):
    """Spawn functions; what still runs at the end is killed."""
    processes = []

    def spawn(function, **options):
        processes.append(template.spawn(function, **options))
        return processes[-1]

    yield spawn
    for process in processes:
        process.kill()
        process.sock.close()


# What is spawned.


def echo(sock, *values):
    sock.sendall(repr(values).encode())
    while data := sock.recv(100):
        sock.sendall(data.upper())


def wait_for_close(sock):
    while sock.recv(100):
        pass


def leave_with(sock):
    sys.exit(int(sock.recv(10)))


def fail(sock):
    raise ValueError("this text")


def wait_for_end(sock):
    sock.send(b"ready")
    signal.pause()


def start_another(sock):
    pid = os.fork()
    if pid:
        sock.send(str(pid).encode())
    signal.pause()


def look(sock):
    from forkrpc import ClosedError, event, in_worker

    try:
        event(1)
    except ClosedError:
        closed = True
    numbers = sorted(open_descriptors())
    stdin = os.readlink("/proc/self/fd/0")
    own = os.getpgrp() == os.getpid()
    sock.sendall(repr((in_worker(), closed, stdin, own, len(numbers))).encode())


# Life.


def test_a_function_gets_a_socket_and_the_worker_arguments(template, spawn):
    template.send_arg(1, "two").send_arg([3])
    process = spawn(echo)

    greeting = process.sock.recv(100)
    process.sock.sendall(b"text")

    assert greeting == b"(1, 'two', [3])"
    assert process.sock.recv(100) == b"TEXT"


def test_the_status_is_0_when_the_function_returns(spawn):
    process = spawn(wait_for_close)

    before = process.returncode
    process.sock.close()

    assert before is None
    assert process.wait(10) == 0
    assert process.returncode == 0


def test_the_status_is_1_and_a_traceback_is_printed_when_it_raises(spawn, capfd):
    process = spawn(fail)

    assert process.wait(10) == 1
    text = capfd.readouterr().err
    assert text.startswith("Traceback")
    assert "in fail" in text
    assert text.endswith("ValueError: this text\n")


@pytest.mark.parametrize("status", [0, 3, 255])
def test_a_function_may_leave_with_a_status(spawn, status):
    process = spawn(leave_with)

    process.sock.send(str(status).encode())

    assert process.wait(10) == status


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_was_killed_has_the_signal_for_its_status(spawn, number):
    process = spawn(wait_for_end)
    process.sock.recv(5)

    process.kill(number)

    assert process.wait(10) == -number
    assert process.returncode == -number


def test_killing_ends_what_the_process_has_started_too(spawn):
    process = spawn(start_another)
    pid = int(process.sock.recv(20))

    process.kill()

    assert process.wait(10) == -signal.SIGKILL
    wait_until(lambda: not process_alive(pid))


def test_a_process_may_be_killed_before_it_exists(spawn):
    process = spawn(wait_for_end)

    process.kill()

    assert process.wait(10) == -signal.SIGKILL


def test_killing_a_process_that_has_ended_does_nothing(spawn):
    process = spawn(wait_for_close)
    process.sock.close()
    process.wait(10)

    process.kill()

    assert process.wait(0) == 0


def test_its_pid_is_that_of_a_child_of_the_template(template, spawn):
    process = spawn(wait_for_end)

    assert process_stat(process.pid)[1] == template.pid


def test_waiting_has_a_limit(spawn):
    process = spawn(wait_for_end)

    with pytest.raises(TimeoutError, match="wait_for_end.* runs after 0.01 s"):
        process.wait(10 * MS)


def test_waiting_in_the_thread_that_runs_callbacks_is_an_error(spawn):
    process, found = spawn(wait_for_end), []

    def wait():
        try:
            process.wait()
        except RuntimeError as error:
            found.append(str(error))

    current().reactor.soon(wait)
    wait_until(lambda: found)

    assert "would wait for ever" in found[0]


def test_its_repr_names_function_pid_and_state(spawn):
    process = spawn(wait_for_close)

    pid, running = process.pid, repr(process)
    process.sock.close()
    process.wait(10)

    assert running == f"<Process wait_for_close, pid {pid}, runs, None>"
    assert repr(process) == f"<Process wait_for_close, pid {pid}, ended, 0>"


def test_a_template_that_is_closed_does_not_end_it(template, spawn):
    process = spawn(echo)

    template.close()
    process.sock.recv(100)
    process.sock.sendall(b"text")
    answer = process.sock.recv(100)
    process.sock.close()

    assert answer == b"TEXT"
    assert process.wait(10) == 0


def test_a_process_that_is_dropped_goes_on_and_ends_by_its_socket(template):
    process = template.spawn(echo)
    pid, sock = process.pid, process.sock

    del process
    sock.recv(100)
    sock.sendall(b"text")
    answer = sock.recv(100)
    sock.close()

    assert answer == b"TEXT"
    wait_until(lambda: not process_alive(pid))


# What is around it.


def test_it_is_no_worker_and_has_its_own_descriptors_only(spawn):
    process = spawn(look)

    # 0-2, the socket and the lifeline
    assert eval(process.sock.recv(200)) == (False, True, "/dev/null", True, 5)


def test_a_template_whose_step_failed_spawns_nothing(template, spawn):
    process = spawn(echo)
    template.eval("1 / 0")
    failed = spawn(echo)

    for use in failed.wait, lambda: failed.pid:
        with pytest.raises(SetupError, match="ZeroDivisionError"):
            use()
    assert failed.returncode is None
    assert failed.sock.recv(1) == b""
    assert process.sock.recv(10) == b"()"


def test_a_function_that_is_not_found_is_told_on_standard_error(spawn, capfd):
    process = spawn("no_such_module.function")

    assert process.wait(10) == 1
    assert "No module named 'no_such_module'" in capfd.readouterr().err


@pytest.mark.parametrize("function", [None, 7, "no name"])
def test_what_is_no_function_is_told_at_once(template, function):
    with pytest.raises((TypeError, ValueError), match="function"):
        template.spawn(function)


# The end of the program.

PROGRAM = """
import os, signal, sys
from forkrpc import Forker

def stay(sock):
    sock.send(b"ready")
    while True:
        signal.pause()

def execute(sock):
    os.set_inheritable(sock.fileno(), True)
    source = f"import os, signal; os.write({sock.fileno()}, b'ready'); signal.pause()"
    os.execv(sys.executable, [sys.executable, "-S", "-c", source])

def leave(outlive, function, end):
    process = Forker().spawn(function, outlive=outlive)
    process.sock.recv(5)
    print(process.pid, flush=True)
    end()
"""
ends = pytest.mark.parametrize("end", ["sys.exit", "lambda: os.kill(os.getpid(), 9)"])
functions = pytest.mark.parametrize("function", ["stay", "execute"])


@ends
@functions
def test_it_ends_with_the_program_whatever_it_does_and_executes(function, end):
    done = run_program(PROGRAM + f"leave(False, {function}, {end})")

    pid = int(done.stdout)
    wait_until(lambda: not process_alive(pid))


@pytest.fixture
def outlived(tmp_path):
    """Run PROGRAM with an outliving process; return its pid, and kill it at the end."""
    path, pids = tmp_path / "output", []

    def outlived(source, **options):
        try:
            with open(path, "w") as file:
                run_program(PROGRAM + source, path, **{"stdout": file, **options})
        finally:
            pids.append(int(path.read_text()))
        return pids[-1]

    yield outlived
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: not process_alive(pid))


@ends
@functions
def test_it_outlives_the_program_if_it_may(outlived, function, end):
    with open(os.devnull, "w") as null:
        pid = outlived(f"leave(True, {function}, {end})", stderr=null)

    assert process_alive(pid)


def test_the_output_of_the_program_ends_although_a_process_outlives_it(outlived):
    source = """
def silent(sock):
    os.dup2(0, 1)
    os.dup2(0, 2)
    stay(sock)

process = Forker().spawn(silent, outlive=True)
process.sock.recv(5)
with open(sys.argv[1], "w") as file:
    file.write(str(process.pid))
"""

    pid = outlived(source, stdout=subprocess.PIPE, timeout=5)

    assert process_alive(pid)
