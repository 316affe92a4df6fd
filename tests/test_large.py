"""End-to-end: large values by every verb, both ways, both backends."""

import asyncio
import os
import signal
import threading

import numpy
import pytest

import bulky
from forkrpc import SerialiserError, WorkerDied, parts
from forkrpc.parts import LARGE
from helpers import resident_bytes, run_program, wait_until
from shared import shared_template
from test_pieces import same

LIMIT = 20.0  # seconds for anything to happen; much more than it takes
FUNCTIONS = {"sync": "run", "async": "run_async"}
ITEMS = {"sync": "items", "async": "items_async"}
MIB = 1 << 20

every_backend = pytest.mark.parametrize("backend", FUNCTIONS)


def array(length, *, read_only=False):
    made = numpy.arange(length, dtype="u1")
    made.flags.writeable = not read_only
    return made


VALUES = {
    "bytes": b"x" * LARGE,
    "bytes-of-megabytes": bytes(range(256)) * (20 << 10),
    "bytearray": bytearray(b"y" * (2 * LARGE + 1)),
    "array": array(3 * LARGE),
    "read-only-array": array(LARGE, read_only=True),
    "table": numpy.arange(100_000, dtype="f8").reshape(100, 1000).T,
    "nested": {"a": [b"x" * LARGE, {"b": bytearray(LARGE)}], "c": array(LARGE)},
    "several": [b"x" * LARGE, bytearray(LARGE), array(LARGE), b"z" * LARGE],
    "string": "ü" * LARGE,
    "beside-many": [list(range(50_000)), b"x" * LARGE, "text" * LARGE],
    "almost": b"x" * (LARGE - 1),
    "empty": [b"", bytearray(), array(0)],
    "none": numpy.zeros((LARGE, 0)),
}
every_value = pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)


@pytest.fixture(scope="module")
def template():
    with shared_template("numpy", "bulky") as template:
        yield template


@pytest.fixture
def proxy(template, backend):
    with template.run(f"bulky.{FUNCTIONS[backend]}", backend=backend) as proxy:
        yield proxy
    assert proxy.pending == 0
    assert proxy.returncode == 0


def by_callback(proxy, *args, **kwargs):
    results, done = [], threading.Event()

    def callback(result):
        results.append(result)
        done.set()

    proxy(*args, callback, **kwargs)
    assert done.wait(LIMIT)
    return results[0]


def by_submit(proxy, *args, **kwargs):
    return proxy.submit(*args, **kwargs).result(LIMIT)


def by_call(proxy, *args, **kwargs):
    return proxy.call(*args, **kwargs)


def by_limited_call(proxy, *args, **kwargs):
    return proxy.with_options(timeout=LIMIT).call(*args, **kwargs)


def by_limited_submit(proxy, *args, **kwargs):
    return proxy.with_options(timeout=LIMIT).submit(*args, **kwargs).result(LIMIT)


def by_acall(proxy, *args, **kwargs):
    async def main():
        return await asyncio.wait_for(proxy.acall(*args, **kwargs), LIMIT)

    return asyncio.run(main())


VERBS = {
    each.__name__[3:].replace("_", "-"): each
    for each in (
        *(by_callback, by_submit, by_call, by_limited_call, by_limited_submit),
        by_acall,
    )
}
every_verb = pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)


@every_backend
@every_verb
@every_value
def test_a_value_goes_there_and_back(value, verb, proxy):
    assert same(verb(proxy, "echo", value), value)


@every_backend
@every_verb
def test_keywords_and_several_arguments_go_along(verb, proxy):
    octets, array_ = b"x" * LARGE, array(LARGE)

    args, kwargs = verb(proxy, "echo", octets, 1, array_, key=octets, b=2)

    assert same(args, (octets, 1, array_))
    assert same(kwargs, {"key": octets, "b": 2})
    assert kwargs["key"] is args[0]


def items_by_stream(proxy, *args):
    return list(proxy.stream(*args))


def items_by_limited_stream(proxy, *args):
    return list(proxy.with_options(timeout=LIMIT).stream(*args))


def items_by_astream(proxy, *args):
    async def main():
        return [item async for item in proxy.astream(*args)]

    return asyncio.run(main())


@every_backend
@pytest.mark.parametrize(
    "verb", [items_by_stream, items_by_limited_stream, items_by_astream]
)
@every_value
def test_items_of_a_stream_are_large(value, verb, backend, template):
    with template.run(f"bulky.{ITEMS[backend]}", backend=backend) as proxy:
        found = verb(proxy, "echo", value)

    assert len(found) == 3
    assert same(found[0], value)
    assert found[1] == "between"
    assert same(found[2], value)


@every_backend
@every_value
def test_events_come_in_order_with_results(value, backend, template):
    events = []
    options = {"backend": backend, "on_event": lambda *args: events.append(args)}
    proxy = template.run(f"bulky.{FUNCTIONS[backend]}", **options)

    assert same(proxy.call("tell", value), value)

    assert proxy.drain(LIMIT)
    assert events[0] == ("before",)
    assert same(events[1], (value, "with it"))
    proxy.close()
    assert proxy.join(LIMIT)


@every_backend
@every_verb
def test_the_worker_can_write_to_what_could_be_written_to(verb, proxy):
    values = [
        *(b"x" * LARGE, bytearray(LARGE), array(LARGE), array(LARGE, read_only=True)),
        *(b"x", bytearray(5), array(5), array(5, read_only=True)),
    ]

    found = verb(proxy, "kinds", *values)

    assert found == [bulky.kind(value) for value in values]


@every_backend
@every_verb
def test_the_result_is_the_callers_own(verb, proxy):
    for value in (bytearray(LARGE), array(LARGE)):
        result = verb(proxy, "echo", value)
        result[0] = 7

        assert value[0] == 0
        assert not verb(proxy, "echo", value)[0]
    result = verb(proxy, "echo", bytearray(LARGE))
    result.append(1)  # nobody else looks at its memory
    assert len(result) == LARGE + 1


@every_backend
@pytest.mark.parametrize("make", [bytearray, array], ids=["bytearray", "array"])
def test_a_call_that_waits_sends_what_is_its_callers_without_a_copy(
    make, backend, template, monkeypatch
):
    value = make(4 * MIB)
    with template.run(f"bulky.{FUNCTIONS[backend]}", backend=backend) as proxy:
        copies = []
        monkeypatch.setattr(parts, "copy_of", copies.append)
        assert len(proxy.call("echo", value)) == 4 * MIB
        assert copies == []
        with pytest.raises(LookupError) as caught:
            proxy.call("no such function", value)
        assert caught.value is not None  # and the frames in its traceback
    if make is bytearray:
        value.clear()  # nobody holds its memory


@every_backend
def test_an_interrupt_leaves_the_call_what_it_was(backend, template, tmp_path):
    path = os.fspath(tmp_path / "gate")
    os.mkfifo(path)
    value, told = bytearray(64 * MIB), []
    with template.run(
        f"bulky.{FUNCTIONS[backend]}", backend=backend, on_event=told.append
    ) as proxy:
        held = proxy.submit("gate", path)
        main = threading.main_thread().ident
        alarm = threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT))
        alarm.start()
        with pytest.raises(KeyboardInterrupt):  # its worker reads nothing
            proxy.call("tell_sum", value)
        alarm.join()
        value[:] = b"z" * len(value)
        value.clear()  # nobody holds its memory
        with open(path, "wb"):
            pass
        assert held.result(LIMIT) is None
        assert proxy.drain(LIMIT)
        assert proxy.call("tell_sum", b"\1" * LARGE) == LARGE
        assert proxy.drain(LIMIT)
    assert told == [0, LARGE]


@every_backend
@pytest.mark.parametrize("length", [LARGE, 4 * MIB])
@pytest.mark.parametrize("make", [bytearray, array], ids=["bytearray", "array"])
def test_arguments_are_those_of_the_moment_of_the_call(
    make, length, backend, template, tmp_path
):
    path = os.fspath(tmp_path / "gate")
    os.mkfifo(path)
    value, results = make(length), []
    expected = bytes(value)
    with template.run(f"bulky.{FUNCTIONS[backend]}", backend=backend) as proxy:
        held = proxy.submit("gate", path)
        future = proxy.submit("echo", value)
        proxy("echo", {"in": value}, results.append)
        limited = proxy.with_options(timeout=LIMIT).submit("echo", value)
        value[:] = b"z" * length if make is bytearray else 122
        if make is bytearray:
            value.clear()  # nobody holds its memory
        with open(path, "wb"):
            pass

        assert held.result(LIMIT) is None
        assert bytes(future.result(LIMIT)) == expected
        assert bytes(limited.result(LIMIT)) == expected
        assert proxy.drain(LIMIT)
        assert bytes(results[0]["in"]) == expected


@every_backend
def test_a_result_is_that_of_the_moment_of_the_return(backend, template):
    with template.run(f"bulky.{FUNCTIONS[backend]}", backend=backend) as proxy:
        futures = [proxy.submit("counted", MIB) for _ in range(20)]

        for number, future in enumerate(futures, 1):
            result = future.result(LIMIT)
            assert result[0] == result[-1] == number


@pytest.mark.parametrize("backend", ["async"])
def test_what_the_loop_changes_behind_the_return_is_not_sent(proxy):
    result = proxy.call("changed", bytearray(LARGE))

    assert result == bytearray(LARGE)


@every_backend
def test_small_and_large_calls_stay_in_order(backend, proxy):
    results = []
    for number in range(200):
        value = bytes([number]) * (LARGE if number % 3 == 0 else 10)
        proxy("echo", value if number % 2 else [number, value], results.append)
    assert proxy.drain(LIMIT)
    wait_until(lambda: len(results) == 200, LIMIT)
    if backend == "async":
        results.sort(key=lambda each: each[0] if type(each) is bytes else each[1][0])

    for number, result in enumerate(results):
        value = bytes([number]) * (LARGE if number % 3 == 0 else 10)
        assert result == (value if number % 2 else [number, value])


@every_backend
@pytest.mark.parametrize("make", [bytes, array], ids=["bytes", "array"])
def test_64_mib_go_both_ways(make, proxy):
    value = make(64 * MIB)

    assert same(proxy.call("echo", value), value)
    assert same(proxy.submit("echo", [value]).result(LIMIT), [value])


@every_backend
def test_several_large_results_wait_for_a_program_that_computes(proxy):
    futures = [proxy.submit("zeros", 3 * MIB) for _ in range(8)]

    assert [len(future.result(LIMIT)) for future in futures] == [3 * MIB] * 8


# A class of `__main__`, which plain pickle cannot send.

MAIN = """
    import numpy, threading
    import forkrpc

    class Image:
        def __init__(self, pixels, raw):
            self.pixels, self.raw = pixels, raw

    def brighter(image, octets):
        image.pixels += 1
        return image, octets

    with forkrpc.Forker() as template:
        for backend in ("sync", "async"):
            async def run(image, octets):
                return brighter(image, octets)
            function = brighter if backend == "sync" else run
            with template.run(function, backend=backend) as proxy:
                image = Image(numpy.zeros(1 << 20), bytearray(1 << 20))
                found, octets = proxy.call(image, b"x" * (1 << 20))
                assert type(found) is Image
                assert (found.pixels == 1).all() and (image.pixels == 0).all()
                assert found.pixels.flags.writeable
                assert type(found.raw) is bytearray and len(found.raw) == 1 << 20
                assert octets == b"x" * (1 << 20)
    print("right")
"""


def test_objects_of_main_have_large_parts():
    done = run_program(MAIN, timeout=60)

    assert done.stdout == "right\n", done.stderr[-3000:]


@pytest.mark.parametrize("serialiser", ["bytes", "data", "portable-pickle"])
def test_other_serialisers_send_all_in_one(serialiser, template):
    value = b"x" * (3 * LARGE)
    with template.run("bulky.echo", serialiser=serialiser) as proxy:
        assert proxy.call(value) == value


# Limits.


@every_backend
@every_verb
def test_arguments_over_max_frame_are_refused(verb, backend, template):
    options = {"backend": backend, "max_frame": MIB}
    with template.run(f"bulky.{FUNCTIONS[backend]}", **options) as proxy:
        for value in (bytes(MIB), {"in": bytearray(MIB)}, array(MIB)):
            with pytest.raises(SerialiserError, match=r"max_frame is 1048576"):
                verb(proxy, "echo", value)
        assert len(proxy.call("echo", bytes(MIB - 100))) == MIB - 100


@every_backend
def test_a_result_or_an_event_over_max_frame_fails_its_call_only(backend, template):
    options = {"backend": backend, "max_frame": MIB}
    with template.run(f"bulky.{FUNCTIONS[backend]}", **options) as proxy:
        large = proxy.submit("zeros", MIB)
        behind = proxy.submit("zeros", MIB - 100)

        with pytest.raises(SerialiserError, match="max_frame is 1048576"):
            large.result(LIMIT)
        assert len(behind.result(LIMIT)) == MIB - 100


# Deaths.


@every_backend
@pytest.mark.parametrize("milliseconds", [5, 10, 20, 40])
def test_a_worker_that_dies_while_it_writes_fails_the_call(
    milliseconds, backend, template
):
    options = {"backend": backend, "on_error": lambda _: None}
    proxy = template.run(f"bulky.{FUNCTIONS[backend]}", **options)
    assert proxy.call("echo", 1) == 1
    before = proxy.submit("echo", 2)
    dies = proxy.submit("kill_after", 512 * MIB, milliseconds / 1000)
    behind = proxy.submit("echo", 3)

    assert before.result(LIMIT) == 2
    assert isinstance(dies.exception(LIMIT), WorkerDied)
    assert isinstance(behind.exception(LIMIT), WorkerDied)
    assert dies.exception().started is True
    assert dies.exception().returncode == -signal.SIGALRM
    assert proxy.join(LIMIT)
    assert proxy.pending == 0


@every_backend
def test_a_worker_that_is_killed_while_it_reads_fails_the_call(backend, template):
    options = {"backend": backend, "on_error": lambda _: None}
    proxy = template.run(f"bulky.{FUNCTIONS[backend]}", **options)
    assert proxy.call("echo", 1) == 1
    os.kill(proxy.pid, signal.SIGSTOP)
    futures = [proxy.submit("echo", bytes(8 * MIB)) for _ in range(3)]
    proxy.kill()

    for future in futures:
        assert isinstance(future.exception(LIMIT), WorkerDied)
    assert proxy.join(LIMIT)


# Interrupts.

STORM = """
    import signal, sys
    import forkrpc

    def on_alarm(*_):
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise KeyboardInterrupt

    backend, rounds = sys.argv[1], int(sys.argv[2])
    sys.path.insert(0, sys.argv[3])
    name = {"sync": "run", "async": "run_async"}[backend]
    template = forkrpc.Forker().require("bulky")
    errors, answers = [], []
    proxy = template.run(f"bulky.{name}", backend=backend, on_error=errors.append)
    value = bytes(range(256)) * (12 << 10)
    assert proxy.call("echo", value) == value
    signal.signal(signal.SIGALRM, on_alarm)
    interrupted, futures, registered = 0, [], 0
    for number in range(rounds):
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + number % 40 / 8000)
                mine = bytearray(value)
                mine[0] = number % 256
                if number % 3 == 0:
                    result = proxy.call("echo", mine)
                    assert result == mine
                elif number % 3 == 1:
                    futures.append((number % 256, proxy.submit("echo", mine)))
                else:
                    proxy("echo", [number, mine], answers.append)
                mine.clear()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:  # also one that came as the timer was stopped
            interrupted += 1
    for first, future in futures:
        result = future.result(20)
        assert result[0] == first and result[1:] == value[1:]
    assert proxy.call("echo", value) == value
    assert proxy.drain(20)
    for number, result in answers:
        assert result[0] == number % 256 and result[1:] == value[1:]
    numbers = [number for number, _ in answers]
    assert len(set(numbers)) == len(numbers)
    assert not errors, errors
    assert proxy.pending == 0
    proxy.close()
    assert proxy.join(20) and proxy.returncode == 0
    print(interrupted)
"""


@every_backend
def test_a_storm_of_interrupts_loses_nothing(backend):
    folder = os.path.dirname(__file__)
    done = run_program(STORM, backend, 150, folder, timeout=120)

    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 5


# What is left behind.


@every_backend
def test_nothing_large_is_kept_when_the_calls_are_done(backend, template):
    with template.run(f"bulky.{FUNCTIONS[backend]}", backend=backend) as proxy:
        value = array(64 * MIB)
        for _ in range(2):
            proxy.call("echo", 1)
        before = resident_bytes()
        for _ in range(4):
            assert len(proxy.call("echo", value)) == len(value)
        proxy.call("echo", 1)

        assert resident_bytes() - before < 32 * MIB
        assert resident_of(proxy.pid) < 100 * MIB


def resident_of(pid):
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
