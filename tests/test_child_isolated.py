"""End-to-end: each call has a process of its own (`isolate=True`).

In three ways: set up once for all processes of a worker, set up by each of them, and
asynchronous.
"""

import array
import asyncio
import atexit
import contextlib
import faulthandler
import logging
import os
import random
import resource
import signal
import threading
import time

import pytest

from forkrpc import CallTimeout, ClosedError, SetupError, WorkerDied, event, retire
from helpers import process_alive, process_table, wait_until
from shared import shared_template

LIMIT = 20.0  # seconds; much more than it takes
DEADLY = [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM]
LINGERING = 4.0  # seconds for which a call leaves a thread behind
calls = 0


def do_nothing():
    """Set nothing up, which each process does then."""


def run(name, *args):
    return globals()[name](*args)


async def run_async(name, *args):
    return await asyncio.sleep(*args) if name == "sleep" else run(name, *args)


def count():
    global calls
    calls += 1
    return calls, os.getpid(), os.getppid()


def echo(value):
    return value


def tell(number):
    for each in range(number):
        event(each)
    return number


def die(how):
    if how == "segfault":
        faulthandler._sigsegv()
    if how == "exit":
        raise SystemExit(3)
    if how == "hard exit":
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


def ask_to_retire():
    retire()


def raise_error():
    raise ValueError("bad")


def leave_a_thread():
    threading.Thread(target=time.sleep, args=(LINGERING,)).start()
    return os.getpid()


def tell_later(path):
    def late():
        while not os.path.exists(path):
            time.sleep(0.01)
        try:
            event("late")
        except ClosedError as error:
            with open(path, "w") as file:
                file.write(str(error)[:20])

    threading.Thread(target=late).start()


def leave_badly():
    atexit.register(os._exit, 7)


def note_end(path):
    atexit.register(append, path)
    return os.getpid()


def append(path):
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")


def draw():
    return random.random()


def limits():
    return resource.getrlimit(resource.RLIMIT_CPU)


def fork_and_return():
    return os.fork() or "copy"


def say(text):
    print(text)
    logging.getLogger("isolated").warning("log of %s", text)


def made(number):
    yield from range(number)


def sleep(seconds):
    time.sleep(seconds)
    return seconds


@pytest.fixture(scope="module")
def template():
    with shared_template(__name__) as template:
        yield template


WAYS = {
    "once": {"function": f"{__name__}.run"},
    "each": {"function": f"{__name__}.run", "init": f"{__name__}.do_nothing"},
    "async": {"function": f"{__name__}.run_async", "backend": "async"},
}


@pytest.fixture(params=WAYS)
def make(request, template):
    """Return what makes a pool."""
    pools = []

    def make(**options):
        options = {"max": 1, **WAYS[request.param], **options}
        made = template.pool(options.pop("function"), isolate=True, **options)
        pools.append(made)
        return made

    yield make
    for each in pools:
        each.close()
        assert each.join(LIMIT)


def processes_of(pool):
    """Return the processes of its workers that execute calls."""
    keepers = pool.pids
    table = process_table()
    return [pid for pid, (_, parent, _) in table.items() if parent in keepers]


def test_calls_share_neither_a_process_nor_state(make):
    pool = make()

    found = [pool.call("count") for _ in range(10)]

    assert [calls for calls, _, _ in found] == [1] * 10
    assert len({pid for _, pid, _ in found}) == 10
    assert {keeper for _, _, keeper in found} == set(pool.pids)


@pytest.mark.parametrize("number", [1, 3])
def test_no_more_processes_are_kept_than_one_ahead(make, number):
    pool = make(max=number)
    for future in [pool.submit("count") for _ in range(20)]:
        future.result(LIMIT)

    wait_until(lambda: len(processes_of(pool)) == 2 * number, LIMIT)
    assert pool.stats()["workers"] == len(pool.pids) == number


def test_events_come_in_order_with_results(make):
    heard = []
    pool = make(on_event=heard.append)

    for number in range(5):
        assert pool.call("tell", number) == number
        assert pool.drain(LIMIT)
        assert heard == list(range(number))
        heard.clear()


def test_large_values_go_both_ways(make):
    value = array.array("d", range(1_000_000))

    pool = make()

    for _ in range(3):
        assert pool.call("echo", value) == value


def test_an_exception_fails_its_call_alone(make):
    pool = make()

    for _ in range(3):
        with pytest.raises(ValueError, match="bad"):
            pool.call("raise_error")
        assert pool.call("echo", 1) == 1


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("segfault", -signal.SIGSEGV),
        ("exit", 3),
        ("hard exit", 0),
        ("kill", -signal.SIGKILL),
    ],
)
def test_a_death_costs_the_call_that_ran(make, how, code):
    pool = make(on_error=lambda error: None, rlimits={"CORE": 0})
    assert pool.call("echo", 1) == 1

    bad = pool.submit("die", how)
    behind = [pool.submit("echo", number) for number in range(5)]

    error = bad.exception(LIMIT)
    assert isinstance(error, WorkerDied)
    assert (error.returncode, error.started) == (code, True)
    assert ("in die" in (error.stack or "")) is (how == "segfault")
    assert [each.result(LIMIT) for each in behind] == list(range(5))


def test_a_process_that_waits_for_a_call_may_be_killed(make):
    pool = make()
    for _ in range(5):
        two = wait_until(lambda: (pids := processes_of(pool))[1:] and pids, LIMIT)
        with contextlib.suppress(ProcessLookupError):  # of a worker that ended just now
            os.kill(random.choice(two), signal.SIGKILL)
        assert [pool.call("echo", number) for number in range(4)] == [0, 1, 2, 3]


def test_the_processes_of_a_killed_keeper_end(make):
    pool = make()
    pool.call("count")
    wait_until(lambda: len(processes_of(pool)) == 2, LIMIT)
    pids = processes_of(pool)

    os.kill(pool.pids[0], signal.SIGKILL)

    wait_until(lambda: not any(map(process_alive, pids)), LIMIT)
    assert pool.call("echo", 1) == 1


def test_a_call_that_runs_too_long_is_ended_with_its_process(make):
    pool = make(timeout=0.2, on_error=lambda error: None)

    with pytest.raises((CallTimeout, TimeoutError)):
        pool.call("sleep", 10 * LIMIT)
    assert pool.call("echo", 1) == 1


def test_a_call_can_be_ended_by_the_program(make):
    pool = make()
    future = pool.submit("sleep", 10 * LIMIT)
    wait_until(lambda: pool.stats()["running"], LIMIT)

    wait_until(lambda: pool.cancel(future, kill=True), LIMIT)

    assert pool.call("echo", 1) == 1


def test_retire_replaces_the_worker(make):
    pool = make(max=1)
    pool.call("count")
    (keeper,) = pool.pids

    pool.call("ask_to_retire")

    wait_until(lambda: pool.call("count")[2] != keeper, LIMIT)


def test_a_thread_that_a_call_leaves_behind_holds_up_none(make):
    pool = make()
    before = time.monotonic()

    pids = [pool.call("leave_a_thread") for _ in range(6)]

    assert time.monotonic() - before < LINGERING
    assert len(set(pids)) == 6


def test_such_a_thread_sends_no_event_among_those_of_others(make, tmp_path):
    path = tmp_path / "go"
    pool = make(on_event=print)

    pool.call("tell_later", str(path))
    assert pool.call("echo", 1) == 1  # so that the turn has been handed on
    path.touch()

    wait_until(lambda: path.read_text() == "forkrpc.event() work", LIMIT)
    assert pool.call("echo", 1) == 1


def test_who_ends_badly_behind_its_answer_is_told_of(make, capfd):
    pool = make()

    for _ in range(3):
        pool.call("leave_badly")

    name = pool._connection.session.name
    line = f"forkrpc: {name} exited with 7 behind its answer\n"
    heard = []
    wait_until(lambda: heard.append(capfd.readouterr().err) or line in heard[-1], LIMIT)


def test_handlers_of_the_end_are_called_in_each_process(make, tmp_path):
    path = tmp_path / "ends"
    pool = make()

    pids = [str(pool.call("note_end", str(path))) for _ in range(5)]

    wait_until(lambda: len(path.read_text().split()) == 5, LIMIT)
    assert sorted(path.read_text().split()) == sorted(pids)


def test_random_numbers_differ(make):
    pool = make()

    assert len({pool.call("draw") for _ in range(10)}) == 10


def test_limits_are_those_of_each_process(make):
    pool = make(rlimits={"CPU": (100, 200)})

    assert [tuple(pool.call("limits")) for _ in range(2)] == [(100, 200)] * 2


def test_a_copy_that_a_call_forks_answers_nothing(make):
    pool = make()

    for _ in range(3):
        assert isinstance(pool.call("fork_and_return"), int)


def test_output_and_logs_are_shown(make, capfd, caplog):
    pool = make(stdout="forward", logs=True)

    for number in range(3):
        pool.call("say", f"call {number}")
    assert pool.drain(LIMIT)

    assert capfd.readouterr().out == "call 0\ncall 1\ncall 2\n"
    assert [each.getMessage() for each in caplog.records] == [
        f"log of call {number}" for number in range(3)
    ]


def test_classes_that_go_by_value_are_known_to_each_process(make):
    class Value:
        def __init__(self, number):
            self.number = number

    pool = make()

    assert [pool.call("echo", Value(each)).number for each in range(5)] == [*range(5)]


def test_maps(make):
    pool = make(max=2)

    assert list(pool.starmap([("echo", number) for number in range(20)])) == [
        *range(20)
    ]


def test_closing_and_killing_leave_nothing(make):
    for end in "close", "kill":
        pool = make(max=2)
        pool.call("count")
        pids = [*processes_of(pool), *pool.pids]

        getattr(pool, end)()

        assert pool.join(LIMIT)
        wait_until(lambda pids=pids: not any(map(process_alive, pids)), LIMIT)


@pytest.mark.parametrize("function", ["made"])
@pytest.mark.parametrize("size", [0, 5, 1000])
def test_streams(template, function, size):
    with template.pool(f"{__name__}.{function}", max=1, isolate=True) as pool:
        for _ in range(5):
            assert list(pool.stream(size)) == list(range(size))
            items = pool.stream(10**9)
            assert [next(items) for _ in range(3)] == [0, 1, 2]
            items.close()


# What each process sets up.


class Counter:
    def __init__(self, path):
        append(path)
        atexit.register(append, path)
        self.count = 0

    def __call__(self):
        self.count += 1
        return self.count, os.getpid()


def test_an_instance_is_made_in_each_process_and_ends_there(template, tmp_path):
    path = str(tmp_path / "made")
    with template.fork().send_arg(path).pool(Counter, max=1, isolate=True) as pool:
        found = [pool.call() for _ in range(5)]

    assert {count for count, _ in found} == {1}
    lines = (tmp_path / "made").read_text().split()
    assert {str(pid) for _, pid in found} <= set(lines)
    assert {lines.count(each) for each in lines} == {2}  # also who got no call


def test_a_process_is_set_up_ahead_of_its_call(template, tmp_path):
    path = str(tmp_path / "made")
    made = template.fork().send_arg(path)
    with made.pool(Counter, max=1, isolate=True):
        wait_until(lambda: len(lines_of(path)) == 2, LIMIT)


def lines_of(path):
    try:
        with open(path) as file:
            return file.read().split()
    except FileNotFoundError:
        return []


class Doomed:
    """Fails as it is told to by a file, once that is there."""

    def __init__(self, path):
        how = lines_of(path)
        if how == ["raise"]:
            raise RuntimeError("not any more")
        if how:
            die(how[0])

    def __call__(self, value):
        return value


@pytest.mark.parametrize(
    ("how", "error"),
    [("raise", SetupError), ("exit", WorkerDied), ("kill", WorkerDied)],
)
def test_who_cannot_be_set_up_costs_no_call_that_runs(template, tmp_path, how, error):
    path = tmp_path / "how"
    errors = []
    made = template.fork().send_arg(str(path))
    with made.pool(Doomed, max=1, isolate=True, on_error=errors.append) as pool:
        assert [pool.call(number) for number in range(5)] == [0, 1, 2, 3, 4]
        path.write_text(how)
        results = []
        with pytest.raises(error):  # noqa: PT012
            for number in range(100):
                results.append(pool.call(number))
        assert results == list(range(len(results)))
        path.unlink()

        def works():
            try:
                return pool.call(1) == 1
            except (SetupError, WorkerDied):
                return False

        wait_until(works, LIMIT)


def test_calls_wait_for_who_is_set_up_not_behind_who_is_not(template):
    seconds = 0.5
    made = template.fork().send_arg(seconds)
    with made.pool(Slow, max=3, isolate=True) as pool:
        wait_until(lambda: pool.stats()["idle"] == 3, LIMIT)
        time.sleep(2 * seconds)  # so that those ahead are set up as well
        before = time.monotonic()
        for number in range(6):
            assert pool.call(number) == number
        assert time.monotonic() - before < seconds


class Slow:
    def __init__(self, seconds):
        time.sleep(seconds)

    def __call__(self, value):
        return value


@pytest.mark.parametrize("seconds", [2, pytest.param(100, marks=pytest.mark.slow)])
def test_nothing_is_lost_while_processes_are_killed(make, seconds):
    """Workers and their processes, whatever they do, but not all before an answer."""
    pool = make(max=3, on_error=lambda error: None, rlimits={"CORE": 0})
    stopped, answers, wrong = threading.Event(), [], []

    def load():
        while not stopped.is_set():
            futures = {number: pool.submit("echo", number) for number in range(20)}
            for number, future in futures.items():
                try:
                    answers.append(future.result(LIMIT) == number)
                except WorkerDied as error:
                    if error.started is not True:
                        wrong.append(error)
                except Exception as error:
                    wrong.append(error)

    threads = [threading.Thread(target=load) for _ in range(2)]
    for each in threads:
        each.start()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        seen = len(answers)
        wait_until(lambda seen=seen: len(answers) > seen + 10, LIMIT)
        found = [*processes_of(pool), *pool.pids]
        with contextlib.suppress(ProcessLookupError, IndexError):
            os.kill(random.choice(found), random.choice(DEADLY))
    stopped.set()
    for each in threads:
        each.join(2 * LIMIT)

    assert wrong == []
    assert all(answers)
    assert len(answers) > 20 * seconds
    wait_until(lambda: pool.stats()["idle"] == 3, LIMIT)


def test_kill_of_a_worker_alone_ends_it(make):
    pool = make()
    pool.call("count")
    (keeper,) = pool.pids

    os.kill(keeper, signal.SIGTERM)

    wait_until(lambda: not process_alive(keeper), LIMIT)
    assert pool.call("echo", 1) == 1
