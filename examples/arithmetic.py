"""Call functions of a worker by name; those that wait overlap.

The worker's function takes the name of another and its arguments: an ordinary coroutine
function, whose return value is the result.  It prints:

    add: 4
    mul: 12
    slow_add twice: 3 7, overlapped
"""

import asyncio
import time

from forkrpc import Forker

PAUSE = 0.5  # seconds


async def add(one, other):
    return one + other


async def mul(one, other):
    return one * other


async def slow_add(one, other):
    """Wait for something, as for a network."""
    await asyncio.sleep(PAUSE)
    return one + other


FUNCTIONS = {each.__name__: each for each in (add, mul, slow_add)}


async def run(name, *args):
    """Call a function; the worker has one task for each call."""
    return await FUNCTIONS[name](*args)


def main():
    with Forker().run(run, backend="async") as rpc:
        print("add:", rpc.call("add", 1, 3))
        print("mul:", rpc.call("mul", 3, 4))
        begun = time.monotonic()
        sums = [rpc.submit("slow_add", 1, 2), rpc.submit("slow_add", 3, 4)]
        results = [each.result() for each in sums]
        overlapped = time.monotonic() - begun < 2 * PAUSE
        print("slow_add twice:", *results, end=", ")
        print("overlapped" if overlapped else "one after the other")


if __name__ == "__main__":
    main()
