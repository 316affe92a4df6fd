"""End-to-end: what a process is that was just forked from a template."""

import os
import signal
import socket

import pytest

import forkrpc
from forkrpc import Forker, SetupError
from helpers import MS, open_descriptors


@pytest.fixture(scope="module")
def original():
    with Forker().require(__name__, "asyncio").ready() as template:
        yield template


@pytest.fixture
def template(original):
    with original.fork() as template:
        yield template


def call(template, function, *args, **options):
    with template.run(function, **options) as proxy:
        return proxy.call(*args)


def collected(*args):
    return args


class Collected:
    def __init__(self, *args):
        self.args = args

    def __call__(self, *args):
        return self.args, args


class NotCallable:
    pass


# Worker arguments.


def test_a_class_is_instantiated_once_with_the_worker_arguments(template):
    template.send_arg(1, "two").send_arg(None)

    with template.run(Collected) as proxy:
        assert proxy.call(3) == ((1, "two", None), (3,))


def test_a_function_is_not_given_the_worker_arguments(template):
    template.send_arg(1)

    assert call(template, collected, 2) == (2,)


def look_at(*files):
    global seen
    seen = [(type(file).__name__, getattr(file, "mode", None)) for file in files]
    for file in files:
        if isinstance(file, socket.socket):
            file.sendall(b"socket")
        elif isinstance(file, int):
            os.write(file, b"int")
        else:
            file.write("text" if "b" not in file.mode else b"bytes")
            file.flush()


def what_was_seen():
    return seen


def test_files_arrive_as_what_they_are_in_order_with_values(template, tmp_path):
    ours, theirs = socket.socketpair()
    read, write = os.pipe()
    paths = [tmp_path / name for name in ("text", "binary", "raw")]
    with (
        open(paths[0], "w") as text,
        open(paths[1], "wb") as binary,
        open(paths[2], "wb", buffering=0) as raw,
    ):
        template.send_fh(theirs, write, text).send_fh(binary, raw)
    theirs.close()
    os.close(write)

    found = call(template, what_was_seen, init=look_at)

    assert [kind for kind, _ in found] == [
        *("socket", "int", "TextIOWrapper", "BufferedWriter", "FileIO")
    ]
    assert (ours.recv(10), os.read(read, 10)) == (b"socket", b"int")
    assert [path.read_bytes() for path in paths] == [b"text", b"bytes", b"bytes"]
    ours.close()
    os.close(read)


# Its surroundings.


def surroundings():
    import _signal

    ignored = {
        number
        for number in _signal.valid_signals()
        if _signal.getsignal(number) == _signal.SIG_IGN
    }
    with open("/proc/self/comm") as file:
        title = file.read()
    return {
        "descriptors": len(open_descriptors()),
        "lowest": min(set(open_descriptors()) - {0, 1, 2}, default=None),
        "stdin": os.readlink("/proc/self/fd/0"),
        "group": os.getpgrp() == os.getpid(),
        "ignored": ignored,
        "blocked": set(_signal.pthread_sigmask(_signal.SIG_BLOCK, ())),
        "title": title,
    }


def test_a_worker_has_its_own_descriptors_only(template):
    read, write = os.pipe()
    os.set_inheritable(read, True)

    found = call(template, surroundings)

    # 0-2, the channel, the lifeline, and what faulthandler writes to
    assert found["descriptors"] == 6
    assert found["stdin"] == "/dev/null"
    os.close(read)
    os.close(write)


def test_a_worker_leads_its_own_group(template):
    assert call(template, surroundings)["group"]


def test_a_worker_has_pythons_own_signals_whatever_its_template_did(template):
    template.eval(
        "import signal\n"
        "for number in 2, 10, 12, 15: signal.signal(number, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [10, 15])\n"
    )

    found = call(template, surroundings)

    assert found["ignored"] == {signal.SIGPIPE, signal.SIGXFSZ}
    assert found["blocked"] == set()


def test_a_worker_shows_its_owner_and_function(template):
    assert call(template, surroundings)["title"].startswith(f"{os.getpid()}:surr")


def draw():
    import random

    import numpy

    return random.random(), numpy.random.random()


def test_workers_draw_different_random_numbers(template):
    template.require("random", "numpy.random")

    drawn = [call(template, draw) for _ in range(3)]

    assert len({number for number, _ in drawn}) == 3
    assert len({number for _, number in drawn}) == 3


# Its streams.


def say(text):
    print(text)
    os.write(2, f"{text} too\n".encode())
    return os.read(0, 100)


def test_streams_go_where_they_are_told(template, tmp_path):
    paths = [tmp_path / "out", tmp_path / "err"]
    read, write = os.pipe()
    os.write(write, b"input")
    with open(paths[0], "w") as out, open(paths[1], "w") as err:
        found = call(template, say, "text", stdin=read, stdout=out, stderr=err)

    assert found == b"input"
    assert [path.read_text() for path in paths] == ["text\n", "text too\n"]
    os.close(read)
    os.close(write)


def test_streams_are_inherited_and_the_input_is_empty(template, capfd):
    found = call(template, say, "text")

    assert found == b""
    assert capfd.readouterr() == ("text\n", "text too\n")


def test_errors_may_go_to_the_output_and_the_output_nowhere(template, capfd):
    call(template, say, "one", stderr=-2)
    call(template, say, "two", stdout="null", stderr="null")

    assert capfd.readouterr() == ("one\none too\n", "")


# Limits.


def limits():
    import resource

    return resource.getrlimit(resource.RLIMIT_CORE), os.nice(0), os.sched_getaffinity(0)


def test_limits_hold_from_the_start(template):
    cpu = min(os.sched_getaffinity(0))

    found = call(
        template,
        limits,
        rlimits={"CORE": (0, 0)},
        nice=3,
        affinity=[cpu],
    )

    assert found == ((0, 0), os.nice(0) + 3, {cpu})


def test_a_limit_that_is_refused_is_told(template):
    with template.run(limits, rlimits={"NOFILE": (10, 5)}) as proxy:
        error = proxy.submit().exception(10)

    assert type(error) is SetupError
    assert "limit" in str(error)


# What fails before the first call.


async def coroutine():
    pass


@pytest.mark.parametrize(
    ("function", "texts"),
    [
        ("no_such_module.function", ["starting no_such_module.function", "No module"]),
        ("os.no_such_function", ["os has no attribute 'no_such_function'"]),
        ("bare_name", ["__main__ has no attribute 'bare_name'"]),
        ("os.sep", ["'os.sep' is '/', which cannot be called"]),
        (NotCallable, ["instances of NotCallable cannot be called"]),
        (coroutine, ["coroutine is a coroutine function", 'backend="async"']),
    ],
)
def test_a_function_that_does_not_do_is_told_to_each_call(template, function, texts):
    errors = []
    proxy = template.run(function, on_error=errors.append)
    futures = [proxy.submit(), proxy.submit()]
    found = [future.exception(10) for future in futures]
    proxy.join(10)

    assert len(errors) == 1
    for error in [*found, *errors]:
        assert type(error) is SetupError
        for text in texts:
            assert text in str(error)
    assert proxy.returncode == 1


def fail_to_begin(*args):
    raise ValueError("in init")


def leave_early(*args):
    raise SystemExit(5)


def leave_slowly(*args):
    import atexit
    import time

    atexit.register(os.write, 2, b"left\n")
    atexit.register(time.sleep, 200 * MS)
    raise SystemExit(5)


def test_an_init_that_raises_is_told_with_its_traceback(template):
    with template.run(collected, init=fail_to_begin) as proxy:
        error = proxy.submit().exception(10)

    assert type(error) is SetupError
    assert "ValueError: in init" in str(error)
    assert "in fail_to_begin" in str(error)


def test_an_init_that_leaves_ends_the_worker_with_its_status(template):
    proxy = template.run(collected, init=leave_early)
    error = proxy.submit().exception(10)
    proxy.join(10)

    assert type(error) is forkrpc.WorkerDied
    assert proxy.returncode == 5


def test_a_worker_that_takes_its_time_to_leave_from_init_is_let(template, capfd):
    proxy = template.run(collected, init=leave_slowly, on_error=lambda error: None)
    proxy.join(10)

    assert proxy.returncode == 5
    assert capfd.readouterr().err == "left\n"


def test_a_worker_that_takes_its_time_to_leave_at_its_end_is_let(template, capfd):
    template.eval("import atexit, os, time\n")
    template.eval(
        "def register():\n"
        "    atexit.register(os.write, 2, b'left\\n')\n"
        "    atexit.register(time.sleep, 0.2)\n"
    )
    with template.run("register") as proxy:
        proxy.call()

    assert proxy.returncode == 0
    assert capfd.readouterr().err == "left\n"


def test_an_init_comes_before_the_function_is_found(template):
    source = "def begin():\n    global late\n    late = len\n"

    assert call(template.eval(source), "late", [1, 2], init="begin") == 2


def test_a_worker_waits_for_the_calls_it_is_given(template):
    with template.run(collected) as proxy:
        assert not proxy.join(10 * MS)
        assert proxy.call(1) == (1,)


# Crashes.


def crash(how, in_thread=False):
    import threading

    def down():
        if how == "null":
            import ctypes

            ctypes.string_at(0)
        elif how == "abort":
            os.abort()
        else:
            os.kill(os.getpid(), how)

    if in_thread:
        thread = threading.Thread(target=down)
        thread.start()
        thread.join()
    down()


@pytest.mark.parametrize(
    ("how", "in_thread"),
    [("null", False), ("abort", False), (signal.SIGBUS, False), ("null", True)],
)
def test_a_crash_tells_the_stack_and_prints_nothing(template, how, in_thread, capfd):
    errors = []
    proxy = template.run(crash, on_error=errors.append)
    error = proxy.submit(how, in_thread).exception(10)
    proxy.join(10)

    assert [each.stack for each in (error, *errors)] == [error.stack] * 2
    reason, current, *frames = error.stack.split("\n")
    assert reason.startswith("Fatal Python error: ")
    assert current.startswith("Current thread ")
    assert any(frame.endswith("in down") for frame in frames)
    assert any(frame.endswith("in crash") for frame in frames) is not in_thread
    assert not any("forkrpc/" in frame for frame in frames)
    assert str(error).endswith(error.stack)
    assert capfd.readouterr().err == ""


def test_each_worker_tells_its_own_crash_and_its_successor_none(template):
    for _ in range(3):
        proxies = [template.run(crash, on_error=lambda error: None) for _ in range(5)]
        futures = [
            proxy.submit(how)
            for proxy, how in zip(
                proxies,
                ["null", signal.SIGKILL, "abort", signal.SIGTERM, "null"],
                strict=True,
            )
        ]
        stacks = [future.exception(10).stack or "none" for future in futures]
        for proxy in proxies:
            proxy.join(10)

        assert [stack.partition("\n")[0].rpartition(": ")[2] for stack in stacks] == [
            *("Segmentation fault", "none", "Aborted", "none", "Segmentation fault")
        ]


def test_faulthandler_as_the_users_code_has_set_it_up_stays(template, tmp_path):
    path = str(tmp_path / "crash")
    template.eval(
        "import faulthandler; file = open(args[0], 'w'); faulthandler.enable(file)",
        path,
    )

    proxy = template.run(crash, on_error=lambda error: None)
    error = proxy.submit("null").exception(10)
    proxy.join(10)

    assert error.stack is None
    assert "in down" in (tmp_path / "crash").read_text()
