"""End-to-end: calls that asyncio programs wait for, in one loop and in several."""

import asyncio
import gc
import importlib.util
import os
import threading

import pytest

from forkrpc import CallTimeout, ClosedError, Forker, SerialiserError, WorkerDied
from forkrpc import loops as loops_module
from forkrpc.gate import Gate
from forkrpc.loops import Home, Loops, Waiter, opened, running_loop
from helpers import MS, open_descriptors, run_program, wait_until
from interrupts import Interrupt, interrupt_everywhere

LIMIT = 10.0  # seconds; much more than it takes

WORK = """
import os, signal, sys, threading, time
from forkrpc import event, flush

def echo(value=None, **kwargs):
    return kwargs or value

def fail(kind, *args):
    raise kind(*args)

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.005)
    return path

def note(path):
    with open(path, "a") as file:
        file.write("x")

def say(count):
    for number in range(count):
        event(number)
    return count

def apply(function, *args):
    return globals()[function](*args)
"""


@pytest.fixture(scope="module", autouse=True)
def _settled_uvloop():
    """The first loop of uvloop opens a pipe for the life of the program."""
    if importlib.util.find_spec("uvloop") is not None:
        import uvloop

        uvloop.new_event_loop().close()


@pytest.fixture(scope="module")
def template():
    with Forker(name="loops") as template:
        yield template.eval(WORK).ready()


@pytest.fixture
def proxy(template):
    with template.run("apply", on_error=lambda error: None) as proxy:
        yield proxy


class SilentLoop(asyncio.SelectorEventLoop):
    """A loop that can watch nothing, as those of some frameworks."""

    def add_reader(self, fd, callback, *args):
        raise NotImplementedError


def uvloop_loop():
    return pytest.importorskip("uvloop").new_event_loop()


every_loop = pytest.mark.parametrize(
    "make", [asyncio.SelectorEventLoop, SilentLoop, uvloop_loop]
)


def run(coroutine, make=asyncio.SelectorEventLoop):
    """As `asyncio.run`, in a loop of that kind, with a limit."""
    try:
        loop = make()
    except BaseException:  # skipped
        coroutine.close()
        raise
    try:
        return loop.run_until_complete(asyncio.wait_for(coroutine, LIMIT))
    finally:
        loop.close()


@every_loop
def test_a_call_is_awaited(proxy, make):
    async def main():
        assert await proxy.acall("echo", "word") == "word"
        assert await proxy.acall("echo", [b"x" * 1_000_000]) == [b"x" * 1_000_000]
        return [await proxy.acall("echo", number) for number in range(100)]

    assert run(main(), make) == list(range(100))


@every_loop
def test_many_calls_at_once_are_awaited(proxy, make):
    async def main():
        calls = (proxy.acall("echo", number) for number in range(3000))
        return await asyncio.gather(*calls)

    assert run(main(), make) == list(range(3000))


def test_keyword_arguments_go_to_the_function_whatever_their_names(template):
    names = ["self", "args", "kwargs", "home", "timeout"]
    keywords = dict(zip(names, range(5), strict=True))

    with template.run("echo") as proxy:
        assert run(proxy.acall(**keywords)) == keywords


@pytest.mark.parametrize("kind", [ValueError, KeyError, StopAsyncIteration])
def test_a_function_that_raises_raises_where_it_is_awaited(proxy, kind):
    with pytest.raises(kind, match="why"):
        run(proxy.acall("fail", kind, "why"))

    assert proxy.call("echo", 1) == 1


def test_a_stop_iteration_arrives_as_any_coroutine_tells_it(proxy):
    with pytest.raises(RuntimeError) as info:
        run(proxy.acall("fail", StopIteration, 7))

    assert isinstance(info.value.__cause__, StopIteration)


def test_an_argument_that_cannot_be_sent_is_refused_and_shifts_nothing(proxy):
    async def main():
        with pytest.raises(SerialiserError):
            await proxy.acall("echo", threading.Lock())
        return await proxy.acall("echo", 1)

    assert run(main()) == 1


def test_the_loop_reads_by_itself(template):
    """Neither the reactor nor anyone else tells it across threads."""
    loop = asyncio.SelectorEventLoop()
    told = []
    telling = loop.call_soon_threadsafe

    def tell(function, *args):
        told.append(function.__name__)
        return telling(function, *args)

    async def main(proxy):
        for number in range(200):
            assert await proxy.acall(number) == number

    with template.run("echo") as proxy:
        loop.run_until_complete(main(proxy))
        before = len(told)
        loop.call_soon_threadsafe = tell
        loop.run_until_complete(main(proxy))
    loop.close()
    del loop.call_soon_threadsafe  # no cycle

    assert before == 0
    assert len(told) < 20  # of 200: those that another thread happened to read


def test_a_call_leaves_before_the_loop_goes_on(template, tmp_path):
    async def main(proxy):
        task = asyncio.ensure_future(proxy.acall(str(tmp_path / "noted")))
        await asyncio.sleep(0)
        # The loop does nothing for a while: the worker has the call nevertheless.
        wait_until((tmp_path / "noted").exists, LIMIT)
        await task

    with template.run("note") as proxy:
        run(main(proxy))


def test_a_loop_that_is_blocked_holds_up_no_other_thread(proxy):
    results = []

    async def main():
        await proxy.acall("echo", 0)
        thread = threading.Thread(target=ask, args=(results,))
        thread.start()
        thread.join(LIMIT)  # blocks the loop, which is on duty
        return await proxy.acall("echo", 3)

    def ask(results):
        for number in range(5):
            results.append(proxy.submit("echo", number).result(LIMIT))
            results.append(proxy.call("echo", number))

    assert run(main()) == 3
    assert results == [number for number in range(5) for _ in "12"]


def test_threads_and_loops_call_at_the_same_time(proxy):
    def in_thread(results):
        results += [proxy.call("echo", number) for number in range(300)]

    def in_loop(results):
        async def main():
            for number in range(300):
                results.append(await proxy.acall("echo", number))

        run(main())

    def by_future(results):
        futures = [proxy.submit("echo", number) for number in range(300)]
        results += [future.result(LIMIT) for future in futures]

    kinds = [in_thread, in_thread, in_loop, in_loop, in_loop, by_future]
    found = [[] for _ in kinds]
    threads = [
        threading.Thread(target=kind, args=(results,))
        for kind, results in zip(kinds, found, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4 * LIMIT)

    assert found == [list(range(300))] * len(kinds)


def test_a_loop_may_stop_and_run_again_while_a_call_is_under_way(proxy, tmp_path):
    loop = asyncio.SelectorEventLoop()
    path = str(tmp_path / "go")
    task = loop.create_task(proxy.acall("wait_for", path))
    loop.run_until_complete(asyncio.sleep(0))

    (tmp_path / "go").touch()
    behind = proxy.call("echo", "behind")  # while the loop stands still
    result = loop.run_until_complete(asyncio.wait_for(task, LIMIT))
    loop.close()

    assert (behind, result) == ("behind", path)


def test_a_loop_that_is_closed_while_a_call_is_under_way_harms_nobody(proxy, tmp_path):
    loop = asyncio.SelectorEventLoop()
    task = loop.create_task(proxy.acall("wait_for", str(tmp_path / "go")))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    task._log_destroy_pending = False
    future = proxy.submit("echo", 1)

    (tmp_path / "go").touch()

    assert future.result(LIMIT) == 1
    assert proxy.call("echo", 2) == 2
    assert run(proxy.acall("echo", 3)) == 3


def test_many_loops_one_after_the_other_leave_nothing(proxy):
    run(proxy.acall("echo", 1))
    before = len(open_descriptors())

    for number in range(20):
        assert run(proxy.acall("echo", number)) == number

    gc.collect()
    assert len(open_descriptors()) <= before


def test_events_are_read_when_no_loop_waits_any_more(template):
    events = []
    loop = asyncio.SelectorEventLoop()
    source = "import threading\ndef later(): threading.Timer(0.3, event, (1,)).start()"
    later = template.fork().eval(source)

    with later.run("later", on_event=events.append) as proxy:
        loop.run_until_complete(proxy.acall())  # and the loop runs no more
        wait_until(lambda: events, LIMIT)
    loop.close()

    assert events == [1]


def test_events_are_read_when_the_thread_that_led_waits_no_more(template):
    events = []
    source = "import threading, time\n\ndef later():\n"
    source += "    threading.Timer(0.3, event, (1,)).start()\n    time.sleep(0.1)"
    later = template.fork().eval(source)

    with later.run("later", on_event=events.append) as proxy:
        proxy.call()
        wait_until(lambda: events, LIMIT)

    assert events == [1]


@every_loop
def test_a_death_fails_the_calls_at_once(template, make):
    async def main(proxy):
        calls = [proxy.acall("die"), proxy.acall("echo", 1)]
        return await asyncio.gather(*calls, return_exceptions=True)

    errors = []
    with template.run("apply", on_error=errors.append) as proxy:
        died, behind = run(main(proxy), make)
        proxy.join(LIMIT)

    assert [type(died), type(behind)] == [WorkerDied, WorkerDied]
    assert (died.signal, died.started, behind.started) == ("SIGKILL", True, False)
    assert died.call == "call 1 of apply"
    assert len(errors) == 1


def test_a_worker_may_end_between_a_call_and_the_wait_for_it(template):
    async def main(proxy):
        connection = proxy._connection
        home = connection.home("acall()")
        call = loops_module.LoopCall(home, connection)
        connection.submit_for(("die",), {}, call)
        assert await asyncio.to_thread(proxy.join, LIMIT)
        home.began(call)
        return await call.outcome()

    with template.run("apply", on_error=lambda error: None) as proxy:
        assert isinstance(run(main(proxy)).error, WorkerDied)


def test_a_dead_worker_is_told_at_once(template):
    with template.run("apply", on_error=lambda error: None) as proxy:
        with pytest.raises(WorkerDied):
            run(proxy.acall("die"))
        proxy.join(LIMIT)

        with pytest.raises(WorkerDied):
            run(proxy.acall("echo", 1))


def test_a_closed_proxy_takes_no_calls(template):
    proxy = template.run("echo")
    proxy.close()

    with pytest.raises(ClosedError, match="was closed"):
        run(proxy.acall(1))

    proxy.join(LIMIT)


def test_kill_fails_the_calls(template, tmp_path):
    async def main(proxy):
        task = asyncio.ensure_future(proxy.acall("wait_for", str(tmp_path / "never")))
        await asyncio.sleep(0)
        proxy.kill()
        await task

    with template.run("apply") as proxy, pytest.raises(WorkerDied):
        run(main(proxy))


def test_a_time_limit_fails_the_call(template, tmp_path):
    options = {"timeout": 100 * MS, "on_error": lambda error: None}
    with template.run("wait_for", **options) as proxy, pytest.raises(CallTimeout):
        run(proxy.acall(str(tmp_path / "never")))


def test_a_cancelled_call_that_has_not_left_is_withdrawn(template, tmp_path):
    """The worker is busy, and its socket takes no more than the first few."""

    async def main(proxy):
        go, noted = tmp_path / "go", tmp_path / "noted"
        ahead = [
            asyncio.ensure_future(each)
            for each in [
                proxy.acall("wait_for", str(go)),
                *(proxy.acall("echo", b"x" * 4_000_000) for _ in range(3)),
            ]
        ]
        calls = [proxy.acall("note", str(noted)) for _ in range(20)]
        tasks = list(map(asyncio.ensure_future, calls))
        await asyncio.sleep(20 * MS)
        before = proxy.pending
        for task in tasks[::2]:
            task.cancel()
        await asyncio.sleep(0)
        after = proxy.pending
        go.touch()
        await asyncio.gather(*ahead)
        found = await asyncio.gather(*tasks, return_exceptions=True)
        return before, after, list(map(type, found)), noted.read_text()

    with template.run("apply") as proxy:
        before, after, kinds, noted = run(main(proxy))

    assert (before, after) == (24, 14)
    assert kinds == [asyncio.CancelledError, type(None)] * 10
    assert noted == 10 * "x"


def test_a_cancelled_call_that_runs_has_its_result_dropped(proxy, tmp_path):
    async def main():
        path = str(tmp_path / "go")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(proxy.acall("wait_for", path), 50 * MS)
        (tmp_path / "go").touch()
        return await proxy.acall("echo", 1)

    assert run(main()) == 1
    assert proxy.pending == 0


@every_loop
def test_calls_of_an_asynchronous_worker_overlap(template, make):
    source = """
import asyncio
waiting = []

async def meet(number):
    waiting.append(asyncio.Event())
    if len(waiting) == 100:
        for event in waiting:
            event.set()
    await waiting[number].wait()
    return number
"""

    async def main(proxy):
        return await asyncio.gather(*map(proxy.acall, range(100)))

    with template.fork().eval(source).run("meet", backend="async") as proxy:
        assert run(main(proxy), make) == list(range(100))


def test_cancelling_the_task_cancels_the_task_of_an_asynchronous_worker(template):
    source = """
import asyncio
ended = []

async def work(verb):
    if verb == "ended":
        return ended
    event("began")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        ended.append("cancelled")
        raise
"""

    async def main():
        loop, began = asyncio.get_running_loop(), asyncio.Event()
        async with (
            template.fork()
            .eval(source)
            .run(
                "work", backend="async", loop=loop, on_event=lambda _: began.set()
            ) as proxy
        ):
            task = asyncio.ensure_future(proxy.acall("wait"))
            await began.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while not (ended := await proxy.acall("ended")):
                pass  # its task has its turn soon
            return ended

    assert run(main()) == ["cancelled"]


def test_a_coroutine_that_is_closed_gives_its_call_up(proxy):
    async def main():
        coroutine = proxy.acall("echo", 1)
        coroutine.send(None)
        coroutine.close()
        return await proxy.acall("echo", 2)

    assert run(main()) == 2


def test_without_a_loop_acall_says_what_to_use(proxy):
    coroutine = proxy.acall("echo", 1)

    with pytest.raises(RuntimeError, match=r"acall\(\) waits .* use call\(\)"):
        coroutine.send(None)


def test_in_the_callback_thread_acall_is_refused(proxy):
    errors = []

    def callback(_result):
        try:
            asyncio.run(proxy.acall("echo", 2))
        except RuntimeError as error:
            errors.append(str(error))

    proxy("echo", 1, callback)
    wait_until(lambda: errors, LIMIT)

    assert "acall() would wait for ever in the thread that runs callbacks" in errors[0]


def test_in_the_loop_of_the_callbacks_calls_may_be_awaited(template):
    async def main():
        loop = asyncio.get_running_loop()
        events, threads = [], set()

        def on_event(*args):
            events.append(args)
            threads.add(threading.get_ident())

        async with template.run("say", loop=loop, on_event=on_event) as proxy:
            assert await proxy.acall(500) == 500
        return events, threads

    events, threads = run(main())

    assert events == [(number,) for number in range(500)]
    assert threads == {threading.get_ident()}


def test_a_flood_of_results_leaves_the_loop_time_for_others(template):
    """Between two turns of a bystander only so many callbacks and results come."""

    async def main(proxy):
        turns, done = 0, False

        async def bystand():
            nonlocal turns
            while not done:
                turns += 1
                await asyncio.sleep(0)

        bystander = asyncio.ensure_future(bystand())
        calls = [proxy.acall(number) for number in range(5000)]
        results = await asyncio.gather(*calls)
        done = True
        await bystander
        return results, turns

    with template.run("echo") as proxy:
        results, turns = run(main(proxy))

    assert results == list(range(5000))
    # Some come while the tasks begin, all of them in one turn of the loop.
    assert turns >= 5000 / loops_module.MOST / 4


def test_callbacks_in_a_loop_leave_it_time_for_others(template):
    async def main():
        loop = asyncio.get_running_loop()
        seen, longest, last = 0, 0, 0

        def on_event(number):
            nonlocal seen
            seen += 1

        async with template.run("say", loop=loop, on_event=on_event) as proxy:
            task = asyncio.ensure_future(proxy.acall(20_000))
            while not task.done() or seen < 20_000:
                longest, last = max(longest, seen - last), seen
                await asyncio.sleep(0)
        return longest

    # Twice: another thread may ask for a turn while the loop does.
    assert run(main()) <= 2 * loops_module.MOST


@every_loop
def test_async_with_closes_and_joins_without_blocking_the_loop(
    template, tmp_path, make
):
    async def main():
        proxy = template.run("wait_for")
        async with proxy as same:
            assert same is proxy
            future = proxy.submit(str(tmp_path / "go"))
            asyncio.get_running_loop().call_later(20 * MS, (tmp_path / "go").touch)
        assert future.done()
        assert proxy.returncode == 0
        async with template.run("echo") as ended:
            ended.close()
            ended.call if ended.join(0) else None
        return repr(proxy)

    assert "ended, returncode 0" in run(main(), make)


def test_async_with_lets_exceptions_through(template):
    async def main():
        async with template.run("echo"):
            raise KeyError("why")

    with pytest.raises(KeyError):
        run(main())


def test_async_with_without_a_loop_says_what_to_use(template):
    refused = pytest.raises(RuntimeError, match="elsewhere use")

    with template.run("echo") as proxy, refused:
        proxy.__aexit__(None, None, None).send(None)


def test_in_a_forked_copy_of_the_program_calls_are_refused(proxy):
    async def main():
        await proxy.acall("echo", 1)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                await proxy.acall("echo", 2)
            except ClosedError:
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        return await proxy.acall("echo", 3)

    assert run(main()) == 3


def test_an_interrupt_of_the_loop_loses_no_outcome():
    """A Ctrl-C ends `run_until_complete` in 3.10's way; then the loop runs again."""
    program = run_program(
        """
        import asyncio, os, signal, threading
        from forkrpc import Forker

        proxy = Forker().run("time.sleep")
        loop = asyncio.new_event_loop()
        task = loop.create_task(proxy.acall(0.3))
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            loop.run_until_complete(task)
        except KeyboardInterrupt:
            print("interrupted", task.done())
        print(loop.run_until_complete(asyncio.wait_for(task, 10)))
        proxy.close()
        proxy.join()
        loop.close()
        """
    )

    assert program.stdout.splitlines() == ["interrupted False", "None"]
    assert program.stderr == ""


def test_ctrl_c_of_an_asyncio_program_ends_it_in_time():
    program = run_program(
        """
        import asyncio, os, signal, threading
        from forkrpc import Forker

        async def main():
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            async with Forker().run("time.sleep") as proxy:
                await proxy.acall(0.2)
                await proxy.acall(0.2)

        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            print("interrupted")
        """
    )

    assert program.stdout == "interrupted\n"
    assert "Traceback" not in program.stderr


def test_the_library_imports_no_asyncio():
    program = run_program(
        """
        import sys
        from forkrpc import Forker

        async def call(proxy):
            return await proxy.acall(1)

        with Forker().run("operator.neg") as proxy:
            print(proxy.call(1))
            try:
                call(proxy).send(None)
            except RuntimeError as error:
                print("refused")
        print("asyncio" in sys.modules)
        """
    )

    assert program.stdout.split() == ["-1", "refused", "False"]


# What an interrupt may leave behind: units with a loop and no worker.


class Noted(Waiter):
    """A waiter that keeps what it is told."""

    def __init__(self, home):
        super().__init__(home)
        self.told = []

    def arrive(self, outcome):
        if outcome not in self.told:
            self.told.append(outcome)


@pytest.fixture
def loop():
    loop = asyncio.SelectorEventLoop()
    yield loop
    loop.close()


def test_an_outcome_told_in_another_thread_arrives_in_the_loop(loop):
    waiter = Noted(Home(loop, None))

    thread = threading.Thread(target=waiter.settle, args=(1,))
    thread.start()
    thread.join(LIMIT)

    assert waiter.told == []
    loop.run_until_complete(asyncio.sleep(0))
    assert waiter.told == [1]


def test_outcomes_arrive_some_at_a_turn_and_in_order(loop):
    waiter = Noted(Home(loop, None))
    count = 3 * loops_module.MOST

    waiter.inbox.extend((waiter, number) for number in range(count))
    waiter.home.work()

    assert waiter.told == list(range(loops_module.MOST))
    while waiter.inbox:
        loop.run_until_complete(asyncio.sleep(0))
    assert waiter.told == list(range(count))


def test_interrupts_anywhere_lose_no_outcome(loop):
    def attempt(interrupted):
        loops = Loops()
        home = loops.home(loop, None)
        waiter = Noted(home)
        waiter.inbox.extend((waiter, number) for number in range(3))
        with interrupted as raised:
            try:
                home.tell()
                loop._run_once()
            except Interrupt:
                pass
        for _ in range(20):
            loops.tick()
            loop.run_until_complete(asyncio.sleep(0))
        assert waiter.told == [0, 1, 2]
        assert not home.inbox
        return raised

    assert interrupt_everywhere(attempt, loops_module) > 20


def test_a_loop_that_was_closed_is_forgotten(loop):
    loops = Loops()
    waiter = Noted(loops.home(loop, None))
    loop.close()

    waiter.inbox.append((waiter, 1))
    loops.tell()

    assert loops.homes == {}
    assert waiter.told == []
    assert loops.tick() is False


def test_a_gate_is_awaited(loop):
    gate = Gate()
    loop.call_later(10 * MS, threading.Thread(target=gate.open).start)

    loop.run_until_complete(asyncio.wait_for(opened(gate, loop), LIMIT))
    loop.run_until_complete(asyncio.wait_for(opened(gate, loop), LIMIT))

    assert gate.is_open()


def test_a_gate_opens_although_a_loop_that_waited_was_closed(loop):
    gate = Gate()
    task = loop.create_task(opened(gate, loop))
    loop.run_until_complete(asyncio.sleep(0))
    task._log_destroy_pending = False
    loop.close()

    gate.open()

    assert gate.is_open()


def test_the_running_loop_is_that_of_the_thread(loop):
    async def main():
        return running_loop()

    assert running_loop() is None
    assert loop.run_until_complete(main()) is loop
