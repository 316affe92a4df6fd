"""Contract: what a worker is started with: its streams, descriptors and options."""

import contextlib
import errno
import os
import resource
import tempfile

import pytest

from forkrpc import Forker, SetupError, progress
from forkrpc import starting as starting_module
from forkrpc.options import run_options
from helpers import open_descriptors

LIMIT = 10.0  # seconds; much more than it takes

WORK = """
import os, resource, sys

def look():
    return [os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)]

def say(text):
    print(text, flush=True)
    print(text, file=sys.stderr, flush=True)

def limits():
    return (
        resource.getrlimit(resource.RLIMIT_CORE),
        os.nice(0),
        sorted(os.sched_getaffinity(0)),
    )
"""


@pytest.fixture(scope="module")
def template():
    with Forker(name="test_starting").require(__name__) as template:
        template.eval(WORK).ready(LIMIT)
        yield template


@pytest.fixture
def file():
    with tempfile.TemporaryFile() as file:
        yield file


def call(template, function, *args, **options):
    with template.run(function, **options) as proxy:
        return proxy.call(*args)


def target(fd):
    return os.readlink(f"/proc/self/fd/{fd}")


def spec_of(**options):
    """Return (what RUN says of the streams, how many descriptors go with it)."""
    spec = {}
    handles = starting_module._stdio(spec, run_options(options))
    for fd in handles:
        os.close(fd)
    return spec["stdio"], len(handles)


# The streams.


def test_a_worker_reads_nothing_and_writes_where_the_program_does(template):
    null, out, err = call(template, "look")

    assert null == os.devnull
    assert (out, err) == (target(1), target(2))


def test_each_stream_may_be_null(template):
    options = dict.fromkeys(("stdin", "stdout", "stderr"), "null")

    assert call(template, "look", **options) == [os.devnull] * 3


def test_each_stream_may_be_a_file(template, file):
    options = dict.fromkeys(("stdin", "stdout", "stderr"), file)

    assert call(template, "look", **options) == [target(file.fileno())] * 3


def test_a_stream_may_be_a_descriptor(template, file):
    _, out, err = call(template, "look", stdout=file.fileno())

    assert (out, err) == (target(file.fileno()), target(2))


def test_the_errors_may_go_where_the_output_goes(template, file):
    call(template, "say", "text", stdout=file, stderr=-2)

    file.seek(0)
    assert file.read() == b"text\ntext\n"


@pytest.mark.parametrize(
    ("options", "streams", "handles"),
    [
        ({}, ["null", "handle", "handle"], 2),
        ({"stdout": "null", "stderr": "null"}, ["null", "null", "null"], 0),
        ({"stderr": -2}, ["null", "handle", "stdout"], 1),
        ({"stdin": "inherit"}, ["handle", "handle", "handle"], 3),
    ],
    ids=["default", "null", "errors-to-output", "input"],
)
def test_only_streams_that_are_somewhere_travel(options, streams, handles):
    assert spec_of(**options) == (streams, handles)


def test_a_stream_that_the_program_has_closed_is_null(monkeypatch):
    def refuse(fd):
        raise OSError(errno.EBADF, "bad file descriptor")

    monkeypatch.setattr(starting_module, "duplicate", refuse)

    assert spec_of(stdin="inherit") == (["null"] * 3, 0)


def test_a_file_that_was_closed_is_an_error_and_leaves_nothing_open(file):
    options = run_options({"stdout": file, "stderr": file})
    fd = file.fileno()
    file.close()
    before = open_descriptors()

    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        starting_module._stdio({}, options)

    assert fd not in open_descriptors()
    assert open_descriptors() == before


@pytest.mark.parametrize("part", ["Pipe", "_stdio", "Page.handle"])
def test_a_start_that_fails_leaves_nothing_of_forwarded_streams(
    template, monkeypatch, part
):
    owner = progress.Page if part == "Page.handle" else starting_module
    part = part.rpartition(".")[2]
    real, calls = getattr(owner, part), []

    def fail_at_last(*args):
        calls.append(args)
        if part != "Pipe" or len(calls) == 2:
            raise OSError(errno.EMFILE, "no more")
        return real(*args)

    monkeypatch.setattr(owner, part, fail_at_last)
    before = open_descriptors()

    with pytest.raises(SetupError, match="no more"):
        template.run("look", stdout="forward", stderr="forward")

    assert open_descriptors() == before


# Too few descriptors.


@contextlib.contextmanager
def descriptors_left(count):
    """Let this program open no more than *count* descriptors; yields its limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(open_descriptors()) + 1 + count
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    fillers = []
    with contextlib.suppress(OSError):
        while True:
            fillers.append(os.open(os.devnull, os.O_RDONLY))
    for _ in range(count):
        os.close(fillers.pop())
    try:
        yield limit
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in fillers:
            os.close(fd)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("start", ["run", "spawn"])
def test_too_few_descriptors_are_told_with_limit_and_need(template, start, count):
    call(template, "look")  # all is set up that workers share
    run = getattr(template, start)
    before = open_descriptors()

    with descriptors_left(count) as limit, pytest.raises(SetupError) as raised:
        run("look")

    assert f"may have {limit} descriptors open (RLIMIT_NOFILE" in str(raised.value)
    assert "needs 2 of them" in str(raised.value)
    assert raised.value.__cause__.errno == errno.EMFILE
    assert open_descriptors() == before


def test_another_error_of_the_system_has_no_advice(template, monkeypatch):
    def refuse():
        raise OSError(errno.ENOBUFS, "no buffers")

    monkeypatch.setattr(starting_module, "socket_pair", refuse)

    for start in (template.run, template.spawn):
        with pytest.raises(SetupError, match="no buffers") as raised:
            start("look")
        assert "RLIMIT" not in str(raised.value)


# Options that the child is told.


def test_limits_niceness_and_processors_are_applied(template):
    cpu = min(os.sched_getaffinity(0))

    core, nice, affinity = call(
        template,
        "limits",
        rlimits={"CORE": 0},
        nice=3,
        affinity=[cpu],
    )

    assert core == (0, 0)
    assert nice == os.nice(0) + 3
    assert affinity == [cpu]


@pytest.mark.parametrize(
    ("given", "key", "told"),
    [
        ({}, "mortal", True),
        ({"orphan": "finish"}, "mortal", False),
        ({}, "timed", False),
        ({"timeout": 60}, "timed", True),
        ({"buflen": 100}, "buflen", 100),
        ({"buflen": 100, "buflen_req": 200}, "buflen", 200),
        ({"max_frame": 1000}, "max_frame", 1000),
        ({"nice": 2}, "nice", 2),
        ({}, "function", "look"),
        ({}, "init", None),
        ({}, "serialiser", "json"),
        ({}, "spawn", False),
        ({}, "title", "look"),
    ],
    ids=lambda value: "-".join(value) or "default" if isinstance(value, dict) else None,
)
def test_the_child_is_told_its_options(template, monkeypatch, given, key, told):
    specs, whole = [], starting_module._spec

    def noted(*args, **kwargs):
        specs.append(whole(*args, **kwargs))
        return specs[-1]

    monkeypatch.setattr(starting_module, "_spec", noted)
    with template.run("look", serialiser="json", **given):
        pass

    (spec,) = specs
    if key == "function":
        assert told in spec[key]
    else:
        assert spec[key] == told


def test_a_process_that_outlives_the_program_is_told_so(template, monkeypatch):
    specs, whole = [], starting_module._spec

    def noted(*args, **kwargs):
        specs.append(whole(*args, **kwargs))
        return specs[-1]

    monkeypatch.setattr(starting_module, "_spec", noted)
    for outlive in (False, True):
        process = template.spawn("say", outlive=outlive)
        process.kill()
        process.wait(LIMIT)
        process.sock.close()

    assert [(spec["spawn"], spec["mortal"]) for spec in specs] == [
        (True, True),
        (True, False),
    ]


def test_what_cannot_be_sent_starts_nothing(template):
    before = open_descriptors()

    for bad in ({"init": 7}, {"serialiser": "no such"}):
        with pytest.raises((TypeError, ValueError)):
            template.run("look", **bad)

    assert open_descriptors() == before


@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize(
    ("options", "size"),
    [({}, 65536), ({"buflen": 100}, 100), ({"buflen": 100, "buflen_res": 200}, 200)],
    ids=["default", "buflen", "buflen_res"],
)
def test_the_program_reads_as_much_at_once_as_was_asked(backend, options, size):
    sizes = []

    def read(size, flags=0):
        sizes.append(size)
        raise BlockingIOError

    with Forker().require(__name__) as template:
        with template.run("operator.neg", backend=backend, **options) as proxy:
            pass
        with pytest.raises(BlockingIOError):  # nobody else reads any more
            proxy._session.decoder.receive(read)

    assert sizes == [size]
