"""End-to-end: where a call fails x how it fails, and what that costs: design promise 3.

Every cell runs between calls before it and behind it on the same worker, all of them
queued before the first is let through.  An exception or a bad payload costs its own
call; a death costs the calls of that worker, each told whether it had begun.

A failure happens where it can: what cannot be dumped fails in the sender, what does
worse than raise does it in the worker (while an argument is loaded, a result or an
exception dumped).  The ids ending in `when-loaded` are the other side of those cells.
"""

import functools
import os
import signal
import threading
import typing

import pytest

import faulty
from forkrpc import (
    CallTimeout,
    RemoteError,
    SerialiserError,
    SetupError,
    WorkerDied,
    overlapping,
)
from helpers import wait_until
from shared import shared_template

LIMIT = 20.0  # seconds for anything to happen; much more than it takes
TIMEOUT = 0.5  # seconds that a call may run where one hangs; none but that may need it
FUNCTIONS = {"sync": "run", "async": "run_async", "async-done": "run_done"}
BACKENDS = list(FUNCTIONS)
VERBS = ["callback", "submit", "call"]


class Cell(typing.NamedTuple):
    """One call that fails.

    make: returns the arguments of the call.  error: what its caller gets.
    text: part of the message.  returncode: of the worker; None: it lives on.
    """

    make: typing.Callable
    error: type
    text: str
    returncode: int | None = None
    timeout: float | None = None
    cause: type | None = None  # of the error, or one of its causes


def of(name, *args):
    return lambda: (name, *args)


EXITED = f"exited with status {faulty.EXIT}"
HARD_EXITED = f"exited with status {faulty.HARD_EXIT}"

CELLS = {
    # The argument: dumped by the caller, loaded in the worker.
    "argument-fails-to-dump": Cell(
        lambda: ("echo", faulty.OnDump("raise")),
        SerialiserError,
        "value[1] (OnDump) cannot be sent: ValueError: faulty on purpose",
        cause=ValueError,
    ),
    "argument-fails-to-load": Cell(
        lambda: ("echo", faulty.stranger()),
        SerialiserError,
        "ModuleNotFoundError",
        cause=ModuleNotFoundError,
    ),
    "argument-raises-on-load": Cell(
        lambda: ("echo", faulty.OnLoad("raise")),
        SerialiserError,
        "ValueError: faulty on purpose",
        cause=ValueError,
    ),
    "argument-exits": Cell(
        lambda: ("echo", faulty.OnLoad("exit")), WorkerDied, EXITED, faulty.EXIT
    ),
    "argument-os._exit": Cell(
        lambda: ("echo", faulty.OnLoad("hard-exit")),
        WorkerDied,
        HARD_EXITED,
        faulty.HARD_EXIT,
    ),
    "argument-segfaults": Cell(
        lambda: ("echo", faulty.OnLoad("segfault")),
        WorkerDied,
        "SIGSEGV",
        -signal.SIGSEGV,
    ),
    "argument-hangs": Cell(
        lambda: ("echo", faulty.OnLoad("hang")),
        CallTimeout,
        f"{TIMEOUT}",
        -signal.SIGKILL,
        TIMEOUT,
    ),
    "argument-recurses": Cell(
        lambda: ("echo", faulty.nested()),
        SerialiserError,
        "recursion",
        cause=RecursionError,
    ),
    "argument-recurses-when-loaded": Cell(
        lambda: ("echo", faulty.OnLoad("recurse")),
        SerialiserError,
        "RecursionError",
        cause=RecursionError,
    ),
    # The function, while it runs.  Its own dumping and loading: SETUP below.
    "function-raises": Cell(of("do", "raise"), ValueError, "faulty on purpose"),
    "function-exits": Cell(of("do", "exit"), WorkerDied, EXITED, faulty.EXIT),
    "function-os._exit": Cell(
        of("do", "hard-exit"), WorkerDied, HARD_EXITED, faulty.HARD_EXIT
    ),
    "function-segfaults": Cell(
        of("do", "segfault"), WorkerDied, "SIGSEGV", -signal.SIGSEGV
    ),
    "function-hangs": Cell(
        of("do", "hang"), CallTimeout, f"{TIMEOUT}", -signal.SIGKILL, TIMEOUT
    ),
    "function-recurses": Cell(of("do", "recurse"), RecursionError, "recursion depth"),
    # The result: dumped in the worker, loaded here.
    "result-fails-to-dump": Cell(
        of("return_on_dump", "raise"),
        SerialiserError,
        "(OnDump) cannot be sent: ValueError: faulty on purpose",
    ),
    "result-fails-to-load": Cell(
        of("return_stranger"),
        SerialiserError,
        "ModuleNotFoundError",
        cause=ModuleNotFoundError,
    ),
    "result-raises-on-load": Cell(
        of("return_on_load", "raise"),
        SerialiserError,
        "ValueError: faulty on purpose",
        cause=ValueError,
    ),
    "result-exits": Cell(of("return_on_dump", "exit"), WorkerDied, EXITED, faulty.EXIT),
    "result-exits-when-loaded": Cell(
        of("return_on_load", "exit"), SerialiserError, "SystemExit"
    ),
    "result-os._exit": Cell(
        of("return_on_dump", "hard-exit"), WorkerDied, HARD_EXITED, faulty.HARD_EXIT
    ),
    "result-segfaults": Cell(
        of("return_on_dump", "segfault"), WorkerDied, "SIGSEGV", -signal.SIGSEGV
    ),
    "result-hangs": Cell(
        of("return_on_dump", "hang"),
        CallTimeout,
        f"{TIMEOUT}",
        -signal.SIGKILL,
        TIMEOUT,
    ),
    "result-recurses": Cell(of("return_nested"), SerialiserError, "recursion"),
    "result-recurses-when-loaded": Cell(
        of("return_on_load", "recurse"),
        SerialiserError,
        "RecursionError",
        cause=RecursionError,
    ),
    # The exception: dumped in the worker, loaded here.
    "exception-fails-to-dump": Cell(
        of("raise_on_dump", "raise"), RemoteError, "faulty.ErrorOnDump: raise"
    ),
    "exception-fails-to-load": Cell(
        of("raise_two_arguments"), RemoteError, "faulty.TwoArguments: one and other"
    ),
    "exception-raises-on-load": Cell(
        of("raise_on_load", "raise"), RemoteError, "faulty.ErrorOnLoad: raise"
    ),
    "exception-exits": Cell(
        of("raise_on_dump", "exit"), WorkerDied, EXITED, faulty.EXIT
    ),
    "exception-exits-when-loaded": Cell(
        of("raise_on_load", "exit"), RemoteError, "faulty.ErrorOnLoad: exit"
    ),
    "exception-os._exit": Cell(
        of("raise_on_dump", "hard-exit"), WorkerDied, HARD_EXITED, faulty.HARD_EXIT
    ),
    "exception-segfaults": Cell(
        of("raise_on_dump", "segfault"), WorkerDied, "SIGSEGV", -signal.SIGSEGV
    ),
    "exception-hangs": Cell(
        of("raise_on_dump", "hang"),
        CallTimeout,
        f"{TIMEOUT}",
        -signal.SIGKILL,
        TIMEOUT,
    ),
    "exception-recurses": Cell(of("raise_nested"), RemoteError, "ValueError"),
    "exception-recurses-when-loaded": Cell(
        of("raise_on_load", "recurse"), RemoteError, "faulty.ErrorOnLoad: recurse"
    ),
}


# The same where large byte strings, which stay apart from the pickle, come before.
DEEDS = {
    "exits": ("exit", WorkerDied, EXITED, faulty.EXIT, None),
    "os._exit": ("hard-exit", WorkerDied, HARD_EXITED, faulty.HARD_EXIT, None),
    "segfaults": ("segfault", WorkerDied, "SIGSEGV", -signal.SIGSEGV, None),
    "hangs": ("hang", CallTimeout, f"{TIMEOUT}", -signal.SIGKILL, TIMEOUT),
}


def large_argument(deed):
    return ("echo", *faulty.large(), faulty.OnLoad(deed))


CELLS |= {
    "large-argument-fails-to-dump": Cell(
        lambda: ("echo", [*faulty.large(), faulty.OnDump("raise")]),
        SerialiserError,
        "value[1][2] (OnDump) cannot be sent: ValueError: faulty on purpose",
        cause=ValueError,
    ),
    "large-argument-fails-to-load": Cell(
        lambda: ("echo", *faulty.large(), faulty.stranger()),
        SerialiserError,
        "ModuleNotFoundError",
        cause=ModuleNotFoundError,
    ),
    "large-argument-raises-on-load": Cell(
        lambda: large_argument("raise"),
        SerialiserError,
        "ValueError: faulty on purpose",
        cause=ValueError,
    ),
    "large-argument-recurses-when-loaded": Cell(
        lambda: large_argument("recurse"),
        SerialiserError,
        "RecursionError",
        cause=RecursionError,
    ),
    "large-result-fails-to-dump": Cell(
        of("return_large", "raise", "dumped"),
        SerialiserError,
        "(OnDump) cannot be sent: ValueError: faulty on purpose",
    ),
    "large-result-fails-to-load": Cell(
        of("return_large_stranger"),
        SerialiserError,
        "ModuleNotFoundError",
        cause=ModuleNotFoundError,
    ),
    "large-result-raises-on-load": Cell(
        of("return_large", "raise", "loaded"),
        SerialiserError,
        "ValueError: faulty on purpose",
        cause=ValueError,
    ),
    "large-result-exits-when-loaded": Cell(
        of("return_large", "exit", "loaded"), SerialiserError, "SystemExit"
    ),
    "large-result-recurses-when-loaded": Cell(
        of("return_large", "recurse", "loaded"),
        SerialiserError,
        "RecursionError",
        cause=RecursionError,
    ),
    "large-exception-raises-on-load": Cell(
        of("raise_large", "raise"), RemoteError, "faulty.ErrorOnLoad"
    ),
}
for name, (deed, *costs) in DEEDS.items():
    make = functools.partial(large_argument, deed)
    CELLS[f"large-argument-{name}"] = Cell(make, *costs)
    CELLS[f"large-result-{name}"] = Cell(of("return_large", deed, "dumped"), *costs)


def run(template, backend, function=None, **options):
    """Run a worker; by default of the function that calls what it is told to."""
    return template.run(
        function or f"faulty.{FUNCTIONS[backend]}",
        backend=backend.partition("-")[0],
        **options,
    )


class Setup(typing.NamedTuple):
    """A function that cannot be set up in the worker; fields as in Cell."""

    make: typing.Callable
    error: type
    text: str
    returncode: int


SETUP = {
    "function-fails-to-load": Setup(
        faulty.stranger, SetupError, "ModuleNotFoundError", 1
    ),
    "function-raises-on-load": Setup(
        lambda: faulty.OnLoad("raise"), SetupError, "ValueError: faulty on purpose", 1
    ),
    "function-exits-when-loaded": Setup(
        lambda: faulty.OnLoad("exit"), WorkerDied, EXITED, faulty.EXIT
    ),
    "function-os._exit-when-loaded": Setup(
        lambda: faulty.OnLoad("hard-exit"), WorkerDied, HARD_EXITED, faulty.HARD_EXIT
    ),
    "function-segfaults-when-loaded": Setup(
        lambda: faulty.OnLoad("segfault"), WorkerDied, "SIGSEGV", -signal.SIGSEGV
    ),
    "function-recurses-when-loaded": Setup(
        lambda: faulty.OnLoad("recurse"), SetupError, "RecursionError", 1
    ),
}


class Told:
    """What a worker's callbacks have heard."""

    def __init__(self):
        self.results, self.errors, self.destroyed = [], [], []

    def options(self):
        return {
            "on_error": self.errors.append,
            "on_destroy": lambda: self.destroyed.append(True),
            "rlimits": {"CORE": 0},
        }


class OneCall:
    """A call by one of the verbs, and its error in the end; counts how often."""

    def __init__(self, proxy, verb, args, told):
        self.raised = []
        self._told = told
        self._thread = None
        self._future = None
        pending = proxy.pending
        if verb == "call":
            # From another thread, so that more calls can be queued behind it.
            self._thread = threading.Thread(target=self._call, args=(proxy, args))
            self._thread.start()
            wait_until(
                lambda: proxy.pending > pending or not self._thread.is_alive(), LIMIT
            )
            return
        try:
            if verb == "submit":
                self._future = proxy.submit(*args)
            else:
                proxy(*args, told.results.append)
        except Exception as error:
            self.raised.append(error)

    def _call(self, proxy, args):
        try:
            proxy.call(*args)
        except Exception as error:
            self.raised.append(error)

    def error(self):
        """Return the exception that this call was given, by whichever way."""
        if self._thread is not None:
            self._thread.join(LIMIT)
            assert not self._thread.is_alive(), "call() never returned"
        elif self._future is not None:
            return self._future.exception(LIMIT)
        elif not self.raised:
            wait_until(lambda: self._told.errors, LIMIT, "on_error")
            return self._told.errors[0]
        assert len(self.raised) == 1
        return self.raised[0]

    def went_to_on_error(self):
        """Return whether `on_error` has to be told of this call by itself."""
        return self._thread is None and self._future is None and not self.raised


class Queue:
    """Calls before a bad one and behind it, all queued while the worker is held up."""

    def __init__(self, proxy, told, folder):
        self._proxy, self._told = proxy, told
        self._path = os.path.join(folder, "gate")
        os.mkfifo(self._path)
        self.gate = proxy.submit("gate", self._path)
        self.before = proxy.submit("echo", "before")
        proxy("echo", "before", told.results.append)

    def add_behind(self):
        self.behind = self._proxy.submit("echo", "behind")
        self._proxy("echo", "behind", self._told.results.append)

    def release(self):
        with open(self._path, "wb"):
            pass

    def check_calls_before(self):
        assert self.gate.result(LIMIT) == "through"
        assert self.before.result(LIMIT) == "before"


@pytest.fixture(scope="module")
def template():
    with shared_template("faulty") as template:
        yield template


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch):
    """A call that hangs does so in C code: waiting for its end is no use."""
    monkeypatch.setattr(overlapping, "KILL_GRACE", 0.1)


def causes(error):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_a_failure_costs_what_it_must_and_nothing_else(
    cell, verb, backend, template, tmp_path
):
    told = Told()
    proxy = run(template, backend, **told.options(), timeout=cell.timeout)
    queue = Queue(proxy, told, tmp_path)
    bad = OneCall(proxy, verb, cell.make(), told)
    queue.add_behind()
    queue.release()
    error = bad.error()

    queue.check_calls_before()
    check_error(error, cell)
    if cell.returncode is None:
        check_it_cost_one_call(proxy, told, queue, bad)
    else:
        check_it_cost_the_worker(proxy, told, queue, error, cell)


def check_error(error, cell):
    assert type(error) is cell.error, repr(error)
    assert cell.text in str(error)
    if cell.cause is not None:
        assert any(isinstance(each, cell.cause) for each in causes(error))
    if isinstance(error, RemoteError):
        assert "Traceback" in error.traceback or "no traceback" in error.traceback


def check_it_cost_one_call(proxy, told, queue, bad):
    assert queue.behind.result(LIMIT) == "behind"
    assert proxy.call("echo", "after") == "after"
    assert proxy.drain(LIMIT)
    assert told.results == ["before", "behind"]
    assert len(told.errors) == bad.went_to_on_error()
    assert not told.destroyed

    proxy.close()
    assert proxy.join(LIMIT)
    assert proxy.returncode == 0
    assert proxy.pending == 0
    assert told.destroyed == [True]
    assert len(told.errors) == bad.went_to_on_error()


def check_it_cost_the_worker(proxy, told, queue, error, cell, *, overtaken=False):
    """Look at what a death has done; overtaken: calls behind may have been quicker."""
    behind = queue.behind.exception(LIMIT)
    if not (overtaken and behind is None):
        assert type(behind) is WorkerDied
        assert behind.started is overtaken or behind.started is False
        assert behind.returncode == cell.returncode
        assert behind.pid == proxy.pid
    wait_until(lambda: told.errors, LIMIT, "on_error")  # behind what the futures say
    if isinstance(error, WorkerDied) and error is not told.errors[0]:
        assert error.started is True
        assert error.returncode == cell.returncode
        assert error.call

    assert proxy.join(LIMIT)
    assert proxy.returncode == cell.returncode
    assert proxy.pending == 0
    assert told.results == ["before"] or (
        overtaken and told.results == ["before", "behind"]
    )
    assert [type(each) for each in told.errors] == [cell.error]
    assert not told.destroyed
    check_refuses_calls(proxy)


def check_refuses_calls(proxy):
    assert isinstance(proxy.submit("echo").exception(LIMIT), (WorkerDied, CallTimeout))
    with pytest.raises((WorkerDied, CallTimeout)):
        proxy.call("echo")
    with pytest.raises((WorkerDied, CallTimeout)):
        proxy("echo", None)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("cell", SETUP.values(), ids=SETUP)
def test_a_function_that_cannot_be_set_up_costs_its_own_worker(
    cell, verb, backend, template
):
    told, others = Told(), Told()
    with run(template, backend, **others.options()) as neighbour:
        assert neighbour.call("echo", "before") == "before"
        proxy = run(template, backend, cell.make(), **told.options())
        bad = OneCall(proxy, verb, (1,), told)
        behind = neighbour.submit("echo", "behind")

        error = bad.error()
        assert type(error) is cell.error
        assert cell.text in str(error)
        assert behind.result(LIMIT) == "behind"
        assert proxy.join(LIMIT)
        assert proxy.returncode == cell.returncode
        assert [type(error) for error in told.errors] == [cell.error]
        assert not told.results
        assert not told.destroyed
        with pytest.raises(cell.error):
            proxy.call(1)
        assert neighbour.call("echo", "after") == "after"
    assert others.destroyed == [True]
    assert not others.errors


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_function_that_fails_to_dump_is_refused_by_run(backend, template):
    with run(template, backend) as proxy:
        before = proxy.submit("echo", "before")

        with pytest.raises(SerialiserError, match="OnDump.*faulty on purpose"):
            run(template, backend, faulty.OnDump("raise"))

        assert before.result(LIMIT) == "before"
        assert proxy.call("echo", "behind") == "behind"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_function_nested_too_deep_is_refused_by_run(backend, template):
    with run(template, backend) as proxy:
        before = proxy.submit("echo", "before")
        value = faulty.nested()

        with pytest.raises(SerialiserError, match="recursion"):
            run(template, backend, lambda: value)

        assert before.result(LIMIT) == "before"
        assert proxy.call("echo", "behind") == "behind"
