"""Unit: which context variables travel, and under which names."""

import contextvars
import sys
import types

import pytest

from forkrpc import context

VARIABLE = contextvars.ContextVar("VARIABLE", default="default")


class Holder:
    inner = contextvars.ContextVar("inner")


HERE = __name__


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        (f"{HERE}:VARIABLE", VARIABLE),
        (f"{HERE}.VARIABLE", VARIABLE),
        (f"{HERE}:Holder.inner", Holder.inner),
        (f"{HERE}.Holder.inner", Holder.inner),
    ],
)
def test_a_variable_is_found_by_its_name(name, variable):
    assert context.found(name) is variable
    assert context.variables(name) == {name: variable}


def test_a_variable_itself_gets_the_name_of_its_module():
    named = context.variables([VARIABLE])

    assert named == {f"{HERE}:VARIABLE": VARIABLE}
    assert context.found(*named) is VARIABLE


def test_several_keep_their_order_and_none_is_nothing():
    given = [f"{HERE}:Holder.inner", VARIABLE]

    assert list(context.variables(given).values()) == [Holder.inner, VARIABLE]
    assert context.variables(None) == {}
    assert context.variables(VARIABLE) == context.variables([VARIABLE])


def test_a_variable_that_no_module_has_is_an_error_with_the_remedy(monkeypatch):
    local = contextvars.ContextVar("local")
    program = types.ModuleType("__main__")
    program.local = local
    monkeypatch.setitem(sys.modules, "__main__", program)

    with pytest.raises(ValueError, match="define it at the top of such a module"):
        context.variables([local])


@pytest.mark.parametrize("name", ["", "variable", "a:b c", ":x", "a.b:"])
def test_what_is_no_name_is_an_error_with_the_remedy(name):
    with pytest.raises(ValueError, match="write 'package.module:attribute'"):
        context.variables(name)


@pytest.mark.parametrize(
    ("name", "error", "shown"),
    [
        ("no_such_module:variable", ImportError, "no_such_module"),
        (f"{HERE}:missing", AttributeError, f"{HERE}:missing"),
        (f"{HERE}:HERE", TypeError, "which is no ContextVar"),
    ],
)
def test_a_name_that_leads_to_no_variable_is_an_error_with_it(name, error, shown):
    with pytest.raises(error, match=shown):
        context.variables(name)


def values(*variables, octets=False):
    named = {str(number): each for number, each in enumerate(variables)}
    return contextvars.copy_context().run(context.values, named, octets=octets)


def test_values_travel_in_order_and_none_marks_that_all_are_there():
    one, other = contextvars.ContextVar("one"), contextvars.ContextVar("other")
    one.set(1)
    other.set(None)

    assert values(one, other) == (1, None, None)


@pytest.mark.parametrize(("octets", "marks"), [(False, "100"), (True, b"100")])
def test_a_variable_without_a_value_is_marked_also_if_it_has_a_default(octets, marks):
    one, other = contextvars.ContextVar("one"), contextvars.ContextVar("other")
    one.set(b"x")

    assert values(one, other, VARIABLE, octets=octets) == (b"x", None, None, marks)
