"""End-to-end: a pool under load whose workers are killed at random, for minutes.

FORKRPC_SOAK: for how many seconds; without it five minutes.
"""

import asyncio
import collections
import contextlib
import gc
import logging
import os
import random
import signal
import statistics
import threading
import time

import pytest

from forkrpc import Forker, WorkerDied
from helpers import MS, wait_until

LIMIT = 30.0  # seconds; much more than it takes
SECONDS = float(os.environ.get("FORKRPC_SOAK", "300"))
PERIOD = 0.1  # seconds between two deaths
WORKERS = 4
WINDOW = 200  # calls under way of each who calls
GROWTH = 1 << 20  # bytes that the program may grow meanwhile


def work(number):
    """Take no time, or a millisecond, or ten."""
    if number % 50 == 0:
        time.sleep(0.01)
    elif number % 7 == 0:
        time.sleep(0.001)
    return 3 * number


class Tally:
    """What has become of the calls of one caller; each is counted once."""

    def __init__(self):
        self.asked = 0
        self.settled = collections.Counter()
        self.wrong = []
        self.not_begun = 0

    def ask(self):
        self.asked += 1
        return self.asked

    def answer(self, number, result):
        self.settled["answered"] += 1
        if result != 3 * number:
            self.wrong.append((number, result))

    def fail(self, error):
        self.settled["died"] += 1
        if not isinstance(error, WorkerDied):
            self.wrong.append(error)
        elif error.started is not True:
            self.not_begun += 1


class Load:
    """Threads that call a pool in every way, until told to stop."""

    def __init__(self, pool):
        self.pool = pool
        self.stopped = threading.Event()
        self.tallies = {}
        ways = [self.call, self.call, self.submit, self.submit, self.call_back]
        self.threads = [
            threading.Thread(target=self.run, args=(number, way), daemon=True)
            for number, way in enumerate([*ways, self.acall])
        ]

    def run(self, number, way):
        tally = self.tallies[number] = Tally()
        way(tally)

    def call(self, tally):
        while not self.stopped.is_set():
            number = tally.ask()
            try:
                tally.answer(number, self.pool.call(number))
            except WorkerDied as error:
                tally.fail(error)

    def submit(self, tally):
        waiting = collections.deque()
        while not self.stopped.is_set() or waiting:
            while len(waiting) < WINDOW and not self.stopped.is_set():
                number = tally.ask()
                waiting.append((number, self.pool.submit(number)))
            number, future = waiting.popleft()
            error = future.exception(LIMIT)
            if error is None:
                tally.answer(number, future.result())
            else:
                tally.fail(error)

    def call_back(self, tally):
        """Nobody is told of a callback whose call has died, but for `on_error`."""
        under_way = set()

        def made(number):
            def callback(result):
                under_way.remove(number)
                tally.answer(number, result)

            return callback

        while not self.stopped.is_set():
            for number in (tally.ask() for _ in range(10)):
                under_way.add(number)
                self.pool(number, made(number))
            time.sleep(5 * MS)
        wait_until(lambda: not self.pool.pending, LIMIT)
        assert self.pool.drain(LIMIT)
        tally.settled["died"] += len(under_way)

    def acall(self, tally):
        async def one():
            while not self.stopped.is_set():
                number = tally.ask()
                try:
                    tally.answer(number, await self.pool.acall(number))
                except WorkerDied as error:
                    tally.fail(error)

        async def main():
            await asyncio.gather(*(one() for _ in range(20)))

        asyncio.run(main())


def whole(pool):
    stats = pool.stats()
    return stats["workers"] - stats["starting"] == WORKERS


def resident():
    gc.collect()
    with open("/proc/self/smaps_rollup") as file:
        for line in file:
            if line.startswith("Private_Dirty"):
                return int(line.split()[1]) * 1024
    raise AssertionError


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 120)
def test_workers_are_killed_at_random_for_minutes(caplog):
    errors = collections.Counter()
    caplog.set_level(logging.ERROR, "forkrpc")  # not of idle workers
    chance = random.Random(5)
    options = {"max": WORKERS, "idle": WORKERS, "start": 0}
    with Forker().require(__name__) as template:
        pool = template.pool(
            work, on_error=lambda error: errors.update([type(error)]), **options
        )
        wait_until(lambda: whole(pool), LIMIT)
        load = Load(pool)
        for thread in load.threads:
            thread.start()
        began, deaths, mended, grown = time.monotonic(), 0, [], []
        while time.monotonic() < began + SECONDS:
            victim = chance.choice(pool.pids)
            with contextlib.suppress(ProcessLookupError):  # it has just died
                os.kill(victim, signal.SIGKILL)
            killed, deaths = time.monotonic(), deaths + 1
            wait_until_soon(lambda v=victim: v not in pool.pids and whole(pool))
            mended.append(time.monotonic() - killed)
            time.sleep(max(0.0, killed + PERIOD - time.monotonic()))
            if deaths % 100 == 50:
                grown.append(resident())
        load.stopped.set()
        for thread in load.threads:
            thread.join(LIMIT)
            assert not thread.is_alive()
        wait_until(lambda: pool.pending == 0, LIMIT)
        wait_until(lambda: whole(pool), LIMIT)
        grown.append(resident())
        pool.close()
        assert pool.join(LIMIT)

    report(load, deaths, mended, grown, time.monotonic() - began)
    for tally in load.tallies.values():
        assert tally.settled.total() == tally.asked
        assert tally.wrong == []
        assert tally.not_begun == 0
    died = sum(tally.settled["died"] for tally in load.tallies.values())
    assert died <= deaths  # one begun call each, at the most
    assert set(errors) == {WorkerDied}
    assert errors.total() <= deaths
    assert grown[-1] - grown[0] < GROWTH


def wait_until_soon(condition):
    """As `wait_until`, looking every millisecond."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(MS)


def report(load, deaths, mended, grown, seconds):
    mended.sort()
    asked = sum(tally.asked for tally in load.tallies.values())
    died = sum(tally.settled["died"] for tally in load.tallies.values())
    print(
        f"\n{deaths} deaths in {seconds:.0f} s, {asked} calls, {died} of them died; "
        f"a whole pool again after {statistics.median(mended) / MS:.1f} ms (median), "
        f"{mended[int(len(mended) * 0.99)] / MS:.1f} ms (99 %), "
        f"{mended[-1] / MS:.1f} ms (longest); private memory "
        + " ".join(f"{each / 2**20:.2f}" for each in grown)
    )
