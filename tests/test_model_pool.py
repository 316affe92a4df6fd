"""End-to-end: any mix of calls, cancels, streams and deaths in a pool, with a model."""

import contextlib
import os
import signal
import threading
from concurrent.futures import CancelledError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forkrpc import CallTimeout, ClosedError, Forker, WorkerDied, retire
from forkrpc.scheduling import HOPELESS
from helpers import wait_until

LIMIT = 30.0  # seconds for anything to happen; much more than it takes
MOST = 3  # workers


def deed(name, number):
    """Do what the name says, and return the number."""
    if name == "exit":
        raise SystemExit(3)
    if name == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "fail":
        raise ValueError(number)
    if name == "hang":
        threading.Event().wait()
    if name == "retire":
        retire()
    return number


class Model:
    """What a pool was asked for, and what has to come of it.

    deaths: how many there may have been.  killed: some of them by chance.
    """

    def __init__(self, template):
        self.errors = []
        self.destroyed = []
        self.pool = template.pool(
            deed,
            max=MOST,
            start=0,
            on_error=self.errors.append,
            on_destroy=lambda: self.destroyed.append(True),
        )
        self.futures = []  # (name, number, future)
        self.callbacks = []  # (name, number, results)
        self.threads = []
        self.cancelled = set()
        self.deaths, self.killed = 0, False

    def submit(self, number, name="plain"):
        self.futures.append((name, number, self.pool.submit(name, number)))

    def fail(self, number):
        self.submit(number, "fail")

    def retire(self, number):
        self.submit(number, "retire")

    def exit(self, number):
        self.deaths += 1
        self.submit(number, "exit")

    def die(self, number):
        self.deaths += 1
        self.submit(number, "die")

    def hang(self, number):
        view = self.pool.with_options(timeout=0.02)
        self.futures.append(("hang", number, view.submit("hang", number)))

    def hang_and_kill(self, number):
        self.deaths += 1
        future = self.pool.submit("hang", number)
        self.futures.append(("cancelled", number, future))
        wait_until(lambda: future.running() or future.done(), LIMIT)
        self.pool.cancel(future, kill=True)
        # It may be in a worker behind a call that hangs; then it begins there.
        self.cancelled.add(future)

    def call_back(self, number):
        results = []
        self.pool("plain", number, results.append)
        self.callbacks.append((number, results))

    def call(self, number):
        outcome = []

        def call():
            try:
                outcome.append(self.pool.call("plain", number))
            except (WorkerDied, ClosedError) as error:
                outcome.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        self.threads.append((thread, number, outcome))

    def cancel(self, number):
        if self.futures:
            _, _, future = self.futures[number % len(self.futures)]
            if future.cancel():
                self.cancelled.add(future)

    def kill(self, number):
        pids = self.pool.pids
        if pids:
            self.killed = True
            self.deaths += 1
            with contextlib.suppress(ProcessLookupError):  # it has just died
                os.kill(pids[number % len(pids)], signal.SIGKILL)

    # What has come of it.

    def finish(self):
        self.pool.close()
        for name, number, future in self.futures:
            self.check_future(name, number, future)
        for thread, number, outcome in self.threads:
            thread.join(LIMIT)
            assert not thread.is_alive()
            self.check(number, *outcome)
        assert self.pool.join(LIMIT)
        assert self.pool.pending == 0
        assert self.pool.pids == []
        assert self.destroyed == [True]
        lost = 0
        for number, results in self.callbacks:
            assert results in ([number], [])
            lost += not results
        assert bool(lost) <= bool(self.errors)

    def check_future(self, name, number, future):
        try:
            outcome = future.result(LIMIT)
        except CancelledError:
            assert future in self.cancelled
            return
        except Exception as error:
            outcome = error
        wanted = {"fail": ValueError, "hang": CallTimeout}.get(name)
        if name in ("exit", "die", "cancelled"):
            assert isinstance(outcome, WorkerDied)
        elif wanted is not None:
            assert isinstance(outcome, (wanted, WorkerDied))
        else:
            self.check(number, outcome)

    def check(self, number, outcome):
        """A call that does no harm dies by somebody's kill only."""
        if isinstance(outcome, ClosedError):
            return  # a thread that has come late
        if isinstance(outcome, WorkerDied):
            # One that has not begun fails where calls are refused.
            assert self.killed if outcome.started else self.deaths >= HOPELESS
        else:
            assert outcome == number


PEACE = ["submit", "call_back", "call", "fail", "cancel", "retire"]
WAR = ["exit", "die", "hang", "hang_and_kill", "kill"]
steps = st.lists(
    st.tuples(st.sampled_from(PEACE * 3 + WAR), st.integers(0, 500)), max_size=40
)


@pytest.fixture(scope="module")
def template():
    with Forker(name="test_model_pool").require(__name__) as template:
        template.ready(LIMIT)
        yield template


@settings(max_examples=25)
@given(several=steps)
def test_whatever_is_asked_for_settles_once(template, several):
    model = Model(template)
    for step, number in several:
        with contextlib.suppress(WorkerDied):  # refused: too many have died
            getattr(model, step)(number)
    model.finish()
