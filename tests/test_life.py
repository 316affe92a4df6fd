"""End-to-end: how workers die and end, and how exactly the program is told."""

import contextlib
import os
import platform
import signal
import socket
import threading
import time
from functools import partial

import pytest

from forkrpc import ClosedError, Forker, SetupError, WorkerDied
from forkrpc.life import Life
from helpers import process_alive, process_stat, run_program, wait_until

LIMIT = 20.0  # seconds for anything to happen; much more than it takes
PROMPT = 3.0  # for what is promised within 50 ms: a busy machine may stop for a second
QUIET = {"rlimits": {"CORE": 0}, "on_error": lambda error: None}

# The kernel keeps the status of a process that another one reaped (PIDFD_GET_INFO).
KEPT_STATUS = tuple(map(int, platform.release().split(".")[:2])) >= (6, 15)


@pytest.fixture
def template():
    with Forker() as template:
        yield template


@pytest.fixture
def proxy(template):
    """A worker that `faulty.run` serves; it may die."""
    proxy = template.run("faulty.run", **QUIET)
    yield proxy
    proxy.kill()
    assert proxy.join(LIMIT)


@pytest.fixture
def fifo(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def release(fifo):
    with open(fifo, "wb"):
        pass


def busy(proxy, path):
    """Return the future of a call that hangs, once it has begun."""
    future = proxy.submit("touch_and_hang", str(path))
    wait_until(path.exists, LIMIT)
    return future


def state(pid):
    stat = process_stat(pid)
    return stat and stat[0]


def death(future, limit=PROMPT):
    """Return the WorkerDied of a call that has begun, within *limit* seconds."""
    error = future.exception(limit)
    assert type(error) is WorkerDied, repr(error)
    assert error.started is True
    assert error.call
    return error


# A death is noticed, whatever kind it is.


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS],
    ids=lambda number: number.name,
)
def test_a_worker_killed_during_a_call_is_told_with_its_signal(proxy, number, tmp_path):
    future = busy(proxy, tmp_path / "began")
    behind = proxy.submit("echo", 1)

    os.kill(proxy.pid, number)

    error = death(future)
    assert (error.pid, error.returncode) == (proxy.pid, -number)
    assert error.signal == number.name
    assert number.name in str(error)
    assert behind.exception(PROMPT).started is False
    assert proxy.join(PROMPT)
    assert proxy.returncode == -number


def test_an_idle_worker_that_is_killed_is_told_to_on_error(template):
    errors, told = [], threading.Event()

    def on_error(error):
        errors.append(error)
        told.set()

    proxy = template.run("faulty.run", on_error=on_error)
    pid = proxy.call("do_nothing")
    os.kill(pid, signal.SIGKILL)

    assert told.wait(PROMPT)
    assert proxy.join(LIMIT)
    assert [type(error) for error in errors] == [WorkerDied]
    assert errors[0].pid == pid


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_a_hard_exit_during_a_call_is_a_death(proxy, code):
    error = death(proxy.submit("hard_exit_with", code))

    assert error.returncode == code
    assert error.signal is None
    assert f"exited with status {code}" in str(error)


@pytest.mark.parametrize(
    ("code", "status"), [(None, 0), (0, 0), (3, 3), (256, 0), (-1, 255), ("why", 1)]
)
def test_a_system_exit_ends_the_worker_as_it_ends_a_program(proxy, code, status):
    before = proxy.submit("echo", "before")
    error = death(proxy.submit("exit_with", code))

    assert before.result(0) == "before"
    assert error.returncode == status
    assert proxy.join(LIMIT)
    assert proxy.returncode == status


def test_a_worker_killed_while_it_writes_a_large_result(template, tmp_path):
    hold = threading.Event()
    held = threading.Event()

    def on_result(_):  # while this runs nobody reads
        held.set()
        hold.wait(LIMIT)

    proxy = template.run("faulty.run", **QUIET)
    proxy("echo", 1, on_result)
    assert held.wait(LIMIT)
    began = tmp_path / "began"
    future = proxy.submit("touch_and_return", str(began), 64 << 20)
    wait_until(began.exists, LIMIT)
    wait_until(lambda: state(proxy.pid) == "S", LIMIT, "worker blocked in writing")

    os.kill(proxy.pid, signal.SIGKILL)
    hold.set()

    assert death(future).signal == "SIGKILL"
    assert proxy.join(LIMIT)


@pytest.mark.parametrize("round_", range(5))
def test_a_worker_killed_while_its_large_result_is_read(proxy, round_, tmp_path):
    began = tmp_path / "began"
    future = proxy.submit("touch_and_return", str(began), (1 << 20) * 4**round_)
    wait_until(began.exists, LIMIT)

    os.kill(proxy.pid, signal.SIGKILL)

    assert future.exception(PROMPT) is None or death(future)


def test_a_grandchild_that_holds_the_socket_delays_nothing(proxy, tmp_path):
    holder = proxy.call("fork_a_holder")
    try:
        future = busy(proxy, tmp_path / "began")
        behind = proxy.submit("echo", 1)

        os.kill(proxy.pid, signal.SIGKILL)

        assert death(future).signal == "SIGKILL"
        assert behind.exception(PROMPT).started is False
        assert proxy.join(PROMPT)
        assert process_alive(holder)
    finally:
        os.kill(holder, signal.SIGKILL)


def test_a_worker_stopped_and_then_killed(proxy, tmp_path):
    future = busy(proxy, tmp_path / "began")

    os.kill(proxy.pid, signal.SIGSTOP)
    wait_until(lambda: state(proxy.pid) == "T", LIMIT)
    assert not future.done()
    os.kill(proxy.pid, signal.SIGKILL)

    assert death(future).signal == "SIGKILL"


def test_a_stopped_worker_is_no_dead_one(proxy):
    os.kill(proxy.pid, signal.SIGSTOP)
    future = proxy.submit("echo", 1)
    wait_until(lambda: state(proxy.pid) == "T", LIMIT)
    assert not future.done()

    os.kill(proxy.pid, signal.SIGCONT)

    assert future.result(LIMIT) == 1


def test_deaths_of_many_workers_at_once_are_all_told(template):
    proxies = [template.run("faulty.run", **QUIET) for _ in range(10)]
    futures = [proxy.submit("die_by", signal.SIGKILL) for proxy in proxies]

    for proxy, future in zip(proxies, futures, strict=True):
        assert death(future, LIMIT).pid == proxy.pid
        assert proxy.join(LIMIT)


# What was done before a death or a halt arrives.


@pytest.mark.parametrize("bad", ["block", "hang", "segfault"])
def test_fast_results_before_a_bad_call_arrive_at_once(template, fifo, bad):
    timeout = PROMPT + 1 if bad == "hang" else None
    proxy = template.run("faulty.run", timeout=timeout, **QUIET)
    assert proxy.call("echo") is None  # it is up
    got, all_got = [], threading.Event()

    def callback(value):
        got.append(value)
        if len(got) == 50:
            all_got.set()

    began = time.monotonic()
    for number in range(50):
        proxy("echo", number, callback)
    futures = [proxy.submit("echo", number) for number in range(50)]
    last = proxy.submit(*(("gate", str(fifo)) if bad == "block" else ("do", bad)))
    values = [future.result(LIMIT) for future in futures]
    assert all_got.wait(LIMIT)

    assert time.monotonic() - began < PROMPT
    assert got == values == list(range(50))
    if bad == "block":
        assert not last.done()
        release(fifo)
        assert last.result(LIMIT) == "through"
    else:
        assert last.exception(LIMIT)
    proxy.close()
    assert proxy.join(LIMIT)


# The status is exact.


def close_template(template):
    pid = template.pid
    template.close()
    wait_until(lambda: not taking_commands(template), LIMIT)
    return pid


def taking_commands(template):
    try:
        template.ready(LIMIT)
    except Exception:
        return False
    return True


def kill_template(template):
    os.kill(template.pid, signal.SIGKILL)
    wait_until(lambda: not process_alive(template.pid), LIMIT)


ENDS = {
    "template open": lambda template: None,
    "template closed": close_template,
    "template killed": kill_template,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize(
    ("name", "number", "returncode"),
    [
        ("hard_exit_with", 9, 9),
        ("exit_with", 4, 4),
        ("die_by", signal.SIGKILL, -signal.SIGKILL),
        ("die_by", signal.SIGTERM, -signal.SIGTERM),
    ],
    ids=["os._exit", "exit", "SIGKILL", "SIGTERM"],
)
@pytest.mark.parametrize("make", [Forker, Forker.new_exec], ids=["forked", "executed"])
def test_the_status_is_exact(make, name, number, returncode, end):
    with make() as template:
        proxy = template.run("faulty.run", **QUIET)
        proxy.call("echo")
        assert proxy.pid  # the template has told of it
        end(template)

        error = death(proxy.submit(name, number), LIMIT)

        if end is kill_template and not KEPT_STATUS:
            assert error.returncode in (returncode, None)
        else:
            assert error.returncode == returncode
        assert proxy.join(LIMIT)
        assert proxy.returncode == error.returncode


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_worker_closed_in_order_ends_with_status_0(end):
    with Forker() as template, template.run("faulty.run") as proxy:
        proxy.call("echo")
        end(template)
        proxy.close()
        assert proxy.join(LIMIT)
        if KEPT_STATUS or end is not kill_template:
            assert proxy.returncode == 0


@pytest.mark.parametrize(
    "setting",
    [
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "threading.Thread(target=reap, daemon=True).start()",
    ],
    ids=["ignores SIGCHLD", "calls waitpid(-1) in a loop"],
)
def test_the_status_is_exact_where_the_program(setting):
    done = run_program(
        f"""
        import forkrpc, os, signal, threading, time

        def reap():
            while True:
                try:
                    os.waitpid(-1, 0)
                except ChildProcessError:
                    time.sleep(0.001)

        {setting}
        for make in forkrpc.Forker, forkrpc.Forker.new_exec:
            with make() as template:
                for code in 0, 7, 255:
                    proxy = template.run("os._exit", on_error=lambda error: None)
                    try:
                        proxy.call(code)
                    except forkrpc.WorkerDied as error:
                        print(error.returncode, end=" ")
                with template.run("os.getpid") as proxy:
                    assert proxy.call() == proxy.pid
                print(proxy.returncode)
        """
    )
    assert (done.stdout, done.stderr) == ("0 7 255 0\n0 7 255 0\n", "")
    assert done.returncode == 0


# Templates that die, or are busy.


def test_workers_of_a_killed_template_go_on(template, tmp_path):
    with template.run("faulty.run", **QUIET) as proxy:
        proxy.call("echo")
        kill_template(template)

        assert proxy.call("echo", 1) == 1
        with pytest.raises((SetupError, ClosedError)):
            template.run("faulty.run", **QUIET).call("echo")
        with Forker() as other, other.run("faulty.run") as another:
            assert another.call("echo", 2) == 2
    assert proxy.returncode == 0 if KEPT_STATUS else (proxy.returncode in (0, None))


@contextlib.contextmanager
def not_told_of(template, function, argument, monkeypatch):
    """Yield a proxy, what its worker has answered, and a step: its template ends.

    That was killed between forking the worker and telling of it.
    """
    pidfds = []
    monkeypatch.setattr(Life, "started", lambda *args: pidfds.append(args[-1]))
    with template.run(function) as proxy:
        answer = proxy.call(*argument)
        wait_until(lambda: pidfds, LIMIT)
        monkeypatch.undo()
        os.close(*pidfds)
        connection = proxy._connection
        refuse = partial(connection.life.refused, "the template ended")
        yield proxy, answer, partial(connection.program.reactor.soon, refuse)
    assert proxy.returncode == 0


def test_a_worker_that_its_template_did_not_tell_of_goes_on(template, monkeypatch):
    with not_told_of(template, "os.getpid", (), monkeypatch) as (proxy, pid, end):
        end()

        assert proxy.pid == pid
        assert proxy.call() == pid


def test_who_waits_for_it_then_has_its_answer(template, monkeypatch):
    """Whoever reads its socket at that moment goes on reading."""
    answers = []
    with not_told_of(template, "time.sleep", (0,), monkeypatch) as (proxy, _, end):
        waiting = threading.Thread(target=lambda: answers.append(proxy.call(0.2)))
        waiting.start()
        wait_until(lambda: proxy.pending, LIMIT)
        end()
        assert proxy.pid
        waiting.join(LIMIT)

    assert answers == [None]


def test_a_worker_not_yet_forked_when_the_template_is_killed_fails(template, fifo):
    pid = template.pid
    template.eval("open(args[0], 'rb').read()", str(fifo))
    errors = []
    proxy = template.run("faulty.run", on_error=errors.append)
    future = proxy.submit("echo", 1)

    os.kill(pid, signal.SIGKILL)

    error = future.exception(PROMPT)
    assert isinstance(error, (SetupError, WorkerDied))
    assert proxy.pid is None
    assert proxy.join(LIMIT)
    assert [type(each) for each in errors] == [type(error)]


def test_a_killed_default_template_is_replaced():
    with Forker() as template, template.run("faulty.run") as proxy:
        assert proxy.call("echo", 1) == 1
        default = process_stat(template.pid)[1]
        os.kill(default, signal.SIGKILL)
        wait_until(lambda: not process_alive(default), LIMIT)

        assert proxy.call("echo", 2) == 2
        with (
            wait_until(forker_or_none, LIMIT) as other,
            other.run("faulty.run") as another,
        ):
            assert another.call("echo", 3) == 3
            assert process_stat(other.pid)[1] != default
        with template.run("faulty.run") as third:
            assert third.call("echo", 4) == 4


def forker_or_none():
    """Return a Forker, None as long as the death of the default one is not known."""
    template = Forker()
    try:
        return template.ready(LIMIT)
    except SetupError:
        return None


def test_a_death_is_told_while_the_template_is_busy(template, fifo, tmp_path):
    proxy = template.run("faulty.run", **QUIET)
    future = busy(proxy, tmp_path / "began")
    template.eval("open(args[0], 'rb').read()", str(fifo))

    os.kill(proxy.pid, signal.SIGTERM)

    error = death(future)
    assert error.returncode == -signal.SIGTERM
    assert proxy.join(PROMPT)
    release(fifo)
    template.ready(LIMIT)


def test_a_worker_is_closed_while_the_template_is_busy(template, fifo):
    proxy = template.run("faulty.run", **QUIET)
    proxy.call("echo")
    template.eval("open(args[0], 'rb').read()", str(fifo))

    proxy.close()

    assert proxy.join(PROMPT)
    assert proxy.returncode == 0
    release(fifo)
    template.ready(LIMIT)


# Forks by user code.

COPY = """
    import forkrpc, os, sys

    template = forkrpc.Forker()
    proxy = template.run("operator.add")
    assert proxy.call(1, 2) == 3
    template.eval("import signal\\ndef pause(sock): signal.pause()")
    process = template.spawn("pause")
    process.pid
    idle = template.run("operator.mul")
    outcomes = []
    pending = proxy.submit(3, 4)

    def attempt(verb, *args):
        try:
            verb(*args)
        except BaseException as error:
            outcomes.append(type(error).__name__)
        else:
            outcomes.append("nothing")

    pid = os.fork()
    if not pid:
        attempt(proxy.call, 1, 2)
        attempt(proxy.submit, 1, 2)
        attempt(proxy, 1, 2, print)
        attempt(template.run, "operator.add")
        attempt(template.fork)
        attempt(template.require, "json")
        attempt(template.ready, 1)
        print(" ".join(outcomes), flush=True)
        proxy.close()
        proxy.kill()
        idle.kill()
        process.kill()
        template.close()
        del proxy, template, idle
        {use}
        {exit}
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    assert pending.result(10) == 7
    assert proxy.call(1, 2) == 3
    assert idle.call(2, 3) == 6
    assert process.returncode is None
    assert template.run("operator.sub").call(5, 3) == 2
    process.kill()
    print(process.wait(10))
"""
USE = "assert forkrpc.Forker().run('operator.add').call(2, 2) == 4"


@pytest.mark.parametrize("use", ["pass", USE], ids=["idle", "with workers of its own"])
@pytest.mark.parametrize(
    ("leave", "status"), [("sys.exit(3)", 3), ("os._exit(4)", 4), ("1 / 0", 1)]
)
def test_a_forked_copy_of_the_program_is_inert(leave, status, use):
    done = run_program(COPY.format(exit=leave, use=use))

    lines = done.stdout.splitlines()
    assert lines == [" ".join(["ClosedError"] * 7), str(status), "-9"], done.stderr
    assert done.returncode == 0
    assert done.stderr.count("Error") == ("ZeroDivisionError" in done.stderr)


def test_a_copy_that_outlives_the_program_keeps_no_worker_alive():
    done = run_program(
        """
        import forkrpc, os, signal

        proxy = forkrpc.Forker().run("os.getpid")
        busy = forkrpc.Forker().run("signal.pause")
        busy.submit()
        read, write = os.pipe()
        copy = os.fork()
        if not copy:
            os.closerange(0, 3)
            os.write(write, b"x")
            signal.pause()
        os.read(read, 1)
        print(copy, proxy.call(), busy.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    copy, *workers = map(int, done.stdout.split())
    try:
        for pid in workers:
            wait_until(lambda pid=pid: not process_alive(pid), PROMPT * 2)
        assert process_alive(copy)
    finally:
        os.kill(copy, signal.SIGKILL)


@pytest.mark.parametrize("how", ["return", "raise", "exit", "hard-exit", "recurse"])
def test_a_copy_of_the_worker_is_ended_and_answers_nothing(proxy, how):
    before = proxy.submit("echo", "before")
    if how == "return":
        pid, copy = proxy.call("fork_and_return")
    elif how == "raise":
        with pytest.raises(ValueError, match=r"\d") as caught:
            proxy.call("fork_and_raise")
        pid, copy = caught.value.args
    else:
        copy = proxy.call("fork_and_exit", how)
        pid = proxy.pid

    assert pid == proxy.pid
    assert copy
    wait_until(lambda: not process_alive(copy), LIMIT, "end of the copy")
    assert before.result(LIMIT) == "before"
    assert [proxy.call("echo", number) for number in range(3)] == [0, 1, 2]
    proxy.close()
    assert proxy.join(LIMIT)
    assert proxy.returncode == 0


def test_a_copy_of_the_worker_cannot_send_events(template):
    events = []
    with template.run("faulty.run", on_event=events.append) as proxy:
        assert proxy.call("fork_and_event") == 0
    assert events == []


# What a worker does when it leaves.


@pytest.mark.parametrize("how", ["close", "drop", "exit"])
def test_a_worker_that_leaves_in_order_runs_its_hooks(template, tmp_path, how):
    path, output = tmp_path / "hooks", tmp_path / "output"
    os.mkfifo(f"{path}.gate")
    with open(output, "wb") as file:
        proxy = template.run("faulty.run", stdout=file, **QUIET)
    proxy.call("hook", str(path))
    pid = proxy.pid
    if how == "exit":
        left = proxy.submit("exit_with", 6)
    elif how == "close":
        proxy.close()
        assert not proxy.join(0.2)  # it waits for its thread
    else:
        del proxy

    release(f"{path}.gate")

    wait_until(lambda: process_stat(pid) is None, LIMIT)
    assert path.read_text().split() == ["thread", "finalize", "atexit"]
    assert (tmp_path / "hooks.text").read_text() == "text"
    assert (tmp_path / "hooks.bytes").read_bytes() == b"bytes"
    assert output.read_text() == "printed"
    if how == "exit":
        assert death(left).returncode == 6
    if how != "drop":
        assert proxy.join(LIMIT)


def test_a_worker_does_not_wait_for_daemon_threads(template):
    template.eval(
        "import threading\n"
        "def start():\n"
        "    threading.Thread(target=threading.Event().wait, daemon=True).start()"
    )
    proxy = template.run("start")
    proxy.call()
    proxy.close()

    assert proxy.join(PROMPT)
    assert proxy.returncode == 0


def test_the_hooks_of_a_template_run_once_and_not_in_workers(tmp_path):
    path = tmp_path / "hooks"
    with Forker() as template:
        template.eval(
            "import atexit, os, tempfile, weakref\n"
            "import faulty\n"
            "folder = tempfile.TemporaryDirectory(prefix='forkrpc-test-')\n"
            "def state(): return os.getpid(), os.path.isdir(folder.name), folder.name\n"
            "def leave(): raise SystemExit\n"
            "atexit.register(lambda: faulty.append(args[0], f'atexit {os.getpid()}'))\n"
            "weakref.finalize(faulty.kept, lambda path=args[0]:\n"
            "    faulty.append(path, f'finalize {os.getpid()}'))\n",
            str(path),
        )
        pid = template.pid
        with template.run("state") as proxy:
            _, exists, folder = proxy.call()
            assert exists
        template.run("leave", **QUIET).submit().exception(LIMIT)
        with template.fork() as twin, twin.run("state") as proxy:
            assert proxy.call()[1]
            twin_pid = twin.pid
        del twin
        wait_until(lambda: process_stat(twin_pid) is None, LIMIT)
        with template.run("state") as proxy:
            assert proxy.call()[1]
        assert not path.exists()

    wait_until(lambda: process_stat(pid) is None, LIMIT)
    assert sorted(path.read_text().splitlines()) == [f"atexit {pid}", f"finalize {pid}"]
    assert not os.path.exists(folder)


def test_a_worker_that_is_killed_runs_no_hooks(template, tmp_path):
    path = tmp_path / "hooks"
    os.mkfifo(f"{path}.gate")
    proxy = template.run("faulty.run", stdout="null", **QUIET)
    proxy.call("hook", str(path))

    proxy.kill()

    assert proxy.join(LIMIT)
    assert not path.exists()


def test_kill_ends_what_the_worker_has_started_in_its_group(template):
    proxy = template.run("faulty.run", **QUIET)
    child = proxy.call("fork_a_holder")

    proxy.kill()

    assert proxy.join(PROMPT)
    wait_until(lambda: not process_alive(child), PROMPT)
    assert proxy.returncode == -signal.SIGKILL


def test_spawned_processes_tell_their_status(template):
    for function, status in (("os._exit", 1), ("faulty.spawned_exit", 7)):
        process = template.spawn(function)
        assert process.wait(LIMIT) == status  # os._exit(sock) raises TypeError
        process.sock.close()
    process = template.spawn("faulty.spawned_return")
    assert process.sock.recv(10) == b"hello"
    assert isinstance(process.sock, socket.socket)
    assert process.wait(LIMIT) == 0
    process.sock.close()
