"""Unit: the options of `run`: their defaults, and what is said of each bad one."""

import asyncio
import os
import resource

import pytest

from forkrpc import options
from forkrpc.options import run_options


def test_nothing_given_is_the_documented_defaults():
    found = run_options({})

    assert found["backend"] == "sync"
    assert found["serialiser"] == "pickle"
    assert (found["buflen"], found["orphan"]) == (65536, "kill")
    assert [found[name] for name in ("stdin", "stdout", "stderr")] == [
        *("null", "inherit", "inherit")
    ]
    assert {found[name] for name in ("on_error", "on_event", "on_destroy")} == {None}
    assert {found[name] for name in ("init", "timeout", "loop", "affinity")} == {None}


def test_what_is_given_replaces_its_default_and_is_left_alone():
    given = {"timeout": 1.5, "nice": 3, "on_event": print, "init": "m.f"}
    before = dict(given)

    found = run_options(given)

    assert given == before
    assert {name: found[name] for name in given} == given


def test_the_defaults_are_not_changed_by_what_is_given():
    before = dict(options.DEFAULTS)

    run_options({"rlimits": {"CPU": 5}, "stdin": "inherit", "affinity": None})

    assert before == options.DEFAULTS


@pytest.mark.parametrize(
    ("name", "close"),
    [("on_eror", "on_error"), ("serializer", "serialiser"), ("timeouts", "timeout")],
)
def test_an_unknown_option_names_the_one_that_was_meant(name, close):
    with pytest.raises(TypeError, match=f"no option '{name}'; did you mean '{close}'"):
        run_options({name: None})


def test_an_option_like_no_other_lists_those_there_are():
    with pytest.raises(TypeError, match="no option 'xyz'; its options are") as caught:
        run_options({"xyz": 1})

    for name in options.DEFAULTS:
        assert name in str(caught.value)


BAD = [
    *[("backend", value, ValueError, "'sync'") for value in ("threads", None, 1)],
    *[
        (name, value, TypeError, "must be callable")
        for name in ("on_error", "on_event", "on_destroy")
        for value in ("print", 7)
    ],
    *[
        (name, value, ValueError, "a number of bytes above 0")
        for name in ("buflen", "buflen_req", "buflen_res", "max_frame")
        for value in (0, -1, 1.5, "64k")
    ],
    ("buflen", None, ValueError, "a number of bytes above 0"),
    ("max_frame", None, ValueError, "a number of bytes above 0"),
    *[
        ("timeout", value, ValueError, "seconds above 0 or None")
        for value in (0, -1, "1", [], float("nan"))
    ],
    *[
        ("orphan", value, ValueError, "'kill' or 'finish'")
        for value in ("finnish", None, True)
    ],
    *[("loop", value, TypeError, "an asyncio event loop") for value in (7, "loop")],
    *[
        (name, value, TypeError, "'forward', a descriptor or a file")
        for name in ("stdout", "stderr")
        for value in ("forwards", -1, 1.5, True, object())
    ],
    *[
        ("stdin", value, TypeError, "'null', 'inherit', a descriptor or a file")
        for value in ("forward", -1, 1.5, True, object())
    ],
    *[("logs", value, TypeError, "True or False") for value in (None, 1, "INFO")],
    ("context", 5, TypeError, "names or ContextVars"),
    ("context", print, TypeError, "names or ContextVars"),
    ("context", "unknown", ValueError, "write 'package.module:attribute'"),
    ("stdin", -2, TypeError, "'null', 'inherit', a descriptor or a file"),
    ("nice", 1.5, TypeError, "an int"),
    ("nice", "1", TypeError, "an int"),
    ("nice", None, TypeError, "an int"),
    ("affinity", [], ValueError, "must be processors of"),
    ("affinity", [4096], ValueError, "must be processors of"),
    ("affinity", [-1], ValueError, "must be processors of"),
    ("affinity", 1, TypeError, "processors"),
    ("rlimits", 5, TypeError, "must be a dict"),
    ("rlimits", {"NO_SUCH": 1}, ValueError, "write 'AS' or 'CPU'"),
    ("rlimits", {1.5: 1}, ValueError, "write 'AS' or 'CPU'"),
]


@pytest.mark.parametrize(("name", "value", "error", "remedy"), BAD)
def test_a_bad_option_is_told_with_its_name_its_value_and_a_remedy(
    name, value, error, remedy
):
    with pytest.raises(error) as caught:
        run_options({name: value})

    text = str(caught.value)
    shown = next(iter(value)) if isinstance(value, dict) else value
    assert name in text
    assert repr(shown)[:50] in text
    assert remedy in text


@pytest.mark.parametrize("limit", [1.5, "1", None, (1,), (1, 2, 3), ("1", "2"), [None]])
def test_a_limit_that_is_no_number_or_pair_is_told_with_its_name_and_value(limit):
    with pytest.raises((TypeError, ValueError), match="rlimits") as caught:
        run_options({"rlimits": {"CPU": limit}})

    assert "CPU" in str(caught.value)
    assert repr(limit) in str(caught.value)


def test_a_descriptor_that_is_not_open_is_an_oserror():
    read, write = os.pipe()
    os.close(read)
    os.close(write)

    with pytest.raises(OSError, match="Bad file descriptor"):
        run_options({"stdout": read})


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
def test_streams_may_be_given_as_subprocess_knows_them(name):
    assert run_options({name: None})[name] == "inherit"
    assert run_options({name: "inherit"})[name] == "inherit"
    assert run_options({name: "null"})[name] == "null"
    assert run_options({name: options.DEVNULL})[name] == "null"
    assert run_options({name: 0})[name] == 0


def test_errors_may_go_where_the_output_goes():
    assert run_options({"stderr": options.STDOUT})["stderr"] == "stdout"


def test_a_file_is_taken_by_its_number_and_what_it_holds_is_written(tmp_path):
    path = tmp_path / "output"
    with open(path, "w") as file:
        file.write("before")

        assert run_options({"stdout": file})["stdout"] == file.fileno()
        assert path.read_text() == "before"


def test_a_file_to_read_from_is_not_flushed(tmp_path):
    path = tmp_path / "input"
    path.write_text("text")
    with open(path) as file:
        assert run_options({"stdin": file})["stdin"] == file.fileno()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, []),
        ({}, []),
        ({"CPU": 5}, [(resource.RLIMIT_CPU, (5, 5))]),
        ({"RLIMIT_AS": (1, 2)}, [(resource.RLIMIT_AS, (1, 2))]),
        ({resource.RLIMIT_CORE: [0, 0]}, [(resource.RLIMIT_CORE, (0, 0))]),
    ],
)
def test_limits_are_pairs_by_number(given, expected):
    assert run_options({"rlimits": given})["rlimits"] == expected


def test_processors_are_sorted_and_may_be_any_iterable():
    usable = os.sched_getaffinity(0)

    assert run_options({"affinity": usable})["affinity"] == sorted(usable)
    assert run_options({"affinity": iter(usable)})["affinity"] == sorted(usable)


def test_an_event_loop_is_taken():
    loop = asyncio.new_event_loop()
    try:
        assert run_options({"loop": loop})["loop"] is loop
    finally:
        loop.close()


# What belongs to one backend.


@pytest.mark.parametrize(
    ("name", "value"),
    [("limit", 3), ("done", "m.done"), ("loop_factory", "uvloop.new_event_loop")],
)
def test_an_option_of_the_async_backend_is_refused_by_the_sync_one(name, value):
    with pytest.raises(TypeError, match=f"{name} is an option of backend='async' only"):
        run_options({name: value})
    assert run_options({"backend": "async", name: value})[name] == value


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "3"])
def test_a_bad_limit_is_told(limit):
    with pytest.raises(ValueError, match="limit must be a number of calls above 0"):
        run_options({"backend": "async", "limit": limit})


def test_done_implies_that_the_worker_finishes():
    given = {"backend": "async", "done": "m.done"}

    assert run_options(given)["orphan"] == "finish"
    assert run_options({**given, "orphan": "finish"})["orphan"] == "finish"
    with pytest.raises(ValueError, match="orphan must be 'finish' with done"):
        run_options({**given, "orphan": "kill"})
