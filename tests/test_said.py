"""Unit: what a worker says, as the program shows it."""

import contextlib
import io
import logging
import sys
import types
import warnings

import pytest

from forkrpc import notes, serialisers, wire
from forkrpc.errors import SerialiserError
from forkrpc.options import run_options
from forkrpc.said import Said, spec_of


class Session:
    def __init__(self, name="pickle"):
        self.codec = serialisers.codec(name, None)
        self.errors = []
        self.on_error = self.errors.append


@pytest.fixture
def session():
    return Session()


def output(body, flags=wire.STDOUT):
    return wire.Frame(wire.OUTPUT, flags, 0, 1, 0, body)


def note(fields, packed=None, flags=0, trusted=True):
    body = notes.dumps((fields, packed), trusted=trusted)
    return wire.Frame(wire.LOG, flags, 0, 1, 0, body)


def record(**fields):
    return {"name": "shop", "levelno": 30, "msg": "hello", "args": None, **fields}


def shown(*frames):
    out, err = io.StringIO(), io.StringIO()
    said = Said(Session(), None)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        for frame in frames:
            said.show(frame)
    return out.getvalue(), err.getvalue()


def test_output_goes_to_its_stream():
    assert shown(output(b"o"), output(b"e", wire.STDERR)) == ("o", "e")


def test_the_pieces_of_a_character_may_come_by_two_ways_at_once():
    euro = "€".encode()
    piped = wire.STDOUT | wire.PIPED

    assert shown(
        output(euro[:1]),
        output(euro[:2], piped),
        output(euro[1:]),
        output(euro[2:], piped),
    ) == ("€€", "")


def test_the_end_of_a_pipe_shows_what_was_no_whole_character():
    piped = wire.STDOUT | wire.PIPED

    assert shown(output(b"a\xe2", piped), output(b"", piped)) == ("a\\xe2", "")


def test_a_memoryview_and_flags_of_nobody_are_shown_or_ignored():
    assert shown(output(memoryview(b"text")), output(b"x", 3)) == ("text", "")


def test_a_record_is_handled_by_its_logger(session, caplog):
    Said(session, None).show(note(record(extra=5)))

    (found,) = caplog.records
    assert (found.name, found.getMessage(), found.extra) == ("shop", "hello", 5)


def test_extra_fields_that_do_not_load_cost_themselves_only(session, caplog):
    class Gone:
        pass

    sys.modules["said_gone"] = module = types.ModuleType("said_gone")
    Gone.__module__, Gone.__qualname__ = "said_gone", "Gone"
    module.Gone = Gone
    body = session.codec.dump(({"gone": Gone()},))
    del sys.modules["said_gone"]

    Said(session, None).show(note(record(), body))

    (found,) = caplog.records
    assert found.getMessage() == "hello"
    assert not hasattr(found, "gone")


@pytest.mark.parametrize("name", ["pickle", "data"])
@pytest.mark.parametrize("flags", [0, wire.WARNING])
def test_a_body_that_does_not_load_is_told_and_harms_nothing(name, flags):
    session = Session(name)

    for body in b"", b"junk", notes.dumps(7, trusted=name == "pickle"):
        Said(session, None).show(wire.Frame(wire.LOG, flags, 0, 1, 0, body))

    assert [type(error) for error in session.errors] == [SerialiserError] * 3


def test_without_trust_extra_fields_are_data(caplog):
    frame = note(record(), {"fruit": ["pear"]}, trusted=False)

    Said(Session("json"), None).show(frame)

    assert caplog.records[0].fruit == ["pear"]


def warning(module, category, text="careful"):
    fields = {"module": module, "category": category, "text": text}
    return note({**fields, "filename": "f.py", "lineno": 3, "line": None}, None, 1)


class Demanding(Warning):
    def __init__(self, one, two):
        super().__init__(one, two)


@pytest.mark.parametrize(
    ("module", "name", "found"),
    [
        ("builtins", "RuntimeWarning", RuntimeWarning),
        (__name__, "Demanding", Demanding),
        ("builtins", "print", None),
        ("no_such_module", "Odd", None),
    ],
)
def test_the_category_of_a_warning_is_found_or_made(session, module, name, found):
    with warnings.catch_warnings(record=True) as caught:
        Said(session, None).show(warning(module, name))

    (told,) = caught
    assert str(told.message) == "careful"
    assert (told.filename, told.lineno) == ("f.py", 3)
    assert told.category is found or (found is None and told.category.__name__ == name)
    assert session.errors == []


@pytest.mark.parametrize(
    ("options", "forward", "consoles"),
    [
        ({}, {}, [1, 2]),
        ({"stdout": "forward"}, {1: 1}, [1, 2]),
        ({"stdout": "forward", "stderr": -2}, {1: 1, 2: 1}, [1, 2]),
        ({"stderr": -2}, {}, [1, 2]),
        ({"stdout": "null", "stderr": -2}, {}, []),
        ({"stdout": "null", "stderr": "forward"}, {2: 2}, [2]),
        ({"stderr": 1}, {}, [1, 2]),
    ],
)
def test_the_worker_is_told_where_its_output_goes(options, forward, consoles):
    spec = spec_of(run_options(options), trusted=True)

    assert spec["forward"] == forward
    assert spec["logs"]["consoles"] == consoles


def test_the_worker_is_told_the_levels_that_are_set(monkeypatch):
    monkeypatch.setattr(logging.getLogger("said.one"), "level", 15)
    logging.getLogger("said.two.three")
    monkeypatch.setattr(logging.root, "level", 25)

    levels = spec_of(run_options({}), trusted=True)["logs"]["levels"]

    assert (levels[""], levels["said.one"]) == (25, 15)
    assert not {"said", "said.two", "said.two.three"} & set(levels)


def test_without_logs_it_is_told_nothing_of_them():
    assert spec_of(run_options({"logs": False}), trusted=True)["logs"] is None
