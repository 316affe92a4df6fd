"""Run three countdowns at once in one worker.

Each call sets a timer and answers when it has fired often enough, so the call that was
made last is answered first.  The worker's code is a piece of text: no module of its own
is needed.  Timers of a worker keep time also while the program is busy.  It prints:

    counting up to 3
    counting up to 2
    counting up to 1
    1 of 3
    1 of 2
    1 of 1
    job 1 finished
    2 of 3
    2 of 2
    job 2 finished
    3 of 3
    job 3 finished

The order of what happens in the same moment is not promised, that of the jobs is clear
unless the machine is very busy.
"""

from functools import partial
from threading import Event

from forkrpc import Forker

WORKER = """
import asyncio
from forkrpc import event

PERIOD = args[0]  # seconds


def run(done, limit):
    loop = asyncio.get_running_loop()
    begun = loop.time()

    def count(number):
        event(f"{number} of {limit}")
        if number == limit:
            done()
        else:
            loop.call_at(begun + (number + 1) * PERIOD, count, number + 1)

    event(f"counting up to {limit}")
    loop.call_at(begun + PERIOD, count, 1)
"""


def main(period=0.25):
    done = Event()
    rpc = (
        Forker()
        .eval(WORKER, period)
        .run("run", backend="async", on_event=print, on_destroy=done.set)
    )
    for limit in (3, 2, 1):
        rpc(limit, partial(report, limit))
    del rpc
    done.wait()


def report(limit, _):
    print(f"job {limit} finished")


if __name__ == "__main__":
    main()
