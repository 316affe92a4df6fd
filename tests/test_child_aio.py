"""End-to-end: the asyncio backend: what a function may do, and what leaves when."""

import asyncio
import os
import random
import signal
import sys
import threading
import time

import pytest

from forkrpc import Forker, RemoteError, SerialiserError, SetupError, WorkerDied
from helpers import MS, run_program, wait_until

LIMIT = 20.0  # seconds; much more than it takes

SOURCE = """
import asyncio, contextvars, forkrpc, os, signal, sys, threading, time

async def run(name, *args):
    return await globals()[name](*args)

async def echo(value=None, **more):
    return (value, more) if more else value

async def sleep(seconds, result=None):
    await asyncio.sleep(seconds)
    return result

async def first_line():
    task = asyncio.current_task()
    async with asyncio.timeout(0.01):
        await asyncio.sleep(100)

async def group():
    async with asyncio.TaskGroup() as tasks:
        each = [tasks.create_task(asyncio.sleep(0, n)) for n in range(3)]
    return [task.result() for task in each]

async def task_name():
    task = asyncio.current_task()
    await asyncio.sleep(0)
    return task is asyncio.current_task() and isinstance(task, asyncio.Task)

variable = contextvars.ContextVar("variable", default=0)

async def count_in_context():
    variable.set(variable.get() + 1)
    await asyncio.sleep(0)
    return variable.get()

async def raise_(text):
    raise ValueError(text)

async def raise_interrupt():
    raise KeyboardInterrupt

async def cancel_itself():
    asyncio.current_task().cancel()
    await asyncio.sleep(100)

async def events(*texts):
    for text in texts:
        forkrpc.event(text)
    return "behind"

async def event_from_thread(text):
    await asyncio.to_thread(forkrpc.event, text)
    return "behind"

async def leave(status):
    forkrpc.event("last")
    sys.exit(status)

async def leave_later(status):
    asyncio.get_running_loop().call_later(0.01, sys.exit, status)
    await asyncio.sleep(100)

async def flush_and_die(text):
    forkrpc.event(text)
    flushed = forkrpc.flush()
    os._exit(7 if flushed else 8)

async def clean_up(path):
    try:
        await asyncio.sleep(100)
    finally:
        await asyncio.sleep(0)
        open(path, "x").close()

async def block(seconds):
    time.sleep(seconds)

async def wait_for(path):
    while not os.path.exists(path):
        await asyncio.sleep(0.005)

async def die():
    os.kill(os.getpid(), signal.SIGKILL)

async def loop_module():
    return type(asyncio.get_running_loop()).__module__

async def modules(*names):
    return [name in sys.modules for name in names]

async def retire():
    forkrpc.retire()
    return "last"

async def fork_and_return():
    os.fork()
    return os.getpid()

kept = []

def plain(done, how, *args):
    if how == "now":
        done(*args)
    elif how == "later":
        asyncio.get_running_loop().call_later(0.01, done, *args)
    elif how == "thread":
        threading.Thread(target=done, args=args).start()
    elif how == "twice":
        done("first")
        try:
            done("second")
        except RuntimeError as error:
            forkrpc.event(str(error))
    elif how == "drop":
        pass
    elif how == "keep":
        kept.append(done)
    elif how == "drop-kept":
        kept.clear()
        done()
    elif how == "raise":
        raise ValueError("plain")
    elif how == "raise-behind":
        done("done")
        raise ValueError("behind")
    elif how == "unsendable":
        done(threading.Lock())
    elif how == "coroutine":
        return sleep(0)
"""
BEFORE_3_11 = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="asyncio.timeout and TaskGroup came with 3.11"
)


@pytest.fixture(scope="module")
def template():
    with Forker().eval(SOURCE) as template:
        with template.run("echo", backend="async") as proxy:
            proxy.call()  # the template's twin stays as long as it does
        links = [template._link, template._link.with_asyncio()]
        yield template
    wait_until(lambda: all(link.ended for link in links), LIMIT)


@pytest.fixture
def proxy(template):
    with template.run("run", backend="async") as proxy:
        yield proxy


@pytest.fixture
def plain(template):
    with template.run("plain", backend="async") as proxy:
        yield proxy


class Told:
    """What callbacks have heard, in order."""

    def __init__(self):
        self.all = []
        self.options = {
            "on_event": lambda *args: self.all.append(("event", *args)),
            "on_error": lambda error: self.all.append(("error", type(error))),
            "on_destroy": lambda: self.all.append(("destroy",)),
        }

    def result(self, value):
        self.all.append(("result", value))


# Calls.


@pytest.mark.parametrize("value", [1, None, 2.5, True, 2**70, "x", b"y", [1, {2: 3}]])
def test_the_return_value_is_the_result(proxy, value):
    assert proxy.call("echo", value) == value


def test_keywords_go_to_the_function(proxy, template):
    with template.run("echo", backend="async") as echo:
        assert echo.call(1, more=2) == (1, {"more": 2})


@pytest.mark.parametrize("serialiser", ["json", "data", "portable-pickle"])
def test_other_serialisers_serve(template, serialiser):
    with template.run("run", backend="async", serialiser=serialiser) as proxy:
        futures = [proxy.submit("echo", number) for number in range(100)]
        assert [future.result(LIMIT) for future in futures] == list(range(100))
        with pytest.raises(ValueError, match="text"):
            proxy.call("raise_", "text")


def test_many_calls_are_answered_each_with_its_own_result(proxy):
    futures = [
        proxy.submit("sleep", number % 7 * MS, number) for number in range(2_000)
    ]

    assert [future.result(LIMIT) for future in futures] == list(range(2_000))


def test_answers_come_in_the_order_of_completion(template):
    told = Told()
    with template.run("sleep", backend="async", **told.options) as proxy:
        for number in (3, 2, 1):
            proxy(number * 50 * MS, number, told.result)

    assert told.all == [*(("result", n) for n in (1, 2, 3)), ("destroy",)]


def test_a_thousand_calls_sleep_at_once(proxy):
    begun = time.monotonic()
    futures = [proxy.submit("sleep", 0.1, 1) for _ in range(1_000)]

    assert sum(future.result(LIMIT) for future in futures) == 1_000
    assert time.monotonic() - begun < 5  # one after another: 100 s


@BEFORE_3_11
def test_timeouts_and_task_groups_work_from_the_first_line(proxy):
    with pytest.raises(TimeoutError):
        proxy.call("first_line")
    assert proxy.call("group") == [0, 1, 2]


def test_a_call_is_a_task_from_its_first_line(proxy):
    assert proxy.call("task_name") is True


def test_no_call_sees_the_context_variables_of_another(proxy):
    futures = [proxy.submit("count_in_context") for _ in range(100)]

    assert {future.result(LIMIT) for future in futures} == {1}
    assert proxy.call("count_in_context") == 1


def test_a_call_that_raises_does_not_delay_others_of_its_batch(proxy):
    futures = [
        proxy.submit("raise_" if number % 3 else "echo", str(number))
        for number in range(300)
    ]

    for number, future in enumerate(futures):
        if number % 3:
            assert isinstance(future.exception(LIMIT), ValueError)
        else:
            assert future.result(LIMIT) == str(number)


@pytest.mark.parametrize("name", ["raise_interrupt", "cancel_itself"])
def test_what_would_end_a_thread_fails_its_call_only(proxy, name):
    with pytest.raises(RemoteError):
        proxy.call(name)
    assert proxy.call("echo", 1) == 1


def test_a_copy_that_the_function_forks_ends_and_answers_nothing(proxy):
    assert proxy.call("fork_and_return") == proxy.pid
    assert proxy.call("echo", 1) == 1


def test_limit_bounds_how_many_run_at_once(template):
    source = """
        import asyncio
        running = most = 0

        async def f():
            global running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01)
            running -= 1
            return most
    """
    import textwrap

    with (
        Forker().eval(textwrap.dedent(source)) as other,
        other.run("f", backend="async", limit=10) as proxy,
    ):
        futures = [proxy.submit() for _ in range(300)]
        assert max(future.result(LIMIT) for future in futures) == 10


# Plain functions, with done.


@pytest.mark.parametrize("how", ["now", "later", "thread"])
def test_a_plain_function_answers_by_calling_done(plain, how):
    futures = [plain.submit(how, number) for number in range(50)]

    assert [future.result(LIMIT) for future in futures] == list(range(50))
    assert plain.call("now") is None


def test_a_second_done_raises_in_the_worker(template):
    told = Told()
    with template.run("plain", backend="async", **told.options) as plain:
        assert plain.call("twice") == "first"

    ((_, text), *_) = told.all
    assert "called before" in text


def test_a_done_that_is_dropped_uncalled_fails_its_call(plain):
    with pytest.raises(RuntimeError, match="dropped its done"):
        plain.call("drop")
    kept = plain.submit("keep")
    plain.call("now")
    assert not kept.done()
    plain.call("drop-kept")
    with pytest.raises(RuntimeError, match="dropped its done"):
        kept.result(LIMIT)


def test_a_plain_function_that_raises_fails_its_call(plain):
    with pytest.raises(ValueError, match="plain"):
        plain.call("raise")


def test_what_a_plain_function_raises_behind_done_is_reported(template, caplog):
    with template.run("plain", backend="async") as plain:
        assert plain.call("raise-behind") == "done"
    assert "ValueError: behind" in caplog.text


def test_a_result_that_cannot_be_sent_fails_the_call(plain):
    with pytest.raises(SerialiserError, match="lock"):
        plain.call("unsendable")
    assert plain.call("now", 1) == 1


def test_a_plain_function_that_returns_a_coroutine_is_told_what_to_write(plain):
    with pytest.raises(TypeError, match="async def"):
        plain.call("coroutine")


@pytest.mark.parametrize(
    "function", ["def f(done):\n    yield", "async def f():\n    yield"]
)
def test_a_call_of_a_function_that_yields_is_refused(function):
    with Forker().eval(function) as other, other.run("f", backend="async") as proxy:
        for _ in range(2):
            with pytest.raises(TypeError, match=r"use stream\(\) or astream\(\)"):
                proxy.call()


def test_a_coroutine_function_is_refused_by_the_sync_backend(template):
    proxy = template.run("echo", on_error=lambda error: None)
    with pytest.raises(SetupError, match='backend="async"'):
        proxy.call()


# Events, flush, retire.


def test_events_arrive_in_place(template):
    told = Told()
    with template.run("run", backend="async", **told.options) as proxy:
        proxy("events", "a", "b", told.result)
        proxy("event_from_thread", "c", told.result)

    assert told.all.index(("event", "a")) < told.all.index(("event", "b"))
    assert told.all.index(("event", "b")) < told.all.index(("result", "behind"))
    assert ("event", "c") in told.all
    assert told.all[-1] == ("destroy",)


def test_flush_writes_from_inside_the_loop(template):
    told = Told()
    proxy = template.run("run", backend="async", **told.options)
    assert proxy.submit("flush_and_die", "text").exception(LIMIT).returncode == 7
    assert proxy.join(LIMIT)

    assert told.all[0] == ("event", "text")


def test_a_worker_that_retires_answers_what_it_has(template):
    proxy = template.run("run", backend="async")
    slow = proxy.submit("sleep", 50 * MS, "slow")
    assert proxy.call("retire") == "last"
    assert slow.result(LIMIT) == "slow"
    assert proxy.join(LIMIT)
    assert proxy.returncode == 0


# The end.


@pytest.mark.parametrize("name", ["leave", "leave_later"])
def test_system_exit_ends_the_worker_in_order(template, name):
    told = Told()
    proxy = template.run("run", backend="async", **told.options)
    proxy("echo", "before", told.result)
    slow = proxy.submit("sleep", 100)
    leaving = proxy.submit(name, 3)

    for future in (leaving, slow):
        error = future.exception(LIMIT)
        assert isinstance(error, WorkerDied)
        assert (error.returncode, error.started) == (3, True)
    assert proxy.join(LIMIT)
    assert told.all[0] == ("result", "before")
    assert told.all[-1] == ("error", WorkerDied)
    assert (("event", "last") in told.all) is (name == "leave")


@pytest.mark.parametrize("name", ["leave", "leave_later"])
def test_tasks_that_still_run_clean_up_when_the_worker_exits(template, tmp_path, name):
    with (tmp_path / "stderr").open("wb") as file:
        options = {"stderr": file, "on_error": lambda error: None}
        proxy = template.run("run", backend="async", **options)
    proxy.submit("clean_up", str(tmp_path / "cleaned"))
    proxy.submit(name, 0)
    assert proxy.join(LIMIT)

    assert proxy.returncode == 0
    assert (tmp_path / "cleaned").exists()
    assert (tmp_path / "stderr").read_text() == ""


def test_close_lets_running_calls_finish(template):
    proxy = template.run("sleep", backend="async")
    future = proxy.submit(50 * MS, "finished")
    proxy.close()

    assert future.result(LIMIT) == "finished"
    assert proxy.join(LIMIT)
    assert proxy.returncode == 0


def test_a_death_tells_each_call_whether_it_had_begun(template):
    proxy = template.run("sleep", backend="async", limit=5, on_error=lambda error: None)
    futures = [proxy.submit(100) for _ in range(50)]
    wait_until(lambda: proxy._connection.life.begun() == 5, LIMIT)
    wait_until(lambda: proxy._connection.session.sent == 50, LIMIT)
    proxy.kill(signal.SIGKILL)

    started = [future.exception(LIMIT).started for future in futures]
    assert started == [True] * 5 + [False] * 45


def test_a_result_is_not_held_back_while_the_next_call_blocks_the_loop(template):
    with template.run("run", backend="async", on_error=lambda error: None) as proxy:
        proxy.call("echo")
        begun = time.monotonic()
        futures = [proxy.submit("echo", number) for number in range(20)]
        blocking = proxy.submit("block", 2.0)
        assert [future.result(LIMIT) for future in futures] == list(range(20))
        assert time.monotonic() - begun < 1.5
        assert not blocking.done()
        proxy.kill()


def test_results_made_before_a_death_in_the_same_turn_are_given(template):
    proxy = template.run("run", backend="async", on_error=lambda error: None)
    futures = [proxy.submit("echo", value) for value in (1, "x", None, 2.5)] * 5
    dying = proxy.submit("die")
    behind = proxy.submit("echo", 1)

    assert [future.result(LIMIT) for future in futures] == [1, "x", None, 2.5] * 5
    assert dying.exception(LIMIT).started is True
    assert behind.exception(LIMIT).started is False
    assert proxy.join(LIMIT)


@pytest.mark.parametrize("seed", range(6))
def test_a_random_mix_settles_each_call_once(template, seed, tmp_path):
    chance = random.Random(seed)
    settled, told = [], Told()
    proxy = template.run(
        "run", backend="async", limit=chance.choice([None, 3, 50]), **told.options
    )
    calls = []
    for number in range(600):
        name, *args = chance.choice(
            [
                *(("echo", number), ("echo", "x" * 50), ("sleep", 0.002, number)),
                *(("raise_", "text"), ("events", "a"), ("cancel_itself",)),
                ("sleep", 1000),
            ]
        )
        future = proxy.submit(name, *args)
        future.add_done_callback(settled.append)
        calls.append((future, args))
        if args == [1000] or chance.random() < 0.1:
            victim = future if args == [1000] else chance.choice(calls)[0]
            victim.cancel()
    if seed % 2:
        proxy.submit("die")
    proxy.close()
    assert proxy.join(LIMIT)

    assert all(future.done() for future, _ in calls)
    assert len(settled) == len(calls) == len(set(settled))
    assert proxy.pending == 0
    if not seed % 2:
        assert proxy.returncode == 0
        assert told.all[-1] == ("destroy",)
        assert all(
            future.result() in (args[-1], "behind")
            for future, args in calls
            if not future.cancelled() and future.exception() is None
        )


DONE = """
import asyncio, os, time

async def answer():
    return os.getpid()

def done_plain():
    open("done", "x").close()

async def done_slowly():
    await asyncio.sleep(0.05)
    done_plain()

def done_raises():
    raise ValueError("in done")
"""


@pytest.mark.parametrize("done", ["done_plain", "done_slowly"])
def test_done_is_called_instead_of_leaving(tmp_path, done, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with (
        Forker().eval(DONE) as other,
        other.run("answer", backend="async", done=done) as proxy,
    ):
        proxy.call()
        assert not (tmp_path / "done").exists()

    assert proxy.returncode == 0
    assert (tmp_path / "done").exists()


def test_a_done_that_raises_ends_the_worker_with_status_1(tmp_path):
    with (tmp_path / "stderr").open("wb") as file, Forker().eval(DONE) as other:
        with other.run("answer", backend="async", done="done_raises", stderr=file) as p:
            p.call()
        assert p.returncode == 1
    assert "in done" in (tmp_path / "stderr").read_text()


PROGRAM = """
import os, signal, sys
from forkrpc import Forker

source = '''
import asyncio, atexit, os

def touch(name):
    open(os.path.join(args[0], name), "x").close()

async def f(seconds):
    if seconds:
        touch("begun")
        await asyncio.sleep(seconds)
        touch("finished")
    else:
        atexit.register(touch, "atexit")
    return os.getpid()

async def done():
    await asyncio.sleep(0.2)
    touch("done")
'''
proxy = Forker().eval(source, sys.argv[1]).run("f", backend="async", **{option})
print(proxy.call(0), flush=True)
if {seconds}:
    proxy.submit({seconds})
    while not os.path.exists(os.path.join(sys.argv[1], "begun")):
        pass
{end}
"""
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"


def orphan(folder, end, seconds=0, **option):
    """Run a program to its end; return the pid of its worker, once that is gone."""
    source = PROGRAM.format(option=option, seconds=seconds, end=end)
    done = run_program(source, str(folder), stderr=None)
    pid = int(done.stdout)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), LIMIT, "end of the worker")
    return {path.name for path in folder.iterdir()}


def test_an_idle_worker_whose_program_is_killed_leaves_in_order(tmp_path):
    assert orphan(tmp_path, KILLED) == {"atexit"}


def test_a_busy_worker_whose_program_is_killed_ends_at_once(tmp_path):
    assert orphan(tmp_path, KILLED, 5) == {"begun"}


def test_a_busy_worker_may_finish_when_the_program_is_killed(tmp_path):
    left = orphan(tmp_path, KILLED, 0.2, orphan="finish")

    assert left == {"atexit", "begun", "finished"}


@pytest.mark.parametrize("end", [KILLED, "sys.exit()"])
def test_done_goes_on_when_the_program_is_gone(tmp_path, end):
    assert orphan(tmp_path, end, done="done") == {"atexit", "done"}


# Loops, memory, time.


def test_uvloop_serves(template):
    pytest.importorskip("uvloop")
    with template.run(
        "run", backend="async", loop_factory="uvloop.new_event_loop"
    ) as proxy:
        assert proxy.call("loop_module").startswith("uvloop")
        futures = [proxy.submit("sleep", 10 * MS, n) for n in range(500)]
        assert [future.result(LIMIT) for future in futures] == list(range(500))
        big = proxy.call("echo", b"x" * 5_000_000)
        assert len(big) == 5_000_000


def test_loop_factory_makes_the_loop(template):
    with template.run(
        "run", backend="async", loop_factory=asyncio.SelectorEventLoop
    ) as proxy:
        assert proxy.call("loop_module") == "asyncio.unix_events"
    proxy = template.run(
        "run", backend="async", loop_factory="os.getcwd", on_error=lambda error: None
    )
    with pytest.raises(SetupError, match="loop_factory returned"):
        proxy.call("echo")


SLOW_PARENT = """
import asyncio, os, time

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

async def run(name, *args):
    return await globals()[name](*args)

async def watch(seconds):
    before = resident()
    worst = peak = ticks = 0
    end = time.monotonic() + seconds
    while (begun := time.monotonic()) < end:
        await asyncio.sleep(0.01)
        ticks += 1
        worst = max(worst, time.monotonic() - begun)
        peak = max(peak, resident())
    return ticks, worst, peak - before

async def large(awaits):
    if awaits:
        await asyncio.sleep(0)
    return os.urandom(100_000)
"""


@pytest.mark.parametrize("awaits", [False, True])
def test_timers_tick_and_memory_is_bounded_while_the_program_sleeps(awaits):
    with (
        Forker().eval(SLOW_PARENT) as other,
        other.run("run", backend="async") as proxy,
    ):
        proxy.call("large", awaits)
        watch = proxy.submit("watch", 1.0)
        asleep = threading.Event()

        def sleep():
            asleep.set()
            time.sleep(1.0)

        proxy._connection.program.reactor.soon(sleep)  # nobody else reads
        assert asleep.wait(LIMIT)
        answers = [proxy.submit("large", awaits) for _ in range(600)]  # 60 MB

        ticks, worst, growth = watch.result(LIMIT)
        assert ticks > 20
        assert worst < 0.5  # generous: the machine may be busy
        assert growth < 32 << 20
        assert all(len(answer.result(LIMIT)) == 100_000 for answer in answers)
