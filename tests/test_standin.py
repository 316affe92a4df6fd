"""Unit: copies, a program and a worker in place of those of other processes."""

import asyncio
import threading

import pytest

from forkrpc import ClosedError, SerialiserError, event, in_worker
from forkrpc.standin import Here, StandIn, Stepped, copied


class Worker:
    """Keeps the events it is given."""

    def __init__(self):
        self.events = []

    def event(self, args):
        self.events.append(args)


class Value:
    pass


@pytest.fixture
def worker():
    return Worker()


def test_a_copy_is_equal_and_another():
    values = ([1], {"key": {2}})

    found = copied(values)

    assert found == values
    assert found[0] is not values[0]


def test_what_a_pickle_refuses_is_copied_as_far_as_it_can_be():
    class Local:
        pass

    def function():
        return 1

    local, values, same = copied((Local(), [Value()], function))

    assert type(local) is Local
    assert type(values[0]) is Value
    assert same is function


def test_what_cannot_be_copied_is_named():
    with pytest.raises(SerialiserError, match=r"value\[1\]\['lock'\] \(lock\)"):
        copied((1, {"lock": threading.Lock()}))


def test_events_go_to_the_stand_in_while_it_is_entered(worker):
    with StandIn(worker):
        assert in_worker()
        event(1)
        with StandIn(inner := Worker()):
            event(2)
        event(3)

    assert worker.events == [(1,), (3,)]
    assert inner.events == [(2,)]
    assert not in_worker()
    with pytest.raises(ClosedError):
        event(4)


def test_a_stepped_coroutine_sends_to_its_own_worker():
    async def work(*words):
        for word in words:
            event(word)
            await asyncio.sleep(0)
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            event("cancelled")
            raise

    async def main(workers):
        tasks = [
            asyncio.ensure_future(wait(worker, work(number, -number)))
            for number, worker in enumerate(workers)
        ]
        for _ in range(5):
            await asyncio.sleep(0)
            assert not in_worker()
        for task in tasks:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    async def wait(worker, coroutine):
        return await Stepped(worker, coroutine)

    workers = [Worker() for _ in range(3)]
    found = asyncio.run(main(workers))

    assert {type(each) for each in found} == {asyncio.CancelledError}
    assert [worker.events for worker in workers] == [
        [(number,), (-number,), ("cancelled",)] for number in range(3)
    ]


def test_a_stepped_coroutine_has_a_result():
    async def work():
        await asyncio.sleep(0)
        return 7

    async def main():
        return await Stepped(Worker(), work())

    assert asyncio.run(main()) == 7


def test_whoever_works_or_tells_must_not_wait():
    here = Here()
    here.check_may_wait("call()")

    here.working = threading.get_ident()
    with pytest.raises(RuntimeError, match=r"call\(\) would wait for ever"):
        here.check_may_wait("call()")

    here.working = None
    Here.telling.add(threading.get_ident())
    try:
        with pytest.raises(RuntimeError, match="in the thread that runs callbacks"):
            Here().check_may_wait("call()")
    finally:
        Here.telling.discard(threading.get_ident())


def test_later_is_now():
    told = []

    Here().reactor.later(0.0, lambda: told.append(1))

    assert told == [1]
