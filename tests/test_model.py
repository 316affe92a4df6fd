"""End-to-end: any mix of calls, events, streams, closes and deaths, against a model."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forkrpc import ClosedError, Forker, WorkerDied
from helpers import wait_until

LIMIT = 20.0  # seconds for anything to happen; much more than it takes
RUN = {"sync": "streamed.run", "async": "streamed.arun"}


class Model:
    """What one worker was asked for, and what has to come of it."""

    def __init__(self, proxy, told):
        self._proxy, self._told = proxy, told
        self._calls, self._callbacks, self._streams = [], [], []
        self._answers = []
        self.killed = False

    def call(self, number):
        self._calls.append((number, self._proxy.submit("plain", number)))

    def call_back(self, number):
        self._proxy("plain", number, self._answers.append)
        self._callbacks.append(number)

    def stream(self, number):
        count = number % 150
        self._streams.append([self._proxy.stream("told", count), count, 0])

    def take(self, number):
        """Take some items of the oldest stream, which is the one that is made."""
        for _ in range(number % 70 if self._streams else 0):
            stream, count, taken = self._streams[0]
            try:
                assert next(stream) == taken
            except StopIteration:
                assert taken == count
            except WorkerDied:
                assert self.killed
            else:
                self._streams[0][2] += 1
                continue
            self._streams.pop(0)
            return

    def close(self, number):
        if self._streams:
            self._streams.pop(number % len(self._streams))[0].close()

    def drop(self, number):
        if self._streams:
            self._streams.pop(number % len(self._streams))

    def kill(self, number):
        if number % 4 == 0:
            self._proxy.kill()
            self.killed = True

    def finish(self):
        """Check that everything settles, once."""
        while self._streams:
            self.take(69)
        for number, future in self._calls:
            error = future.exception(LIMIT)
            assert error is None or (self.killed and isinstance(error, WorkerDied))
            assert error is not None or future.result() == number
        wait_until(lambda: self._proxy.pending == 0, LIMIT)
        self._proxy.close()
        assert self._proxy.join(LIMIT)
        assert self._proxy.returncode == (-9 if self.killed else 0)
        assert self._answers == self._callbacks[: len(self._answers)]
        if not self.killed:
            assert self._answers == self._callbacks
            assert not self._told


STEPS = ["call", "call_back", "stream", "take", "close", "drop"]
steps = st.lists(
    st.tuples(st.sampled_from([*STEPS * 3, "kill"]), st.integers(0, 500)), max_size=40
)


@pytest.mark.parametrize("backend", RUN)
@settings(max_examples=25)
@given(several=steps)
def test_whatever_is_asked_for_settles_once(backend, several):
    told = []
    options = {"on_event": lambda *_: None, "on_error": told.append}
    with Forker() as template:
        model = Model(template.run(RUN[backend], backend=backend, **options), told)
        for step, number in several:
            try:
                getattr(model, step)(number)
            except (WorkerDied, ClosedError):
                assert model.killed
        model.finish()
