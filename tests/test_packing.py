"""Unit: which functions are serialised once, and when they are anew."""

import json
import math
import pickle
import threading
import types

import pytest

from forkrpc import classes
from forkrpc.packing import MOST_BYTES, MOST_FUNCTIONS, Packed, Packing, parts_of
from forkrpc.serialisers import PickleCodec

WORDS = []
LIMIT = 10
PAIR = (1, ("two", None))
LISTS = ([],)


def make(source, **variables):
    """Return the function `made` of a module that cannot be imported."""
    module = types.ModuleType("__main__")
    module.__dict__.update(variables)
    exec(source, module.__dict__)
    return module.made


def body_of(packed, define=lambda _: None):
    return PickleCodec(define).dump(packed)


@pytest.fixture
def packing():
    return Packing()


def twice(packing, function):
    packing.packed(function)
    return packing.packed(function)


def test_what_can_be_imported_goes_by_name(packing):
    for function in (math.sqrt, json.dumps, dict, "no function", make):
        assert twice(packing, function) is function


def test_a_function_is_packed_when_it_comes_again(packing):
    function = make("def made(value): return value * 2")

    first, second, third = (packing.packed(function) for _ in range(3))

    assert first is function
    assert isinstance(second, Packed)
    assert third is second
    assert pickle.loads(body_of(second))(4) == 8


def test_plain_pickle_carries_what_is_packed(packing):
    packed = twice(packing, make("def made(value): return value * 2"))

    assert classes.plain((packed, 1)) is not None


CONSTANT = {
    "scalars": ("def made(): return LIMIT", {"LIMIT": 10}),
    "tuples": ("def made(): return PAIR", {"PAIR": PAIR}),
    "modules": ("def made(): return math.sqrt(1)", {"math": math}),
    "builtins": ("def made(): return root(len(str(1)))", {"root": math.sqrt}),
    "functions by name": ("def made(): return dumps(1)", {"dumps": json.dumps}),
    "classes": ("class A: x = 1\ndef made(): return A.x", {}),
    "classes in tuples": ("class A: x = 1\nB = (A,)\ndef made(): return B[0].x", {}),
    "annotations": ("class A: pass\ndef made(a: A = None) -> A: return 1", {}),
    "other functions": ("def one(): return 1\ndef made(): return one()", {}),
    "itself": ("def made(n=3): return made(n - 1) if n else 0", {}),
    "closures": ("def outer(x):\n  return lambda: x\nmade = outer(3)", {}),
    "own variables": (
        "def made():\n  n = 0\n  def add():\n    nonlocal n\n    n += 1\n"
        "  add()\n  return n",
        {},
    ),
    "attributes": ("import types\ndef made():\n  types.x = 1\n  return 1", {}),
    "keyword defaults": ("def made(*, x=3): return x", {}),
}


@pytest.mark.parametrize(("source", "variables"), CONSTANT.values(), ids=CONSTANT)
def test_a_function_of_constants_is_packed(packing, source, variables):
    function = make(source, **variables)

    packed = twice(packing, function)

    assert isinstance(packed, Packed)
    assert pickle.loads(body_of(packed))() == function()


def test_the_classes_it_refers_to_are_sent_to_each_peer(packing):
    packed = twice(packing, make("class A: pass\ndef made(): return A, A()"))
    first, second = [], []

    body_of(packed, first.append)
    body_of(packed, second.append)

    assert len(first) == 1
    assert first == second


CHANGING = {
    "a list": ("def made(): return WORDS", {"WORDS": WORDS}),
    "a list in a tuple": ("def made(): return LISTS", {"LISTS": LISTS}),
    "a default": ("def made(found=[]): return found", {}),
    "a closure": ("def outer(x):\n  return lambda: x\nmade = outer([])", {}),
    "a method of a list": ("def made(): add(1)", {"add": WORDS.append}),
    "an attribute": ("def made(): pass\nmade.seen = []", {}),
    "another function's": (
        "WORDS = []\ndef one(): return WORDS\ndef made(): return one()",
        {},
    ),
    "a module of nobody": ("def made(): return m", {"m": types.ModuleType("json")}),
    "an empty cell": (
        "def outer():\n  if 0: x = 1\n  return lambda: x\nmade = outer()",
        {},
    ),
}
KEEPING = {
    "a global": ("n = 0\ndef made():\n  global n\n  n += 1\n  return n", {}),
    "a variable of an outer function": (
        "def outer(n):\n  def add():\n    nonlocal n\n    n += 1\n    return n\n"
        "  return add\nmade = outer(0)",
        {},
    ),
    "the same, from an inner one": (
        "def outer(n):\n  def add():\n    def inner():\n      nonlocal n\n"
        "      n += 1\n      return n\n    return inner()\n  return add\n"
        "made = outer(0)",
        {},
    ),
    "an attribute of its own": ("def made():\n  made.n += 1\nmade.n = 0", {}),
    "what nobody sees": ("def made(): globals()['n'] = 1", {}),
}


@pytest.mark.parametrize(
    ("source", "variables"),
    [*CHANGING.values(), *KEEPING.values()],
    ids=[*CHANGING, *KEEPING],
)
def test_a_function_that_may_change_unseen_goes_as_it_is(packing, source, variables):
    function = make(source, **variables)

    assert parts_of(function) is None
    assert twice(packing, function) is function


CHANGES = {
    "a global": lambda function: function.__globals__.update(LIMIT=11),
    "a new global": lambda function: function.__globals__.update(len=abs),
    "the code": lambda f: setattr(f, "__code__", make("def made(a=0): 0").__code__),
    "the defaults": lambda function: setattr(function, "__defaults__", (5,)),
    "an attribute": lambda function: setattr(function, "note", "text"),
    "another function": lambda function: function.__globals__.update(
        one=make("def made(): return 2")
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_seen(packing, change):
    source = (
        "LIMIT = 10\ndef one(): return 1\n"
        "def made(a=0): return LIMIT + one() + len(()) + a"
    )
    function = make(source)
    before = twice(packing, function)

    change(function)
    first, second = packing.packed(function), packing.packed(function)

    assert first is function
    assert second is not before
    assert body_of(second) != body_of(before)


def test_what_cannot_be_sent_is_left_to_the_call(packing):
    kind = type("Kind", (), {"lock": threading.Lock()})
    function = make("def made(): return KIND", KIND=kind)

    assert twice(packing, function) is function


def test_a_large_function_is_not_kept(packing):
    function = make("def made(): return TEXT", TEXT="x" * MOST_BYTES)

    assert twice(packing, function) is function


def test_only_so_many_functions_are_kept(packing):
    functions = [make("def made(): return 1") for _ in range(MOST_FUNCTIONS + 1)]
    for function in functions:
        packing.packed(function)

    assert len(packing._known) == 1
