"""End-to-end: workers of a pool that start, die and end (also: see test_pool)."""

import asyncio
import logging
import os
import signal
import time
from _queue import SimpleQueue
from functools import partial

import pytest

import faulty
from forkrpc import CallTimeout, ClosedError, Forker, SetupError, WorkerDied, crew
from forkrpc.scheduling import HOPELESS
from helpers import run_program, wait_until

LIMIT = 20.0  # seconds; much more than it takes


def pid(_=None):
    return os.getpid()


@pytest.fixture(scope="module")
def template():
    with Forker(name="test_crew").require(__name__) as template:
        template.ready(LIMIT)
        yield template


def test_the_death_of_an_idle_worker_is_logged(template, caplog):
    with template.pool(pid, max=1) as pool:
        os.kill(pool.call(), signal.SIGKILL)
        wait_until(lambda: not pool.pids, LIMIT)
        wait_until(lambda: caplog.records, LIMIT)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "was ended by SIGKILL" in record.getMessage()


def test_no_descriptors_are_left_for_a_worker():
    source = """
    import os, resource, time
    from forkrpc import Forker, SetupError

    pool = Forker().pool(abs, max=1, idle=0, stop=0, on_error=lambda error: None)
    assert pool.call(-1) == 1
    while pool.pids:
        time.sleep(0.01)
    used = len(os.listdir("/proc/self/fd")) - 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, 1000))
    try:
        pool.submit(-2).result(20)
    except SetupError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 1000))
    while True:
        try:
            print(pool.call(-3))
            break
        except SetupError:  # until it is tried again
            time.sleep(0.01)
    """
    printed = run_program(source).stdout
    assert "RLIMIT_NOFILE" in printed
    assert printed.endswith("3\n")


def test_the_end_of_the_program_finishes_what_there_is():
    source = """
    import time
    from forkrpc import Forker

    def work(number):
        time.sleep(0.01)
        return number

    pool = Forker().pool(work, max=2, start=0)
    for number in range(20):
        pool(number, print)
    """
    printed = run_program(source).stdout.split()
    assert sorted(map(int, printed)) == list(range(20))


def test_the_end_of_the_program_does_not_wait_for_ever():
    source = """
    import forkrpc, time
    from forkrpc import Forker

    forkrpc.exit_grace = 0.2
    pool = Forker().pool(time.sleep, max=1)
    future = pool.submit(600)
    """
    assert "1 calls were not finished" in run_program(source).stderr


def test_a_pool_may_have_a_grace_of_its_own():
    source = """
    import forkrpc, time
    from forkrpc import Forker

    forkrpc.exit_grace = {}
    pool = Forker().pool(time.sleep, max=1, exit_grace={})
    future = pool.submit({})
    future.add_done_callback(lambda future: print(future.exception()))
    """
    impatient = run_program(source.format(600, 0.1, 600))
    assert "1 calls were not finished" in impatient.stderr
    patient = run_program(source.format(0, 600, 0.5))
    assert (patient.stdout, patient.stderr) == ("None\n", "")


def test_a_pool_is_inert_in_a_forked_copy_of_the_program():
    source = """
    import os, warnings
    from forkrpc import ClosedError, Forker

    warnings.simplefilter("ignore")  # of a fork while threads run
    pool = Forker().pool(pow, max=1)
    print(pool.call(2, 3), flush=True)
    if not os.fork():
        pool.close()
        pool.kill()
        assert pool.join(0)
        try:
            pool.call(2, 3)
        except ClosedError:
            print("closed", flush=True)
        os._exit(0)
    os.wait()
    print(pool.call(2, 4))
    """
    done = run_program(source)

    assert (done.stdout.split(), done.stderr) == (["8", "closed", "16"], "")


def test_a_template_that_has_ended_fails_the_calls(template):
    errors = []
    pool = template.fork().pool(pid, max=1, on_error=errors.append)
    pool.call()
    os.kill(pool._connection._link.pid(), signal.SIGKILL)
    os.kill(*pool.pids, signal.SIGKILL)
    wait_until(lambda: not pool.pids, LIMIT)
    with pytest.raises(SetupError, match="the template has ended|before this step"):
        pool.submit().result(LIMIT)
    pool.close()
    assert pool.join(LIMIT)


def test_it_rests_while_its_last_call_runs(template, tmp_path, monkeypatch):
    """Neither does it start an idle worker, nor look all the time whether it shall."""
    path = str(tmp_path / "gate")
    os.mkfifo(path)
    pool = template.pool("faulty.gate", max=2, idle=1, start=0.01)
    future = pool.submit(path)
    pool.close()
    looks = []
    look = pool._connection.scheduler.look_again
    monkeypatch.setattr(
        pool._connection.scheduler,
        "look_again",
        lambda now: looks.append(now) or look(now),
    )
    time.sleep(0.1)  # longer than `start`
    assert template.run(pid).call()  # the one thread that reads is not busy
    assert len(looks) < 100
    with open(path, "wb"):
        pass
    assert future.result(LIMIT) == "through"
    assert pool.join(LIMIT)


def note_and_hang(path):
    faulty.append(path, "begun")
    faulty.do("hang")


def test_a_call_that_was_cancelled_with_its_worker_is_not_made_again(
    template, tmp_path
):
    path = tmp_path / "begun"
    with template.pool(note_and_hang, max=1, retries=5) as pool:
        future = pool.submit(str(path))
        wait_until(path.exists, LIMIT)
        assert pool.cancel(future, kill=True)
        assert future.cancelled()
        wait_until(lambda: pool.pending == 0, LIMIT)
    assert path.read_text() == "begun\n"


async def block(path):
    faulty.touch_and_hang(path)


def test_a_cancelled_call_of_an_asynchronous_worker_goes_to_no_other(tmp_path):
    first, second = str(tmp_path / "1"), str(tmp_path / "2")
    options = {"max": 1, "load": 10, "backend": "async", "on_error": lambda _: None}
    with (
        Forker().require(__name__) as template,
        template.pool(block, **options) as pool,
    ):
        blocked = pool.submit(first)
        wait_until(lambda: os.path.exists(first), LIMIT)
        behind = pool.submit(second)  # sent, and does not begin
        wait_until(behind.running, LIMIT)
        assert behind.cancel()
        os.kill(*pool.pids, signal.SIGKILL)
        assert isinstance(blocked.exception(LIMIT), WorkerDied)
        wait_until(lambda: pool.pending == 0, LIMIT)
    assert not os.path.exists(second)


def test_on_destroy_comes_behind_the_error_of_the_last_worker(template):
    order = []
    pool = template.pool(
        "faulty.do",
        max=1,
        on_error=lambda error: order.append(type(error)),
        on_destroy=lambda: order.append("end"),
    )
    pool("hard-exit", None)
    pool.close()
    assert pool.join(LIMIT)
    assert order == [WorkerDied, "end"]


def test_on_destroy_comes_behind_all_callbacks_in_a_loop(template):
    async def main():
        order, ended = [], asyncio.Event()

        def on_destroy():
            order.append("end")
            ended.set()

        loop = asyncio.get_running_loop()
        pool = template.pool(abs, max=2, loop=loop, on_destroy=on_destroy)
        for number in range(1000):
            pool(number, order.append)
        pool.close()
        wait_until(lambda: not (pool.pending or pool.pids), LIMIT)  # no turn for it
        await ended.wait()
        assert order.index("end") == 1000

    asyncio.run(asyncio.wait_for(main(), LIMIT))


def test_a_worker_that_is_killed_while_it_starts_costs_no_call(template, tmp_path):
    path = tmp_path / "gate"
    os.mkfifo(path)

    with template.pool(pid, max=1, init=partial(faulty.gate, str(path))) as pool:
        future = pool.submit()
        wait_until(lambda: pool.pids, LIMIT)
        first = pool.pids
        os.kill(*first, signal.SIGKILL)
        wait_until(lambda: pool.pids not in (first, []), LIMIT)
        with open(path, "wb"):
            pass
        assert [future.result(LIMIT)] == pool.pids


def test_who_is_set_up_goes_on_while_others_cannot_be(template, tmp_path):
    first, errors = tmp_path / "first", []

    def init():
        faulty.touch(first)  # the second to do so fails

    options = {"max": 4, "load": 1, "start": 0.001, "on_error": errors.append}
    with template.pool(time.sleep, init=init, **options) as pool:
        pool.call(0)
        futures = [pool.submit(0.05) for _ in range(10)]
        assert [each.result(LIMIT) for each in futures] == [None] * 10
        assert isinstance(errors[0], SetupError)
        os.unlink(first)
        futures = [pool.submit(0.05) for _ in range(20)]
        wait_until(lambda: len(pool.pids) > 1, LIMIT)
        assert [each.result(LIMIT) for each in futures] == [None] * 20


def test_a_call_that_comes_behind_the_end_is_told_that_it_was_closed(template):
    errors = []
    pool = template.pool(pid, max=1, on_error=errors.append)
    intake = pool._connection
    pool.close()
    assert pool.join(LIMIT)
    queue = SimpleQueue()  # a thread has looked whether it is closed before that
    intake.session.unsent.extend((1, queue, 2, print))
    intake.send()
    assert isinstance(queue.get(timeout=LIMIT).error, ClosedError)
    wait_until(lambda: errors, LIMIT)
    assert isinstance(errors[0], ClosedError)


def test_a_call_that_was_cancelled_before_it_began_does_not_stay(template):
    with template.pool("faulty.run", max=1, load=3) as pool:
        first, second = pool.submit("do", "hang"), pool.submit("do", "hang")
        wait_until(second.running, LIMIT)
        assert pool.cancel(second, kill=True)
        assert pool.cancel(first, kill=True)
        assert pool.submit("echo", 1).result(LIMIT) == 1
        wait_until(lambda: pool.pending == 0, LIMIT)


def test_no_worker_is_ended_for_a_call_that_has_not_begun(template, tmp_path):
    path = str(tmp_path / "gate")
    os.mkfifo(path)
    with template.pool("faulty.run", max=1, load=3) as pool:
        first, second = pool.submit("gate", path), pool.submit("do", "hang")
        wait_until(second.running, LIMIT)
        assert pool.cancel(second, kill=True)
        with open(path, "wb"):
            pass
        assert first.result(LIMIT) == "through"
        wait_until(lambda: pool.pending == 0, LIMIT)  # it has begun, and was ended


def test_a_call_that_has_gone_back_can_be_cancelled(template, tmp_path):
    first, gate = tmp_path / "first", tmp_path / "gate"
    os.mkfifo(gate)

    def init():
        if first.exists():
            faulty.gate(gate)
        faulty.append(first, "started")

    with template.pool("faulty.run", max=1, load=2, init=init) as pool:
        hangs, behind = pool.submit("do", "hang"), pool.submit("echo", 1)
        wait_until(behind.running, LIMIT)
        wait_until(lambda: pool._connection.hands()[0].life.begun() == 1, LIMIT)
        os.kill(*pool.pids, signal.SIGKILL)
        assert isinstance(hangs.exception(LIMIT), WorkerDied)
        wait_until(lambda: pool.stats()["queued"] == 1, LIMIT)
        assert not behind.running()
        assert behind.cancel()
        assert pool.pending == 0
        with open(gate, "wb"):
            pass


def idle(pool):
    """Wait until a worker has nothing to do, who gets the next call at once."""
    wait_until(lambda: pool.stats()["idle"] == 1, LIMIT)


def test_a_worker_ends_behind_its_last_call(template):
    with template.pool(pid, max=1, idle=1, max_calls=1) as pool:
        pids = []
        for _ in range(3):
            idle(pool)
            pids.append(pool.call())
        assert len(set(pids)) == 3
        wait_until(lambda: not set(pids).intersection(pool.pids), LIMIT)


def test_a_call_that_has_died_is_no_answer(template):
    options = {"max": 1, "idle": 1, "on_error": lambda _: None}
    with template.pool("faulty.run", **options) as pool:
        for _ in range(HOPELESS):
            assert not pool._connection.refuses()
            idle(pool)
            with pytest.raises(WorkerDied):
                pool.call("do", "hard-exit")
        assert pool._connection.scheduler.trouble.lasts()


def test_all_is_as_before_when_trouble_has_passed(template):
    with template.pool("faulty.run", max=1, on_error=lambda _: None) as pool:
        intake = pool._connection
        shortest = intake.session.ones
        for _ in range(3):
            with pytest.raises(WorkerDied):
                pool.call("do", "hard-exit")
        wait_until(lambda: not intake.refuses(), LIMIT)
        assert not intake.session.ones
        assert pool.call("echo", 1) == 1
        wait_until(lambda: intake.broken is None, LIMIT)
        assert intake.session.ones == shortest != frozenset()


def test_who_has_died_is_given_nothing_while_his_calls_go_back(template, monkeypatch):
    take_back, leaving = crew.Crew.take_back, []

    def noted(self, calls):
        leaving.extend(member.place.leaving for member in self.hands())
        take_back(self, calls)

    monkeypatch.setattr(crew.Crew, "take_back", noted)
    with template.pool("faulty.run", max=1, load=3) as pool:
        pool("do", "hard-exit", None)
        futures = [pool.submit("echo", number) for number in range(2)]
        assert [each.result(LIMIT) for each in futures] == [0, 1]
    assert leaving[0] is True


def test_a_call_beyond_its_limit_is_not_made_again(template, tmp_path):
    path = tmp_path / "begun"
    with template.pool(
        note_and_hang, max=1, retries=5, timeout=0.1, on_error=lambda _: None
    ) as pool:
        with pytest.raises(CallTimeout):
            pool.submit(str(path)).result(LIMIT)
        wait_until(lambda: pool.pending == 0, LIMIT)
    assert path.read_text() == "begun\n"


def test_nobody_looks_at_the_memory_of_a_pool_that_has_ended(template):
    with template.pool(pid, max=1, max_growth=1 << 20) as pool:
        pool.call()
        growth = pool._connection._growth
        assert growth._timer is not None
    assert growth._timer is None


def test_on_destroy_comes_after_a_kill_too(template):
    ended = []
    pool = template.pool(pid, max=1, on_destroy=lambda: ended.append(True))
    pool.call()
    pool.kill()
    assert pool.join(LIMIT)
    assert ended == [True]
