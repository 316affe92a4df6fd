"""End-to-end: interrupts of the main thread, anywhere and often; a real terminal."""

import re
import signal
import sys
import textwrap

import pexpect
import pytest

from helpers import CHECKOUT, descendants, process_alive, run_program, wait_until

LIMIT = 20.0  # seconds for anything to happen; much more than it takes

# The handler spares the program's own file, so that its book-keeping is right: what
# returned has returned.  Everything the library calls is fair game.
STORM = """
    import functools, signal, sys, threading
    import forkrpc

    COUNT, LIMIT = int(sys.argv[1]), float(sys.argv[2])
    FUNCTION = '''
    import forkrpc
    seen = set()

    def double(number, extra=None):
        if number in seen:
            raise AssertionError(f"call {number} was executed twice")
        seen.add(number)
        if number % 50 == 0:
            forkrpc.event(number)
        return number, 2 * number
    '''
    interrupts = 0

    def on_alarm(_number, frame):
        global interrupts
        if frame.f_code.co_filename != __file__:
            interrupts += 1
            raise KeyboardInterrupt

    def extra(number):
        if number % 7 == 0:
            return [number]  # is not a scalar
        if number % 11 == 0:
            return bytes(100_000)  # does not fit into the socket together with more
        return "text"

    template = forkrpc.Forker().eval(FUNCTION)
    events, errors, destroyed = [], [], []
    proxy = template.run(
        "double",
        on_event=events.append,
        on_error=errors.append,
        on_destroy=functools.partial(destroyed.append, True),
    )
    assert proxy.call(-1) == (-1, -2)

    answers = []  # of callbacks: (number, result)
    registered, doubtful, futures, wrong, completed = set(), set(), {}, [], 0

    def callback(number, result):
        answers.append((number, result))

    def storm():
        global completed
        for number in range(COUNT):
            value = extra(number)
            kwargs = {"extra": value} if number % 5 == 0 else {}
            args = (number,) if kwargs else (number, value)
            try:
                if number % 3 == 0:
                    result = proxy.call(*args, **kwargs)
                    completed += 1
                    if result != (number, 2 * number):
                        wrong.append((number, result))
                elif number % 3 == 1:
                    future = proxy.submit(*args, **kwargs)
                    futures[number] = future
                else:
                    proxy(*args, functools.partial(callback, number), **kwargs)
                    registered.add(number)
            except KeyboardInterrupt:
                doubtful.add(number)

    signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        storm()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)

    assert not wrong, wrong[:5]
    assert proxy.call(-2) == (-2, -4), "the proxy answers wrong"
    for number, future in futures.items():
        assert future.result(LIMIT) == (number, 2 * number)
    assert proxy.drain(LIMIT)
    numbers = [number for number, _ in answers]
    assert all(result == (number, 2 * number) for number, result in answers)
    assert numbers == sorted(set(numbers)), "a callback ran twice, or out of order"
    assert registered <= set(numbers), sorted(registered - set(numbers))[:5]
    assert set(numbers) <= registered | doubtful
    assert events == sorted(set(events)), "an event came twice, or out of order"
    assert not errors, errors[:3]
    assert proxy.pending == 0
    proxy.close()
    assert proxy.join(LIMIT)
    assert (proxy.returncode, destroyed) == (0, [True])
    print(interrupts, len(doubtful), completed, len(futures), len(registered))
"""


@pytest.mark.parametrize(
    ("count", "limit"),
    [(5_000, 50), pytest.param(100_000, 600, marks=pytest.mark.slow)],
)
def test_a_storm_of_interrupts_loses_nothing(count, limit):
    done = run_program(STORM, count, LIMIT, timeout=limit)

    assert done.returncode == 0, done.stderr[-3000:]
    interrupts, doubtful, *kinds = map(int, done.stdout.split())
    assert interrupts > 10
    assert doubtful <= interrupts
    assert all(kind > 0 for kind in kinds)


# An interrupt at each point in turn, each test in a program of its own: a reader
# that is lost by one would take the others with it.

STEPS = """
    import concurrent.futures, faulthandler, gc, importlib, os, queue, sys
    import forkrpc

    VERB, LIMIT = sys.argv[1], float(sys.argv[3])
    sys.path.insert(0, sys.argv[4])
    from faulty import Interrupt, interrupt_at

    HOLDS = ("result", "exception", "done", "cancel", "add_done_callback")
    FUNCTION = '''
    def run(name, *args): return globals()[name](*args)
    def neg(value): return -value
    def gate(): return open(args[0], "rb").read()
    '''

    def make(proxy):
        if VERB == "call":
            return lambda: proxy.call("neg", 20)
        if VERB == "submit":
            return lambda: proxy.submit("neg", 20)
        if VERB == "callback":
            return lambda: proxy("neg", 20, got.put)
        if VERB in HOLDS:
            future = proxy.submit("gate")
            if VERB == "add_done_callback":
                return lambda: future.add_done_callback(id)
            if VERB in ("result", "exception"):
                return lambda: getattr(future, VERB)(0.001)
            return getattr(future, VERB)
        if VERB == "pending":
            return lambda: proxy.pending
        if VERB in ("drain", "join"):
            return lambda: getattr(proxy, VERB)(0.001)
        return getattr(proxy, VERB)

    def attempt(point):
        proxy = template.run("run", on_error=errors.append)
        assert proxy.call("neg", 1) == -1
        verb = make(proxy)
        before = None if VERB in HOLDS else proxy.submit("neg", 10)
        outcome, returned, interrupt = None, False, interrupt_at(point, module)
        try:
            with interrupt:
                outcome = verb()
                returned = True
        except (Interrupt, concurrent.futures.TimeoutError, TimeoutError):
            pass
        if VERB in HOLDS:
            open(fifo, "wb").close()
        check(proxy, before, outcome, returned)
        proxy.close()
        assert proxy.join(LIMIT), "the worker never ended"
        assert proxy.pending == 0
        return interrupt.raised

    def check(proxy, before, outcome, returned):
        if VERB in ("close", "kill"):
            try:
                assert before.result(LIMIT) == -10
            except forkrpc.WorkerDied:
                assert VERB == "kill"
            return
        behind = proxy.submit("neg", 30)
        assert before is None or before.result(LIMIT) == -10
        assert behind.result(LIMIT) == -30
        assert proxy.call("neg", 40) == -40
        assert not errors, errors
        if VERB == "call" and returned:
            assert outcome == -20
        elif VERB == "submit" and returned:
            assert outcome.result(LIMIT) == -20
        elif VERB == "callback":
            assert proxy.drain(LIMIT)
            answers = [got.get() for _ in range(got.qsize())]
            assert answers == [-20] or (not returned and not answers), answers

    module = importlib.import_module(sys.argv[2])
    got, errors = queue.SimpleQueue(), []
    fifo = os.path.abspath("fifo")
    os.mkfifo(fifo)
    template = forkrpc.Forker().eval(FUNCTION, fifo).ready()
    gc.disable()  # no finaliser of an earlier proxy shall take the interrupt
    point, raised = 0, True
    while raised:
        faulthandler.dump_traceback_later(2 * LIMIT, exit=True)
        print(point, end=" ", flush=True)
        gc.collect()
        raised = attempt(point)
        point += 1
    faulthandler.cancel_dump_traceback_later()
"""

CALLS = ["call", "submit", "callback"]
FUTURES = ["result", "exception", "done", "cancel", "add_done_callback"]
OTHERS = ["close", "drain", "join", "pending", "kill"]
STEPPED = (
    [
        (verb, module)
        for module in ("connection", "fds", "proxy", "serialisers", "session", "wire")
        for verb in CALLS
    ]
    + [(verb, "concurrent.futures._base") for verb in ["submit", *FUTURES]]
    + [(verb, "threading") for verb in [*CALLS, *FUTURES, *OTHERS]]
    + [(verb, "proxy") for verb in FUTURES]
    + [(verb, "connection") for verb in OTHERS]
)


@pytest.mark.parametrize(("verb", "module"), STEPPED)
def test_an_interrupt_at_any_point_loses_nothing(verb, module):
    if (CHECKOUT / "forkrpc" / f"{module}.py").exists():
        module = f"forkrpc.{module}"

    done = run_program(STEPS, verb, module, 4, CHECKOUT / "tests", timeout=50)

    last = (done.stdout.split() or ["0"])[-1]
    assert done.returncode == 0, f"at point {last}: {done.stderr[-3000:]}"


def test_an_interrupted_call_drops_its_result_and_no_other():
    done = run_program(
        """
        import os, signal, threading
        import forkrpc

        os.mkfifo("fifo")
        template = forkrpc.Forker().eval(
            "def gate(path):\\n    open(path, 'rb').read()\\n    return 'gate'\\n"
            "def run(name, *args): return globals()[name](*args)\\n"
            "def echo(value): return value"
        )
        proxy = template.run("run")
        proxy.call("echo", 0)
        before = proxy.pending
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            proxy.call("gate", os.path.abspath("fifo"))
        except KeyboardInterrupt:
            print("interrupted")
        later = proxy.submit("echo", 1)
        open("fifo", "wb").close()
        print(later.result(10), proxy.call("echo", 2), proxy.pending)
        """
    )
    assert (done.stdout, done.stderr) == ("interrupted\n1 2 0\n", "")


# A real terminal.


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    monkeypatch.setenv("PYTHON_COLORS", "0")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def terminal(*command):
    return pexpect.spawn(
        command[0], list(command[1:]), encoding="utf-8", timeout=LIMIT, echo=False
    )


def press_ctrl_c(child):
    """Press it once more where Python missed it.

    A signal that comes right before the main thread blocks in C does not wake it: seen
    2 times in 4,200 with programs that only print and sleep, on a busy machine.
    """
    child.sendintr()
    if child.expect([r"(?=Traceback)", pexpect.TIMEOUT], timeout=3) == 1:
        child.sendintr()


BUSY = """
    import forkrpc, re, time

    template = forkrpc.Forker()
    proxies = [template.run("time.sleep") for _ in range(2)]
    proxies += [template.run("re.match") for _ in range(2)]
    proxies.append(template.run("os.getpid"))
    for proxy in proxies[:2]:
        proxy.submit(1000)
    for proxy in proxies[2:4]:
        proxy.submit("(a+)+$", 40 * "a" + "b")
    proxies[-1].call()
    futures = [proxies[0].submit(0) for _ in range(1000)]
    print("pids", *[proxy.pid for proxy in proxies], flush=True)
    {wait}
"""
WAITS = {
    "call": "proxies[1].call(0)",
    "result": "futures[0].result()",
    "join": "proxies[0].join()",
    "drain": "[proxies[-1].drain() for _ in iter(int, 1)]",
    "sleep": "time.sleep(1000)",
    "with": "proxies[0].__exit__(None, None, None)",
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_ctrl_c_ends_a_program_with_busy_workers(folder, wait):
    (folder / "program.py").write_text(textwrap.dedent(BUSY.format(wait=wait)))
    child = terminal(sys.executable, "program.py")
    try:
        child.expect(r"pids ([\d ]+)\r\n")
        pids = [*map(int, child.match[1].split()), *descendants(child.pid)]

        press_ctrl_c(child)
        child.expect(pexpect.EOF, timeout=5)
        output = child.before
        child.wait()
    finally:
        child.close(force=True)
    assert output.count("Traceback") == 1, output
    assert output.rstrip().endswith("KeyboardInterrupt"), output
    assert 'program.py", line' in output
    assert (child.exitstatus, child.signalstatus) in ((130, None), (None, 2)), output
    for pid in pids:
        wait_until(lambda pid=pid: not process_alive(pid), 2)


def test_ctrl_c_that_the_program_catches_leaves_idle_and_busy_workers(folder):
    (folder / "program.py").write_text(
        textwrap.dedent(
            """
            import forkrpc, os, time

            os.mkfifo("fifo")
            template = forkrpc.Forker().eval(
                "def gate(path):\\n    open(path, 'rb').read()\\n    return 'through'"
            )
            busy = template.run("gate")
            future = busy.submit(os.path.abspath("fifo"))
            with forkrpc.Forker().run("operator.neg") as idle:
                idle.call(1)
                try:
                    print("ready", busy.pid, flush=True)
                    time.sleep(1000)
                except KeyboardInterrupt:
                    print("caught", flush=True)
                open("fifo", "wb").close()
                print(future.result(10), idle.call(1))
            """
        )
    )
    child = terminal(sys.executable, "program.py")
    try:
        child.expect("ready")
        child.sendintr()
        child.expect(pexpect.EOF)
        output = child.before
        child.wait()
    finally:
        child.close(force=True)
    assert "caught\r\nthrough -1" in output
    assert "Traceback" not in output
    assert child.exitstatus == 0


def test_ctrl_z_stops_the_program_and_fg_lets_it_go_on(folder):
    (folder / "program.py").write_text(
        textwrap.dedent(
            """
            import forkrpc, os

            proxy = forkrpc.Forker().run("operator.neg")
            busy = forkrpc.Forker().run("time.sleep")
            slept = busy.submit(0.3)
            print("pid", os.getpid(), flush=True)
            number = 0
            while not os.path.exists("stop"):
                number += 1
                assert proxy.call(number) == -number
            assert slept.result(10) is None
            print("done", flush=True)
            """
        )
    )
    shell = terminal("/bin/sh", "-i")
    try:
        shell.sendline(f"{sys.executable} program.py")
        pid = int(wait_for_match(shell, r"pid (\d+)"))
        shell.sendcontrol("z")
        wait_until(lambda: stopped(pid), LIMIT)
        shell.sendline("fg")
        wait_until(lambda: not stopped(pid), LIMIT)
        (folder / "stop").touch()
        shell.expect("done")
        shell.sendline("exit")
        shell.expect(pexpect.EOF)
        assert "Traceback" not in shell.before
    finally:
        shell.close(force=True)


def wait_for_match(child, pattern):
    child.expect(pattern)
    return re.search(r"\d+", child.match[0])[0]


def stopped(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] == "T"
    except FileNotFoundError:
        raise AssertionError("the program ended") from None


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_the_end_of_the_terminal_ends_all(folder, number):
    (folder / "program.py").write_text(textwrap.dedent(BUSY.format(wait=WAITS["call"])))
    child = terminal(sys.executable, "program.py")
    try:
        child.expect(r"pids ([\d ]+)\r\n")
        pids = [*map(int, child.match[1].split()), *descendants(child.pid)]
        child.kill(number)
        child.expect(pexpect.EOF)
        child.wait()
    finally:
        child.close(force=True)
    for pid in pids:
        wait_until(lambda pid=pid: not process_alive(pid), 2)


# Signal handlers that call.


def test_a_call_in_a_handler_that_interrupted_a_call_is_refused_at_once():
    done = run_program(
        """
        import forkrpc, queue, signal

        def handler(*_):
            try:
                told.append(proxy.call(0))
            except RuntimeError as error:
                told.append(error)
            proxy(0, results.put)

        told, results = [], queue.SimpleQueue()
        signal.signal(signal.SIGALRM, handler)
        with forkrpc.Forker().run("time.sleep") as proxy:
            proxy.call(0)
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            proxy.call(0.5)
            assert type(told[0]) is RuntimeError, told
            assert "use submit() or a callback" in str(told[0])
            assert results.get(timeout=10) is None

            future = proxy.submit(0.5)  # nobody reads for it in this thread
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            assert future.result(10) is None
            assert told[1] is None
        """,
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_a_call_in_a_handler_that_interrupted_the_sending_is_refused_at_once():
    done = run_program(
        """
        import forkrpc, signal
        from collections import Counter

        def handler(*_):
            try:
                told[proxy.call(5)] += 1
            except RuntimeError:
                told["refused"] += 1

        told = Counter()
        signal.signal(signal.SIGALRM, handler)
        with forkrpc.Forker().run("operator.neg") as proxy:
            proxy.call(0)
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            while min(told[-5], told["refused"]) < 20:
                futures = [proxy.submit(number) for number in range(1000)]
                results = [future.result() for future in futures]
                assert results == [-number for number in range(1000)]
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert proxy.call(7) == -7
        print(set(told) == {-5, "refused"})
        """,
    )

    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.parametrize("wait", ["proxy.call(0)", "list(proxy.stream(0))"])
@pytest.mark.parametrize("backend", ["sync", "async"])
def test_no_wait_in_a_handler_hangs_that_interrupted_a_call(backend, wait):
    done = run_program(
        f"""
        import asyncio, forkrpc, signal, time

        def handler(*_):
            try:
                told.append({wait})
            except RuntimeError as error:
                told.append(error)

        async def sleeping(seconds):
            await asyncio.sleep(seconds)

        told = []
        signal.signal(signal.SIGALRM, handler)
        function = time.sleep if "{backend}" == "sync" else sleeping
        options = {{"backend": "{backend}", "on_error": lambda error: None}}
        with forkrpc.Forker().run(function, **options) as proxy:
            proxy.call(0)
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            proxy.call(0.5)
            assert type(told[0]) is RuntimeError, told
            assert "in a signal handler" in str(told[0])
            assert proxy.call(0) is None
        """,
    )

    assert (done.returncode, done.stderr) == (0, "")
