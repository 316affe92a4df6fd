"""Unit: what steps do to a template; a process is not needed for what is told."""

import os
import sys

import pytest

from forkrpc import wire
from forkrpc.child import steps


class Template:
    def __init__(self):
        self.arguments = []


def execute(kind, arguments, handles=()):
    """Execute a step; return (the template, the step's description)."""
    describe, step = steps.STEPS[kind]
    template = Template()
    step(template, arguments, list(handles))
    return template, describe(arguments)


def test_modules_are_imported_in_order():
    _, text = execute(wire.REQUIRE, ("math", "json"))

    assert text == "require 'math', 'json'"
    assert {"math", "json"} <= sys.modules.keys()


def test_a_module_that_is_not_there_is_told():
    with pytest.raises(ImportError, match="no_such_module"):
        execute(wire.REQUIRE, ("no_such_module",))


def test_values_and_files_are_kept_in_order():
    import pickle

    template, text = execute(wire.VALUES, ([], pickle.dumps((1, 2))))
    assert text == "send_arg"
    assert template.arguments[0].values() == (1, 2)

    fd = os.open(os.devnull, os.O_RDONLY)
    template, text = execute(wire.HANDLES, ("fd",), [fd])
    try:
        assert text == "send_fh"
        assert len(template.arguments) == 1
    finally:
        os.close(fd)


def test_the_state_closes_its_descriptor_and_goes_to_the_directory(tmp_path):
    before = os.getcwd()
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        execute(wire.STATE, (None, None), [fd])
        assert os.getcwd() == str(tmp_path)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    finally:
        os.chdir(before)


def test_a_traceback_shows_the_lines_given_to_eval(monkeypatch):
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "args", None, raising=False)
    try:
        import pickle

        execute(wire.EVAL, ("raise ValueError(args[0])", [], pickle.dumps(("text",))))
    except ValueError as error:
        text = steps.traceback_of(error)

    assert text.startswith("ValueError: text")
    assert "raise ValueError(args[0])" in text
