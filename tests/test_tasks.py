"""Unit: what the workers of an Executor execute."""

import asyncio
import pickle
import zlib

from forkrpc import tasks


def double(value, *, more=0):
    return 2 * value + more


async def adouble(value, *, more=0):
    await asyncio.sleep(0)
    return double(value, more=more)


def test_a_task_calls_what_it_is_given():
    assert tasks.task(double, 3, more=1) == 7
    assert tasks.task(dict, function=1) == {"function": 1}


def test_an_asynchronous_task_awaits_what_can_be_awaited():
    assert asyncio.run(tasks.async_task(double, 3)) == 6
    assert asyncio.run(tasks.async_task(adouble, 3, more=1)) == 7


def test_a_chunk_is_many_calls():
    items = [(1,), (2,)]

    assert tasks.chunk(double, items) == [2, 4]
    assert asyncio.run(tasks.async_chunk(double, items)) == [2, 4]
    assert asyncio.run(tasks.async_chunk(adouble, items)) == [2, 4]


def test_an_initializer_gets_its_own_arguments_only():
    seen = []

    tasks.Initializer(lambda *args: seen.append(args), (1, 2))("a worker argument")

    assert seen == [(1, 2)]


def test_a_function_is_loaded_once():
    body = zlib.compress(pickle.dumps(double))

    tasks._functions.clear()

    assert tasks.loaded(body) is double
    assert list(tasks._functions) == [body]
    assert tasks.loaded(body, int) is double


def test_only_so_many_functions_are_kept():
    tasks._functions.clear()
    for number in range(tasks.MOST_FUNCTIONS + 1):
        tasks.loaded(zlib.compress(pickle.dumps(number)))

    assert len(tasks._functions) == 1
