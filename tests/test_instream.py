"""Contract: streams of calls in place beside those of workers."""

import asyncio
import threading

import pytest

from forkrpc import ClosedError, Forker

LIMIT = 10.0  # seconds; much more than it takes

WORK = """
import asyncio
from forkrpc import event

def squares(count, *, fail=None):
    try:
        for number in range(count):
            event("make", number)
            yield number * number
        if fail:
            raise ValueError(fail)
    finally:
        event("closed")

def echo(value):
    return value

async def waits(count):
    try:
        for number in range(count):
            await asyncio.sleep(0)
            event("make", number)
            yield number
    finally:
        event("closed")

async def sleeping(value):
    await asyncio.sleep(0)
    return value
"""


@pytest.fixture(params=["forked", "inline"])
def template(request):
    if request.param == "inline":
        with Forker.inline().eval(WORK) as made:
            yield made
    else:
        with Forker().eval(WORK).ready() as made:
            yield made


@pytest.fixture
def inline():
    with Forker.inline().eval(WORK) as made:
        yield made


class Heard:
    """What a worker has told; the end of each generator by `closed`."""

    def __init__(self):
        self.events, self.errors = [], []
        self.closed = threading.Event()
        self.options = {"on_event": self.hear, "on_error": self.errors.append}

    def hear(self, *event):
        self.events.append(event)
        if event == ("closed",):
            self.closed.set()


def test_the_items_come_in_order(template):
    heard = Heard()
    with template.run("squares", **heard.options) as worker:
        assert list(worker.stream(5)) == [0, 1, 4, 9, 16]
        assert heard.closed.wait(LIMIT)

    assert heard.events == [*(("make", number) for number in range(5)), ("closed",)]


def test_an_exception_is_raised_behind_the_items(template):
    with template.run("squares", **Heard().options) as worker:
        taken = worker.stream(2, fail="at the end")

        assert [next(taken), next(taken)] == [0, 1]
        with pytest.raises(ValueError, match="at the end") as raised:
            next(taken)
        assert raised.value.call == "call 1 of squares"
        assert worker.pending == 0


def test_closing_it_closes_the_generator(template):
    heard = Heard()
    with template.run("squares", **heard.options) as worker:
        with worker.stream(1000) as taken:
            assert next(taken) == 0
        assert heard.closed.wait(LIMIT)
        assert list(taken) == []
        assert list(worker.stream(2)) == [0, 1]


def test_dropping_it_closes_the_generator(template):
    heard = Heard()
    with template.run("squares", **heard.options) as worker:
        for item in worker.stream(1000):
            if item > 3:
                break
        assert heard.closed.wait(LIMIT)


def test_leaving_the_proxy_ends_what_this_thread_takes_from(template):
    with template.run("squares", **Heard().options) as worker:
        taken = worker.stream(1000)
        assert next(taken) == 0

    with pytest.raises(ClosedError, match="before its stream was used up"):
        list(taken)
    assert worker.join(LIMIT)


def test_what_does_not_yield_cannot_be_streamed(template):
    with (
        template.run("echo") as worker,
        pytest.raises(TypeError, match="needs a generator function"),
    ):
        next(worker.stream(1))


def test_a_call_of_what_yields_is_refused(template):
    with (
        template.run("squares", **Heard().options) as worker,
        pytest.raises(TypeError, match="use stream"),
    ):
        worker.call(1)


@pytest.mark.parametrize("function", ["squares", "waits"])
def test_an_asyncio_program_takes_items(template, function):
    heard = Heard()

    async def main():
        worker = template.run(function, backend="async", **heard.options)
        async with worker:
            found = [item async for item in worker.astream(3)]
            async with worker.astream(1000) as taken:
                async for _ in taken:
                    break
            await asyncio.to_thread(heard.closed.wait, LIMIT)
        return found

    power = 2 if function == "squares" else 1
    assert asyncio.run(main()) == [number**power for number in range(3)]


def test_an_asynchronous_generator_is_streamed_to_a_thread(template):
    with template.run("waits", backend="async", **Heard().options) as worker:
        assert list(worker.stream(3)) == [0, 1, 2]


def test_an_item_is_made_when_it_is_asked_for(inline):
    heard = Heard()
    with inline.run("squares", **heard.options) as worker:
        taken = worker.stream(1000)
        assert heard.events == []
        next(taken)
        assert heard.events == [("make", 0)]
        assert worker.pending == 1


def test_items_are_copies(inline):
    kept = []

    def lists():
        kept.append([1])
        yield kept[0]

    with inline.run(lists) as worker:
        (item,) = worker.stream()

    assert item == kept[0]
    assert item is not kept[0]


def test_a_generator_that_asks_for_the_end_ends_it(inline):
    def leaves():
        yield 1
        raise SystemExit(3)

    with inline.run(leaves, on_error=print) as worker:
        taken = worker.stream()
        assert next(taken) == 1
        with pytest.raises(Exception, match="exited with status 3"):
            next(taken)
        assert worker.returncode == 3
