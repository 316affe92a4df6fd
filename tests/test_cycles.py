"""End-to-end: what ended leaves nothing that waits for the garbage collector.

A program that makes a worker for each call would grow between two collections.
"""

import asyncio
import contextlib
import gc
import weakref

import pytest

from forkrpc import Forker
from helpers import wait_until

LIMIT = 20.0  # seconds for anything to happen; much more than it takes

SOURCE = """
import os, time

def echo(value=None): return value
def say(text): print(text)
def count(number): yield from range(number)
def hang(): time.sleep(1000)
def exit(): os._exit(3)
async def aecho(value): return value
async def acount(number):
    for each in range(number): yield each
"""
QUIET = {"on_error": lambda error: None}


@pytest.fixture
def template():
    with Forker() as template:
        yield template.eval(SOURCE)


@pytest.fixture(autouse=True)
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def call(proxy):
    assert proxy.call(1) == 1


def callbacks(proxy):
    for number in range(100):
        proxy(number, [].append)
    assert proxy.drain(LIMIT)


def future(proxy):
    assert proxy.submit(1).result(LIMIT) == 1


def fail(proxy):
    with pytest.raises(TypeError):
        proxy.call(1, 2, 3)


def await_it(proxy):
    async def main():
        assert await proxy.acall(1) == 1

    asyncio.run(main())


def await_failure(proxy):
    async def main():
        with pytest.raises(TypeError):
            await proxy.acall(1, 2, 3)

    asyncio.run(main())


def await_end(proxy):
    async def main():
        async with proxy:
            assert await proxy.acall(1) == 1

    asyncio.run(main())


def stream(proxy):
    assert list(proxy.stream(100)) == list(range(100))


def stream_left(proxy):
    with proxy.stream(10**6) as items:
        assert next(items) == 0


def stream_awaited(proxy):
    async def main():
        assert [item async for item in proxy.astream(100)] == list(range(100))

    asyncio.run(main())


def with_limit(proxy):
    assert proxy.with_options(timeout=1000).call(1) == 1


def print_something(proxy):
    proxy.call("")


def die(proxy):
    with contextlib.suppress(Exception):
        proxy.call()


def close(proxy):
    proxy.close()


def kill(proxy):
    proxy.kill()


def nothing(_proxy):
    """Drop it, or wait for the end."""


USES = {
    "unused": ("echo", {}, nothing, close),
    "call": ("echo", {}, call, close),
    "dropped": ("echo", {}, call, nothing),
    "killed": ("echo", {}, call, kill),
    "callbacks": ("echo", {}, callbacks, close),
    "future": ("echo", {}, future, close),
    "failure": ("echo", {}, fail, close),
    "acall": ("echo", {}, await_it, close),
    "acall-failure": ("echo", {}, await_failure, close),
    "async-with": ("echo", {}, await_end, nothing),
    "no-logs": ("echo", {"logs": False}, call, close),
    "forward": ("say", {"stdout": "forward"}, print_something, close),
    "forward-both": (
        *("say", {"stdout": "forward", "stderr": "forward"}),
        *(print_something, close),
    ),
    "stream": ("count", {}, stream, close),
    "stream-left": ("count", {}, stream_left, close),
    "astream": ("count", {}, stream_awaited, close),
    "timeout": ("echo", {"timeout": 1000}, call, close),
    "timeout-of-view": ("echo", {}, with_limit, close),
    "timed-out": ("hang", {"timeout": 0.05, **QUIET}, die, nothing),
    "died": ("exit", QUIET, die, nothing),
    "not-found": ("no.such", QUIET, die, nothing),
    "destroyed": ("echo", {"on_destroy": bool}, call, close),
    "async": ("aecho", {"backend": "async"}, call, close),
    "async-timeout": ("aecho", {"backend": "async", "timeout": 1000}, call, close),
    "async-stream": ("acount", {"backend": "async"}, stream, close),
    "async-awaited": ("aecho", {"backend": "async"}, await_end, nothing),
}


@pytest.mark.parametrize("use", USES)
def test_nothing_of_an_ended_worker_waits_for_the_collector(template, use):
    function, options, work, end = USES[use]
    proxy = template.run(function, **options)
    connection = proxy._connection
    parts = {
        type(part).__name__: weakref.ref(part)
        for part in (
            *(connection, connection.session, connection.session.codec),
            *(connection.life, connection._channel, connection.flow),
        )
    }
    ended = connection.ended
    del connection

    work(proxy)
    end(proxy)
    del proxy

    assert ended.wait(LIMIT)
    wait_until(
        lambda: not any(part() for part in parts.values()),
        LIMIT,
        lambda: f"the end of {[name for name in parts if parts[name]()]}",
    )
