"""End-to-end: what the system refuses, many of everything, and hostile workers."""

import signal
import time

import pytest

from forkrpc import (
    ClosedError,
    Forker,
    ProtocolError,
    SerialiserError,
    SetupError,
    WorkerDied,
)
from helpers import process_alive, run_program, wait_until

LIMIT = 20.0  # seconds for anything to happen; much more than it takes
QUIET = {"on_error": lambda error: None}

# What programs share: a look at themselves.
LOOK = """
    import errno, gc, os, resource, signal, sys, threading, time
    import forkrpc

    def look():
        return len(os.listdir("/proc/self/fd")), threading.active_count(), children()

    def children():
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/stat") as file:
                    state, parent = file.read().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if int(parent) == os.getpid() or name in known:
                found.append((state, name))
        return len(found), sum(state == "Z" for state, _ in found)

    def settle(before, limit=10):
        deadline = time.monotonic() + limit
        while look() != before and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.01)
        assert look() == before, (before, look())

    known = set()

    def warm_up():
        with forkrpc.Forker() as template, template.run("os.getpid") as proxy:
            proxy.call()
            pid = template.pid
        del template, proxy
        while os.path.exists(f"/proc/{pid}"):
            time.sleep(0.001)
        time.sleep(0.2)
"""


def run(source, *args, **options):
    done = run_program(LOOK + source, *args, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


# What the system refuses.


def test_too_many_descriptors_is_an_error_that_names_limit_and_need():
    done = run(
        """
    warm_up()
    template = forkrpc.Forker().ready()
    before = look()
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 1000))
    proxies, errors = [], []
    for _ in range(100):
        try:
            proxies.append(template.run("operator.neg"))
            assert proxies[-1].call(1) == -1
        except forkrpc.SetupError as error:
            errors.append(error)
            break
    print(len(proxies), *errors)
    filling = []
    try:
        while True:
            filling.append(os.dup(0))
    except OSError:
        pass
    for verb, name in (template.run, "operator.neg"), (template.spawn, "builtins.id"):
        try:
            verb(name)
        except forkrpc.SetupError as error:
            assert isinstance(error.__cause__, OSError)
            assert error.__cause__.errno == errno.EMFILE
        else:
            raise AssertionError("there was room left")
    for make in forkrpc.Forker, forkrpc.Forker.new_exec, template.fork:
        try:
            make()
        except (OSError, forkrpc.SetupError) as error:
            assert "24" in str(error) or "RLIMIT_NOFILE" in str(error), error
        else:
            raise AssertionError("there was room left")
    assert [proxy.call(2) for proxy in proxies] == [-2] * len(proxies)
    for fd in filling:
        os.close(fd)
    for proxy in proxies[:5]:
        proxy.close()
        assert proxy.join(10)
    with template.run("operator.neg") as another:
        assert another.call(3) == -3
    for proxy in proxies[5:]:
        with proxy:
            assert proxy.call(4) == -4
    del proxies, errors, proxy, another
    settle(before)
        """
    )
    count, _, message = done.stdout.partition(" ")
    assert int(count) >= 5
    assert "40" in message
    assert "RLIMIT_NOFILE" in message
    assert "1000" in message
    assert "operator.neg" in message


def test_a_call_needs_no_descriptor_of_its_own():
    run(
        """
    template = forkrpc.Forker()
    proxy = template.run("operator.neg")
    assert proxy.call(1) == -1 and proxy.pid
    used = len(os.listdir("/proc/self/fd")) - 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, 1000))
    results = []
    assert [proxy.call(number) for number in range(10)] == [-n for n in range(10)]
    proxy(3, results.append)
    assert proxy.submit(5).result(10) == -5
    assert proxy.drain(10)
    assert results == [-3]
    os.kill(proxy.pid, signal.SIGKILL)
    assert proxy.join(10)
    assert proxy.returncode == -9
        """
    )


def test_a_worker_that_starts_while_descriptors_are_short_harms_no_template():
    run(
        """
    warm_up()
    before = look()
    os.mkfifo("fifo")
    fifo = os.open("fifo", os.O_RDWR)
    with forkrpc.Forker() as template:
        template.eval("import os; os.read(os.open(*args), 1)", "fifo", os.O_RDONLY)
        proxy = template.run("operator.neg", on_error=lambda error: None)
        future = proxy.submit(1)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 1000))
        filling = []
        try:
            while True:
                filling.append(os.dup(0))
        except OSError:
            pass
        os.write(fifo, b"x")  # now it is forked
        try:
            assert future.result(10) == -1
        except forkrpc.SetupError as error:
            assert "RLIMIT_NOFILE" in str(error), error
        for fd in filling:
            os.close(fd)
        os.close(fifo)
        template.ready(10)
        with template.run("operator.neg") as other:
            assert other.call(2) == -2
        proxy.close()
        assert proxy.join(10)
        known.add(str(template.pid))
    del proxy, other, template
    settle(before)
        """
    )


@pytest.mark.parametrize("kind", ["run", "spawn", "fork"])
def test_a_fork_that_the_system_refuses_fails_and_the_next_works(kind):
    source = (
        "import os\n"
        "fork = os.fork\n"
        "def refuse():\n"
        "    os.fork = fork\n"
        "    raise BlockingIOError(11, 'Resource temporarily unavailable')\n"
        "os.fork = refuse\n"
    )
    errors = []
    with Forker() as template:
        template.eval(source)
        if kind == "run":
            proxy = template.run("operator.neg", on_error=errors.append)
            with pytest.raises(SetupError, match="Resource temporarily unavailable"):
                proxy.call(1)
            assert proxy.pid is None
            assert proxy.join(LIMIT)
            assert [type(error) for error in errors] == [SetupError]
        elif kind == "spawn":
            process = template.spawn("builtins.print")
            with process.sock, pytest.raises(SetupError, match="unavailable"):
                process.wait(LIMIT)
        else:
            with pytest.raises(SetupError, match="unavailable"):
                template.fork().ready(LIMIT)
        with template.run("operator.neg") as proxy:
            assert proxy.call(1) == -1


def test_memory_that_is_refused_costs_one_call():
    limits = {"AS": 1 << 30}
    with Forker() as template, template.run("faulty.run", rlimits=limits) as proxy:
        before = proxy.submit("blank", 1)
        bad = proxy.submit("blank", 4 << 30)
        behind = proxy.submit("blank", 2)

        assert isinstance(bad.exception(LIMIT), MemoryError)
        assert before.result(LIMIT) == bytes(1)
        assert behind.result(LIMIT) == bytes(2)


def test_a_result_too_large_for_the_memory_of_the_worker_costs_one_call():
    limits = {"AS": 1 << 29}
    with Forker() as template, template.run("faulty.run", rlimits=limits) as proxy:
        bad = proxy.submit("touch_and_return", "/dev/null/x", 1)
        assert isinstance(bad.exception(LIMIT), NotADirectoryError)
        assert len(proxy.submit("blank", 300 << 20).result(LIMIT)) == 300 << 20
        large = proxy.submit("blank_text", 300 << 20)  # there is no room for a copy

        error = large.exception(LIMIT)
        assert error is not None
        assert "MemoryError" in repr(error) + str(error)
        assert proxy.call("echo", 1) == 1


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_an_argument_too_large_for_the_memory_of_the_worker_costs_one_call(backend):
    name = {"sync": "faulty.run", "async": "faulty.run_async"}[backend]
    options = {"rlimits": {"AS": 1 << 30}, "backend": backend}
    with Forker() as template, template.run(name, **options) as proxy:
        before = proxy.submit("echo", 1)
        large = proxy.submit("echo", bytes(1 << 30))
        behind = proxy.submit("echo", 2)

        assert before.result(LIMIT) == 1
        with pytest.raises(SerialiserError, match="MemoryError: no memory"):
            large.result(LIMIT)
        assert behind.result(LIMIT) == 2


# Signals.


def test_signals_at_1_khz_in_the_program_and_the_worker():
    run(
        """
    def nothing(*_):
        global count
        count += 1

    count = 0
    signal.signal(signal.SIGALRM, nothing)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    template = forkrpc.Forker().eval('''
    import signal
    count = 0

    def nothing(*_):
        global count
        count += 1

    def start():
        signal.signal(signal.SIGALRM, nothing)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)

    def reverse(value):
        return value[::-1], count
    ''')
    results, signals = [], 0
    large = bytes(range(256)) * 4000
    with template.run("reverse", init="start") as proxy:
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            proxy("callback", results.append)
            assert proxy.call("call")[0] == "llac"
            value, signals = proxy.call(large)
            assert value == large[::-1]
            assert proxy.submit("submit").result(10)[0] == "timbus"
        sent = proxy.submit("last")
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert sent.result(0)[0] == "tsal"
    assert {value for value, _ in results} == {"kcabllac"}
    assert count > 100 and signals > 100, (count, signals)
        """
    )


def test_handlers_that_raise_while_a_large_answer_leaves_cost_no_other_call():
    done = run(
        """
    template = forkrpc.Forker().eval('''
    import signal

    KEPT = bytearray(8 << 20)

    def refuse(*_):
        raise ValueError("alarm")

    def answer(number):
        signal.signal(signal.SIGALRM, refuse)
        KEPT[0] = KEPT[-1] = number
        if number % 2:
            signal.setitimer(signal.ITIMER_REAL, 0.0001 + number % 30 / 10000)
        return KEPT
    ''')
    refused = 0
    with template.run("answer", on_error=print) as proxy:
        for number in range(0, 200, 2):
            one, other = proxy.submit(number), proxy.submit(number + 1)
            try:
                result = one.result(20)
                assert result[0] == result[-1] == number
                result = other.result(20)
                assert result[0] == result[-1] == number + 1
            except (ValueError, forkrpc.SerialiserError):  # raised as it is dumped
                refused += 1
    print(refused)
        """
    )

    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < 100


def test_handlers_that_raise_in_the_worker_cost_no_other_call():
    done = run(
        """
    template = forkrpc.Forker().eval('''
    import signal

    def refuse(_number, frame):
        if frame.f_globals["__name__"] == "__main__":
            raise ValueError("alarm")

    def start():
        signal.signal(signal.SIGALRM, refuse)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)

    def work(number):
        return number, sum(range(2000))
    ''')
    with template.run("work", init="start") as proxy:
        futures = [proxy.submit(number) for number in range(5000)]
        failed = 0
        for number, future in enumerate(futures):
            error = future.exception(20)
            if error is None:
                assert future.result() == (number, sum(range(2000)))
            else:
                assert type(error) is ValueError, repr(error)
                failed += 1
    print(failed)
        """
    )
    assert 0 < int(done.stdout) < 5000


def test_a_worker_is_deaf_to_the_ctrl_c_of_the_program():
    run(
        """
    with forkrpc.Forker() as template, template.run("time.sleep") as proxy:
        future = proxy.submit(0.3)
        proxy.pid
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.killpg(os.getpgrp(), signal.SIGINT)
        assert future.result(10) is None
        """
    )


# Descriptors and directories.


def test_descriptors_above_1023():
    run(
        """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    files = [open(os.devnull) for _ in range(1100)]
    before = look()
    results = []
    with forkrpc.Forker() as template:
        read, write = os.pipe()
        assert min(read, write) > 1023
        template.send_fh(write).eval("import os\\ndef tell(fd): os.write(fd, b'x')")
        with template.run("operator.neg") as proxy:
            assert proxy.call(1) == -1
            proxy(2, results.append)
            assert proxy.submit(3).result(10) == -3
        assert results == [-2]
        process = template.spawn("builtins.print")
        assert process.sock.fileno() > 1023
        process.sock.close()
        assert process.wait(10) == 0
        proxy = template.run("operator.neg")
        os.kill(proxy.pid, signal.SIGKILL)
        assert proxy.join(10)
        assert proxy.returncode == -9
        """
    )


@pytest.mark.parametrize("closed", ["0", "1", "2", "012", "02", "12"])
def test_descriptors_that_the_program_has_closed(tmp_path, closed):
    path = tmp_path / "outcome"
    done = run_program(
        f"""
    import os, sys
    for fd in {list(map(int, closed))}:
        os.close(fd)
    import forkrpc

    errors, events = [], []
    template = forkrpc.Forker().eval('''
    import forkrpc, os, subprocess, sys

    def work(number):
        print("printed", flush=True)
        print("printed", file=sys.stderr, flush=True)
        os.write(1, b"written"), os.write(2, b"written")
        subprocess.run(["echo", "from a child"])
        forkrpc.event(number)
        sys.stdin.read()
        return number, sorted(map(int, os.listdir("/proc/self/fd")))[:3]
    ''')
    options = dict(on_event=events.append, on_error=errors.append)
    with template.run("work", **options) as proxy:
        outcomes = [proxy.call(number) for number in range(3)]
    with open({str(path)!r}, "w") as file:
        print(outcomes, events, errors, file=file)
        """
    )
    assert done.returncode == 0, done.stderr
    outcomes = [(number, [0, 1, 2]) for number in range(3)]
    assert path.read_text() == f"{outcomes} [0, 1, 2] []\n"


def test_a_working_directory_that_was_deleted():
    run(
        """
    os.mkdir("folder")
    os.chdir("folder")
    os.rmdir("../folder")
    for make in forkrpc.Forker, forkrpc.Forker.new_exec:
        with make() as template, template.run("operator.neg") as proxy:
            assert proxy.call(1) == -1
    os.chdir("/")
    with forkrpc.Forker() as template, template.run("os.getcwd") as proxy:
        assert proxy.call() == "/"
        """
    )


# Many.


def test_300_workers_at_once():
    run(
        """
    warm_up()
    before = look()
    with forkrpc.Forker() as template:
        proxies = [template.run("operator.neg") for _ in range(300)]
        futures = [
            proxy.submit(number) for number, proxy in enumerate(proxies) for _ in "ab"
        ]
        values = [future.result(30) for future in futures]
        assert values == [-number for number in range(300) for _ in "ab"]
        assert len({proxy.pid for proxy in proxies}) == 300
        for proxy in proxies[::2]:
            proxy.kill()
        for proxy in proxies[1::2]:
            proxy.close()
        for number, proxy in enumerate(proxies):
            assert proxy.join(30)
            assert proxy.returncode == (0 if number % 2 else -9)
        known.update(str(proxy.pid) for proxy in proxies)
        known.add(str(template.pid))
    del template, proxies, proxy, futures
    settle(before)
        """
    )


@pytest.mark.parametrize(
    "count",
    [200, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])],
)
def test_many_workers_one_after_another_leave_nothing(count):
    run(
        """
    gc.disable()  # nothing shall wait for it

    def memory():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    def one(number):
        destroyed = threading.Event()
        proxy = template.run("operator.neg", on_destroy=destroyed.set)
        assert proxy.call(number) == -number
        how = number % 4
        if how == 0:
            proxy.close()
        elif how == 1:
            proxy.kill()
        elif how == 2:
            del proxy
            assert destroyed.wait(10)
            return
        else:
            os.kill(proxy.pid, signal.SIGKILL)
        assert proxy.join(10)

    import logging
    logging.disable()
    warm_up()
    template = forkrpc.Forker().ready()
    known.add(str(template.pid))
    before = look()
    for number in range(200):
        one(number)
    settle(before)
    start = memory()
    for number in range(int(sys.argv[1])):
        one(number)
    settle(before)
    growth = memory() - start
    assert growth < 1 << 20, f"{growth} bytes more"
        """,
        count,
        timeout=500,
    )


# Hostile workers.

HOSTILE = """
import os, signal, stat
from forkrpc import wire

def channel():
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if fd > 2 and stat.S_ISSOCK(os.fstat(fd).st_mode):
                return fd
        except OSError:
            pass

def run(name, *args):
    return globals()[name](*args)

def echo(value):
    return value

def write(data):
    os.write(channel(), data)
    while True:
        signal.pause()

def close():
    os.close(channel())
    while True:
        signal.pause()
"""


def garbage():
    from forkrpc import wire

    result = wire.encode(wire.RESULT, b"x", first=2)
    return {
        "text": b"Traceback (most recent call last):\n" * 10,
        "zeros": bytes(1000),
        "ones": b"\xff" * 1000,
        "a greeting": wire.GREETING * 10,
        "an answer not asked for": wire.encode(wire.RESULT, b"x", first=1000),
        "an answer twice": wire.encode(wire.RESULT, b"x", first=1),
        "an error not asked for": wire.encode(wire.ERROR, b"x", first=2**63),
        "a call": wire.encode(wire.CALL, b"x", first=1),
        "a template's frame": wire.encode(wire.STARTED, b"x", first=1),
        "too many answers": wire.encode_bodies(wire.RESULT, [b"x"] * 9, first=2),
        "a count of 0": wire.encode(wire.RESULT, b"x", count=0, first=2),
        "a count of 2**32 - 1": wire.encode(
            wire.RESULT, b"x", count=2**32 - 1, first=2
        ),
        "a length of 2**63": result[:-9] + (2**63).to_bytes(8, "little") + b"x",
        "lengths that lie": wire.encode(
            wire.RESULT, b"\xff" * 8 + b"x", count=2, first=2
        ),
        "an unknown kind": wire.encode(200, b"x", first=2),
    }


@pytest.fixture
def hostile():
    with Forker() as template:
        yield template.eval(HOSTILE)


@pytest.mark.parametrize("kind", garbage())
def test_a_worker_that_writes_garbage_is_killed(hostile, kind):
    errors = []
    proxy = hostile.run("run", on_error=errors.append)
    with hostile.run("run") as neighbour:
        try:
            check_garbage_is_the_end(proxy, garbage()[kind], errors)
            assert neighbour.call("echo", 4) == 4
        finally:
            proxy.kill()


def check_garbage_is_the_end(proxy, data, errors):
    assert proxy.call("echo", 1) == 1
    bad = proxy.submit("write", data)
    behind = proxy.submit("echo", 2)

    failures = [future.exception(5) for future in (bad, behind)]

    assert [type(error) for error in failures] == [ProtocolError] * 2
    assert str(proxy.pid) in str(failures[0])
    assert proxy.join(LIMIT)
    assert proxy.returncode == -signal.SIGKILL
    assert [type(error) for error in errors] == [ProtocolError]
    assert proxy.submit("echo", 3).exception(LIMIT)


def test_a_worker_that_closes_its_socket_and_lives_on_is_killed(hostile):
    errors = []
    proxy = hostile.run("run", on_error=errors.append)
    assert proxy.call("echo", 1) == 1
    began = time.monotonic()
    bad = proxy.submit("close")
    behind = proxy.submit("echo", 2)

    error = bad.exception(LIMIT)

    assert time.monotonic() - began < 2
    assert type(error) is WorkerDied
    assert error.started is True
    assert behind.exception(LIMIT).started is False
    assert proxy.join(LIMIT)
    assert proxy.returncode == -signal.SIGKILL
    assert len(errors) == 1
    wait_until(lambda: not process_alive(proxy.pid), LIMIT)


def test_a_template_that_writes_garbage_ends_alone():
    with Forker() as template:
        proxy = template.run("operator.neg", **QUIET)
        assert proxy.call(1) == -1
        template.eval(
            "import os, stat\n"
            "for name in os.listdir('/proc/self/fd'):\n"
            "    try:\n"
            "        if int(name) > 2 and stat.S_ISSOCK(os.fstat(int(name)).st_mode):\n"
            "            os.write(int(name), b'rubbish' * 100)\n"
            "    except OSError:\n"
            "        pass\n"
        )
        with pytest.raises((SetupError, ClosedError)):
            template.ready(LIMIT)
        assert proxy.call(2) == -2
        proxy.close()
        assert proxy.join(LIMIT)
    with Forker() as template, template.run("operator.neg") as proxy:
        assert proxy.call(3) == -3
